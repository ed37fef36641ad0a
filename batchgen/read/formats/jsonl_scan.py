"""JSONL text -> spans: numpy finds line ends chunk by chunk; nothing is parsed, and one chunk is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xxhash

from batchgen.errors import InputError
from batchgen.read.formats.base import Found, Planned, changed
from batchgen.read.text import open_text, read_chunk
from batchgen.records import Shard, Span

SCAN_CHUNK = 8 * 2**20
"""Bytes of text looked at a time."""
NEWLINE, RETURN = b"\n"[0], b"\r"[0]
RowsAt = Callable[[int], int]
"""The number of rows of a span that starts at this byte of the text."""


def grow(shard: Shard, found: Found, rows: RowsAt, cap: int) -> Planned | None:
    """The shard as `found`, and spans of what its text has grown by; None where that has no rows.

    Raises OutputConflict where the planned text is not there any more.
    """
    digest = xxhash.xxh3_128()
    left = shard.text_bytes
    try:
        with open_text(found.name) as stream:
            while left and (chunk := read_chunk(stream, found.name, min(SCAN_CHUNK, left))):
                digest.update(chunk)
                left -= len(chunk)
        if left or digest.hexdigest() != shard.digest:
            raise changed(shard)
        now, spans = scan(shard, found, rows, cap, digest)
    except InputError:
        raise changed(shard) from None
    return (now, spans) if spans else None


def scan(shard: Shard, found: Found, rows: RowsAt, cap: int, digest: xxhash.xxh3_128 | None = None) -> Planned:
    """The shard as `found`, and spans of its text after what `shard` has planned, of `rows(offset)` rows or `cap` bytes each.

    `digest` is the running digest of the planned text. Raises InputError where the last planned line was continued.
    """
    digest = digest or xxhash.xxh3_128()
    spans: list[Span] = []
    with open_text(shard.name, shard.text_bytes) as stream:
        at = shard.text_bytes
        chunk = read_chunk(stream, shard.name, SCAN_CHUNK)
        if chunk and not shard.terminated:
            ending = b"\r\n" if chunk.startswith(b"\r\n") else b"\n"
            if not chunk.startswith(ending):
                raise InputError(f"shard {shard.name}: its last line was continued")
            digest.update(ending)
            at, chunk = at + len(ending), chunk[len(ending) :] or read_chunk(stream, shard.name, SCAN_CHUNK)
        found_lines = _Lines(at)
        cutter = _Cutter(shard.index, shard.lines, at, rows, cap)
        while chunk:
            digest.update(chunk)
            spans += cutter.add(*found_lines.feed(chunk))
            chunk = read_chunk(stream, shard.name, SCAN_CHUNK)
        spans += cutter.add(*found_lines.unterminated()) + cutter.rest()
    now = replace(
        shard,
        size=found.size,
        stamp=found.stamp,
        digest=digest.hexdigest(),
        lines=cutter.line,
        rows=shard.rows + sum(span.rows for span in spans),
        text_bytes=found_lines.at,
        terminated=found_lines.terminated,
    )
    return now, spans


Ends = npt.NDArray[np.int64]
Filled = npt.NDArray[np.bool_]


class _Lines:
    """The lines of a text that comes in chunks. `at` is the byte after the last chunk."""

    def __init__(self, at: int) -> None:
        self.at = at
        self._start = at  # of the line that `at` is in
        self._last = NEWLINE  # the byte before `at`

    @property
    def terminated(self) -> bool:
        return self._last == NEWLINE

    def feed(self, chunk: bytes) -> tuple[Ends, Filled]:
        """For each line that ends in the chunk: the byte after its newline, and whether it is not blank."""
        data = np.frombuffer(chunk, np.uint8)
        newlines = np.flatnonzero(data == NEWLINE)
        lengths = newlines - np.concatenate(([self._start - self.at], newlines + 1))[:-1]
        before = data[newlines - 1]
        if len(newlines) and newlines[0] == 0:
            before[0] = self._last
        ends = newlines + 1 + self.at
        self._start = int(ends[-1]) if len(ends) else self._start
        self.at, self._last = self.at + len(chunk), chunk[-1]
        return ends, _is_filled(lengths, before)

    def unterminated(self) -> tuple[Ends, Filled]:
        """The last line likewise, where the text does not end in a newline."""
        lengths = np.array([] if self.terminated else [self.at - self._start], np.int64)
        return lengths + self._start, _is_filled(lengths, np.full(len(lengths), self._last, np.uint8))


def _is_filled(lengths: Ends, last: npt.NDArray[np.uint8]) -> Filled:
    return np.asarray((lengths > 1) | ((lengths == 1) & (last != RETURN)))


class _Cutter:
    """Cuts lines into spans. The open span starts at line `_start` and byte `_offset` and has `_have` rows."""

    def __init__(self, shard: int, line: int, offset: int, rows: RowsAt, cap: int) -> None:
        self.line = line  # the ordinal of the next line
        self._shard, self._rows_at, self._cap = shard, rows, cap
        self._start, self._offset, self._have = line, offset, 0
        self._end = offset  # the byte after the last line

    def add(self, ends: Ends, filled: Filled) -> list[Span]:
        """The spans that these lines complete: by their number of rows, or by bytes once they have a row."""
        if not len(ends):
            return []
        rows = np.concatenate(([0], np.cumsum(filled)))  # rows[i]: rows among the first i lines
        spans: list[Span] = []
        done = 0  # lines that belong to earlier spans
        while True:
            by_rows = np.searchsorted(rows, rows[done] + self._rows_at(self._offset) - self._have)
            by_bytes = np.searchsorted(ends, self._offset + self._cap) + 1
            one_row = np.searchsorted(rows, rows[done] + 1) if not self._have else 0
            upto = int(min(by_rows, max(by_bytes, one_row)))
            if upto > len(ends):
                break
            self._have += int(rows[upto] - rows[done])
            spans.append(self._cut(self.line + upto, int(ends[upto - 1])))
            done = upto
        self._have += int(rows[-1] - rows[done])
        self.line, self._end = self.line + len(ends), int(ends[-1])
        return spans

    def rest(self) -> list[Span]:
        """The open span, where it has rows."""
        return [self._cut(self.line, self._end)] if self._have else []

    def _cut(self, line: int, end: int) -> Span:
        span = Span(self._shard, self._start, line, self._have, self._offset, end - self._offset)
        self._start, self._offset, self._have = line, end, 0
        return span
