"""Names that tell patients apart and tell nobody who they are."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from medloop.dataset import SPLITS
from medloop.errors import UsageError

#: Names the file of the secret; it lies in the user's own configuration where not given.
VARIABLE = "MEDLOOP_SECRET"

_BYTES = 32

#: What stands where a name or a number should, in data that somebody made anonymous.
_NOBODY = frozenset(
    "anon anonym anonymous anonymized anonymised deidentified removed unknown none null na no"
    " noid id 0 00 000 0000 patient test".split()
)
#: Words of folders, not of people, though a header may hold them as a name.
_WORDS = frozenset(
    "anon anonymous case dcm dicom frame image images img patient phantom scan series slice study"
    " subject ct mr cr dx us pt nm xa mg ot sc im".split()
) | frozenset(SPLITS)


def secret_file() -> Path:
    """Name the file that holds the secret of this user on this machine."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "medloop" / "secret"


def local_key(path: Path | None = None) -> bytes:
    """Read the secret that pseudonyms are made with; draw it at the first use.

    Whoever has the secret and a list of patients can undo the pseudonyms; whoever lacks it
    cannot, even with the list. It stays on this machine, readable by its owner alone. With the
    same secret, a patient has the same pseudonym in every workspace; a workspace that moves to
    another machine needs the file to move with it.

    Parameters
    ----------
    path : Path, optional
        The file; ``MEDLOOP_SECRET`` or ``~/.config/medloop/secret`` where not given.

    Raises
    ------
    UsageError
        The file cannot be made or read, holds something else, or others may read it.
    """
    path = secret_file() if path is None else path
    try:
        if not path.exists():
            _draw(path)
        mode = path.stat().st_mode & 0o077
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(
            f"the secret for pseudonyms cannot be kept in {path}: {reason}; "
            f"name another file by {VARIABLE}."
        ) from None
    if os.name == "posix" and mode:
        raise UsageError(f"{path} must be readable by its owner alone: chmod 600 {path}")
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise UsageError(f"{path} must hold {2 * _BYTES} hexadecimal digits, and does not.")
    return bytes.fromhex(text)


def _draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename, this never replaces what another process drew
    except FileExistsError:
        pass
    finally:
        part.unlink()


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Return a name for a value: HMAC-SHA256 under the key, cut to 64 bits.

    Parameters
    ----------
    key : bytes
    kind : str
        ``"patient"``, ``"study"``, ``"volume"`` or ``"name"``; the same value of another kind
        has another name.
    value : str

    Examples
    --------
    >>> pseudonym(b"key", "patient", "4711") == pseudonym(b"key", "patient", " 4711 ")
    True
    >>> pseudonym(b"key", "patient", "4711") == pseudonym(b"other key", "patient", "4711")
    False
    """
    message = f"{kind}\0{plain(value)}".encode()
    return f"{kind[0]}-{hmac.digest(key, message, 'sha256').hex()[:16]}"


def plain(text: str) -> str:
    """Write a name in one way: no accents, no capitals, single spaces.

    Examples
    --------
    >>> plain(" MÜLLER  Zoë")
    'muller zoe'
    """
    apart = unicodedata.normalize("NFKD", text)
    kept = "".join(c for c in apart if not unicodedata.combining(c))
    return " ".join(kept.casefold().split())


def is_nobody(value: str) -> bool:
    """Tell whether a name or number is empty, or a word for nobody in particular.

    Examples
    --------
    >>> is_nobody("ANON^"), is_nobody("4711")
    (True, False)
    """
    words = _runs(value)
    return all(word in _NOBODY for word in words)


def words_of(values: Iterable[str]) -> set[str]:
    """Return the words of names and numbers by which they can be found in a file name.

    Examples
    --------
    >>> sorted(words_of(["DOE^Jane", "ID-4711", "1"]))
    ['4711', '4711id', 'doe', 'doejane', 'id4711', 'jane', 'janedoe']
    """
    found: set[str] = set()
    for value in values:
        if is_nobody(value):
            continue
        runs = [run for run in _runs(value) if run not in _WORDS]
        # a number of one or two digits names nobody, and stands in every file name
        found |= {run for run in runs if len(run) > 2 or (len(run) > 1 and run.isalpha())}
        if len(runs) <= 6:
            squeezed = {"".join(_runs(value)), "".join(reversed(_runs(value)))}
            found |= {word for word in squeezed if len(word) > 3 and word not in _WORDS}
    return found - _NOBODY


def _runs(text: str) -> list[str]:
    return [run for run in re.split(r"[\W_]+", plain(text)) if run]


def hits(name: str, words: Collection[str]) -> list[int]:
    """Return which parts of a path hold one of the words.

    Parameters
    ----------
    name : str
        Relative, with slashes.
    words : collection of str
        From :func:`words_of`.

    Examples
    --------
    >>> hits("xray/Doe_Jane/janedoe1.dcm", words_of(["DOE^JANE"]))
    [1, 2]
    """
    long = [word for word in words if len(word) > 3]
    found = []
    for at, part in enumerate(name.split("/")):
        if part in SPLITS:
            continue
        runs = _runs(part)
        squeezed = "".join(runs)
        if any(run in words for run in runs) or any(word in squeezed for word in long):
            found.append(at)
    return found


def marks(key: bytes, words: Iterable[str]) -> list[str]:
    """Return the words so that they can be looked for, but not read: under the key."""
    return sorted(_mark(key, word) for word in words if len(word) > 3)


def _mark(key: bytes, word: str) -> str:
    return hmac.digest(key, f"word\0{word}".encode(), "sha256").hex()[:24]


def marked(key: bytes, name: str, marks: Collection[str]) -> list[int]:
    """Return which parts of a path hold a word of these marks, as :func:`hits` does.

    Examples
    --------
    >>> marked(b"key", "a/Doe.png", marks(b"key", ["Doe".lower() + "s"]))
    []
    >>> marked(b"key", "a/Does-2.png", marks(b"key", ["does"]))
    [1]
    """
    return [
        at
        for at, part in enumerate(name.split("/"))
        if part not in SPLITS
        and any(_mark(key, run) in marks for run in _runs(part) if len(run) > 3)
    ]


def alias(key: bytes, name: str, parts: Iterable[int]) -> str:
    """Replace these parts of a path by pseudonyms; what kind of file it is stays to be seen.

    Examples
    --------
    >>> print(alias(b"key", "xray/Doe Jane.dcm", [1]))
    xray/n-a1b320a715032f2f.dcm
    """
    said = name.split("/")
    for at in parts:
        kept = re.search(r"(\.[A-Za-z]{1,5}){1,2}$", said[at])
        suffix = kept[0] if kept and kept[0].lower() in _KEPT else ""
        said[at] = pseudonym(key, "name", said[at]) + suffix
    return "/".join(said)


_KEPT = frozenset(
    ".dcm .dicom .ima .img .nii .nii.gz .png .jpg .jpeg .tif .tiff .bmp .csv .txt".split()
)
