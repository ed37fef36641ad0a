"""Text -> spans: cuts the lines of a JSONL shard, chunk by chunk. numpy finds the line ends, nothing is parsed, and one chunk is
held."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import xxhash

from batchgen import jsontext
from batchgen.errors import InputError
from batchgen.read.formats import Found, Planned, changed
from batchgen.read.formats.jsonl_text import BLANK, BOM, chunks, open_text
from batchgen.records import Shard, Span

NEWLINE, RETURN = b"\n"[0], b"\r"[0]
RowsAt = Callable[[int], int]  # the number of rows of a span that starts at this byte of the text
IsWhole = Callable[[bytes], bool]  # whether a last line without a newline is one that nobody is still writing


def scan(shard: Shard, found: Found, rows_at: RowsAt, cap: int, row_cap: int, is_whole: IsWhole) -> Planned:
    """The shard as `found`, and spans of its text after the planned one, of `rows_at(offset)` rows or `cap` bytes each. A last
    line without a newline that is not whole waits. Raises OutputConflict where the planned text is
    not there any more, or its last line was continued."""
    digest, last = _Digest(xxhash.xxh3_128()), _LastLine(row_cap)
    at = shard.text_bytes
    with open_text(found.name) as stream:
        for chunk in chunks(stream, found.name, at):
            digest.update(chunk)
        if shard.digest and digest.hexdigest() != shard.digest:
            raise changed(shard)
        later = chunks(stream, found.name)
        first = next(later, b"")
        if not shard.digest:
            _refuse_other_format(found.name, first)
        if first and not shard.terminated:
            ending = b"\r\n" if first.startswith(b"\r\n") else b"\n"
            if not first.startswith(ending):
                raise changed(shard)
            digest.update(ending)
            at, first = at + len(ending), first[len(ending) :]
        cutter = _Cutter(shard, at, rows_at, cap)
        for chunk in filter(None, itertools.chain([first], later)):
            digest.update(chunk)
            last.add(chunk)
            cutter.add(chunk)
    rest = 0 if last.text is not None and (last.text in BLANK or is_whole(last.text)) else last.size
    cutter.end(rest)
    rows = shard.rows + sum(span.rows for span in cutter.spans)
    now = replace(shard, size=found.size, version=found.version, digest=digest.hexdigest(rest > 0), rows=rows, rest=rest)
    return replace(now, lines=cutter.line, text_bytes=cutter.at, terminated=cutter.terminated), cutter.spans


class _Digest:
    """The digest of a text as it is read, and of its whole lines alone."""

    def __init__(self, empty: "xxhash.xxh3_64 | xxhash.xxh3_128") -> None:
        self._all, self._lines = empty, empty.copy()

    def update(self, chunk: bytes) -> None:
        if end := chunk.rfind(b"\n") + 1:
            self._all.update(chunk[:end])
            self._lines = self._all.copy()
        self._all.update(chunk[end:])

    def hexdigest(self, of_lines: bool = False) -> str:
        return str((self._lines if of_lines else self._all).hexdigest())


class _LastLine:
    """The `size` bytes after the last newline of a text; `text` is None where they are more than a row may have."""

    def __init__(self, cap: int) -> None:
        self._cap, self.size = cap, 0
        self.text: bytes | None = b""

    def add(self, chunk: bytes) -> None:
        if end := chunk.rfind(b"\n") + 1:
            self.size, self.text = 0, b""
        self.size += len(chunk) - end
        self.text = None if self.text is None or self.size > self._cap else self.text + chunk[end:]


_MARKS = {
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"\x1f\x8b": ("gzip-compressed", "name it .jsonl.gz"),
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", "name it .jsonl.zst"),
    b"\xff\xfe": ("UTF-16", "write it in UTF-8"),
    b"\xfe\xff": ("UTF-16", "write it in UTF-8"),
}


def _refuse_other_format(name: str, text: bytes) -> None:
    """Raises InputError for the beginning of a file that is no JSONL as a whole: one message instead of an error row per line."""
    for mark, (what, remedy) in _MARKS.items():
        if text.startswith(mark):
            raise InputError(f"shard {name}: it is {what}, not lines of JSON", remedy)
    first, _, rest = text.removeprefix(BOM).lstrip().partition(b"\n")
    if first.startswith(b"["):
        try:
            jsontext.loads(first)
        except ValueError:
            rest = b""
        if not rest.strip():
            raise InputError(
                f"shard {name}: it is one JSON array, not a JSON object per line", "write each element on a line: jq -c '.[]'"
            )


class _Cutter:
    """Cuts chunks of text into `spans`. The open span starts at line `_start` and byte `_offset` and has `_have` rows."""

    def __init__(self, shard: Shard, at: int, rows_at: RowsAt, cap: int) -> None:
        self.spans: list[Span] = []
        self.line, self.at = shard.lines, at  # the ordinal of the next line, the byte after the last chunk
        self._shard, self._rows_at, self._cap = shard.index, rows_at, cap
        self._start, self._offset, self._have = self.line, at, 0
        self._before = b"\n\n"  # the two bytes before `at`
        self._digest = _Digest(xxhash.xxh3_64())  # of the open span
        self.terminated = True  # whether the last chunk ends in a newline

    def add(self, chunk: bytes) -> None:
        """Cut the spans that the lines of a chunk complete, by rows or by bytes. An empty chunk ends a line without a newline."""
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
        done = fed = 0  # rows that belong to earlier spans, and bytes
        while True:
            by_rows = done + self._rows_at(self._offset) - self._have
            by_bytes = int(np.searchsorted(ends, self._offset + self._cap)) + 1
            upto = min(by_rows, by_bytes)
            if upto > len(ends):
                break
            self._have += upto - done
            end = int(ends[upto - 1])
            self._digest.update(chunk[fed : end - self.at])
            self._cut(int(lines[upto - 1]), end)
            done, fed = upto, end - self.at
        self._digest.update(chunk[fed:])
        self._have += len(ends) - done
        self.line, self.at, self._before = self.line + len(newlines), self.at + len(chunk), (self._before + chunk[-2:])[-2:]
        self.terminated = self._before.endswith(b"\n")

    def end(self, rest: int) -> None:
        """Cut what is left at the text's end, without the last `rest` bytes."""
        if rest:
            self.at, self.terminated = self.at - rest, True
        elif not self.terminated:
            self.add(b"")
        if self._have:
            self._cut(self.line, self.at, rest > 0)

    def _cut(self, line: int, end: int, of_lines: bool = False) -> None:
        place = self._shard, self._start, line, self._have, self._offset, end - self._offset
        self.spans.append(Span(*place, digest=self._digest.hexdigest(of_lines)))
        self._start, self._offset, self._have, self._digest = line, end, 0, _Digest(xxhash.xxh3_64())
