"""THE PAGE: spec -> plan -> read -> render -> generate -> commit -> report, in that order.

The module can be called: `batchgen.run(job)` is its function `run`, whichever of the two was imported first.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from batchgen import commit, frozen, plan, report
from batchgen.dispatch import Dispatcher
from batchgen.engines import make_engine
from batchgen.errors import BatchgenError, EngineError, Interrupted, TooManyErrors
from batchgen.model import load_model
from batchgen.render import Renderer
from batchgen.spec import Job
from batchgen.store import Store, open_store, probe

if TYPE_CHECKING:
    from batchgen.pool import Pool

DRAIN_SECONDS = 30.0
POISON_DEATHS = 3
EARLY_ERRORS = 100
LOST_PASSES = 3


@dataclass(frozen=True)
class Prepared:
    """A job whose input and model have been looked at; nothing is written yet."""

    job: Job
    renderer: Renderer
    found: list[plan.Found]
    columns: plan.Columns


def prepare(job: Job, store: Store | None = None) -> Prepared:
    """Find the shards, read the model's files, probe the template. Imports no Ray. Raises UsageError."""
    before = frozen.load_frozen(store) if store else None
    model = load_model(job.model, before.model if before else None)
    if before is not None and store is not None:
        frozen.refuse_change(store.url, before, frozen.meaning(job, model))
    found = plan.discover(job.input)
    columns = plan.look(job, found)
    make_engine(job, model)  # refuses options that the engine does not have
    return Prepared(job, Renderer(job, model), found, columns)


def run(
    job: Job | Mapping[str, Any],
    *,
    out: TextIO | None = None,
    quiet: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run a job to its end, or resume it, and return its status (see report.Tally.status).

    `out` takes progress and summary (stderr when None), `stopping` is asked now and then whether to drain.
    Raises BatchgenError; whatever it is, committed rows stay, and the same call goes on from there.
    """
    job = job if isinstance(job, Job) else Job.parse(job)
    out = out or sys.stderr
    store = open_store(job.output.path)
    prepared = prepare(job, store)
    probe(store)
    kept = frozen.freeze(store, job, prepared.renderer.model, prepared.columns.kept).kept
    planned = plan.freeze_plan(job, store, prepared.found, prepared.columns)
    done = commit.committed(store)
    tally = report.load_tally(store, planned, done)
    monitor = report.Monitor(tally, store, job.name, out, quiet)
    try:
        if missing := planned.missing(done):
            tally.state = "running"
            store.delete(report.SUCCESS)
            _on_ray(lambda: generate(prepared.renderer, kept, store, planned, missing, monitor, stopping))
        tally.state = "done"
    except Interrupted:
        tally.state = "interrupted"
        raise
    except (BatchgenError, KeyboardInterrupt) as error:
        tally.state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        monitor.tick(0, force=True)
    store.put(report.REPORT, tally.encode())
    store.put(report.SUCCESS, b"")
    if not quiet:
        report.print_summary(tally, store, planned, job.attributes.sweep if job.attributes else {}, out)
    if tally.counts.error > job.limits.errors * tally.rows_planned:
        raise TooManyErrors(_over(tally, job), "the failed rows have status = 'error' in the output")
    return {"name": job.name, "output": store.url, **tally.status()}


def generate(
    renderer: Renderer,
    kept: Any,
    store: Store,
    planned: plan.Plan,
    missing: list[Any],
    monitor: report.Monitor,
    stopping: Callable[[], bool],
) -> None:
    """Feed the missing spans to a pool until each has a part. Raises EngineError, TooManyErrors, Interrupted."""
    import ray

    from batchgen.feed import Assets, Feed
    from batchgen.pool import Pool, resources, size

    assets = ray.put(Assets(renderer, kept))
    replicas = size(renderer.job, len(missing))
    wanted, held = resources(renderer.job)["num_gpus"], ray.cluster_resources().get("GPU", 0)
    if held < wanted:
        monitor.message(f"a replica needs {wanted:g} GPUs, the cluster has {held:g}: waiting for more")
    passes = 0
    pool = Pool(renderer, store.url, planned.shards, replicas)
    try:
        with monitor.live():
            while missing:
                feed = Feed(assets, planned.shards, missing, ahead=2 * replicas)
                try:
                    _drive(renderer.job, pool, feed, monitor, stopping)
                finally:
                    feed.stop()
                before, missing = len(missing), planned.missing(monitor.tally.counted)
                passes = 0 if len(missing) < before else passes + 1
                if passes == LOST_PASSES:
                    raise EngineError(f"{len(missing)} spans were fed {passes} times and lost each time")
    finally:
        pool.stop()


def _drive(job: Job, pool: Pool, feed: Any, monitor: report.Monitor, stopping: Callable[[], bool]) -> None:
    """One pass of a feed: assign spans and take receipts until nothing is left, or until told to stop."""
    from batchgen.feed import END

    dispatcher: Dispatcher[Any] = Dispatcher()
    for replica in pool.alive:
        dispatcher.join(replica)
        pool.ask_for_room(replica)
    began, ending = time.monotonic(), 0.0
    why = ""
    while not (dispatcher.feed_ended and dispatcher.idle):
        now = time.monotonic()
        if not why and (why := _reason_to_stop(job, monitor.tally, now - began, stopping)):
            ending = now + DRAIN_SECONDS
            monitor.message(f"{why}: finishing what is running, at most {DRAIN_SECONDS:.0f} s")
        if why and (now > ending or not any(dispatcher.running.values())):
            raise Interrupted(why, "run again to resume")
        while not why and dispatcher.hungry and (item := feed.next()) is not None:
            if item is END:
                dispatcher.end_feed()
            else:
                dispatcher.offer(item)
        while not why and (assignment := dispatcher.take(now)) is not None:
            pool.assign(*assignment)
        for event in pool.wait(0.02 if dispatcher.hungry else 0.5):
            if event.kind == "ready":
                dispatcher.join(event.replica)
                monitor.tally.engine = event.engine or {}
            elif event.kind == "room":
                dispatcher.has_room(event.replica)
            elif event.kind == "receipt":
                assert event.receipt is not None
                dispatcher.finish(event.replica, event.item, time.monotonic())
                monitor.receipt(event.receipt)
                _refuse_too_many_errors(job, monitor.tally)
            elif event.kind == "lost":
                dispatcher.drop(event.item)
            else:
                monitor.message(f"replica {event.replica} died: {event.message}")
                _refuse_poison(dispatcher, dispatcher.leave(event.replica), event.message)
        monitor.tick(len(pool.alive))


def _reason_to_stop(job: Job, tally: report.Tally, seconds: float, stopping: Callable[[], bool]) -> str:
    limits = job.limits
    if stopping():
        return "interrupted"
    if limits.tokens is not None and tally.counts.completion_tokens >= limits.tokens:
        return f"limits.tokens {limits.tokens} reached"
    if limits.hours is not None and seconds >= limits.hours * 3600:
        return f"limits.hours {limits.hours} reached"
    return ""


def _refuse_too_many_errors(job: Job, tally: report.Tally) -> None:
    """Stop early when the limit is sure to be broken, or when most of the first rows failed."""
    failed, allowed = tally.counts.error, job.limits.errors
    if failed < EARLY_ERRORS or failed <= allowed * tally.counts.rows:
        return
    if failed > allowed * tally.rows_planned or failed > max(allowed, 0.5) * tally.counts.rows:
        raise TooManyErrors(
            f"stopped early: {_over(tally, job)}; first: {tally.samples[0] if tally.samples else '?'}",
            "mend the job or the input, or raise limits.errors and run again to go on",
        )


def _over(tally: report.Tally, job: Job) -> str:
    codes = ", ".join(f"{code} {number}" for code, number in sorted(tally.errors.items()))
    return f"{tally.counts.error:,} of {tally.counts.rows:,} rows failed ({codes}), over limits.errors {job.limits.errors:g}"


def _refuse_poison(dispatcher: Dispatcher[Any], items: list[Any], message: str) -> None:
    if any(dispatcher.deaths[item] >= POISON_DEATHS for item in items):
        raise EngineError(
            f"{POISON_DEATHS} replicas died while they ran the same span: {message}", "the rest is kept; run again to resume"
        )


def _on_ray(call: Callable[[], None]) -> None:
    """Call with Ray connected: the cluster of RAY_ADDRESS or of this machine, else a local one that ends with us."""
    import ray

    if ray.is_initialized():
        return call()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        ray.init(address="local", include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray's own handler of SIGTERM aborts the process
            signal.signal(number, handler)
    try:
        return call()
    finally:
        ray.shutdown()


class _Page(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return run(*arguments, **options)


sys.modules[__name__].__class__ = _Page
