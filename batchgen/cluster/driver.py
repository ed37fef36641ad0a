"""The driver's loop: blocks from the feed, through the dispatcher, to the pool, and receipts back.

It stops early when told to (drain), when a limit is reached, and when it would only waste time: most rows fail, replicas
keep dying of the same span, blocks keep getting lost.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray._private import services
from ray.exceptions import RayError

from batchgen.bare import bare_data, bare_node
from batchgen.cluster.dispatch import Dispatcher
from batchgen.cluster.pool import STOP_SECONDS, Pool, resources, size
from batchgen.errors import EngineError, Interrupted, TooManyErrors, words
from batchgen.job.job import Job
from batchgen.output import journal
from batchgen.output.plan_file import Plan
from batchgen.output.progress import Monitor, Tally, over_limit
from batchgen.output.store import Store
from batchgen.output.store.lease import Lease
from batchgen.records import Span
from batchgen.render.renderer import Renderer

if TYPE_CHECKING:
    from batchgen.cluster.feed import Feed

DRAIN_SECONDS = 30.0
POISON_DEATHS = 3
EARLY_ERRORS = 100
LOST_PASSES = 3


def drive(
    renderer: Renderer,
    kept: pa.Schema,
    store: Store,
    planned: Plan,
    missing: list[Span],
    monitor: Monitor,
    stopping: Callable[[], bool],
    lease: Lease,
    own: bool,
) -> None:
    """Feed the missing spans to a pool until each has a part; `own`: Ray was connected for this run alone.
    Raises EngineError, LeaseError, TooManyErrors, Interrupted."""
    replicas = size(renderer.job, len(missing))
    wanted, held = resources(renderer.job)["num_gpus"], ray.cluster_resources().get("GPU", 0)
    if held < wanted:
        monitor.message(f"a replica needs {wanted:g} GPUs, the cluster has {held:g}: waiting for more")
    passes = 0
    pool = Pool(renderer, store.url, planned.shards, journal.spans(store), replicas)
    grace = STOP_SECONDS
    try:
        from batchgen.cluster.feed import Assets, Feed  # Ray Data takes a second to import; the replicas are starting meanwhile

        assets = ray.put(Assets(renderer, kept))
        with monitor.live(), bare_data() if own else contextlib.nullcontext():
            while missing:
                feed = Feed(assets, planned.shards, missing, replicas)
                try:
                    _one_pass(renderer.job, pool, feed, monitor, stopping, lease)
                finally:
                    feed.stop()
                before, missing = len(missing), planned.missing(monitor.tally.counted)
                passes = 0 if len(missing) < before else passes + 1
                if passes == LOST_PASSES:
                    raise EngineError(f"{len(missing)} spans were fed {passes} times and lost each time")
    except KeyboardInterrupt:
        grace = 0.0
        raise
    finally:
        pool.stop(grace)


def _one_pass(job: Job, pool: Pool, feed: Feed, monitor: Monitor, stopping: Callable[[], bool], lease: Lease) -> None:
    """One pass of a feed: assign spans and take receipts until nothing is left, or until told to stop."""
    dispatcher: Dispatcher[Any] = Dispatcher()
    for replica in pool.staying:
        dispatcher.join(replica)
        pool.ask_for_room(replica)
    began, ending = time.monotonic(), 0.0
    why = ""
    while not (dispatcher.feed_ended and dispatcher.idle):
        now = time.monotonic()
        lease.check()
        pool.left = (monitor.tally.rows_planned - monitor.tally.counts.rows) / job.samples
        if not why and (why := _reason_to_stop(job, monitor.tally, now - began, stopping)):
            ending = now + DRAIN_SECONDS
            monitor.message(f"{why}: finishing what is running, at most {DRAIN_SECONDS:.0f} s")
        if why and (now > ending or not any(dispatcher.running.values())):
            raise Interrupted(why, "run again to resume")
        while not why and dispatcher.hungry and (item := feed.next()) is not None:
            if item is feed.END:
                dispatcher.end_feed()
            else:
                dispatcher.offer(item)
        while not why and (assignment := dispatcher.take(now)) is not None:
            replica, item = assignment
            pool.assign(replica, item, again=item in dispatcher.deaths or dispatcher.copies(item) > 1)
        for event in pool.wait(0.02 if dispatcher.hungry else 0.5):
            if event.kind == "ready":
                dispatcher.join(event.replica)
                monitor.tally.engine = event.engine or {}
            elif event.kind == "room":
                dispatcher.has_room(event.replica, event.load)
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
        for replica in pool.draining():
            monitor.message(f"replica {replica}: its node is about to go; it takes no new span")
            dispatcher.retire(replica)
        for replica in dispatcher.done_retiring:
            dispatcher.leave(replica)
            pool.release(replica)
        monitor.tick(len(pool.alive))


def _reason_to_stop(job: Job, tally: Tally, seconds: float, stopping: Callable[[], bool]) -> str:
    limits = job.limits
    if stopping():
        return "interrupted"
    if limits.tokens is not None and tally.counts.completion_tokens >= limits.tokens:
        return f"limits.tokens {limits.tokens} reached"
    if limits.hours is not None and seconds >= limits.hours * 3600:
        return f"limits.hours {limits.hours} reached"
    if limits.deadline is not None and datetime.datetime.now(datetime.UTC) >= limits.deadline:
        return f"limits.deadline {limits.deadline} reached"
    return ""


def _refuse_too_many_errors(job: Job, tally: Tally) -> None:
    """Stop early when the limit is sure to be broken, or when most of the first rows failed."""
    failed, allowed = tally.counts.error, job.limits.errors
    if failed < EARLY_ERRORS or failed <= allowed * tally.counts.rows:
        return
    if failed > allowed * tally.rows_planned or failed > max(allowed, 0.5) * tally.counts.rows:
        raise TooManyErrors(
            f"stopped early: {over_limit(tally, job.limits.errors)}; first: {tally.samples[0] if tally.samples else '?'}",
            "mend the job or the input, or raise limits.errors and run again to go on",
        )


def _refuse_poison(dispatcher: Dispatcher[Any], items: list[Any], message: str) -> None:
    if any(dispatcher.deaths[item] >= POISON_DEATHS for item in items):
        raise EngineError(
            f"{POISON_DEATHS} replicas died while they ran the same span: {message}", "the rest is kept; run again to resume"
        )


def on_ray(call: Callable[[bool], None]) -> None:
    """Call with Ray connected: the cluster of RAY_ADDRESS or of this machine, else a local one that ends with us.
    The call is told whether it was connected here, and not before by somebody else."""
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")  # an actor of its own, for statistics sent to Ray's makers
    if ray.is_initialized():
        return call(False)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    named = os.environ.get("RAY_ADDRESS")
    try:
        if not named and _left_behind():
            raise ConnectionError
        ray.init(address=named or "auto", **quiet)
    except (ConnectionError, RuntimeError, RayError) as error:
        if named:
            cause = words(error)
            remedy = "check RAY_ADDRESS; a cluster with token authentication needs RAY_AUTH_MODE=token and its token"
            raise EngineError(f"no Ray cluster at {named}: {cause}", f"{remedy} (~/.ray/auth_token or RAY_AUTH_TOKEN)") from None
        # Arrow's allocator asks for huge pages in each of Ray's workers; to clear one can take 5 ms, as long as half a part.
        os.environ.setdefault("MIMALLOC_ALLOW_THP", "0")
        with bare_node():
            ray.init(address="local", include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray's own handler of SIGTERM aborts the process
            signal.signal(number, handler)
    try:
        return call(True)
    finally:
        ray.shutdown()


def _left_behind() -> bool:
    """Whether the cluster that this machine's last `ray start` wrote down is gone: Ray would look for it for minutes."""
    address = services.find_bootstrap_address(None)
    if not address:
        return False
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return True
    return False
