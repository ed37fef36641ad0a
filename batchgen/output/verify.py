"""Proof from the files alone: every planned (row, variant, sample) is there exactly once.

Reads the frozen job, the plan, the listing and every part, with page checksums. The ordinals of different
spans cannot overlap (the plan is checked for that), so each span is judged alone, with its retries, in bounded memory.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from batchgen.errors import InputError, VerifyError
from batchgen.output import parts
from batchgen.output.job_file import FrozenJob, load_frozen
from batchgen.output.plan_file import SUCCESS, Plan, load_plan
from batchgen.output.store import Store
from batchgen.records import Span, output_schema

QUARANTINE = "_batchgen/quarantine"
Key = tuple[int, int, int]


@dataclass
class Verdict:
    """What was found; the output is proven when `problems` is empty."""

    spans: int = 0
    rows_ok: int = 0
    rows_error: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """Names of the parts that a problem is of and that can be made again."""


def verify(store: Store) -> Verdict:
    """Check the whole output. Raises InputError where there is none."""
    frozen = load_frozen(store)
    if frozen is None:
        raise InputError(f"{store.url}: no batchgen output there")
    try:
        plan, _ = load_plan(store, frozen.job.variants * frozen.job.samples)
    except VerifyError as error:
        return Verdict(problems=[str(error)])
    verdict = Verdict(spans=len(plan.spans), problems=list(_plan_problems(plan)))
    spans = plan.by_name()
    names = list(store.list(parts.DATA))
    present = {span for name in names if (span := parts.span_of(name)) in spans}
    foreign = [name for name in names if parts.span_of(name) not in spans]
    verdict.problems += [f"{name}: not a part of this plan" for name in sorted(foreign)]
    verdict.problems += [f"{parts.part_name(s.name)}: missing ({s.rows} rows)" for s in plan.spans if s.name not in present]
    if not verdict.problems and store.get(SUCCESS) is None:
        verdict.problems.append(f"{SUCCESS}: missing although every part is there; run the job again to finish it")
    places: dict[str, list[Span]] = {}
    for planned in plan.spans:
        if planned.name in present:
            places.setdefault(planned.place, []).append(planned)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda spans: _place(store, frozen, plan, spans), places.values()):
            verdict.rows_ok += found.rows_ok
            verdict.rows_error += found.rows_error
            verdict.problems += found.problems
            verdict.damaged += found.damaged
    return verdict


def repair(store: Store, verdict: Verdict) -> list[str]:
    """Move the damaged parts of a verdict into quarantine, so that the next run makes their spans again; where they went.

    The output must be at rest. Raises StoreError.
    """
    moved = []
    for name in verdict.damaged:
        there = f"{QUARANTINE}/{name.removeprefix(parts.DATA + '/')}.{uuid.uuid4().hex[:8]}"
        store.put_new(there, store.get(name) or b"")
        store.delete(SUCCESS)
        store.delete(name)
        moved.append(there)
    return moved


def _plan_problems(plan: Plan) -> Iterator[str]:
    end: dict[int, int] = {}
    planned = [span for span in plan.spans if not span.retry]
    for span in sorted(planned, key=lambda s: (s.shard, s.start)):
        if span.start < end.get(span.shard, 0):
            yield f"plan: span {span.name} overlaps the one before it"
        end[span.shard] = max(span.end, end.get(span.shard, 0))
    for shard in plan.shards:
        if sum(span.rows for span in planned if span.shard == shard.index) != shard.rows:
            yield f"plan: the spans of {shard.name} do not add up to its {shard.rows} rows"


def _place(store: Store, frozen: FrozenJob, plan: Plan, spans: list[Span]) -> Verdict:
    """A span's part and, after it, those of its retries: each holds the rows that had failed before, and no others."""
    verdict = Verdict()
    last: dict[Key, tuple[str, int]] = {}
    sound = not spans[0].retry
    for span in spans:
        name = parts.part_name(span.name)
        rows, problems = _part(store, frozen, plan, span)
        if span.retry and sound and not problems:
            problems += _retry_problems(span, rows, last)
        if problems and span is spans[-1]:
            verdict.damaged.append(name)
        elif problems:
            problems.append("it cannot be repaired: rows of it were run again since")
        sound = sound and not problems
        verdict.problems += [f"{name}: {problem}" for problem in problems]
        last |= {_key(row): (row["status"], row["attempt"]) for row in rows}
    statuses = [status for status, _ in last.values()]
    verdict.rows_ok, verdict.rows_error = statuses.count("ok"), statuses.count("error")
    return verdict


def _retry_problems(span: Span, rows: list[dict[str, Any]], last: dict[Key, tuple[str, int]]) -> Iterator[str]:
    """A retry has the rows that it was planned for, which had failed before, each with a later attempt."""
    again = {(one.row, one.variant, one.sample): one.attempt for one in span.again}
    found = {_key(row): row["attempt"] for row in rows}
    if again.keys() != found.keys():
        yield f"row, variant, sample {min(again.keys() ^ found.keys())} is missing or was not planned"
    elif any(found[key] <= attempt for key, attempt in again.items()):
        yield "an attempt that is not after the one before"
    if any(last.get(key) != ("error", attempt) for key, attempt in again.items()):
        yield "it reruns a row that had not failed"


def _key(row: dict[str, Any]) -> Key:
    return row["row"], row["variant"], row["sample"]


def _part(store: Store, frozen: FrozenJob, plan: Plan, span: Span) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a part, none where they cannot be trusted, and what is wrong with it."""
    try:
        table = parts.read_part(store, span.name)
    except VerifyError as error:
        return [], [str(error).removeprefix(f"{parts.part_name(span.name)}: ")]
    job = frozen.job
    expected = output_schema(frozen.kept, job.schema_names, job.parsed_type, job.output.token_logprobs)
    if not table.schema.equals(expected):
        return [], ["its columns are not this job's"]
    if any(table[key].null_count for key in ("row", "variant", "sample", "attempt")):
        return [], ["a null in row, variant, sample or attempt"]
    rows = table.select(["shard", "row", "variant", "sample", "sampling", "attempt", "status"]).to_pylist()
    problems = list(_row_problems(frozen, span, rows))
    if {row["shard"] for row in rows} != {plan.shards[span.shard].name}:
        problems.append("rows of another shard")
    statuses = [row["status"] for row in rows]
    ok, failed = statuses.count("ok"), statuses.count("error")
    if ok + failed != len(rows):
        problems.append("a status that is neither ok nor error")
    try:
        counts = parts.footer_in(table.schema.metadata)[0]
        if (counts.ok, counts.error) != (ok, failed):
            problems.append(f"its footer counts {counts.ok} ok and {counts.error} error, its rows are {ok} and {failed}")
    except ValueError as error:
        problems.append(f"damaged footer: {error}")
    return rows, problems


def _row_problems(frozen: FrozenJob, span: Span, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Every planned row, variant and sample, once, in order; of a retry, every one at most once, in order."""
    keys = [_key(row) for row in rows]
    for key, times in Counter(keys).items():
        if times > 1:
            yield f"row, variant, sample {key} is there {times} times"
    if keys != sorted(keys):
        yield "rows out of input order"
    if span.retry:
        return
    ordinals = {row["row"] for row in rows}
    if len(ordinals) != span.rows or not all(span.start <= ordinal < span.end for ordinal in ordinals):
        yield f"it has {len(ordinals)} input rows, planned are {span.rows} of {span.start}..{span.end - 1}"
    samples = {(r["row"], r["variant"]): r["sampling"]["n"] if r["sampling"] else frozen.job.samples for r in rows}
    variants = range(frozen.job.variants)
    wanted = {(o, v, s) for o in ordinals for v in variants for s in range(samples.get((o, v), 1))}
    if wanted != set(keys):
        yield f"row, variant, sample {min(wanted ^ set(keys))} is missing or was not planned"
