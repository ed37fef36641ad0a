"""Span -> rows, read by the shard's format and laid out as conversations by the job's row layout. A bad row is a Row with an
error, and its neighbours are untouched."""

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from batchgen.errors import BadRow, RowError, place
from batchgen.job.job import Job
from batchgen.read.columns import carried_columns
from batchgen.read.each.elements import format_of
from batchgen.read.formats import SpanRows
from batchgen.read.layouts import JobLayout
from batchgen.records import Row, Shard, Span
from batchgen.records.columns import message_keys
from batchgen.render.safe.functions import RowFunction


def read_spans(
    job: Job, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str], before: RowFunction | None = None
) -> Iterator[SpanRows]:
    """The rows of consecutive spans of one shard, in one pass. `kept` are the carried columns under their output names, `needed`
    the columns that rendering reads besides the conversation's. `before` makes the row that is laid out of the one that is read,
    whose carried columns stay as they are. Raises InputError for a shard that cannot be read as a whole, or is not the planned
    one, and EngineError where this node cannot run `before`."""
    if before is not None:
        before.load()
    layout = JobLayout(job, message_keys(kept))
    needed = needed | layout.needed | (carried_columns(kept) if before else set())
    for span, rows, carried in format_of(job.input, shard).read(job.input, shard, spans, kept, needed):
        made = rows if before is None else [_made(before, row, shard.name) for row in rows]
        yield span, [layout.lay_out(row, shard.name) for row in made], carried


def _made(before: RowFunction, row: Row, shard: str) -> Row:
    if row.data is None or row.error is not None:
        return row
    try:
        return replace(row, data=before(row.data, "input"))
    except BadRow as bad:
        return replace(row, error=RowError(bad.code, f"{place(shard, row.ordinal)}: {bad}"))
