"""JSONL, plain, .gz or .zst: a JSON object per line; blank lines are no rows. A line that is no JSON object, or is over
`input.max_row_bytes` (skipped without being held), is an error row and leaves its neighbours as they are."""

import itertools
import json
from collections.abc import Iterator

import pyarrow as pa
import xxhash

from batchgen import jsontext
from batchgen.errors import BadRow, InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read.columns import conform
from batchgen.read.formats import Format, Found, Measured, Planned, RowsOf, SpanRows, changed
from batchgen.read.formats.jsonl_spans import scan
from batchgen.read.formats.jsonl_text import BLANK, BOM, CODECS, codec_of, lines, open_text
from batchgen.records import Data, Row, Shard, Span

HEAD_BYTES = 2**26  # of a shard's text, and a line more, are looked at for its columns
COMPRESSION = 4.0  # assumed bytes of text per byte of a compressed shard; good enough for the sizes of spans


class Jsonl(Format):
    name = "jsonl"
    endings = tuple(kind + codec for codec in ("", *CODECS) for kind in (".jsonl", ".ndjson"))

    def row(self, spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
        """The row in a line that is not blank; None is a line over the cap. An error names shard, line and cause."""
        name: Data | None = None
        try:
            if line is None:
                raise BadRow("input", f"the line is over input.max_row_bytes ({spec.max_row_bytes})")
            found = _parse(line.removeprefix(BOM) if ordinal == 0 else line)
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
        with open_text(name) as stream:
            found = lines(stream, name, spec.max_row_bytes, HEAD_BYTES + spec.max_row_bytes)
            for line in itertools.islice(found, rows):
                if line and line not in BLANK and (data := self.row(spec, name, 0, line).data) is not None:
                    yield data, len(line) + 1

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float, columns: list[str] | None) -> Measured:
        text_bytes = found.size * (COMPRESSION if self.is_sequential(shard) else 1.0)

        def left(offset: int) -> float:
            return (text_bytes - offset) / bytes_per_row

        def is_whole(line: bytes) -> bool:
            return self.row(spec, shard.name, 0, line).error is None or _is_object(line)

        def plan(rows_of: RowsOf, most: int) -> Planned | None:
            try:
                now, spans = scan(shard, found, lambda offset: rows_of(left(offset)), most, spec.max_row_bytes, is_whole)
            except InputError as error:
                raise (changed(shard) if shard.digest else error) from None
            return (now, spans) if spans or not shard.digest or now.rest != shard.rest else None

        return Measured(max(0, int(left(shard.text_bytes))), plan)

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        with open_text(shard.name, spans[0].offset) as stream:
            for span in spans:
                digest = xxhash.xxh3_64()
                found = lines(stream, shard.name, spec.max_row_bytes, span.bytes, digest.update)
                numbered = enumerate(found, span.start)
                rows = [self.row(spec, shard.name, ordinal, line) for ordinal, line in numbered if line not in BLANK]
                if len(rows) != span.rows or span.digest not in ("", digest.hexdigest()):
                    what = f"shard {shard.name}: lines {span.start + 1} to {span.end} are not what was planned: it changed"
                    raise InputError(what, "restore it, or choose another output.path")
                yield span, rows, conform([row.data or {} for row in rows], kept)

    def is_sequential(self, shard: Shard) -> bool:
        return codec_of(shard.name) is not None


def _is_object(line: bytes) -> bool:
    """Whether a line is a whole JSON object, if one that is refused."""
    try:
        return isinstance(json.loads(line.removeprefix(BOM)), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


def _parse(line: bytes) -> Data:
    try:
        value = jsontext.loads(line)
    except ValueError as error:
        raise BadRow("input", str(error)) from None
    if not isinstance(value, dict):
        raise BadRow("input", f"expected a JSON object, got {type(value).__name__}")
    return value


JSONL = Jsonl()
