"""JSONL, plain, .gz or .zst: a JSON object per line, read line by line; blank lines are no rows.

A line that is no JSON object is an error row and leaves its neighbours as they are. A line of more than `input.max_row_bytes` is
an error row, too, and is skipped without being held.
"""

import itertools
import json
from collections.abc import Iterator

import orjson
import pyarrow as pa

from batchgen.errors import BadRow, InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read.columns import conform
from batchgen.read.formats import Format, Found, Head, Measured, Planned, RowsOf, SpanRows, changed
from batchgen.read.formats.jsonl_text import is_compressed, lines, open_text, scan
from batchgen.records import Data, Row, Shard, Span

BLANK = (b"", b"\r")
COMPRESSION = 4.0
"""Assumed bytes of text per byte of a compressed shard; good enough for the sizes of spans."""


class Jsonl(Format):
    name = "jsonl"
    endings = tuple(kind + codec for codec in ("", ".gz", ".zst") for kind in (".jsonl", ".ndjson"))

    def row(self, spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
        """The row in a line that is not blank; None is a line over the cap. An error names shard, line and cause."""
        try:
            if line is None:
                raise BadRow("input", f"the line is over input.max_row_bytes ({spec.max_row_bytes})")
            return Row(ordinal, self.data(_parse(line.removeprefix(b"\xef\xbb\xbf") if ordinal == 0 else line)))
        except BadRow as bad:
            return Row(ordinal, None, RowError(bad.code, f"{place(shard, ordinal)}: {bad}"))

    def data(self, line: Data) -> Data:
        """The columns of a row from a line's object. Raises BadRow."""
        return line

    def head(self, spec: Input, name: str, rows: int) -> Head:
        with open_text(name) as stream:
            first = itertools.islice(lines(stream, name, spec.max_row_bytes), rows)
            made = [self.row(spec, name, 0, line) for line in first if line not in BLANK]
        return [row.data for row in made if row.data is not None]

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float) -> Measured:
        text_bytes = found.size * (COMPRESSION if is_compressed(found.name) else 1.0)

        def left(offset: int) -> float:
            return (text_bytes - offset) / bytes_per_row

        def plan(rows_of: RowsOf, most: int) -> Planned | None:
            try:
                now, spans = scan(shard, found, lambda offset: rows_of(left(offset)), most)
            except InputError:
                if shard.digest:
                    raise changed(shard) from None
                raise
            return (now, spans) if spans or not shard.digest else None

        return Measured(max(0, int(left(shard.text_bytes))), plan)

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        first, last = spans[0], spans[-1]
        with open_text(shard.name, first.offset) as stream:
            found = lines(stream, shard.name, spec.max_row_bytes, last.offset + last.bytes - first.offset)
            for span in spans:
                rows = []
                for ordinal in range(span.start, span.end):
                    line = next(found, b"")
                    if line not in BLANK:
                        rows.append(self.row(spec, shard.name, ordinal, line))
                if len(rows) != span.rows:
                    what = f"{len(rows)} rows instead of {span.rows} from line {span.start + 1}"
                    raise InputError(f"shard {shard.name}: {what}: it changed")
                yield span, rows, conform([row.data or {} for row in rows], kept)

    def is_sequential(self, shard: Shard) -> bool:
        return is_compressed(shard.name)


def _parse(line: bytes) -> Data:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as strict:
        # Python's json writes NaN and Infinity, which are not JSON but are common in JSONL.
        try:
            value = json.loads(line.decode())
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
        except UnicodeDecodeError as error:
            raise BadRow("input", f"invalid UTF-8 at byte {error.start + 1}") from None
        except (ValueError, RecursionError):
            raise BadRow("input", f"invalid JSON: {strict}") from None
    if not isinstance(value, dict):
        raise BadRow("input", f"expected a JSON object, got {type(value).__name__}")
    return value


JSONL = Jsonl()
