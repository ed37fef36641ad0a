"""JSONL, plain, .gz or .zst: a JSON object per line, read line by line; blank lines are no rows.

A line that is no JSON object is an error row and leaves its neighbours as they are. A line of more than `input.max_row_bytes` is
an error row, too, and is skipped without being held.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import orjson
import pyarrow as pa

from batchgen.errors import InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read.columns import conform
from batchgen.read.formats.base import Cut, Format, Found, Head, Measured, Planned, SpanRows
from batchgen.read.formats.jsonl_scan import grow, scan
from batchgen.read.text import is_compressed, lines, open_text
from batchgen.records import Row, Shard, Span

BLANK = (b"", b"\r")
COMPRESSION = 4.0
"""Assumed bytes of text per byte of a compressed shard; good enough for the sizes of spans."""


class Jsonl(Format):
    name = "jsonl"
    endings = tuple(kind + codec for codec in ("", ".gz", ".zst") for kind in (".jsonl", ".ndjson"))

    def row(self, spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
        """The row in a line that is not blank; None is a line over the cap."""
        return parse_line(shard, ordinal, line, spec.max_row_bytes)

    def head(self, spec: Input, name: str, rows: int) -> Head:
        with open_text(name) as stream:
            first = itertools.islice(lines(stream, name, spec.max_row_bytes), rows)
            made = [self.row(spec, name, 0, line) for line in first if line not in BLANK]
        return Head([row.data for row in made if row.data is not None])

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float) -> Measured:
        text_bytes = found.size * (COMPRESSION if is_compressed(found.name) else 1.0)

        def left(offset: int) -> float:
            return (text_bytes - offset) / bytes_per_row

        def plan(cut: Cut) -> Planned | None:
            scan_or_grow = grow if shard.digest else scan
            return scan_or_grow(shard, found, lambda offset: cut.rows(left(offset)), cut.bytes)

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


def parse_line(shard: str, ordinal: int, line: bytes | None, cap: int) -> Row:
    """A line as a row: its JSON object, or the error that names shard, line and cause. None is a line over the `cap`."""

    def bad(cause: str) -> Row:
        return Row(ordinal, None, RowError("input", f"{place(shard, ordinal)}: {cause}"))

    if line is None:
        return bad(f"the line is over input.max_row_bytes ({cap})")
    if ordinal == 0:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as strict:
        # Python's json writes NaN and Infinity, which are not JSON but are common in JSONL.
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            return bad(f"invalid UTF-8 at byte {error.start + 1}")
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
        except (ValueError, RecursionError):
            return bad(f"invalid JSON: {strict}")
    if not isinstance(value, dict):
        return bad(f"expected a JSON object, got {type(value).__name__}")
    return Row(ordinal, value)


JSONL = Jsonl()
