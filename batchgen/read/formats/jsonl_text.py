"""The text of a JSONL shard, plain, .gz or .zst: its bytes from anywhere, and its lines."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa

from batchgen.errors import InputError, safe_message
from batchgen.read import location

CHUNK = 4 * 2**20  # bytes read at a time
BLANK = (b"", b"\r")
BOM = b"\xef\xbb\xbf"  # of UTF-8, at the beginning of a file
CODECS = {".gz": "gzip", ".zst": "zstd"}


def codec_of(name: str) -> str | None:
    return CODECS.get(os.path.splitext(name)[1].lower())


def open_text(name: str, offset: int = 0) -> BinaryIO:
    """The uncompressed text of a shard from byte `offset`. Raises InputError where a compressed text is shorter."""
    raw = location.open_shard(name)
    if (codec := codec_of(name)) is None:
        raw.seek(offset)
        return raw
    stream: BinaryIO = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    if sum(map(len, chunks(stream, name, offset))) < offset:
        raise InputError(f"shard {name}: shorter than planned")
    return stream


def chunks(stream: BinaryIO, name: str, limit: int = sys.maxsize) -> Iterator[bytes]:
    """The next `limit` bytes of a text. Raises InputError for a damaged compressed file."""
    while limit:
        try:
            chunk = stream.read(min(CHUNK, limit))
        except (OSError, EOFError) as error:
            raise InputError(f"shard {name}: damaged or unreadable: {safe_message(error)}", "write it again") from None
        if not chunk:
            return
        limit -= len(chunk)
        yield chunk


def lines(
    stream: BinaryIO, name: str, cap: int, limit: int = sys.maxsize, see: Callable[[bytes], object] = len
) -> Iterator[bytes | None]:
    """The lines of the next `limit` bytes of a text, without their newlines; None for a line of more than `cap` bytes. `see` is
    called with every piece of the text. At most cap + CHUNK bytes are held."""
    rest, dropped = b"", 0
    for chunk in chunks(stream, name, limit):
        see(chunk)
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            yield None if dropped + len(piece) > cap else piece
            dropped = 0
        if dropped + len(rest) > cap:
            dropped, rest = dropped + len(rest), b""
    if dropped or rest:
        yield None if dropped + len(rest) > cap else rest
