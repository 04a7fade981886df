"""XML files, without entities, and piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medloop.errors import DataError, MissingError, UsageError

#: Elements within each other; label files have fewer than ten.
_DEEPEST = 50


def elements(path: Path, tag: str) -> Iterator[Any]:
    """Yield every whole element of a name, and free it when the next is asked for.

    Raises
    ------
    UsageError
        The file cannot be opened.
    DataError
        It is not XML, declares entities, or is nested too deep.
    MissingError
        The package defusedxml is not there.
    """
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import ParseError, iterparse
    except ImportError:
        raise MissingError(
            "reading XML needs defusedxml. Install it with: pip install 'medloop[formats]'"
        ) from None
    depth = 0
    try:
        for event, element in iterparse(path, events=("start", "end"), forbid_dtd=True):
            depth += 1 if event == "start" else -1
            if depth > _DEEPEST:
                raise DataError(f"{path} is nested too deep.")
            if event == "end" and element.tag == tag:
                yield element
                element.clear()
    except ParseError as error:
        raise DataError(f"{path} is not XML: {error}.") from None
    except DefusedXmlException:
        raise DataError(
            f"{path} declares a document type or entities, which are refused."
        ) from None
    except (ValueError, LookupError) as error:  # an encoding that is none
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not XML: {error}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def text(element: Any, name: str) -> str:
    """Return the text of a child, empty where there is none."""
    found = element.findtext(name)
    return found.strip() if isinstance(found, str) else ""


def side(stated: str | None) -> int:
    """Return a width or height; 0 where it is none."""
    plain = (stated or "").strip()
    number = int(plain) if plain.isascii() and plain.isdecimal() and len(plain) < 9 else 0
    return number if number <= 1_000_000 else 0
