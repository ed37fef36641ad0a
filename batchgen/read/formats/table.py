"""Formats whose shards are Arrow tables. A table does not grow: a shard with another digest or content is refused.

A process that has imported ray.data unpickles some Arrow extension types as soon as it sees a schema that names them. So a
format refuses a file whose bytes name one (EXTENSION) before pyarrow interprets them, and `check_types` has an allow-list."""

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from pyarrow import types

from batchgen.errors import InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read.columns import carried_columns, columns_read, pick
from batchgen.read.formats import Format, Found, Measured, Planned, RowsOf, SpanRows, changed
from batchgen.read.formats.tables.cells import Faults, row_bytes, to_python, without_faults
from batchgen.read.location import is_same
from batchgen.read.partitions import added
from batchgen.read.schemas import holds
from batchgen.records import Data, Row, Shard, Span

BATCH_ROWS = 1024
METADATA_CAP = 2**28  # bytes of a file's schema or footer
ORDINAL = "\0ordinal"  # the last column of a table that is read; an input may have one of this name
FAULTS = "\0faults"  # a column of a table that is read: what is wrong with a row, null where nothing is
EXTENSION = b"ARROW:extension"  # the metadata key of an extension type in a schema's bytes
_PLAIN = {pa.null(), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()}


@dataclass(frozen=True)
class Contents:
    """`rows` rows of a table are input: those where `read` (one value per row of the table) is true, all where it is None."""

    digest: str
    rows: int
    read: pa.ChunkedArray | None = None
    row_bytes: float = 0.0  # the mean of what is read, at the place where it is largest


class TableFormat(Format):
    settings: frozenset[str] = frozenset()  # columns that are never data of a row
    always: frozenset[str] = frozenset()  # columns that `wanted` needs

    @abstractmethod
    def contents(self, spec: Input, name: str) -> Contents:
        """Digest and rows of a shard."""

    def content(self, spec: Input, name: str, columns: list[str] | None) -> str:
        """The digest of what is read of these columns (None: all) of a shard; "" in a format whose `digest` covers that."""
        return ""

    @abstractmethod
    def batches(self, spec: Input, shard: Shard, start: int, end: int, columns: list[str] | None) -> Iterator[pa.Table]:
        """These columns (None: all) of the rows at positions start..end, in tables of any size."""

    def wanted(self, table: pa.Table) -> pa.Table:
        """The rows of a table that are input."""
        return table

    def first(self, spec: Input, name: str, rows: int) -> Iterator[tuple[Data, int]]:
        for piece in self.batches(spec, Shard(0, name, self.name, 0, "", "", 0, 0), 0, rows, None):
            faults: Faults = {}
            table = without_faults(name, [self.wanted(piece)], spec.max_row_bytes, faults)
            for index, (data, size) in enumerate(zip(to_python(table, faults), row_bytes(table), strict=True)):
                if index not in faults:
                    yield data, int(size)

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float, columns: list[str] | None) -> Measured:
        contents = self.contents(spec, found.name)
        count = contents.rows

        def plan(rows_of: RowsOf, most: int) -> Planned | None:
            content = self.content(spec, found.name, None if columns is None else sorted({*columns, *self.always}))
            if shard.digest and (shard.digest != contents.digest or shard.content not in ("", content)):
                raise changed(shard)
            if shard.digest:
                return None
            ends = range(1, count + 1) if contents.read is None else np.flatnonzero(contents.read.to_numpy()) + 1
            spans: list[Span] = []
            start = done = 0
            while done < count:
                fitting = max(1, int(most / contents.row_bytes)) if contents.row_bytes else count
                rows = min(rows_of(count - done), count - done, fitting)
                done += rows
                spans.append(Span(shard.index, start, int(ends[done - 1]), rows))
                start = spans[-1].end
            return replace(shard, digest=contents.digest, content=content, lines=start, rows=count), spans

        return Measured(0 if shard.digest else count, plan)

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        at, columns = spans[0].start, columns_read(kept, needed | self.always)
        is_other = not is_same(self.version(spec, shard.name), (shard.size, shard.version))
        if is_other and shard.content not in ("", self.content(spec, shard.name, columns)):
            raise not_planned(shard)
        tables = self.batches(spec, shard, at, spans[-1].end, columns)
        known = needed | carried_columns(kept)
        folders = {name: value for name, value in self.folders(spec, shard.name).items() if name in known}
        rest: list[pa.Table] = []
        have = 0
        for span in spans:
            while have < span.rows:
                if (table := next(tables, None)) is None:
                    raise InputError(f"shard {shard.name}: it has fewer rows than planned: it changed")
                table = added(table, folders, spec)
                rest.append(self.wanted(table.append_column(ORDINAL, pa.array(np.arange(at, at + table.num_rows)))))
                at, have = at + table.num_rows, have + rest[-1].num_rows
            mine, rest = _split(rest, span.rows)
            have -= span.rows
            yield span, *self._rows(spec, shard.name, mine, kept, needed - self.settings)

    def _rows(
        self, spec: Input, shard: str, pieces: list[pa.Table], kept: pa.Schema, needed: set[str]
    ) -> tuple[list[Row], pa.Table]:
        faults: Faults = {}
        ordinals = [ordinal for piece in pieces for ordinal in piece.column(piece.num_columns - 1).to_pylist()]
        pieces = [piece.remove_column(piece.num_columns - 1) for piece in pieces]
        if any(FAULTS in piece.column_names for piece in pieces):
            told = [piece[FAULTS].to_pylist() if FAULTS in piece.column_names else [None] * len(piece) for piece in pieces]
            faults |= {index: cause for index, cause in enumerate(itertools.chain(*told)) if cause is not None}
            pieces = [piece.drop_columns([FAULTS]) if FAULTS in piece.column_names else piece for piece in pieces]
        table = without_faults(shard, pieces, spec.max_row_bytes, faults)
        data = to_python(table.select([name for name in table.column_names if name in needed]), faults)
        errors = {index: RowError("input", f"{place(shard, ordinals[index])}: {cause}") for index, cause in faults.items()}
        rows = [Row(ordinal, one, errors.get(index)) for index, (ordinal, one) in enumerate(zip(ordinals, data, strict=True))]
        return rows, pick(shard, table, kept)


def not_planned(shard: Shard) -> InputError:
    return InputError(f"shard {shard.name}: it is not what was planned: it changed", "restore it, or choose another output.path")


def _split(tables: list[pa.Table], rows: int) -> tuple[list[pa.Table], list[pa.Table]]:
    """The first `rows` rows of some tables, and the others. Tables are not joined: their nested types may differ, as far as texts
    with and without a dictionary do."""
    first, later = [], []
    for table in tables:
        first.append(table.slice(0, rows))
        later.append(table.slice(rows))
        rows = max(0, rows - len(table))
    return [one for one in first if len(one)], [one for one in later if len(one)]


def check_types(shard: str, schema: pa.Schema) -> None:
    """Raises InputError for a column whose type is not allowed, at any depth, and for one that is there
    twice."""
    for field in schema:
        if schema.get_field_index(field.name) < 0:
            raise InputError(f"shard {shard}: column {field.name} is there twice", "give each a name of its own")
        if holds(field.type, _has_twins):
            raise InputError(f"shard {shard}: column {field.name}: two fields of one name", "give each a name of its own")
        if not _is_plain(field.type):
            what = f"shard {shard}: column {field.name}: type {field.type} is not allowed"
            raise InputError(what, "write it with a plain type")


def _has_twins(kind: pa.DataType) -> bool:
    return bool(types.is_struct(kind)) and len({field.name for field in kind}) < kind.num_fields


def _is_plain(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if types.is_nested(kind) and not types.is_union(kind):
        return all(_is_plain(kind.field(index).type) for index in range(kind.num_fields))
    return kind in _PLAIN or any((types.is_primitive(kind), types.is_decimal(kind), types.is_fixed_size_binary(kind)))
