"""Files over HTTP: whole or in part, known by their SHA-256, and never other bytes than those."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ledgerlake.web.exports import ReportReplaced
from ledgerlake.web.limits import FILE_CHUNK
from ledgerlake.web.problems import Problem
from ledgerlake.web.shelf import ShelfFile

if TYPE_CHECKING:
    from ledgerlake.web.service import Service

_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_MOST_REMEMBERED: Final = 4_096


async def file_response(request: Request, file: ShelfFile, download_name: str | None = None) -> Response:
    """The file, or the range of it that the request asks for; 304 where its caller has it already.

    ETag and Repr-Digest (RFC 9530) are the SHA-256 of the whole file.

    Raises:
        ReportReplaced: the file is gone or is another one than `file` says: ask the shelf again.
        Problem: 416 it has no such range.
    """
    service: Service = request.app.state.service
    descriptor = await service.run(_open, file)
    try:
        response = _answer(request, file, download_name or file.name, descriptor, service)
    except BaseException:
        os.close(descriptor)
        raise
    if not isinstance(response, StreamingResponse):
        os.close(descriptor)
    return response


def _answer(request: Request, file: ShelfFile, name: str, descriptor: int, service: Service) -> Response:
    tag = f'"{file.sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        # To be asked for again each time, by a browser of the same person only.
        "Cache-Control": "private, no-cache",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        "Content-Disposition": f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]", "-", name)}"',
    }
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    first, end, status = 0, file.size, 200
    if request.method == "GET" and request.headers.get("if-range", tag) == tag:
        found = _range(request.headers.get("range"), file.size)
        if found is not None:
            (first, end), status = found, 206
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - first)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=file.media_type)
    body = _Body(descriptor, first, end, service)
    return StreamingResponse(body.chunks(), status, headers, file.media_type, BackgroundTask(body.close))


class _Body:
    """The bytes of an open file, which is closed when they are sent, or nobody wants them any more."""

    def __init__(self, descriptor: int, first: int, end: int, service: Service) -> None:
        self._descriptor: int | None = descriptor
        self._first, self._end = first, end
        self._service = service

    async def chunks(self) -> AsyncIterator[bytes]:
        assert self._descriptor is not None
        try:
            at = self._first
            while at < self._end:
                size = min(FILE_CHUNK, self._end - at)
                chunk = await self._service.run(os.pread, self._descriptor, size, at)
                if not chunk:
                    raise OSError("a file of a report has become shorter")
                at += len(chunk)
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        # Of a response that never began.
        self.close()


def _open(file: ShelfFile) -> int:
    """The open file, if it holds what it is said to."""
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise ReportReplaced(f"{file.name} was replaced.", "Ask again.") from None
    try:
        if _hashes.of(descriptor) != (file.size, file.sha256):
            raise ReportReplaced(f"{file.name} is not what its report says.", "Ask again.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Hashes:
    """Size and SHA-256 of files, computed once for each that stays as it is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[int, int, int, int, int], str] = OrderedDict()

    def of(self, descriptor: int) -> tuple[int, str]:
        """Of an open file."""
        stat = os.fstat(descriptor)
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        with self._lock:
            found = self._found.get(key)
        if found is None:
            with open(descriptor, "rb", closefd=False) as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            with self._lock:
                self._found[key] = found
                while len(self._found) > _MOST_REMEMBERED:
                    self._found.popitem(last=False)
        return stat.st_size, found


_hashes: Final = _Hashes()


def matches(given: str | None, tag: str) -> bool:
    """Whether If-None-Match names the tag: one, or one of several, weak or not, or *."""
    if given is None:
        return False
    tags = [each.strip().removeprefix("W/") for each in given.split(",")]
    return "*" in tags or tag in tags


def _range(given: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last; None: all of it, as where it is not understood."""
    found = None if given is None else _RANGE.fullmatch(given.strip())
    if found is None:
        return None
    first, last = found.groups()
    if not first and not last:
        return None
    if not first:
        span = max(0, size - int(last)), size
    else:
        span = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None
    if span[0] >= span[1]:
        raise Problem(
            416,
            "no_such_range",
            f"The file has {size:,} bytes, and none of the range that was asked for.",
            "Ask for a range within it.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return span
