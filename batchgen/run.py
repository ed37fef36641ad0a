"""THE PAGE: spec -> plan -> read -> render -> generate -> commit -> report, in that order.

The stages are imported where they are used: the package binds its name `run` to the function below when it is imported itself,
and `batchgen --help` has no use for them."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

from batchgen.errors import BatchgenError, Interrupted, LeaseError, StoreError, TooManyErrors, printable, safe_message

if TYPE_CHECKING:
    from batchgen.cluster.monitor import Monitor
    from batchgen.job.fields import Fields
    from batchgen.job.job import Job


def run(
    job: Job | Mapping[str, object] | str | os.PathLike[str],
    *,
    out: TextIO | None = None,
    quiet: bool = False,
    summary: bool = True,
    stopping: Callable[[], bool] = lambda: False,
    force: bool = False,
    planned_only: bool = False,
) -> Fields:
    """Run a job (the path of a job file, fields, or a Job) to its end, or resume it, and return its status (the fields of `status
    --json`). `out` takes progress and `summary` (stderr when None; `quiet` leaves the messages), `stopping` is asked now and then
    whether to drain, `force` takes the output from another driver; with `planned_only` the sources of `input.query` are not
    looked at again. Raises BatchgenError; committed rows stay whatever it is, and the same call goes on from there."""
    from batchgen import logs, terminal
    from batchgen.engines.base import refuse_missing
    from batchgen.export import card
    from batchgen.job.job import Job
    from batchgen.output import job_file, lease, parts, progress, success
    from batchgen.output.store import SCRATCH, delete_all, open_store, probe
    from batchgen.plan import plan
    from batchgen.prepare import prepare
    from batchgen.replica import journal

    if not isinstance(job, Job):
        job = Job.parse(job) if isinstance(job, Mapping) else Job.load(os.fspath(job))
    out = out or sys.stderr or io.StringIO()
    store = open_store(job.output.path)
    with terminal.doing("looking at the input, the model and the output", out, quiet):
        prepared = prepare(job, store, planned_only)
        job = prepared.job
        probe(store)

    def tell(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(printable(text), file=out, flush=True)

    for sentence in () if quiet else prepared.notes:
        tell(sentence)
    with lease.hold(store, tell, force) as held:
        model, columns = prepared.renderer.model, prepared.columns
        versions = prepared.renderer.versions
        frozen = job_file.freeze(store, prepared.stated, model, columns.kept, prepared.upstream, versions)
        prepared = prepared.kept(store)
        job = prepared.job
        columns.refuse_unfit(job.input, frozen.input_columns)
        with terminal.doing("planning", out, quiet):
            planned = plan.freeze_plan(job, store, prepared.found, columns)
        for sentence in () if quiet else plan.half_lines(planned.shards):
            tell(sentence)
        done = parts.committed(store)
        tally = progress.load_tally(store, planned, done)
        monitor = terminal.monitor(tally, store, job.name, out, quiet, held)
        with told(monitor):
            if missing := planned.missing(done):
                tally.run_begins()
                success.reopen(store, held)
                card.write(store, job)
                from batchgen.cluster.connect import connected  # Ray only when there is something to do
                from batchgen.cluster.driver import Run

                logs.identify(job=job.name)
                told_which = monitor.message if not quiet else lambda text: None
                with monitor.live(), connected(lambda: refuse_missing(job, job.judge), told_which) as is_own:
                    arguments = job, prepared.renderer, frozen.input_columns, store, planned, monitor, held, stopping
                    Run(*arguments, types=() if is_own else None, owns_ray=is_own).execute(missing)
                monitor.record()
            success.finish(store, held, frozen.manifest)
        failed = tally.counts.error > job.limits.errors * tally.rows_planned
        found = progress.over_limit(tally, job.limits.errors) if failed else "done"
        tally.run_ends("done", found, TooManyErrors.exit_code if failed else 0)
        with warned("progress", tell):
            monitor.tick(0, force=True)
        with warned("report", tell):
            held.put(progress.REPORT, tally.encode())
        with warned("clean-up", tell):
            delete_all(store, itertools.chain(store.list(journal.FOLDER), store.list(SCRATCH)))
        with warned("summary", tell):
            if summary and not quiet:
                terminal.print_summary(tally, store, planned, job.attributes.varied if job.attributes else [], out)
    if failed:
        raise TooManyErrors(found, "the failed rows have status = 'error' in the output")
    return {"name": job.name, "output": store.url, **tally.status()}


@contextlib.contextmanager
def told(monitor: Monitor) -> Iterator[None]:
    """An end that is none is told to progress.json, unless that is another driver's now."""
    try:
        yield
    except BaseException as error:
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        code = Interrupted.exit_code if state == "interrupted" else getattr(error, "exit_code", BatchgenError.exit_code)
        monitor.tally.run_ends(state, safe_message(error, 2000) or type(error).__name__, code)
        if not isinstance(error, LeaseError):
            with contextlib.suppress(StoreError, LeaseError):
                monitor.tick(0, force=True)
        raise


@contextlib.contextmanager
def warned(what: str, tell: Callable[[str], None]) -> Iterator[None]:
    """The job is done: what fails now is told, and no more."""
    try:
        yield
    except Exception as error:
        tell(f"warning: {what}: {safe_message(error)}; the job is done")
