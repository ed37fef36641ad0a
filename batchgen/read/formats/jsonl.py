"""JSONL, plain, .gz or .zst: a JSON object per line; blank lines are no rows. A line that is no JSON object, or is over
`input.max_row_bytes` (skipped without being held), is an error row and leaves its neighbours as they are. A plan cuts the text
into spans chunk by chunk: numpy finds the line ends, nothing is parsed, and one chunk is held."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from batchgen import jsontext
from batchgen.errors import BadRow, InputError, RowError, place, safe_message
from batchgen.job.input import Input
from batchgen.read import location
from batchgen.read.columns import conform
from batchgen.read.formats import Format, Found, Measured, Planned, RowsOf, SpanRows, changed
from batchgen.records import Data, Row, Shard, Span

CHUNK = 4 * 2**20  # bytes read at a time
HEAD_BYTES = 2**26  # of a shard's text, and a line more, are looked at for its columns
CODECS = {".gz": "gzip", ".zst": "zstd"}
COMPRESSION = 4.0  # assumed bytes of text per byte of a compressed shard; good enough for the sizes of spans
BLANK = (b"", b"\r")
NEWLINE, RETURN = b"\n"[0], b"\r"[0]
RowsAt = Callable[[int], int]  # the number of rows of a span that starts at this byte of the text


class Jsonl(Format):
    name = "jsonl"
    endings = tuple(kind + codec for codec in ("", *CODECS) for kind in (".jsonl", ".ndjson"))

    def row(self, spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
        """The row in a line that is not blank; None is a line over the cap. An error names shard, line and cause."""
        name: Data | None = None
        try:
            if line is None:
                raise BadRow("input", f"the line is over input.max_row_bytes ({spec.max_row_bytes})")
            found = _parse(line.removeprefix(b"\xef\xbb\xbf") if ordinal == 0 else line)
            name = self.name_of(found)
            return Row(ordinal, self.data(found))
        except BadRow as bad:
            return Row(ordinal, name, RowError(bad.code, f"{place(shard, ordinal)}: {bad}"))

    def name_of(self, line: Data) -> Data | None:
        """The column that names a row whose line is refused."""
        return None

    def data(self, line: Data) -> Data:
        """The columns of a row from a line's object. Raises BadRow."""
        return line

    def head(self, spec: Input, name: str, rows: int) -> Iterator[tuple[Data, int]]:
        with _open_text(name) as stream:
            found = lines(stream, name, spec.max_row_bytes, HEAD_BYTES + spec.max_row_bytes)
            for line in itertools.islice(found, rows):
                if line and line not in BLANK and (data := self.row(spec, name, 0, line).data) is not None:
                    yield data, len(line) + 1

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float) -> Measured:
        text_bytes = found.size * (COMPRESSION if self.is_sequential(shard) else 1.0)

        def left(offset: int) -> float:
            return (text_bytes - offset) / bytes_per_row

        def plan(rows_of: RowsOf, most: int) -> Planned | None:
            try:
                now, spans = _scan(shard, found, lambda offset: rows_of(left(offset)), most)
            except InputError as error:
                raise (changed(shard) if shard.digest else error) from None
            return (now, spans) if spans or not shard.digest else None

        return Measured(max(0, int(left(shard.text_bytes))), plan)

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        first, last = spans[0], spans[-1]
        with _open_text(shard.name, first.offset) as stream:
            found = lines(stream, shard.name, spec.max_row_bytes, last.offset + last.bytes - first.offset)
            for span in spans:
                numbered = enumerate(itertools.islice(found, span.end - span.start), span.start)
                rows = [self.row(spec, shard.name, ordinal, line) for ordinal, line in numbered if line not in BLANK]
                if len(rows) != span.rows:
                    what = f"{len(rows)} rows instead of {span.rows} from line {span.start + 1}"
                    raise InputError(f"shard {shard.name}: {what}: it changed")
                yield span, rows, conform([row.data or {} for row in rows], kept)

    def is_sequential(self, shard: Shard) -> bool:
        return _codec(shard.name) is not None


def _parse(line: bytes) -> Data:
    try:
        value = jsontext.loads(line)
    except ValueError as error:
        raise BadRow("input", str(error)) from None
    if not isinstance(value, dict):
        raise BadRow("input", f"expected a JSON object, got {type(value).__name__}")
    return value


def _codec(name: str) -> str | None:
    return CODECS.get(os.path.splitext(name)[1].lower())


def _open_text(name: str, offset: int = 0) -> BinaryIO:
    """The uncompressed text of a shard from byte `offset`. Raises InputError where a compressed text is shorter."""
    raw = location.open_shard(name)
    if (codec := _codec(name)) is None:
        raw.seek(offset)
        return raw
    stream: BinaryIO = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    if sum(map(len, _chunks(stream, name, offset))) < offset:
        raise InputError(f"shard {name}: shorter than planned")
    return stream


def _chunks(stream: BinaryIO, name: str, limit: int = sys.maxsize) -> Iterator[bytes]:
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


def lines(stream: BinaryIO, name: str, cap: int, limit: int = sys.maxsize) -> Iterator[bytes | None]:
    """The lines of the next `limit` bytes of a text, without their newlines; None for a line of more than `cap` bytes. At most
    cap + CHUNK bytes are held."""
    rest, dropped = b"", 0
    for chunk in _chunks(stream, name, limit):
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            yield None if dropped + len(piece) > cap else piece
            dropped = 0
        if dropped + len(rest) > cap:
            dropped, rest = dropped + len(rest), b""
    if dropped or rest:
        yield None if dropped + len(rest) > cap else rest


def _scan(shard: Shard, found: Found, rows_at: RowsAt, cap: int) -> Planned:
    """The shard as `found`, and spans of its text after the planned one, of `rows_at(offset)` rows or `cap` bytes each. Raises
    OutputConflict where the planned text is not there any more, or its last line was continued."""
    digest = xxhash.xxh3_128()
    at = shard.text_bytes
    with _open_text(found.name) as stream:
        for chunk in _chunks(stream, found.name, at):
            digest.update(chunk)
        if shard.digest and digest.hexdigest() != shard.digest:
            raise changed(shard)
        later = _chunks(stream, found.name)
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
            cutter.add(chunk)
    cutter.end()
    rows = shard.rows + sum(span.rows for span in cutter.spans)
    now = replace(shard, size=found.size, version=found.version, digest=digest.hexdigest(), rows=rows)
    return replace(now, lines=cutter.line, text_bytes=cutter.at, terminated=cutter.terminated), cutter.spans


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
    first, _, rest = text.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
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
        done = 0  # rows that belong to earlier spans
        while True:
            by_rows = done + self._rows_at(self._offset) - self._have
            by_bytes = int(np.searchsorted(ends, self._offset + self._cap)) + 1
            upto = min(by_rows, by_bytes)
            if upto > len(ends):
                break
            self._have += upto - done
            self._cut(int(lines[upto - 1]), int(ends[upto - 1]))
            done = upto
        self._have += len(ends) - done
        self.line, self.at, self._before = self.line + len(newlines), self.at + len(chunk), (self._before + chunk[-2:])[-2:]
        self.terminated = self._before.endswith(b"\n")

    def end(self) -> None:
        """Cut the rest at the text's end."""
        if not self.terminated:
            self.add(b"")
        if self._have:
            self._cut(self.line, self.at)

    def _cut(self, line: int, end: int) -> None:
        self.spans.append(Span(self._shard, self._start, line, self._have, self._offset, end - self._offset))
        self._start, self._offset, self._have = line, end, 0


JSONL = Jsonl()
