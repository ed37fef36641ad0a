"""Proof from the files alone: every planned (row, variant, sample) is there exactly once.

The ordinals of different spans cannot overlap (the plan is checked for that), so each span is judged alone, with its retries, in
bounded memory. Where the manifest has the sha256 of a part, its bytes are compared; where not (parts of earlier releases, or made
just before a crash), its rows are all that can be judged. A part is called damaged, and moved away by a repair, only where its
own bytes are to blame: they cannot be read, twice, they are not those that were committed, or its rows contradict the plan, while
job file, plan and manifest show no sign of being other than they were written. A part with other columns than the job file
lists, or with another footer, stays where it is: it may be another release's."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, NamedTuple

import pyarrow as pa

from batchgen.errors import VerifyError, safe_message
from batchgen.output import parts
from batchgen.output.format import Fields, parse_parquet
from batchgen.output.job_file import JobFile
from batchgen.output.plan_file import SUCCESS, Plan, load_plan
from batchgen.output.store import Store
from batchgen.output.trust import manifest, query_file
from batchgen.output.trust.manifest import Manifest
from batchgen.records import Span

_JUDGED = {"shard", "row", "variant", "sample", "sampling", "attempt", "status", "input_sampling", "input_extra"}


@dataclass
class Verdict:
    """What was found; the output is proven when `problems` is empty. `unfinished`: the only problem is that the job has not run
    to its end. `damaged` are the parts, by name, that have a problem and can be made again. `doubt` says why job file, plan or
    manifest may be what is wrong, and no part can be called damaged. `recorded` parts have a sha256 in the manifest, of which
    `recorded_later` were hashed some time after their commit."""

    spans: int = 0
    rows_ok: int = 0
    rows_error: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    doubt: str | None = None
    unfinished: bool = False
    parts: int = 0
    recorded: int = 0
    recorded_later: int = 0


class Problem(NamedTuple):
    """What is wrong with a part: it cannot be read, its rows contradict the plan, or it deviates and stays where it is."""

    part: str
    kind: Literal["unreadable", "contradiction", "deviation"]
    text: str


def verify(store: Store, job: JobFile) -> Verdict:
    """Check the whole output. Raises NewerFormat, StoreError."""
    try:
        plan, _ = load_plan(store, job.factor)
    except VerifyError as error:
        return Verdict(problems=[str(error)])
    recorded, success = manifest.load(store), store.get(SUCCESS)
    verdict = Verdict(spans=len(plan.spans), problems=list(_plan_problems(plan)), doubt=job.doubt)
    if verdict.problems or plan.jobs - {job.fingerprint}:
        verdict.doubt = verdict.doubt or "the plan is damaged, or of another job than the job file"
    broken = [*recorded.problems, *(manifest.broken(store, success) if success else ())]
    verdict.doubt = verdict.doubt or next(iter(broken), None)
    verdict.problems += broken
    verdict.problems += query_file.problems(store, job.job.input.query is not None and bool(plan.spans))
    if job.doubt:
        verdict.problems.insert(0, job.doubt)
    present = _count(store, job, plan, recorded, success, verdict)
    places = plan.places(present).values()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda spans: _place(store, job, plan, recorded, spans), places))
    blamed = {"unreadable", "contradiction"} if any(not problems for _, problems in found) else {"unreadable"}
    for statuses, problems in found:
        verdict.rows_ok += statuses["ok"]
        verdict.rows_error += statuses["error"]
        verdict.problems += [f"{problem.part}: {problem.text}" for problem in problems]
        if verdict.doubt is None:
            verdict.damaged += sorted({problem.part for problem in problems if problem.kind in blamed})
    if verdict.doubt and (verdict.unfinished or not verdict.problems):
        verdict.problems.append(verdict.doubt)
    verdict.unfinished &= len(verdict.problems) == 1
    return verdict


def _count(store: Store, job: JobFile, plan: Plan, recorded: Manifest, success: bytes | None, verdict: Verdict) -> set[str]:
    """The spans that have a part. What is there and what is not goes into the verdict."""
    planned = {parts.part_name(span.name): span for span in plan.spans}
    files = set(store.list(parts.DATA))
    foreign = sorted(files - planned.keys())
    if any(map(parts.span_of, foreign)):
        verdict.doubt = verdict.doubt or "there are parts that the plan does not have"
    present = {planned[name].name for name in files & planned.keys()}
    verdict.parts, verdict.recorded = len(present), len(present & recorded.digests.keys())
    verdict.recorded_later = len(present & recorded.later)
    missing = {name: span for name, span in planned.items() if name not in files}
    lost = missing if success is not None else {name: span for name, span in missing.items() if span.name in recorded.digests}
    strange = sorted(recorded.digests.keys() - {span.name for span in plan.spans})
    verdict.problems += [f"{name}: not a part of this plan" for name in foreign]
    verdict.problems += [f"the manifest has a part of span {span}, which the plan does not have" for span in strange]
    verdict.problems += [f"{name}: missing ({span.rows} rows)" for name, span in lost.items()]
    if success is None and (missing or not verdict.problems):
        verdict.unfinished = not verdict.problems
        open_ = f"unfinished: {len(missing):,} of {len(planned):,} spans have no part yet"
        here = open_ if missing else f"{SUCCESS}: missing although every part is there"
        verdict.problems.append(f"{here}; run the job again to finish it")
    elif job.manifest and not verdict.problems and (not success or verdict.recorded < verdict.parts):
        verdict.problems.append(f"{SUCCESS}: its seal or the sha256 of parts is missing; run the job again to finish it")
    return present


def _plan_problems(plan: Plan) -> Iterator[str]:
    end, rows = Counter[int](), Counter[int]()
    for span in sorted((span for span in plan.spans if not span.retry), key=attrgetter("shard", "start")):
        if span.start < end[span.shard]:
            yield f"plan: span {span.name} overlaps the one before it"
        end[span.shard] = max(span.end, end[span.shard])
        rows[span.shard] += span.rows
    wrong = [shard for shard in plan.shards if rows[shard.index] != shard.rows]
    yield from (f"plan: the spans of {shard.name} do not add up to its {shard.rows} rows" for shard in wrong)


def _place(store: Store, job: JobFile, plan: Plan, recorded: Manifest, spans: list[Span]) -> tuple[Counter[str], list[Problem]]:
    """The rows of a place by status, and what is wrong with its parts: that of a span and, after it, those of its retries, each
    of which holds rows that had failed before, and no others. Only the last part can be made again."""
    found: list[Problem] = []
    last: dict[parts.Key, tuple[str, int]] = {}
    for span in spans:
        name = parts.part_name(span.name)
        rows, problems = _part(store, job, plan, recorded, span)
        is_sound = not (spans[0].retry or found or problems)
        if is_sound and any(last.get((one.row, one.variant, one.sample)) != ("error", one.attempt) for one in span.again):
            problems = [Problem(name, "contradiction", "it reruns a row that had not failed")]
        if problems and span is not spans[-1]:
            texts = [*(problem.text for problem in problems), "it cannot be repaired: rows of it were run again since"]
            problems = [Problem(name, "deviation", text) for text in texts]
        found += problems
        last |= {parts.key_of(row): (row["status"], row["attempt"]) for row in rows}
    return Counter(status for status, _ in last.values()), found


def _read(store: Store, span: str, recorded: Manifest) -> tuple[pa.Table, str | None]:
    """A part, and what its bytes have against them. Read once more where something is: a store may answer short for a moment.
    Raises VerifyError for a damaged part."""
    name = parts.part_name(span)
    for again in (True, False):
        data = store.get(name)
        digest = parts.sha256(data)
        problem = "it is not what was committed: its sha256 differs" if digest != recorded.digests.get(span, digest) else None
        if digest == recorded.void.get(span):
            problem = "damaged, and its repair has not ended: run verify --repair again"
        try:
            table = parse_parquet(data, f"{store.url}/{name}", name)
        except VerifyError:
            if again:
                continue
            raise
        if problem is None or not again:
            return table, problem
    raise AssertionError("unreachable")


def _part(store: Store, job: JobFile, plan: Plan, recorded: Manifest, span: Span) -> tuple[list[Fields], list[Problem]]:
    """The rows of a part, none where they cannot be trusted, and what is wrong with it."""
    name = parts.part_name(span.name)
    try:
        table, changed = _read(store, span.name, recorded)
    except VerifyError as error:
        return [], [Problem(name, "unreadable", str(error).removeprefix(f"{name}: "))]
    problems = [Problem(name, "contradiction", changed)] if changed else []
    if deviation := _deviation(table.schema, job.schema):
        return [], [*problems, Problem(name, "deviation", f"its columns are not this job's: {deviation}")]
    if any(table[key].null_count for key in ("row", "variant", "sample", "attempt")):
        return [], [*problems, Problem(name, "contradiction", "a null in row, variant, sample or attempt")]
    try:
        rows = table.select([column for column in table.column_names if column in _JUDGED]).to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return [], [Problem(name, "unreadable", f"damaged: {safe_message(error, 200)}")]
    problems += [Problem(name, "contradiction", text) for text in _row_contradictions(job, span, rows)]
    shards = {row["shard"] for row in rows}
    if shards != {plan.shards[span.shard].name}:
        of_plan = shards <= {shard.name for shard in plan.shards}
        problems.append(Problem(name, "contradiction" if of_plan else "deviation", "rows of another shard"))
    statuses = Counter(row["status"] for row in rows)
    ok, failed = statuses["ok"], statuses["error"]
    if ok + failed != len(rows):
        problems.append(Problem(name, "contradiction", "a status that is neither ok nor error"))
    if (footer := parts.footer_in(table)) is None:
        problems.append(Problem(name, "deviation", "damaged footer: no counts in it"))
    elif (footer[0].ok, footer[0].error) != (ok, failed):
        counted = f"its footer counts {footer[0].ok} ok and {footer[0].error} error, its rows are {ok} and {failed}"
        problems.append(Problem(name, "deviation", counted))
    return rows, problems


def _deviation(found: pa.Schema, wanted: pa.Schema) -> str | None:
    """What a part lacks of the columns that the job file lists. More columns are another release's."""
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


def _row_contradictions(job: JobFile, span: Span, rows: list[Fields]) -> Iterator[str]:
    """Every planned row, variant and sample, once, in order; of a retry, those that it was planned for, with a later attempt."""
    keys = [parts.key_of(row) for row in rows]
    yield from (f"row, variant, sample {key} is there {times} times" for key, times in Counter(keys).items() if times > 1)
    if keys != sorted(keys):
        yield "rows out of input order"
    again = {(one.row, one.variant, one.sample): one.attempt for one in span.again}
    ordinals = {row["row"] for row in rows}
    if not span.retry and (len(ordinals) != span.rows or not all(span.start <= ordinal < span.end for ordinal in ordinals)):
        yield f"it has {len(ordinals)} input rows, planned are {span.rows} of {span.start}..{span.end - 1}"
    samples = {(row["row"], row["variant"]): _samples(job, row) for row in rows}
    most = len(rows) + 1
    wanted = {
        (o, v, s) for o in ordinals for v in range(min(most, job.job.variants)) for s in range(min(most, samples.get((o, v), 1)))
    }
    wanted = set(again) if span.retry else wanted
    if wanted != set(keys):
        yield f"row, variant, sample {min(wanted ^ set(keys))} is missing or was not planned"
    elif odd := next((row for row in rows if row.get("sampling") and row["sampling"]["n"] != _samples(job, row)), None):
        yield f"row {odd['row']} says n = {odd['sampling']['n']}, planned are {_samples(job, odd)}"
    elif any(row["attempt"] <= again[parts.key_of(row)] for row in rows if span.retry):
        yield "an attempt that is not after the one before"


def _samples(job: JobFile, row: Fields) -> int:
    """The planned samples of a row: the job's, or those of its own `n`, where what the part carries of its input leaves room for
    one. Then `sampling` is all there is to say so."""
    spec = job.job.input
    unknown = spec.keep != "all" or spec.format == "openai-batch" or "n" in job.job.sampling_columns
    own = unknown or row.get("input_sampling") is not None or "sampling" in (row.get("input_extra") or "")
    return int(row["sampling"]["n"] or 0) if own and row.get("sampling") else job.job.samples
