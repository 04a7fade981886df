"""JSON documents of any length, read a few thousand items at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from medloop.errors import DataError, UsageError

#: Characters read at once.
WINDOW = 1_000_000
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*(?=\{)")
_AFTER = tuple(",:]} \t\n\r")
_DECODER = json.JSONDecoder()


def items(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield what a JSON document holds, in its order and in pieces.

    Of an object, each key with its value in a list; a value that is itself a list comes in
    pieces, each with the key. Of a list, pieces with an empty key. What is held at once does not
    grow with the number of items.

    Raises
    ------
    UsageError
        The file cannot be opened.
    DataError
        It is not JSON in UTF-8, is nested too deep, or holds a number of too many digits.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.json"
    ...     _ = path.write_text('{"info": {}, "images": [{"id": 1}, {"id": 2}]}')
    ...     list(items(path))
    [('info', [{}]), ('images', [{'id': 1}, {'id': 2}])]
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from _Reader(stream).document()
    except UnicodeDecodeError:
        raise DataError(f"{path} is not JSON in UTF-8.") from None
    except RecursionError:
        raise DataError(f"{path} is nested too deep.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except DataError:
        raise
    except ValueError as error:  # json's own, and numbers of thousands of digits
        said = str(error).split(":")[0].rstrip(".")
        raise DataError(f"{path} is not JSON: {said}.") from None


class _Reader:
    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.text = ""
        self.at = 0
        self.ended = False
        self.one_by_one = False

    def document(self) -> Iterator[tuple[str, list[Any]]]:
        first = self._peek()
        if first == "[":
            yield from (("", piece) for piece in self._list())
        elif first == "{":
            yield from self._object()
        else:
            raise ValueError("expected an object or a list")
        if self._peek():
            raise ValueError("something follows its end")

    def _object(self) -> Iterator[tuple[str, list[Any]]]:
        self.at += 1
        if self._peek() == "}":
            self.at += 1
            return
        while True:
            if self._peek() != '"':
                raise ValueError("expected a key in quotes")
            key = self._value()
            self._expect(":")
            if self._peek() == "[":
                for piece in self._list():
                    yield key, piece
            else:
                yield key, [self._value()]
            if self._peek() == "}":
                self.at += 1
                return
            self._expect(",")

    def _list(self) -> Iterator[list[Any]]:
        self.at += 1
        if self._peek() == "]":
            self.at += 1
            yield []
            return
        while True:
            piece = self._many()
            if self._peek() != "]":
                piece.append(self._value())
            yield piece
            if self._peek() == "]":
                self.at += 1
                return
            self._expect(",")
            if self._peek() == "]":
                raise ValueError("a comma before its closing bracket")

    def _many(self) -> list[Any]:
        """Parse all whole objects of the window at once; nothing where it is not that simple."""
        if len(self.text) - self.at < WINDOW // 2:
            self._grow()
        last = len(self.text)
        while not self.one_by_one:
            last = self.text.rfind("}", self.at, last)
            if last < 0:
                break
            cut = _BETWEEN.match(self.text, last)
            if cut:
                try:
                    whole = f"[{self.text[self.at : last + 1]}]"
                    piece, end = _DECODER.raw_decode(whole)
                except ValueError:  # the cut fell within an item or a text
                    self.one_by_one = True
                    break
                # where the list ends within the window, stand at its bracket
                self.at = cut.end() if end == len(whole) else self.at + end - 2
                return list(piece)
        return []

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                if not self._grow():
                    raise
                continue
            # a number may go on where the window ends
            if self.text[end : end + 1] in _AFTER or not self._grow():
                self.at = end
                return value

    def _expect(self, letter: str) -> None:
        if self._peek() != letter:
            raise ValueError(f"expected {letter!r}")
        self.at += 1

    def _peek(self) -> str:
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._grow():
                return ""

    def _grow(self) -> bool:
        """Read on; twice as far where one item does not fit."""
        if self.ended:
            return False
        rest = self.text[self.at :]
        more = self.stream.read(max(WINDOW, len(rest)))
        self.ended = not more
        if more:
            self.text, self.at = rest + more, 0
            self.one_by_one = False
        return bool(more)
