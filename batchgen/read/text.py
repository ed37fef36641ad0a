"""Text of JSONL shards: streams of uncompressed bytes, and the lines in them, each held only up to a cap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from batchgen.errors import InputError, words
from batchgen.read import location

CHUNK = 4 * 2**20
"""Bytes read at a time."""
CODECS = {".gz": "gzip", ".zst": "zstd"}


def is_compressed(name: str) -> bool:
    return name.endswith(tuple(CODECS))


def open_text(name: str, offset: int = 0) -> BinaryIO:
    """The uncompressed text of a shard from byte `offset`; the name's ending gives the codec (.gz, .zst, else none).

    Raises InputError where a compressed text is shorter than `offset`.
    """
    raw = location.open_shard(name)
    codec = next((codec for ending, codec in CODECS.items() if name.endswith(ending)), None)
    if codec is None:
        raw.seek(offset)
        return raw
    stream: BinaryIO = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    while offset:
        chunk = read_chunk(stream, name, min(CHUNK, offset))
        if not chunk:
            raise InputError(f"shard {name}: shorter than planned")
        offset -= len(chunk)
    return stream


def read_chunk(stream: BinaryIO, name: str, size: int) -> bytes:
    """Up to `size` bytes, b"" at the end. Raises InputError for a damaged compressed file."""
    try:
        return stream.read(size)
    except (OSError, EOFError) as error:
        raise InputError(f"shard {name}: damaged or unreadable: {words(error)}", "write it again") from None


def lines(stream: BinaryIO, name: str, cap: int, limit: int | None = None) -> Iterator[bytes | None]:
    """The lines of the next `limit` bytes of a text, without their newlines; None for a line of more than `cap` bytes.

    No more than cap + CHUNK bytes are held.
    """
    rest, dropped, left = b"", 0, limit
    while chunk := read_chunk(stream, name, CHUNK if left is None else min(CHUNK, left)):
        left = None if left is None else left - len(chunk)
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            yield None if dropped + len(piece) > cap else piece
            dropped = 0
        if dropped + len(rest) > cap:
            dropped, rest = dropped + len(rest), b""
    if dropped or rest:
        yield None if dropped + len(rest) > cap else rest
