"""THE PAGE: spec -> plan -> read -> render -> generate -> commit -> report, in that order.

The module can be called: `batchgen.run(job)` is its function `run`, whichever of the two was imported first.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from batchgen.engines.registry import engine_kind
from batchgen.errors import BatchgenError, Interrupted, LeaseError, TooManyErrors
from batchgen.job.job import Job
from batchgen.output import job_file, journal, lease, parts, plan_file, progress
from batchgen.output.store import SCRATCH, Store, delete_all, open_store, probe
from batchgen.plan import plan
from batchgen.read.combinations import with_combinations
from batchgen.read.discover import discover, refuse_own_output, upstream_fingerprints
from batchgen.read.formats.base import Found
from batchgen.read.input_columns import InputColumns, look
from batchgen.read.layouts import layout_of
from batchgen.render.model_files import load_model
from batchgen.render.renderer import Renderer


@dataclass(frozen=True)
class Prepared:
    """A job whose input and model have been looked at; nothing is written yet."""

    job: Job
    renderer: Renderer
    found: list[Found]
    columns: InputColumns
    upstream: tuple[str, ...] = ()
    """Fingerprints of the jobs whose outputs are the input."""


def prepare(job: Job, store: Store | None = None) -> Prepared:
    """Find the shards, read the model's files, probe the template. Imports no Ray. Raises UsageError."""
    job = with_combinations(job)
    layout_of(job)  # refuses a layout that the job cannot have
    refuse_own_output(job)
    before = job_file.load_frozen(store) if store else None
    engine = engine_kind(job.engine.kind)
    engine.check(job)
    model = load_model(job.model, before.model if before else None, hosted=not engine.capabilities.reads_model)
    found = discover(job.input)
    upstream = upstream_fingerprints(found)
    if before is not None and store is not None:
        job_file.refuse_change(store.url, before, job_file.meaning(job, model, upstream))
    columns = look(job, found)
    renderer = Renderer(job, model, engine.capabilities, engine.context(job))
    return Prepared(job, renderer, found, columns, upstream)


def run(
    job: Job | Mapping[str, Any],
    *,
    out: TextIO | None = None,
    quiet: bool = False,
    stopping: Callable[[], bool] = lambda: False,
    force: bool = False,
) -> dict[str, Any]:
    """Run a job to its end, or resume it, and return its status (see report.Tally.status).

    `out` takes progress and summary (stderr when None), `stopping` is asked now and then whether to drain,
    `force` takes the output from another driver.
    Raises BatchgenError; whatever it is, committed rows stay, and the same call goes on from there.
    """
    job = job if isinstance(job, Job) else Job.parse(job)
    out = out or sys.stderr
    store = open_store(job.output.path)
    prepared = prepare(job, store)
    job = prepared.job
    probe(store)
    with lease.hold(store, lambda text: print(text, file=out), force) as held:
        return _run(job, store, prepared, out, quiet, stopping, held)


def _run(
    job: Job, store: Store, prepared: Prepared, out: TextIO, quiet: bool, stopping: Callable[[], bool], held: lease.Lease
) -> dict[str, Any]:
    kept = job_file.freeze(store, job, prepared.renderer.model, prepared.columns.kept, prepared.upstream).kept
    planned = plan.freeze_plan(job, store, prepared.found, prepared.columns)
    done = parts.committed(store)
    tally = progress.load_tally(store, planned, done)
    monitor = progress.Monitor(tally, store, job.name, out, quiet)
    try:
        if missing := planned.missing(done):
            tally.state = "running"
            store.delete(plan_file.SUCCESS)
            from batchgen.cluster.driver import drive, on_ray  # Ray only when there is something to do

            on_ray(lambda own: drive(prepared.renderer, kept, store, planned, missing, monitor, stopping, held, own))
        tally.state = "done"
    except Interrupted:
        tally.state = "interrupted"
        raise
    except (BatchgenError, KeyboardInterrupt) as error:
        tally.state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        if not isinstance(sys.exception(), LeaseError):  # the output's progress is another driver's now
            monitor.tick(0, force=True)
    for leftovers in (journal.FOLDER, SCRATCH):
        delete_all(store, store.list(leftovers))
    store.put(progress.REPORT, tally.encode())
    held.confirm()  # another driver may have planned more since
    store.put(plan_file.SUCCESS, b"")
    if not quiet:
        progress.print_summary(tally, store, planned, job.attributes.varied if job.attributes else [], out)
    if tally.counts.error > job.limits.errors * tally.rows_planned:
        raise TooManyErrors(progress.over_limit(tally, job.limits.errors), "the failed rows have status = 'error' in the output")
    return {"name": job.name, "output": store.url, **tally.status()}


class _Page(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return run(*arguments, **options)


sys.modules[__name__].__class__ = _Page
