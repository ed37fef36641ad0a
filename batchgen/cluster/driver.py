"""The driver of a run: blocks from the feed, through the dispatcher, to the pool, and receipts back.

It stops early when it is asked to, at a limit (limits.py), or when blocks keep getting lost."""

import sys
import time
import uuid
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import pyarrow as pa
import ray

from batchgen import logs
from batchgen.cluster import limits
from batchgen.cluster.actor import environment
from batchgen.cluster.fit.shape import NodeType
from batchgen.cluster.lookahead import END
from batchgen.cluster.monitor import Monitor
from batchgen.cluster.placement import place
from batchgen.cluster.policy.dispatch import BlockLost, Capacity, Died, Dispatcher, Event, Finished, Ready, Said
from batchgen.cluster.policy.health import WEIGHT
from batchgen.cluster.pool import LOOK_SECONDS, STOP_SECONDS, Pool
from batchgen.cluster.state import feed_room
from batchgen.cluster.state.feed_room import Room
from batchgen.cluster.state.preflight import Preflight
from batchgen.errors import EngineError, Interrupted
from batchgen.job.job import Job
from batchgen.output.lease import Lease
from batchgen.output.plan_file import Plan
from batchgen.output.store import Store
from batchgen.records import Span
from batchgen.render.renderer import Renderer
from batchgen.replica import journal
from batchgen.replica.preflight import version_here

DRAIN_SECONDS = 30.0  # that running spans have to finish once a run is to stop
TELL_SECONDS = 10.0  # without CPUs for the feed, until a line says so
LOST_PASSES = 3  # of the feed, one after the other, in which every block may get lost
POLL_SECONDS, IDLE_POLL_SECONDS = 0.02, 0.5
"""How long the driver waits for an event while the feed may have a block that is wanted, and while it may not."""


@dataclass
class Run:
    """One run of a job over its output, on a pool of replicas. Ray is connected. `input_columns`: the schema of the columns that
    the output carries. `stopping`: whether somebody has asked the run to drain."""

    job: Job
    renderer: Renderer
    input_columns: pa.Schema
    store: Store
    plan: Plan
    monitor: Monitor
    lease: Lease
    stopping: Callable[[], bool]
    types: tuple[NodeType, ...] | None = None
    """The node types that may come, () on a Ray of this machine alone; None: the cluster's autoscaler is asked."""
    owns_ray: bool = False
    """Ray is the run's own: this machine."""

    def __post_init__(self) -> None:
        self._log = logs.logger("driver", job=self.job.name)
        self._began = time.monotonic()
        self._reason_to_stop: str | None = None
        self._drained_by = self._adjusted = 0.0
        self._preflight: Preflight | None = None
        self._versions = set[str]()  # of workers' engines, other than the driver's, that were told

    def execute(self, missing: list[Span]) -> None:
        """Feed the `missing` spans to a pool until each has a part. Raises EngineError, LeaseError, StoreError,
        TooManyErrors, and Interrupted when the run drained; what is committed stays."""
        placement = place(self.job, len(missing), self.types)
        self._log.info("%d spans to run", len(missing))
        self._first_wait = "a replica to start"
        with feed_room.reserved(placement) as room:
            if room is not None:
                self._wait_for(room)
                placement = room.beside(placement)
            self._pool = Pool(self.renderer, self.store.url, self.plan.shards, journal.spans(self.store), placement)
            try:
                self._preflight = None if self.owns_ray else Preflight(self.renderer, self.store.url)
                self._feed_until_done(missing, max(1, self._pool.size), room)
            finally:
                self._pool.stop(0.0 if isinstance(sys.exception(), KeyboardInterrupt) else STOP_SECONDS)
                if self._preflight is not None:
                    self._preflight.end()

    def _wait_for(self, room: Room) -> None:
        what, tell_at = "CPUs for the tasks that read and render, before replicas take theirs", self._began + TELL_SECONDS
        self.monitor.tally.waits_for = what
        while not room.is_there():
            self.lease.check()
            if self.stopping():
                raise Interrupted("interrupted", "run again to resume")
            if time.monotonic() > tell_at:
                tell_at = float("inf")
                self.monitor.message(f"waits for {what}: {room.tasks} x {feed_room.READ_CPUS:g} CPUs")
            self.monitor.tick(0)
            time.sleep(IDLE_POLL_SECONDS)

    def _feed_until_done(self, missing: list[Span], replicas: int, room: Room | None) -> None:
        """A pass of the feed runs every span whose block is not lost; lost ones are fed again in the next."""
        from batchgen.cluster.feed import Assets, Feed  # Ray Data takes a second to import; the replicas are starting meanwhile

        in_vain, assets = 0, ray.put(Assets(self.renderer, self.input_columns, environment(self.job)))
        while missing:
            self._feed = Feed(assets, self.plan.shards, missing, replicas, room)
            try:
                self._run_pass()
            finally:
                self._feed.stop()
            before, missing = len(missing), self.plan.missing(self.monitor.tally.counted)
            in_vain = 0 if len(missing) < before else in_vain + 1
            if missing:
                self._log.warning("%d spans lost their blocks and are fed again", len(missing))
            if in_vain == LOST_PASSES:
                raise EngineError(f"{len(missing)} spans were fed {in_vain} times and lost each time")

    def _run_pass(self) -> None:
        """Assign the spans of the feed and count their receipts, until nothing is left to run."""
        self._dispatcher: Dispatcher[Hashable] = Dispatcher(name=uuid.uuid4().hex)
        for replica in self._pool.staying:
            self._dispatcher.join(replica)
            self._pool.ask_capacity(replica)
        while not (self._dispatcher.feed_ended and self._dispatcher.idle):
            now = time.monotonic()
            self.lease.check()
            self._stop_if_due(now)
            if self._reason_to_stop is None:
                self._assign(now)
            for event in self._pool.wait(POLL_SECONDS if self._dispatcher.wants_item else IDLE_POLL_SECONDS):
                self._handle(event)
            self._adjust(now)
            for replica in self._dispatcher.released():
                self._pool.release(replica)
            self.monitor.tally.waits_for, self.monitor.uncommitted = self._waits_for(), self._pool.uncommitted
            self.monitor.tick(len(self._pool.alive))

    def _adjust(self, now: float) -> None:
        """Let the pool follow the cluster and what is left to do, if it is time."""
        if now - self._adjusted < LOOK_SECONDS:
            return
        self._adjusted = now
        if self._preflight is not None and (line := self._preflight.line()):
            self.monitor.message(line)
        running, drains = self._dispatcher.open_items, self._reason_to_stop is not None
        waiting = 0 if drains else max(0, len(self.plan.spans) - len(self.monitor.tally.counted) - running)
        idle = [replica for replica in self._pool.staying if not self._dispatcher.running.get(replica)]
        drained, unneeded, lines = self._pool.adjust(waiting, running, drains or self._dispatcher.feed_ended, idle)
        for replica in drained + unneeded:
            self._dispatcher.retire(replica)
        for line in lines:
            self.monitor.message(line)

    def _waits_for(self) -> str | None:
        """What keeps the pool from generating, in words; None while it generates."""
        if self._reason_to_stop is not None:
            return f"what is running to finish: {self._reason_to_stop}"
        if not self._pool.alive:
            return self._pool.waits_for or self._first_wait
        return None if self._dispatcher.busy else "prompts to be read and rendered"

    def _stop_if_due(self, now: float) -> None:
        """Begin to drain when there is a reason to. Raises Interrupted when that has ended."""
        if self._reason_to_stop is None:
            tokens = self.monitor.tally.counts.completion_tokens
            reached = limits.reason_to_stop(self.job.limits, tokens, now - self._began)
            self._reason_to_stop = "interrupted" if self.stopping() else reached
            if self._reason_to_stop is None:
                return
            self._drained_by = now + DRAIN_SECONDS
            self._pool.keep_journals()  # `ray job stop` kills after RAY_JOB_STOP_WAIT_TIME_S, 3 by default
            self.monitor.message(f"{self._reason_to_stop}: finishing what is running, at most {DRAIN_SECONDS:.0f} s")
            self._log.info("drains: %s", self._reason_to_stop)
        if now > self._drained_by or not self._dispatcher.busy:
            raise Interrupted(self._reason_to_stop, "run again to resume")

    def _assign(self, now: float) -> None:
        while self._dispatcher.wants_item and (item := self._feed.next()) is not None:
            if item is END:
                self._dispatcher.end_feed()
            else:
                self._dispatcher.enqueue(item)
        tally = self.monitor.tally
        self._dispatcher.rows_left = tally.rows_planned - tally.counts.rows
        self._pool.prompts_left = (tally.rows_planned - tally.counts.rows) / self.job.samples
        while (assignment := self._dispatcher.take(now)) is not None:
            replica, item = assignment
            again = self._dispatcher.has_run_before(item)
            pace = self._dispatcher.pace(replica, now) if self._pool.size > 1 else 1.0  # nobody is slower than the only one
            self._pool.assign(replica, item, again, self._dispatcher.care_of(replica), pace)
            self._log.at(replica=replica).debug("block %s assigned%s", item, " again" if again else "")

    def _handle(self, event: Event) -> None:
        match event:
            case Ready(replica, engine, version):
                self._dispatcher.join(replica)
                self._tell_version(replica, version)
                self.monitor.tally.engine = engine
                self._first_wait = "a replica to start in place of those that died"
            case Capacity(replica, load):
                self._dispatcher.has_capacity(replica, load * self.job.samples, time.monotonic())
            case Finished(replica, item, receipt):
                self._dispatcher.finish(replica, item, time.monotonic(), receipt.counts.rows)
                self.monitor.receipt(receipt)
                for cause in receipt.died:
                    self.monitor.message(f"{self._named(replica)}: its engine died and was started again: {cause}")
                how = "committed" if receipt.created else "was committed by another"
                self._log.at(replica=replica, span=receipt.span).debug("%s: %s", how, receipt.counts)
                limits.refuse_errors(self.monitor.tally, self.job.limits.errors)
            case BlockLost(replica, item, message):
                self._dispatcher.drop(item)
                self._log.at(replica=replica).warning("block %s is lost: %s", item, message)
            case Said(replica, message):
                self.monitor.message(f"replica {replica}: {message}")
            case Died(replica, message, where, kind):
                self.monitor.message(f"replica {replica}{where and f' on {where}'} died: {message}")
                orphans = self._dispatcher.lost(replica, WEIGHT[kind])
                self._log.at(replica=replica).warning("died, %d of its spans are queued again: %s", len(orphans), message)

    def _tell_version(self, replica: int, version: str) -> None:
        """Say once of each version that it is another than the driver's, which checked the job."""
        if version and (drivers := version_here(self.job)) and version not in (drivers, *self._versions):
            self._versions.add(version)
            self.monitor.message(f"{self._named(replica)} runs {self.job.engine.kind} {version}; the driver has {drivers}")

    def _named(self, replica: int) -> str:
        """A replica and its node."""
        where = self._pool.where(replica)
        return f"replica {replica} on {where}" if where else f"replica {replica}"
