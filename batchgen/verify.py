"""Proof from the files alone: every planned (row, variant, sample) is there exactly once.

Reads the frozen job, the plan, the listing and every part, with page checksums. The ordinals of different
spans cannot overlap (the plan is checked for that), so each part is judged alone, in bounded memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import commit
from batchgen.errors import InputError, VerifyError
from batchgen.frozen import FrozenJob, load_frozen
from batchgen.plan import Plan, load_plan
from batchgen.records import Span, output_schema
from batchgen.report import SUCCESS
from batchgen.store import Store
from batchgen.tables import in_arrow_memory


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
    try:
        plan, _ = load_plan(store, len(frozen.job.variants) * frozen.job.samples)
    except VerifyError as error:
        return Verdict(problems=[str(error)])
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
        end[span.shard] = max(span.end, end.get(span.shard, 0))
    for shard in plan.shards:
        if sum(span.rows for span in plan.spans if span.shard == shard.index) != shard.rows:
            yield f"plan: the spans of {shard.name} do not add up to its {shard.rows} rows"


def _part(store: Store, frozen: FrozenJob, plan: Plan, span: Span) -> tuple[int, int, list[str]]:
    name = commit.part_name(span.name)
    try:
        table = pq.ParquetFile(in_arrow_memory(store.get(name) or b""), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        return 0, 0, [f"{name}: damaged: {' '.join(str(error).split())[:200]}"]
    expected = output_schema(frozen.kept, frozen.job.schema_names)
    if not table.schema.equals(expected):
        return 0, 0, [f"{name}: its columns are not this job's"]
    if any(table[key].null_count for key in ("row", "variant", "sample")):
        return 0, 0, [f"{name}: a null in row, variant or sample"]
    rows = table.select(["shard", "row", "variant", "sample", "sampling", "status"]).to_pylist()
    problems = list(_row_problems(frozen, span, rows))
    if {row["shard"] for row in rows} != {plan.shards[span.shard].name}:
        problems.append("rows of another shard")
    ok = sum(1 for row in rows if row["status"] == "ok")
    failed = sum(1 for row in rows if row["status"] == "error")
    if ok + failed != len(rows):
        problems.append("a status that is neither ok nor error")
    try:
        counts = commit.footer_counts(table.schema.metadata)[0]
        if (counts.ok, counts.error) != (ok, failed):
            problems.append(f"its footer counts {counts.ok} ok and {counts.error} error, its rows are {ok} and {failed}")
    except ValueError as error:
        problems.append(f"damaged footer: {error}")
    return ok, failed, [f"{name}: {problem}" for problem in problems]


def _row_problems(frozen: FrozenJob, span: Span, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Every planned row, variant and sample, once, in order."""
    keys = [(row["row"], row["variant"], row["sample"]) for row in rows]
    for key, times in Counter(keys).items():
        if times > 1:
            yield f"row, variant, sample {key} is there {times} times"
    ordinals = {row["row"] for row in rows}
    if len(ordinals) != span.rows or not all(span.start <= ordinal < span.end for ordinal in ordinals):
        yield f"it has {len(ordinals)} input rows, planned are {span.rows} of {span.start}..{span.end - 1}"
    samples = {(r["row"], r["variant"]): r["sampling"]["n"] if r["sampling"] else frozen.job.samples for r in rows}
    variants = range(len(frozen.job.variants))
    wanted = {(o, v, s) for o in ordinals for v in variants for s in range(samples.get((o, v), 1))}
    if wanted != set(keys):
        yield f"row, variant, sample {min(wanted ^ set(keys))} is missing or was not planned"
    if keys != sorted(keys):
        yield "rows out of input order"
