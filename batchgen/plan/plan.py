"""Shards -> spans, frozen in the output; a later run adds spans for the growth of the input. The ordinal of a row is its line
number - 1 (JSONL, where blank lines are no rows) or its position (Parquet, datasets, outputs)."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from batchgen.errors import InputError, OutputConflict
from batchgen.job.job import Job
from batchgen.output import plan_file, success
from batchgen.output.store import Store
from batchgen.read.columns import InputColumns
from batchgen.read.discover import in_threads
from batchgen.read.each.elements import format_of
from batchgen.read.formats import Found, Measured, Planned
from batchgen.read.location import is_same
from batchgen.records import Shard, Span

SPANS_CAP = 250_000  # with more spans, listings take long
LEAST_COMPLETIONS, MOST_COMPLETIONS = 32, 2_048
SHARES, SHARES_ALONE = 16, 8
"""Spans per replica; the second for a pool of one, which has no work to spread (each part costs as much as some hundred rows)."""
TAIL_SHARES = 4
SHOWN_SHARDS = 20
RENDERED_BYTES, ANSWERED_BYTES = 2**26, 2**29
"""Of a span's text, as often as its prompts repeat it, and as often as the rows of its part do."""


@dataclass(frozen=True)
class Sizes:
    """Input rows of a span: `most`, and down to `least` towards the plan's end, so that the replicas of a pool run out of work
    together (guided self-scheduling: a share of what is left)."""

    most: int
    least: int
    pool: int

    def rows(self, left: float) -> int:
        """Rows of a span after whose start about `left` rows are still to be planned."""
        return max(self.least, min(self.most, int(left / (TAIL_SHARES * self.pool))))


def span_sizes(job: Job, estimate: int) -> Sizes:
    """Sizes for about `estimate` input rows: 32 to 2,048 completions per span, more where there would be over SPANS_CAP spans."""
    pool = job.replicas.most or 8
    if job.spans.rows is not None:
        return Sizes(job.spans.rows, job.spans.rows, pool)
    factor = job.variants * job.samples
    completions = estimate * factor
    shares = pool * SHARES if pool > 1 else SHARES_ALONE
    most = max(LEAST_COMPLETIONS, min(MOST_COMPLETIONS, completions // shares), completions // SPANS_CAP)
    least = LEAST_COMPLETIONS if pool > 1 else most
    return Sizes(max(1, most // factor), max(1, least // factor), pool)


def freeze_plan(job: Job, store: Store, found: list[Found], columns: InputColumns) -> plan_file.Plan:
    """The output's plan, to which the input's growth is added. Raises InputError, OutputConflict."""
    while True:
        plan, files = plan_file.load_plan(store, job.variants * job.samples)
        shards, spans = make_plan(job, found, columns, plan.shards)
        if not spans and all(shard.index < len(plan.shards) for shard in shards):  # at most their half lines are others
            now = {shard.index: shard for shard in (*plan.shards, *shards)}
            return replace(plan, shards=tuple(now.values()))
        if not plan_file.add(store, files, shards, spans):
            success.restore(store)


def make_plan(job: Job, found: list[Found], columns: InputColumns, known: Sequence[Shard] = ()) -> tuple[list[Shard], list[Span]]:
    """The shards that are new or have grown since the `known` plan, and their new spans. Raises InputError for an input without
    rows, OutputConflict for a known shard that changed or vanished."""

    def measure(pair: tuple[Shard, Found]) -> Measured:
        return format_of(job.input, pair[1]).measure(job.input, *pair, columns.bytes_per_row, columns.read)

    most = max(1, min(job.spans.bytes, RENDERED_BYTES // job.variants, ANSWERED_BYTES // (job.variants * job.samples)))

    def plan(one: Measured, later: int) -> Planned | None:
        return one.plan(lambda left: sizes.rows(later + left), most)

    measured = in_threads(measure, _to_plan(found, known))
    total = sum(one.rows for one in measured)
    sizes = span_sizes(job, max(total, sum(shard.rows for shard in known)))
    later = [total - upto for upto in itertools.accumulate(one.rows for one in measured)]  # rows of the shards after each
    planned = [one for one in in_threads(plan, measured, later) if one is not None]
    spans = [span for _, added in planned for span in added]
    if not spans and not any(shard.rows for shard in known):
        what = "no rows in it" if any(one.size for one in found) else "empty (0 bytes)"
        raise InputError(f"input.path {', '.join(job.input.paths)}: {what}")
    return [shard for shard, _ in planned], spans


def half_lines(shards: Iterable[Shard]) -> list[str]:
    """A sentence for each of the first shards whose last line is not whole."""
    waiting = [shard for shard in shards if shard.rest]
    told = [
        f"shard {shard.name}: its last line is not whole ({shard.rest:,} bytes): it waits for a later run" for shard in waiting
    ]
    return told[:SHOWN_SHARDS] + ([f"{len(told) - SHOWN_SHARDS:,} more shards end so"] if len(told) > SHOWN_SHARDS else [])


def _to_plan(found: list[Found], known: Sequence[Shard]) -> list[tuple[Shard, Found]]:
    """The shards that are new (without a digest) and those that may have changed, each with the shard as it is now."""
    before = {shard.name: shard for shard in known}
    if gone := min(before.keys() - {one.name for one in found}, default=None):
        raise OutputConflict(f"planned shard {gone} is not in the input any more", "bring it back, or choose another output.path")
    fresh = [one for one in found if one.name not in before]
    pairs = [(Shard(len(known) + n, one.name, one.format, one.size, one.version, "", 0, 0), one) for n, one in enumerate(fresh)]
    old = [(before[one.name], one) for one in found if one.name in before]
    return pairs + [(shard, one) for shard, one in old if not is_same((shard.size, shard.version), (one.size, one.version))]
