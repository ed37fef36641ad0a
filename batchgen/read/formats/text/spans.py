"""Text -> spans: cuts the rows of a text, piece by piece. numpy finds the ends of rows, nothing is parsed, and one piece is
held."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import xxhash

from batchgen.read.formats import Found, Planned, changed
from batchgen.read.formats.text.rows import Text
from batchgen.read.formats.text.stream import BLANK, Pairs, chunks, open_text, peek
from batchgen.records import Shard, Span

NEWLINE, RETURN = b"\n"[0], b"\r"[0]
RowsAt = Callable[[int], int]  # the number of rows of a span that starts at this byte of the text


def scan(shard: Shard, found: Found, text: Text, rows_at: RowsAt, cap: int) -> Planned:
    """The shard as `found`, and spans of its text after the planned one, of `rows_at(offset)` rows or `cap` bytes each. A last
    line without a newline that is not whole waits. Raises InputError, and OutputConflict where the planned text is
    not there any more, or its last row was continued."""
    digest, last = _Digest(xxhash.xxh3_128()), _LastLine(text.spec.max_row_bytes)
    with open_text(found.name) as stream:
        first, pieces = peek(chunks(stream, found.name))
        if not shard.digest:
            text.refuse(first)
        pieces = text.start(pieces)
        is_new = shard.text_bytes == 0
        at, line = (len(text.preamble), text.lines) if is_new else (shard.text_bytes, shard.lines)
        later = _Pieces(text.cut(pieces, whole=True))
        digest.update(text.preamble, len(text.preamble))
        end = NEWLINE
        for piece, cut in later.upto(at - len(text.preamble)):
            digest.update(piece, cut.rfind(b"\n") + 1)
            end = cut[-1]
        if not is_new and shard.digest and digest.hexdigest() != shard.digest:
            raise changed(shard)
        if shard.terminated and end != NEWLINE:
            raise changed(shard)  # the row goes on after what was its end
        if not shard.terminated and (begin := later.begin(2)):
            ending = b"\r\n" if begin.startswith(b"\r\n") else b"\n"
            if not begin.startswith(ending):
                raise changed(shard)
            for piece, _ in later.upto(len(ending)):
                digest.update(piece, len(piece))
            at += len(ending)
        cutter = _Cutter(shard, line, at, rows_at, cap)
        for piece, cut in later:
            if piece:
                digest.update(piece, cut.rfind(b"\n") + 1)
                last.add(piece, cut)
                cutter.add(piece, cut)
    rest = 0 if last.text is not None and (last.text in BLANK or text.is_whole(last.text)) else last.size
    cutter.end(rest)
    rows = shard.rows + sum(span.rows for span in cutter.spans)
    now = replace(shard, size=found.size, version=found.version, digest=digest.hexdigest(rest > 0), rows=rows, rest=rest)
    return replace(now, lines=cutter.line, text_bytes=cutter.at, terminated=cutter.terminated), cutter.spans


class _Pieces:
    """Pieces of a text that can be taken up to any byte."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def __iter__(self) -> Pairs:
        return self._pairs

    def upto(self, size: int) -> Pairs:
        """The pieces of the next `size` bytes."""
        while size > 0 and (pair := next(self._pairs, None)) is not None:
            piece, cut = pair
            if len(piece) > size:
                self._pairs = itertools.chain([(piece[size:], cut[size:])], self._pairs)
                piece, cut = piece[:size], cut[:size]
            size -= len(piece)
            if piece:
                yield piece, cut

    def begin(self, size: int) -> bytes:
        """The next `size` bytes, which stay."""
        found = list(self.upto(size))
        self._pairs = itertools.chain(found, self._pairs)
        return b"".join(piece for piece, _ in found)


class _Digest:
    """The digest of a text as it is read, and of its whole lines alone."""

    def __init__(self, empty: "xxhash.xxh3_64 | xxhash.xxh3_128") -> None:
        self._all, self._lines = empty, empty.copy()

    def update(self, chunk: bytes, end: int) -> None:
        """`end`: the byte after the last whole line in the chunk, or 0."""
        if end:
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

    def add(self, chunk: bytes, cut: bytes) -> None:
        if end := cut.rfind(b"\n") + 1:
            self.size, self.text = 0, b""
        self.size += len(chunk) - end
        self.text = None if self.text is None or self.size > self._cap else self.text + chunk[end:]


class _Cutter:
    """Cuts chunks of text into `spans`. The open span starts at line `_start` and byte `_offset` and has `_have` rows."""

    def __init__(self, shard: Shard, line: int, at: int, rows_at: RowsAt, cap: int) -> None:
        self.spans: list[Span] = []
        self.line, self.at = line, at  # the ordinal of the next line, the byte after the last chunk
        self._shard, self._rows_at, self._cap = shard.index, rows_at, cap
        self._start, self._offset, self._have = self.line, at, 0
        self._before = b"\n\n"  # the two bytes before `at`
        self._digest = _Digest(xxhash.xxh3_64())  # of the open span
        self.terminated = True  # whether the last chunk ends in a newline

    def add(self, chunk: bytes, shown: bytes) -> None:
        """Cut the spans that the lines of a chunk complete, by rows or by bytes; the lines are those of its copy `shown`. An
        empty chunk ends a line without a newline."""
        data = np.frombuffer(shown or b"\n", np.uint8)
        newlines = np.flatnonzero(data == NEWLINE)
        last, last_but_one = (data.take(newlines - back, mode="wrap") for back in (1, 2))  # the bytes before each newline
        head = self._before + shown[:2]
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
            self._digest.update(chunk[fed : end - self.at], end - self.at - fed)
            self._cut(int(lines[upto - 1]), end)
            done, fed = upto, end - self.at
        self._digest.update(chunk[fed:], max(0, shown.rfind(b"\n") + 1 - fed))
        self._have += len(ends) - done
        self.line, self.at, self._before = self.line + len(newlines), self.at + len(chunk), (self._before + shown[-2:])[-2:]
        self.terminated = self._before.endswith(b"\n")

    def end(self, rest: int) -> None:
        """Cut what is left at the text's end, without the last `rest` bytes."""
        if rest:
            self.at, self.terminated = self.at - rest, True
        elif not self.terminated:
            self.add(b"", b"")
        if self._have:
            self._cut(self.line, self.at, rest > 0)

    def _cut(self, line: int, end: int, of_lines: bool = False) -> None:
        place = self._shard, self._start, line, self._have, self._offset, end - self._offset
        self.spans.append(Span(*place, digest=self._digest.hexdigest(of_lines)))
        self._start, self._offset, self._have, self._digest = line, end, 0, _Digest(xxhash.xxh3_64())
