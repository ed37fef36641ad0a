"""Failed rows again, and only those: a plan file with spans that name them (plan_file.py).

Their parts supersede what earlier parts say of the rows and leave those parts as they are: a reader of the rows with
`status = 'ok'` sees each row at most once, and the failures stay readable, with their `attempt`. Rows whose input cannot be
read or rendered, or does not fit, would only fail again; they are run when they are named.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from batchgen.errors import InputError, OutputConflict
from batchgen.job.job import FINAL
from batchgen.output import parts, plan_file
from batchgen.output.job_file import JobFile
from batchgen.output.store import Put, Store
from batchgen.records import Failed, Span

_COLUMNS = ["row", "variant", "sample", "attempt", "status", "error_code"]


def plan_retry(store: Store, job: JobFile, codes: Collection[str] | None = None) -> int:
    """Plan a retry of the failed rows with these error codes; how many there are. None are when the last retry still has
    spans without a part: the next run finishes it.

    Raises InputError for an output whose rows are not all there yet, OutputConflict when another retry is planned at the
    same time, VerifyError for a damaged part.
    """
    plan, files = plan_file.load_plan(store, job.factor)
    committed = parts.committed(store)
    missing = plan.missing(committed)
    if any(not span.retry for span in missing):
        raise InputError(f"{store.url}: {len(missing)} spans have no part yet", "run the job to its end first")
    if missing:
        return 0
    places = plan.places(committed).values()
    with ThreadPoolExecutor(8) as pool:
        failed = list(pool.map(lambda spans: failures(store, spans), places))
    again = []
    for spans, rows in zip(places, failed, strict=True):
        wanted = tuple(one for one in rows if (one.code in codes if codes is not None else one.code not in FINAL))
        if wanted:
            again.append(replace(spans[0], retry=files, again=wanted))
    if again and plan_file.add(store, files, [], again) is Put.EXISTS:
        raise OutputConflict(f"{store.url}: another plan was made at the same time", "run retry again")
    return sum(len(span.again) for span in again)


def failures(store: Store, spans: list[Span]) -> list[Failed]:
    """The rows of a place that failed last, in order; `spans` are the place's span and its retries, in order."""
    failed: dict[tuple[int, int, int], Failed] = {}
    for span in spans:
        for row in parts.read_part(store, span.name, _COLUMNS).to_pylist():
            key = (row["row"], row["variant"], row["sample"])
            failed.pop(key, None)
            if row["status"] == "error":
                failed[key] = Failed(*key, row["attempt"], row["error_code"])
    return [failed[key] for key in sorted(failed)]
