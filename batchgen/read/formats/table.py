"""Formats whose shards are Arrow tables: rows go by position, a plan by counts, a changed shard by the digest of its description.

A table does not grow: a shard whose digest differs from the planned one is refused.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from batchgen.errors import InputError
from batchgen.job.input import Input
from batchgen.read.columns import pick
from batchgen.read.formats.base import Cut, Format, Found, Head, Measured, Planned, SpanRows, changed
from batchgen.records import Row, Shard, Span

BATCH_ROWS = 1024
ORDINAL = "\0ordinal"


@dataclass(frozen=True)
class Contents:
    """What a table says of itself. `read` is true for the rows that are input (a bit each); None where all are."""

    digest: str
    rows: int
    read: pa.ChunkedArray | None = None


class TableFormat(Format):
    settings: frozenset[str] = frozenset()
    """Columns that are never taken as data of a row."""

    @abstractmethod
    def schema(self, spec: Input, name: str) -> pa.Schema: ...

    @abstractmethod
    def contents(self, spec: Input, name: str) -> Contents: ...

    @abstractmethod
    def batches(self, spec: Input, shard: Shard, start: int, end: int) -> Iterator[pa.Table]:
        """The rows at positions start..end, in tables of any size."""
        ...

    def wanted(self, table: pa.Table) -> pa.Table:
        """The rows of a table that are input."""
        return table

    def head(self, spec: Input, name: str, rows: int) -> Head:
        return Head(schema=self.schema(spec, name))

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float) -> Measured:
        contents = self.contents(spec, found.name)
        return Measured(0 if shard.digest else contents.rows, functools.partial(plan_table, shard, contents))

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        tables = self._numbered(spec, shard, spans[0].start, spans[-1].end)
        rest: list[pa.Table] = []
        have = 0
        for span in spans:
            while have < span.rows:
                table = next(tables, None)
                if table is None:
                    raise InputError(f"shard {shard.name}: it has fewer rows than planned: it changed")
                rest.append(table)
                have += table.num_rows
            whole = pa.concat_tables(rest)
            rest, have = [whole.slice(span.rows)], have - span.rows
            table = whole.slice(0, span.rows)
            data = table.select([name for name in table.column_names if name in needed - self.settings]).to_pylist()
            rows = [Row(ordinal, one) for ordinal, one in zip(table.column(ORDINAL).to_pylist(), data, strict=True)]
            yield span, rows, pick(shard.name, table, kept)

    def _numbered(self, spec: Input, shard: Shard, start: int, end: int) -> Iterator[pa.Table]:
        """The wanted rows of start..end with their positions as the column ORDINAL."""
        for table in self.batches(spec, shard, start, end):
            yield self.wanted(table.append_column(ORDINAL, pa.array(np.arange(start, start + table.num_rows))))
            start += table.num_rows

    def is_sequential(self, shard: Shard) -> bool:
        return True


def plan_table(shard: Shard, contents: Contents, cut: Cut) -> Planned | None:
    """See Measured.plan."""
    if shard.digest:
        if contents.digest != shard.digest:
            raise changed(shard)
        return None
    count = contents.rows
    ends = range(1, count + 1) if contents.read is None else np.flatnonzero(contents.read.to_numpy()) + 1
    spans: list[Span] = []
    start = done = 0
    while done < count:
        rows = min(cut.rows(count - done), count - done)
        done += rows
        spans.append(Span(shard.index, start, int(ends[done - 1]), rows))
        start = spans[-1].end
    return replace(shard, digest=contents.digest, lines=start, rows=count), spans
