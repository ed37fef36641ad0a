"""Shards whose rows are the elements of another format's rows (`input.each`).

A plan knows its rows before any is read for a prompt. So what is new of an input is read once when it is planned, here, and its
elements are counted; from then on a row is an element, numbered within its shard, and a span is of elements. A span has beside
them the rows of the format that they lie in (records.Within), as the format planned them: that a shard grew or changed is
noticed as it is without `each`. Of a row with many elements there are several spans."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from batchgen.errors import InputError, RowError, place
from batchgen.job.input import Input
from batchgen.read import formats
from batchgen.read.columns import conform
from batchgen.read.each.expand import column_names, elements, head, mean, plain
from batchgen.read.formats import Format, Found, Head, Measured, Planned, RowsOf, SpanRows
from batchgen.records import Row, Shard, Span, Within

SAMPLE_ROWS = 64  # say how many elements a row has
NOTHING = pa.schema([])
Sized = tuple[Row, int]  # an element, whose ordinal is that of its row in the format, and its bytes


def format_of(spec: Input, shard: Shard | Found) -> Format:
    """The format of a shard; with `input.each` that of its elements."""
    kind = formats.format_of(spec, shard)
    return kind if spec.each is None else Elements(kind, spec.each)


class Elements(Format):
    def __init__(self, inner: Format, path: str) -> None:
        self.name, self._inner, self._path = inner.name, inner, path

    def head(self, spec: Input, name: str, rows: int) -> Head:
        return head(spec, self._inner, name, rows)

    def measure(self, spec: Input, shard: Shard, found: Found, bytes_per_row: float, columns: list[str] | None) -> Measured:
        each, names = mean(spec, self._inner, found, SAMPLE_ROWS), column_names(spec, self._inner, found.name)
        measured = self._inner.measure(spec, shard, found, bytes_per_row * each, sorted(names))

        def plan(rows_of: RowsOf, most: int) -> Planned | None:
            planned = measured.plan(lambda left: max(1, int(rows_of(left * each) / each)), most)
            if planned is None:
                return None
            now, inner = planned
            spans, at, left = list[Span](), shard.rows, measured.rows * each
            for span, found in self._read(spec, now, inner, names):
                skip = 0
                for rows in cuts((size for _, size in found), rows_of(max(0.0, left)), most):
                    within = Within(span.start, span.end, span.rows, skip)
                    spans.append(replace(span, start=at, end=at + rows, rows=rows, within=within))
                    at, skip = at + rows, skip + rows
                left -= len(found)
            return replace(now, rows=at), spans

        return Measured(int(measured.rows * each), plan)

    def read(self, spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
        groups = [list(group) for _, group in itertools.groupby(spans, _inner)]
        inner = [_inner(group[0]) for group in groups]
        read = self._read(spec, shard, inner, column_names(spec, self._inner, shard.name))
        for group, (_, found) in zip(groups, read, strict=True):
            for span in group:
                assert span.within is not None
                mine = found[span.within.skip : span.within.skip + span.rows]
                if len(mine) != span.rows:
                    what = f"shard {shard.name}: rows {span.start} to {span.end - 1} are not what was planned: it changed"
                    raise InputError(what, "restore it, or choose another output.path")
                rows = [replace(row, ordinal=ordinal) for ordinal, (row, _) in enumerate(mine, span.start)]
                yield span, rows, conform([row.data or {} for row in rows], kept)

    def is_sequential(self, shard: Shard) -> bool:
        return self._inner.is_sequential(shard)

    def _read(self, spec: Input, shard: Shard, inner: list[Span], names: set[str]) -> Iterator[tuple[Span, list[Sized]]]:
        """The elements in each of these spans of the format."""
        for run in _runs(inner):
            for span, rows, _ in self._inner.read(spec, shard, run, NOTHING, names):
                yield span, [one for row in rows for one in self._elements(spec, shard.name, row, bool(names))]

    def _elements(self, spec: Input, shard: str, row: Row, is_table: bool) -> Iterator[Sized]:
        if row.error is not None or row.data is None:
            yield row, 0
            return
        for one in elements(plain(row.data) if is_table else row.data, self._path):
            cause, data, size = one.cause, one.data, one.bytes
            if size > spec.max_row_bytes:
                cause, data, size = f"the row is over input.max_row_bytes ({spec.max_row_bytes})", {}, 0
            error = None if cause is None else RowError("input", f"{place(shard, row.ordinal)}: {cause}")
            yield Row(row.ordinal, data, error), size


def cuts(sizes: Iterable[int], rows: int, most: int) -> Iterator[int]:
    """The numbers of elements in consecutive pieces, each of `rows` and of `most` bytes at most; one element may have more."""
    count = held = 0
    for size in sizes:
        if count and (count >= rows or held + size > most):
            yield count
            count = held = 0
        count, held = count + 1, held + size
    if count:
        yield count


def _inner(span: Span) -> Span:
    """The span of the format in which the elements of a span lie."""
    assert span.within is not None, "the plan of a job with input.each"
    start, end, rows = span.within.start, span.within.end, span.within.rows
    return Span(span.shard, start, end, rows, span.offset, span.bytes, digest=span.digest)


def _runs(spans: list[Span]) -> Iterator[list[Span]]:
    """Spans that adjoin each other; one without elements is missing between two others."""
    run: list[Span] = []
    for span in spans:
        if run and span.start != run[-1].end:
            yield run
            run = []
        run.append(span)
    if run:
        yield run
