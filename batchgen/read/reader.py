"""Span -> rows, read by the shard's format and laid out as conversations by the job's row layout. A bad row is a Row with an
error, and its neighbours are untouched."""

from collections.abc import Iterator

import pyarrow as pa

from batchgen.job.job import Job
from batchgen.read.elements import format_of
from batchgen.read.formats import SpanRows
from batchgen.read.layouts import JobLayout
from batchgen.records import Shard, Span, has_calls


def read_spans(job: Job, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
    """The rows of consecutive spans of one shard, in one pass. `kept` are the carried columns under their output names, `needed`
    the columns that rendering reads besides the conversation's. Raises InputError for a shard that cannot be read as a whole, or
    is not the planned one."""
    layout = JobLayout(job, has_calls(kept))
    needed = needed | layout.needed
    for span, rows, carried in format_of(job.input, shard).read(job.input, shard, spans, kept, needed):
        yield span, [layout.lay_out(row, shard.name) for row in rows], carried
