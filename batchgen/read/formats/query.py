"""The rows of an answered `input.query`, in Parquet files that the output holds (plan/query).

A shard's name is the name of its file alone, so that an output may be moved; `input.path` has the files where they are now.
Columns of JSON text are read as what they say."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyarrow as pa

from batchgen.errors import RowError, place
from batchgen.job.input import Input
from batchgen.jsontext import loads
from batchgen.read.formats import Found, SpanRows
from batchgen.read.formats.parquet import Parquet
from batchgen.read.formats.table import Contents
from batchgen.records import Data, Row, Shard, Span

JSON = {"json": "1"}
"""Metadata of a column that holds JSON text."""


class Query(Parquet):
    name = "query"
    endings = ()
    takes_folders = True

    def find(self, path: str) -> list[Found]:
        return [Found(path.rpartition("/")[2], self.name)]

    def version(self, spec: Input, name: str) -> tuple[int, str]:
        return super().version(spec, _at(spec, name))

    def folders(self, spec: Input, name: str) -> Mapping[str, object]:
        return {}

    def head(self, spec: Input, name: str, rows: int = 0) -> pa.Schema:
        return super().head(spec, _at(spec, name), rows)

    def contents(self, spec: Input, name: str) -> Contents:
        return super().contents(spec, _at(spec, name))

    def content(self, spec: Input, name: str, columns: list[str] | None) -> str:
        return super().content(spec, _at(spec, name), columns)

    def batches(self, spec: Input, shard: Shard, start: int, end: int, columns: list[str] | None) -> Iterator[pa.Table]:
        return super().batches(spec, replace(shard, name=_at(spec, shard.name)), start, end, columns)

    def first(self, spec: Input, name: str, rows: int) -> Iterator[tuple[Data, int]]:
        json = self._json(spec, name)
        return ((_values(data, json), size) for data, size in super().first(spec, name, rows))

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        json = self._json(spec, shard.name)
        for span, rows, carried in super().read(spec, shard, spans, kept, needed):
            yield span, [_decoded(row, json, shard.name) for row in rows], carried

    def _json(self, spec: Input, name: str) -> list[str]:
        return [field.name for field in self.head(spec, name) if (field.metadata or {}).get(b"json") == b"1"]


def _at(spec: Input, name: str) -> str:
    return next((path for path in spec.paths if path.rpartition("/")[2] == name), name)


def _values(data: Data, json: list[str]) -> Data:
    return data | {name: loads(data[name]) for name in json if isinstance(data.get(name), str)}


def _decoded(row: Row, json: list[str], shard: str) -> Row:
    if row.data is None or row.error is not None or not json:
        return row
    try:
        return replace(row, data=_values(row.data, json))
    except ValueError as error:
        return replace(row, error=RowError("input", f"{place(shard, row.ordinal)}: {error}"))


QUERY = Query()
