"""The footers of our Parquet files, byte by byte: the entries in them, and the two hashes that they state.

Pages have checksums, the footer has none: a flipped bit in a statistic or an offset there leads a reader past
rows. So the footer states the SHA-256 of all bytes before it, and one of itself, that one's digits taken as
zeros. Both are put in last, in place.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from ledgerlake.lake.errors import CorruptFileError

PREFIX: Final = "ledgerlake."
CONTENT_HASH: Final = "content_hash"
_FOOTER_HASH: Final = "footer_hash"
_TO_COME: Final = "0" * 64
# What a footer is written with: `state_hashes` puts the hashes in.
UNHASHED: Final = {CONTENT_HASH: _TO_COME, _FOOTER_HASH: _TO_COME}
# How an entry of the footer goes on after its key (Thrift's compact protocol): field header and length.
_VALUE_OF_64: Final = b"\x18\x40"
# Any entry of ours: its key, the field header, and the length of the value, seven bits a byte.
_KEY: Final = PREFIX.encode()
_ENTRY: Final = re.compile(re.escape(_KEY) + rb"([a-z_]+)\x18([\x80-\xff]{0,4}[\x00-\x7f])")
_TRAILER: Final = 8  # the length of the footer in four bytes, and the magic


def footer_of(opened: BinaryIO) -> bytes:
    """The bytes of the footer, to the end of the file.

    Raises:
        ValueError: the file ends otherwise than a Parquet file does.
    """
    size = opened.seek(0, os.SEEK_END)
    opened.seek(max(size - _TRAILER, 0))
    trailer = opened.read()
    length = int.from_bytes(trailer[:4], "little") + _TRAILER
    if trailer[4:] != b"PAR1" or length > size:
        raise ValueError("it has no footer")
    opened.seek(size - length)
    return opened.read()


def _place(footer: bytes, name: str) -> slice | None:
    """Where the 64 digits of a hash stand in the footer."""
    key = _KEY + name.encode() + _VALUE_OF_64
    at = footer.rfind(key)  # the last one: texts out of rows stand in statistics, which come before
    return None if at < 0 else slice(at + len(key), at + len(key) + len(_TO_COME))


def _with(footer: bytes, name: str, digits: str) -> bytes:
    place = _place(footer, name)
    if place is None:
        raise ValueError(f"the footer has no place for {name}")
    return footer[: place.start] + digits.encode() + footer[place.stop :]


def check_footer(path: Path, footer: bytes, *, unhashed_too: bool = False) -> bool:
    """Whether the footer states a hash of itself, which then is the right one.

    Raises:
        CorruptFileError: it is not, or there is none and `unhashed_too` is not set.
    """
    place = _place(footer, _FOOTER_HASH)
    if place is None:
        if unhashed_too:
            return False
        raise CorruptFileError(f"{path} does not state the hash of its footer.")
    if hashlib.sha256(_with(footer, _FOOTER_HASH, _TO_COME)).hexdigest().encode() != footer[place]:
        raise CorruptFileError(f"{path} has a footer that is not the one which was written.")
    return True


def state_hashes(path: Path) -> tuple[int, str]:
    """Put the two hashes into the footer of a file that was just written; size and SHA-256 of it all."""
    with path.open("r+b") as opened:
        footer = footer_of(opened)
        start = opened.tell() - len(footer)
        opened.seek(0)
        digest = hashlib.sha256()
        left = start
        while left:
            part = opened.read(min(left, 1 << 20))
            digest.update(part)
            left -= len(part)
        footer = _with(footer, CONTENT_HASH, digest.hexdigest())
        footer = _with(footer, _FOOTER_HASH, hashlib.sha256(footer).hexdigest())
        opened.seek(start)
        opened.write(footer)
        digest.update(footer)
        return start + len(footer), digest.hexdigest()


def entries_in(footer: bytes) -> Iterator[tuple[str, str]]:
    """What may be entries with our prefix, in their order: the real ones last, behind texts out of rows."""
    at = -1
    while (at := footer.find(_KEY, at + 1)) >= 0:
        if (found := _ENTRY.match(footer, at)) is not None:
            length = sum((byte & 0x7F) << 7 * number for number, byte in enumerate(found[2]))
            yield found[1].decode(), footer[found.end() : found.end() + length].decode(errors="replace")
