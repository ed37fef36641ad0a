"""Proof from the files alone: every planned (row, variant, sample) is there exactly once.

Reads the frozen job, the plan, the listing and every part, with page checksums. The ordinals of different
spans cannot overlap (the plan is checked for that), so each part is judged alone, in bounded memory.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import commit
from batchgen.errors import InputError
from batchgen.frozen import FrozenJob, load_frozen
from batchgen.plan import Plan, load_plan
from batchgen.records import Span, output_schema
from batchgen.report import SUCCESS
from batchgen.store import Store


@dataclass
class Verdict:
    """What was found; the output is proven when `problems` is empty."""

    spans: int = 0
    rows_ok: int = 0
    rows_error: int = 0
    problems: list[str] = field(default_factory=list)


def verify(store: Store) -> Verdict:
    """Check the whole output. Raises InputError where there is none."""
    frozen = load_frozen(store)
    if frozen is None:
        raise InputError(f"{store.url}: no batchgen output there")
    plan, _ = load_plan(store, len(frozen.job.variants) * frozen.job.samples)
    verdict = Verdict(spans=len(plan.spans), problems=list(_plan_problems(plan)))
    spans = plan.by_name()
    names = list(store.list(commit.DATA))
    present = {span for name in names if (span := commit.span_of(name)) in spans}
    foreign = [name for name in names if commit.span_of(name) not in spans]
    verdict.problems += [f"{name}: not a part of this plan" for name in sorted(foreign)]
    verdict.problems += [f"{commit.part_name(s.name)}: missing ({s.rows} rows)" for s in plan.spans if s.name not in present]
    if not verdict.problems and store.get(SUCCESS) is None:
        verdict.problems.append(f"{SUCCESS}: missing although every part is there; run the job again to finish it")
    with ThreadPoolExecutor(4) as pool:
        for ok, failed, problems in pool.map(lambda name: _part(store, frozen, plan, spans[name]), sorted(present)):
            verdict.rows_ok += ok
            verdict.rows_error += failed
            verdict.problems += problems
    return verdict


def _plan_problems(plan: Plan) -> Iterator[str]:
    end: dict[int, int] = {}
    for span in sorted(plan.spans, key=lambda s: (s.shard, s.start)):
        if span.start < end.get(span.shard, 0):
            yield f"plan: span {span.name} overlaps the one before it"
        end[span.shard] = span.end
    for shard in plan.shards:
        if sum(span.rows for span in plan.spans if span.shard == shard.index) != shard.rows:
            yield f"plan: the spans of {shard.name} do not add up to its {shard.rows} rows"


def _part(store: Store, frozen: FrozenJob, plan: Plan, span: Span) -> tuple[int, int, list[str]]:
    name = commit.part_name(span.name)
    try:
        table = pq.ParquetFile(io.BytesIO(store.get(name) or b""), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        return 0, 0, [f"{name}: damaged: {' '.join(str(error).split())[:200]}"]
    expected = output_schema(frozen.kept, frozen.job.schema_names)
    if not table.schema.equals(expected):
        return 0, 0, [f"{name}: its columns are not this job's"]
    problems = []
    rows = table.select(["shard", "row", "variant", "sample", "sampling", "status"]).to_pylist()
    keys = Counter((row["row"], row["variant"], row["sample"]) for row in rows)
    problems += [f"{name}: row, variant, sample {key} is there {times} times" for key, times in keys.items() if times > 1][:5]
    wanted: set[tuple[int, int, int]] = set()
    for row in rows:
        samples = row["sampling"]["n"] if row["sampling"] else frozen.job.samples
        wanted.update((row["row"], row["variant"], sample) for sample in range(samples))
    ordinals = {row["row"] for row in rows}
    variants = len(frozen.job.variants)
    if len(ordinals) != span.rows or not all(span.start <= ordinal < span.end for ordinal in ordinals):
        problems.append(f"{name}: it has {len(ordinals)} input rows, planned are {span.rows} of {span.start}..{span.end - 1}")
    if len({(row["row"], row["variant"]) for row in rows}) != len(ordinals) * variants or wanted != set(keys):
        problems.append(f"{name}: samples or variants are missing")
    if {row["shard"] for row in rows} != {plan.shards[span.shard].name}:
        problems.append(f"{name}: rows of another shard")
    if [row["row"] for row in rows] != sorted(row["row"] for row in rows):
        problems.append(f"{name}: rows out of input order")
    ok = sum(1 for row in rows if row["status"] == "ok")
    failed = sum(1 for row in rows if row["status"] == "error")
    if ok + failed != len(rows):
        problems.append(f"{name}: a status that is neither ok nor error")
    return ok, failed, problems
