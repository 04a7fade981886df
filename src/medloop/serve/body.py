"""Read the files of a request, in memory and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from medloop.errors import MedloopError
from medloop.serve.upload import Limits

#: The field that holds files; another spelling that people send.
FIELDS = ("files", "file", "files[]")
_MOST_FIELDS = 16
_LONGEST_FIELD = 1000
_LONGEST_NAME = 255


class Refused(MedloopError):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Sent:
    """One file of a request; its name is data, never a path."""

    name: str
    data: bytes


class _InMemory(MultiPartParser):
    """A parser that writes nothing to the disk, however large a file is."""

    spool_max_size = 2**40


class Allowance:
    """Bytes that requests may hold at a time; who asks for more waits.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self.most = self.left = most
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def take(self, size: int, patience: float) -> AsyncIterator[None]:
        """Hold some bytes for as long as the block runs.

        Raises
        ------
        Refused
            Others hold too much for too long.
        """
        size = min(size, self.most)
        try:
            async with asyncio.timeout(patience), self._changed:
                await self._changed.wait_for(lambda: self.left >= size)
                self.left -= size
        except TimeoutError:
            raise Refused(503, "the server is busy; try again in a minute.") from None
        try:
            yield
        finally:
            async with self._changed:
                self.left += size
                self._changed.notify_all()


async def read_files(request: Request, limits: Limits) -> tuple[list[Sent], dict[str, str]]:
    """Return the files of a multipart request, in their order, and its other fields.

    Raises
    ------
    Refused
        It is no multipart form, holds no file or too many, is too large, or is too slow.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise Refused(415, "send files as multipart/form-data, in the field 'files'.")
    try:
        parser = _InMemory(
            request.headers,
            _counted(request, limits),
            max_files=limits.files,
            max_fields=_MOST_FIELDS,
            max_part_size=_LONGEST_FIELD,
        )
        async with asyncio.timeout(limits.patience):
            form = await parser.parse()
    except TimeoutError:
        raise Refused(408, "the request took too long to arrive.") from None
    except MultiPartException as error:
        said = error.message
        if "files" in said:
            said = f"a request may hold {limits.files} files"
        status = 413 if "files" in error.message else 400
        raise Refused(status, f"{said.rstrip('.')}.") from None
    files: list[Sent] = []
    fields: dict[str, str] = {}
    try:
        for field, value in form.multi_items():
            if isinstance(value, UploadFile):
                if field not in FIELDS:
                    raise Refused(400, f"files go in the field 'files', got {field[:80]!r}.")
                name = (value.filename or "unnamed")[-_LONGEST_NAME:]
                files.append(Sent(name, await value.read()))
            else:
                fields[field] = value
    finally:
        await form.close()
    if not files:
        raise Refused(400, "the request holds no file in the field 'files'.")
    return files, fields


async def _counted(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Pass a body on, counting: its length header may lie, or be absent."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limits.request:
            raise Refused(413, too_much(limits))
        yield part


def too_much(limits: Limits) -> str:
    """Say how much a request may hold."""
    return f"a request may hold {limits.request:,} bytes."
