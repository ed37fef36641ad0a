"""THE PAGE: spec -> plan -> read -> render -> generate -> commit -> report, in that order.

The stages are imported where they are used: the package binds its name `run` to the function below when it is imported itself,
and `batchgen --help` has no use for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from batchgen.errors import BatchgenError, Interrupted, LeaseError, TooManyErrors

if TYPE_CHECKING:
    from batchgen.job.fields import Fields
    from batchgen.job.job import Job


def run(
    job: Job | Mapping[str, object],
    *,
    out: TextIO | None = None,
    quiet: bool = False,
    stopping: Callable[[], bool] = lambda: False,
    force: bool = False,
) -> Fields:
    """Run a job to its end, or resume it, and return its status (the fields of `status --json`). `out` takes progress and summary
    (stderr when None; `quiet` leaves the messages), `stopping` is asked now and then whether to drain, `force` takes the output
    from another driver. Raises BatchgenError; committed rows stay whatever it is, and the same call goes on from there."""
    from batchgen import logs, terminal
    from batchgen.job.job import Job
    from batchgen.output import job_file, lease, parts, plan_file, progress
    from batchgen.output.store import SCRATCH, delete_all, open_store, probe
    from batchgen.plan import plan
    from batchgen.prepare import prepare
    from batchgen.replica import journal

    job, out = job if isinstance(job, Job) else Job.parse(job), out or sys.stderr
    store = open_store(job.output.path)
    prepared = prepare(job, store)
    job = prepared.job
    probe(store)
    with lease.hold(store, lambda text: print(text, file=out), force) as held:
        model, columns = prepared.renderer.model, prepared.columns
        kept = job_file.freeze(store, job, model, columns.kept, prepared.upstream).input_columns
        columns.refuse_unfit(job.input, kept)
        planned = plan.freeze_plan(job, store, prepared.found, columns)
        done = parts.committed(store)
        tally = progress.load_tally(store, planned, done)
        monitor = terminal.monitor(tally, store, job.name, out, quiet)
        try:
            if missing := planned.missing(done):
                tally.state = "running"
                store.delete(plan_file.SUCCESS)
                from batchgen.cluster.connect import connected  # Ray only when there is something to do
                from batchgen.cluster.driver import Run

                logs.identify(job=job.name)
                with connected():
                    Run(job, prepared.renderer, kept, store, planned, monitor, held, stopping).execute(missing)
            tally.state = "done"
        except (BatchgenError, KeyboardInterrupt) as error:
            tally.state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
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
            terminal.print_summary(tally, store, planned, job.attributes.varied if job.attributes else [], out)
        if tally.counts.error > job.limits.errors * tally.rows_planned:
            found = progress.over_limit(tally, job.limits.errors)
            raise TooManyErrors(found, "the failed rows have status = 'error' in the output")
        return {"name": job.name, "output": store.url, **tally.status()}
