"""Proof from the files alone: every planned (row, variant, sample) is there exactly once.

Reads the job file, the plan, the listing and every part, with page checksums. The ordinals of different
spans cannot overlap (the plan is checked for that), so each span is judged alone, with its retries, in bounded memory.

A part is called damaged, and moved away by `repair`, only where its own bytes are to blame: they cannot be read, twice, or
its rows contradict the plan, while job file and plan show no sign of being other than they were written. A part
with other columns than the job file lists, or with another footer, is a problem and stays where it is: it may be
another release's.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from batchgen.errors import StoreError, VerifyError
from batchgen.output import parts
from batchgen.output.job_file import JobFile
from batchgen.output.plan_file import SUCCESS, Plan, load_plan
from batchgen.output.store import Store
from batchgen.records import Span

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
    doubt: str | None = None
    """Why job file or plan may be what is wrong, and no part can be called damaged."""


Kind = Literal["unreadable", "contradiction", "deviation"]
"""A part cannot be read, its rows contradict the plan, or it is of another form than this job's parts."""
Problem = tuple[Kind, str]


@dataclass
class _Place:
    """The spans of the same rows: what is wrong with their parts, and the one that can be made again, with the reason."""

    rows_ok: int = 0
    rows_error: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: dict[str, Kind] = field(default_factory=dict)


def verify(store: Store, job: JobFile) -> Verdict:
    """Check the whole output. Raises NewerFormat, StoreError."""
    try:
        plan, _ = load_plan(store, job.factor)
    except VerifyError as error:
        return Verdict(problems=[str(error)])
    verdict = Verdict(spans=len(plan.spans), problems=list(_plan_problems(plan)), doubt=job.doubt)
    if verdict.problems or plan.jobs - {job.fingerprint}:
        verdict.doubt = verdict.doubt or "the plan is damaged, or of another job than the job file"
    spans = plan.by_name()
    names = list(store.list(parts.DATA))
    present = {span for name in names if (span := parts.span_of(name)) in spans}
    foreign = sorted(name for name in names if parts.span_of(name) not in spans)
    if any(map(parts.span_of, foreign)):
        verdict.doubt = verdict.doubt or "there are parts that the plan does not have"
    verdict.problems += [f"{name}: not a part of this plan" for name in foreign]
    verdict.problems += [f"{parts.part_name(s.name)}: missing ({s.rows} rows)" for s in plan.spans if s.name not in present]
    if not verdict.problems and store.get(SUCCESS) is None:
        verdict.problems.append(f"{SUCCESS}: missing although every part is there; run the job again to finish it")
    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda spans: _place(store, job, plan, spans), plan.places(present).values()))
    some_sound = any(not place.problems for place in places)
    for place in places:
        verdict.rows_ok += place.rows_ok
        verdict.rows_error += place.rows_error
        verdict.problems += place.problems
        if verdict.doubt is None:
            verdict.damaged += [name for name, kind in place.damaged.items() if some_sound or kind == "unreadable"]
    return verdict


def repair(store: Store, verdict: Verdict) -> list[str]:
    """Move the damaged parts of a verdict into quarantine, so that the next run makes their spans again; where they went.

    The output must be at rest. A part is deleted when its copy has been read back. Raises StoreError.
    """
    moved = []
    for name in verdict.damaged:
        data = store.get(name)
        if data is None or data != store.get(name):
            raise StoreError(f"{name}: two reads of it differ", "nothing was moved; run verify again")
        there = f"{QUARANTINE}/{name.removeprefix(parts.DATA + '/')}.{uuid.uuid4().hex[:8]}"
        store.put_new(there, data)
        if store.get(there) != data:
            raise StoreError(f"{there}: it is not what was put there", "the part is where it was; run verify again")
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


def _place(store: Store, job: JobFile, plan: Plan, spans: list[Span]) -> _Place:
    """A span's part and, after it, those of its retries: each holds the rows that had failed before, and no others."""
    found = _Place()
    last: dict[Key, tuple[str, int]] = {}
    sound = not spans[0].retry
    for span in spans:
        name = parts.part_name(span.name)
        rows, problems = _part(store, job, plan, span)
        if span.retry and sound and not problems:
            problems += [("contradiction", text) for text in _retry_contradictions(span, rows, last)]
        found.problems += [f"{name}: {text}" for _, text in problems]
        if problems and span is not spans[-1]:
            found.problems.append(f"{name}: it cannot be repaired: rows of it were run again since")
        elif kinds := {kind for kind, _ in problems} - {"deviation"}:
            found.damaged[name] = kinds.pop()
        sound = sound and not problems
        last |= {_key(row): (row["status"], row["attempt"]) for row in rows}
    statuses = [status for status, _ in last.values()]
    found.rows_ok, found.rows_error = statuses.count("ok"), statuses.count("error")
    return found


def _retry_contradictions(span: Span, rows: list[dict[str, Any]], last: dict[Key, tuple[str, int]]) -> Iterator[str]:
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


def _part(store: Store, job: JobFile, plan: Plan, span: Span) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The rows of a part, none where they cannot be trusted, and what is wrong with it."""
    name = parts.part_name(span.name)
    try:
        table = _read(store, span.name)
    except VerifyError as error:
        return [], [("unreadable", str(error).removeprefix(f"{name}: "))]
    if deviation := _deviation(table.schema, job.schema):
        return [], [("deviation", f"its columns are not this job's: {deviation}")]
    if any(table[key].null_count for key in ("row", "variant", "sample", "attempt")):
        return [], [("contradiction", "a null in row, variant, sample or attempt")]
    rows = table.select(["shard", "row", "variant", "sample", "sampling", "attempt", "status"]).to_pylist()
    problems: list[Problem] = [("contradiction", text) for text in _row_contradictions(job, span, rows)]
    shards = {row["shard"] for row in rows}
    if shards != {plan.shards[span.shard].name}:
        of_plan = shards <= {shard.name for shard in plan.shards}
        problems.append(("contradiction" if of_plan else "deviation", "rows of another shard"))
    statuses = [row["status"] for row in rows]
    ok, failed = statuses.count("ok"), statuses.count("error")
    if ok + failed != len(rows):
        problems.append(("contradiction", "a status that is neither ok nor error"))
    try:
        counts = parts.footer_in(table.schema.metadata, name)[0]
        if (counts.ok, counts.error) != (ok, failed):
            counted = f"its footer counts {counts.ok} ok and {counts.error} error, its rows are {ok} and {failed}"
            problems.append(("deviation", counted))
    except ValueError as error:
        problems.append(("deviation", f"damaged footer: {error}"))
    return rows, problems


def _read(store: Store, span: str) -> pa.Table:
    """A part. What fails is read once more: a store may answer short for a moment. Raises VerifyError, NewerFormat."""
    try:
        return parts.read_part(store, span)
    except VerifyError:
        return parts.read_part(store, span)


def _deviation(found: pa.Schema, wanted: pa.Schema) -> str | None:
    """What the columns of a part have not of those that the job file lists. More columns are another release's."""
    for column in wanted:
        if column.name not in found.names:
            return f"no {column.name}"
        kind = found.field(column.name).type
        if kind != column.type and not (column.name == "sampling" and _of_releases(kind, column.type)):
            return f"{column.name} is {kind}, not {column.type}"
    return None


def _of_releases(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two types of `sampling` are of an earlier and a later release, one of which has all the fields of the other."""
    if not pa.types.is_struct(found):
        return False
    one, other = ({field.name for field in kind} for kind in (found, wanted))
    same = all(found.field(name).type == wanted.field(name).type for name in one & other)
    return same and "n" in one and (one <= other or one >= other)


def _row_contradictions(job: JobFile, span: Span, rows: list[dict[str, Any]]) -> Iterator[str]:
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
    samples = {(r["row"], r["variant"]): r["sampling"]["n"] if r["sampling"] else job.job.samples for r in rows}
    variants = range(job.job.variants)
    wanted = {(o, v, s) for o in ordinals for v in variants for s in range(samples.get((o, v), 1))}
    if wanted != set(keys):
        yield f"row, variant, sample {min(wanted ^ set(keys))} is missing or was not planned"
