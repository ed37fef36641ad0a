"""JSONL text -> spans: line ends by numpy, chunk by chunk; nothing is parsed and no more than a chunk is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash

from batchgen.errors import InputError
from batchgen.read import reader
from batchgen.records import Shard, Span

SCAN_CHUNK = 8 * 2**20


def text_digest(name: str, length: int) -> Any:
    """Running xxh3-128 over the first `length` bytes of text; None where there are fewer."""
    digest = xxhash.xxh3_128()
    with reader.open_text(name) as stream:
        while length:
            chunk = reader.read_chunk(stream, name, min(SCAN_CHUNK, length))
            if not chunk:
                return None
            digest.update(chunk)
            length -= len(chunk)
    return digest


Rows = Callable[[int], int]
"""How many rows the span has that begins at this byte of the text."""


def scan(old: Shard, now: tuple[int, str], rows: Rows, cap: int, digest: Any = None) -> tuple[Shard, list[Span]]:
    """Cut the text after what `old` has planned into spans of `rows(offset)` rows or `cap` bytes.

    `now` are the size and stamp of the stored shard; `digest` runs over what is planned already. Raises InputError.
    """
    digest = digest or xxhash.xxh3_128()
    spans: list[Span] = []
    with reader.open_text(old.name, old.text_bytes) as stream:
        at, line = old.text_bytes, old.lines
        chunk = reader.read_chunk(stream, old.name, SCAN_CHUNK)
        if chunk and not old.terminated:
            ending = b"\r\n" if chunk.startswith(b"\r\n") else b"\n"
            if not chunk.startswith(ending):
                raise InputError(f"shard {old.name}: its last line was continued")
            digest.update(ending)
            at, chunk = at + len(ending), chunk[len(ending) :] or reader.read_chunk(stream, old.name, SCAN_CHUNK)
        cut = _Cutter(old.index, line, at, rows, cap)
        last = b"\n"
        while chunk:
            digest.update(chunk)
            spans += cut.feed(chunk)
            last = chunk[-1:]
            chunk = reader.read_chunk(stream, old.name, SCAN_CHUNK)
        spans += cut.end(terminated=last == b"\n")
    shard = replace(
        old,
        size=now[0],
        stamp=now[1],
        digest=digest.hexdigest(),
        lines=cut.line,
        rows=old.rows + sum(span.rows for span in spans),
        text_bytes=cut.at,
        terminated=last == b"\n",
    )
    return shard, spans


class _Cutter:
    """Finds line ends chunk by chunk and cuts spans; a span holds at least one row."""

    def __init__(self, shard: int, line: int, at: int, rows: Rows, cap: int) -> None:
        self.shard, self.rows, self.cap = shard, rows, cap
        self.line = self._start = line  # ordinal of the line that `at` is in
        self.at = self._offset = self._line_at = at
        self._have = 0  # rows of the open span
        self._return = False  # whether the byte before `at` is a carriage return

    def feed(self, chunk: bytes) -> list[Span]:
        data = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(data == 10)
        starts = np.concatenate(([self._line_at - self.at], ends[:-1] + 1)) if len(ends) else ends
        lengths = ends - starts
        returned = data[ends - 1] == 13 if len(ends) else np.empty(0, bool)
        if len(ends) and ends[0] == 0:
            returned[0] = self._return
        filled = (lengths > 1) | ((lengths == 1) & ~returned)
        count = np.cumsum(filled)
        after = ends + 1 + self.at
        spans, done, low = [], 0, 0
        while low < len(ends):
            by_rows = int(np.searchsorted(count, done + self.rows(self._offset) - self._have, "left"))
            by_bytes = int(np.searchsorted(after, self._offset + self.cap, "left"))
            high = max(low, min(by_rows, by_bytes))
            if high >= len(ends):
                break
            self._have += int(count[high]) - done
            done, low = int(count[high]), high + 1
            if self._have:
                spans.append(self._cut(self.line + low, int(after[high])))
        if len(ends):
            self._have += int(count[-1]) - done
            self.line += len(ends)
            self._line_at = int(after[-1])
        self._return = chunk[-1] == 13
        self.at += len(chunk)
        return spans

    def end(self, terminated: bool) -> list[Span]:
        if not terminated:
            self.line += 1
            self._have += 0 if self._return and self.at - self._line_at == 1 else 1
        return [self._cut(self.line, self.at)] if self._have else []

    def _cut(self, line: int, at: int) -> Span:
        span = Span(self.shard, self._start, line, self._have, self._offset, at - self._offset)
        self._start, self._offset, self._have = line, at, 0
        return span
