"""Text of JSONL shards: streams of uncompressed bytes, the lines in them, each held only up to a cap, and the spans that they are
cut into. To cut, numpy finds line ends chunk by chunk; nothing is parsed, and one chunk is held."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from batchgen.errors import InputError, safe_message
from batchgen.read import location
from batchgen.read.formats import Found, Planned, changed
from batchgen.records import Shard, Span

CHUNK = 4 * 2**20
"""Bytes read at a time."""
NEWLINE, RETURN = b"\n"[0], b"\r"[0]
RowsAt = Callable[[int], int]
"""The number of rows of a span that starts at this byte of the text."""
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
        raise InputError(f"shard {name}: damaged or unreadable: {safe_message(error)}", "write it again") from None


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


def scan(shard: Shard, found: Found, rows: RowsAt, cap: int) -> Planned:
    """The shard as `found`, and spans of its text after what `shard` has planned, of `rows(offset)` rows or `cap` bytes each.

    Raises OutputConflict where the planned text is not there any more, or its last line was continued.
    """
    digest = xxhash.xxh3_128()
    at = shard.text_bytes
    with open_text(found.name) as stream:
        left = at
        while left and (chunk := read_chunk(stream, found.name, min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        if shard.digest and digest.hexdigest() != shard.digest:
            raise changed(shard)
        chunk = read_chunk(stream, found.name, CHUNK)
        if chunk and not shard.terminated:
            ending = b"\r\n" if chunk.startswith(b"\r\n") else b"\n"
            if not chunk.startswith(ending):
                raise changed(shard)
            digest.update(ending)
            at, chunk = at + len(ending), chunk[len(ending) :] or read_chunk(stream, found.name, CHUNK)
        cutter = _Cutter(shard.index, shard.lines, at, rows, cap)
        spans: list[Span] = []
        while chunk:
            digest.update(chunk)
            spans += cutter.add(chunk)
            chunk = read_chunk(stream, found.name, CHUNK)
    spans += cutter.rest()
    now = replace(
        shard,
        size=found.size,
        stamp=found.stamp,
        digest=digest.hexdigest(),
        lines=cutter.line,
        rows=shard.rows + sum(span.rows for span in spans),
        text_bytes=cutter.at,
        terminated=cutter.terminated,
    )
    return now, spans


class _Cutter:
    """Cuts chunks of text into spans. The open span starts at line `_start` and byte `_offset` and has `_have` rows."""

    def __init__(self, shard: int, line: int, at: int, rows: RowsAt, cap: int) -> None:
        self.line, self.at = line, at  # the ordinal of the next line, the byte after the last chunk
        self._shard, self._rows_at, self._cap = shard, rows, cap
        self._start, self._offset, self._have = line, at, 0
        self._before = b"\n\n"  # the two bytes before `at`

    @property
    def terminated(self) -> bool:
        return self._before.endswith(b"\n")

    def add(self, chunk: bytes) -> list[Span]:
        """The spans that the lines of a chunk complete, by rows or by bytes. An empty chunk ends a line that has no newline."""
        data = np.frombuffer(chunk or b"\n", np.uint8)
        newlines = np.flatnonzero(data == NEWLINE)
        last, last_but_one = (data.take(newlines - back, mode="wrap") for back in (1, 2))  # the bytes before each newline
        head = self._before + chunk[:2]
        for index, at in enumerate(newlines[:2]):
            if at < 2:
                last_but_one[index], last[index] = head[at], head[at + 1]
        filled = (last != NEWLINE) & ((last != RETURN) | (last_but_one != NEWLINE))
        lines = self.line + 1 + np.flatnonzero(filled)  # the ordinal after each row
        ends = self.at + min(1, len(chunk)) + newlines[filled]  # the byte after each row
        spans: list[Span] = []
        done = 0  # rows that belong to earlier spans
        while True:
            by_rows = done + self._rows_at(self._offset) - self._have
            by_bytes = int(np.searchsorted(ends, self._offset + self._cap)) + 1
            upto = min(by_rows, by_bytes)
            if upto > len(ends):
                break
            self._have += upto - done
            spans.append(self._cut(int(lines[upto - 1]), int(ends[upto - 1])))
            done = upto
        self._have += len(ends) - done
        self.line, self.at, self._before = self.line + len(newlines), self.at + len(chunk), (self._before + chunk[-2:])[-2:]
        return spans

    def rest(self) -> list[Span]:
        """The spans of what is left at the text's end."""
        spans = [] if self.terminated else self.add(b"")
        return [*spans, self._cut(self.line, self.at)] if self._have else spans

    def _cut(self, line: int, end: int) -> Span:
        span = Span(self._shard, self._start, line, self._have, self._offset, end - self._offset)
        self._start, self._offset, self._have = line, end, 0
        return span
