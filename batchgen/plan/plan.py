"""Shards -> spans, frozen in the output; a later run adds spans for what the input has grown by.

The ordinal of a row is its line number - 1 (JSONL, where blank lines are no rows) or its position (Parquet, datasets, outputs).
"""

import itertools

from batchgen.errors import InputError, OutputConflict
from batchgen.job.job import Job
from batchgen.output import plan_file
from batchgen.output.store import Store
from batchgen.plan.sizes import span_sizes
from batchgen.read.discover import in_threads
from batchgen.read.formats import Found, Measured, Planned, format_of
from batchgen.read.input_columns import InputColumns
from batchgen.records import Shard, Span


def freeze_plan(job: Job, store: Store, found: list[Found], columns: InputColumns) -> plan_file.Plan:
    """The output's plan with the input's growth added to it. Raises InputError, OutputConflict."""
    factor = job.variants * job.samples
    while True:
        plan, files = plan_file.load_plan(store, factor)
        shards, spans = make_plan(job, found, columns, plan.shards)
        if not shards:
            return plan
        plan_file.add(store, files, shards, spans)


def make_plan(
    job: Job, found: list[Found], columns: InputColumns, known: tuple[Shard, ...] = ()
) -> tuple[list[Shard], list[Span]]:
    """The shards that are new or have grown since the `known` plan, and their new spans.

    Raises InputError for an input without rows, OutputConflict for a known shard that changed or vanished.
    """

    def measure(shard: Shard, now: Found) -> Measured:
        return format_of(job.input, now).measure(job.input, shard, now, columns.bytes_per_row)

    def plan(one: Measured, later: int) -> Planned | None:
        return one.plan(lambda left: sizes.rows(later + left), job.spans.bytes)

    measured = in_threads(lambda pair: measure(*pair), _to_plan(found, known))
    total = sum(one.rows for one in measured)
    sizes = span_sizes(job, max(total, sum(shard.rows for shard in known)))
    later = [total - upto for upto in itertools.accumulate(one.rows for one in measured)]  # rows of the shards after each
    planned = [one for one in in_threads(plan, measured, later) if one is not None]
    spans = [span for _, added in planned for span in added]
    if not spans and not any(shard.rows for shard in known):
        raise InputError(f"input.path {', '.join(job.input.paths)}: no rows in it")
    return [shard for shard, _ in planned], spans


def _to_plan(found: list[Found], known: tuple[Shard, ...]) -> list[tuple[Shard, Found]]:
    """Each shard that is new (without a digest) or may have changed, new ones first, with what it is now."""
    names = {one.name for one in found}
    if gone := next((shard.name for shard in known if shard.name not in names), None):
        raise OutputConflict(f"planned shard {gone} is not in the input any more", "bring it back, or choose another output.path")
    before = {shard.name: shard for shard in known}
    fresh = [one for one in found if one.name not in before]
    pairs = [(Shard(len(known) + n, one.name, one.format, one.size, one.stamp, "", 0, 0), one) for n, one in enumerate(fresh)]
    for one in found:
        shard = before.get(one.name)
        if shard is not None and (shard.size, shard.stamp) != (one.size, one.stamp):
            pairs.append((shard, one))
    return pairs
