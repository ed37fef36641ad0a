"""The replicas as Ray actors: start, death, replacement.

`max_restarts=0` and no task retries: recovery is the dispatcher's re-queue, and a new actor replaces a dead replica. All are
asked for at once, so that Ray's autoscaler sees the pending ones, and each is used as soon as it is ready. An engine that cannot
start before any other has is the job's error, with its own message. After START_ATTEMPTS failed starts in a row no more are
asked for, until a replica is ready again; a start that ends with its node does not count."""

import asyncio
import contextlib
import os
import queue
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from batchgen import logs
from batchgen.cluster.dispatch import BlockLost, Capacity, Died, Event, Finished, Ready, Said
from batchgen.cluster.placement import Placement
from batchgen.cluster.policy.health import kind_of
from batchgen.cluster.ray_adapter import draining_nodes
from batchgen.errors import BatchgenError, EngineError, safe_message
from batchgen.records import Shard
from batchgen.render.renderer import Renderer
from batchgen.replica import preflight
from batchgen.replica.admission import share
from batchgen.replica.careful import Care
from batchgen.replica.replica import Replica

START_ATTEMPTS = 3
STOP_SECONDS = 20.0  # that replicas have to write their journals when they are stopped
DRAIN_POLL_SECONDS = 2.0
LOG_SECONDS = 5.0  # that the end of a job's last replica waits for the end of its log
NODE_DIED = "node has died"  # Ray's words of an actor whose node is gone; the error's class is that of every dead actor
_Kind = Literal["where", "start", "capacity", "run", "log"]
_Call = tuple[_Kind, int, Hashable]
"""A call that has not returned: what was called, the replica, and the block of a `run`. All but `log` are of its actor."""


class _Place(NamedTuple):
    """Where a replica is: a node, its address, the file there that the replica logs to."""

    node: str
    address: str
    log: str

    def __str__(self) -> str:
        return f"node {self.node[:12]} ({self.address})"


@dataclass(eq=False)
class _Member:
    """A replica that was asked for. `place`: where it is, once its process runs. `node`: the id of its node, once it is ready.
    `leaving`: that node is being drained. `assigned`: spans given to it. `asked`: it has yet to answer when it can take another.
    `calls`: those of its actor that have not returned."""

    actor: ActorHandle
    calls: set[ObjectRef] = field(default_factory=set)
    place: _Place | None = None
    node: str | None = None
    leaving: bool = False
    assigned: int = 0
    asked: bool = False


class Pool:
    """The replicas of a job. Raises EngineError when none of them can start, or the last one died."""

    def __init__(
        self, renderer: Renderer, output: str, shards: tuple[Shard, ...], journaled: set[str], placement: Placement
    ) -> None:
        self._arguments = ray.put((renderer, output, [shard.name for shard in shards], journaled))
        self._make = ray.remote(_Actor).options(max_restarts=0, max_task_retries=0, max_concurrency=10_000, **placement.options())
        self._size = placement.replicas
        self._log = logs.logger("pool", job=renderer.job.name)
        self._members: dict[int, _Member] = {}
        self._calls: dict[ObjectRef, _Call] = {}
        self._returned: queue.SimpleQueue[ObjectRef] = queue.SimpleQueue()  # filled by Ray's threads: no wait scans the calls
        self.alive: set[int] = set()
        """The replicas that are ready."""
        self._asked_for, self._failed_starts, self._ready_once = 0, 0, False
        self._looked = 0.0
        self.prompts_left = 0.0  # unfinished prompts of the job, set by the driver
        self._refill()

    def assign(self, replica: int, item: Hashable, again: bool, care: Care | None = None) -> None:
        """Let the replica run the span in block `item`; `again` when another replica has had it in this run, `care` when replicas
        died of it."""
        member = self._members[replica]
        member.assigned += 1
        self._call(member.actor.run.remote(item, again, care), "run", replica, item)
        self.ask_capacity(replica)

    def where(self, replica: int) -> str:
        """The node of a replica, in words; empty where it is not known."""
        member = self._members.get(replica)
        return str(member.place) if member and member.place else ""

    def ask_capacity(self, replica: int) -> None:
        """Let the replica say when it can take another span; one question at a time."""
        member = self._members[replica]
        if not member.asked:
            member.asked = True
            call = member.actor.capacity_left.remote(member.assigned, share(self.prompts_left, self._size))
            self._call(call, "capacity", replica)

    def wait(self, seconds: float) -> Iterator[Event]:
        """What happened, waiting up to `seconds` for something to happen."""
        with contextlib.suppress(queue.Empty):
            returned = [self._returned.get(timeout=seconds)]
            returned += [self._returned.get() for _ in range(self._returned.qsize())]
            for reference in returned:
                if reference in self._calls:
                    yield from self._settle(reference)

    def _call(self, reference: ObjectRef, kind: _Kind, replica: int, item: Hashable = None) -> None:
        """Let `wait` settle a call when it returns."""
        self._calls[reference] = kind, replica, item
        if kind != "log":
            self._members[replica].calls.add(reference)
        reference.future().add_done_callback(lambda _: self._returned.put(reference))

    @property
    def staying(self) -> set[int]:
        """The living replicas whose node is not being drained."""
        return {replica for replica in self.alive if not self._members[replica].leaving}

    def draining(self) -> list[int]:
        """Replicas whose node is being drained, each once: they keep a close journal from now on, and others replace them."""
        now = time.monotonic()
        if now - self._looked < DRAIN_POLL_SECONDS:
            return []
        self._looked = now
        try:
            nodes = draining_nodes()
        except RayError as error:  # the next look will tell
            self._log.debug("the head did not say which nodes are draining: %s", safe_message(error))
            return []
        found = [replica for replica in self.staying if self._members[replica].node in nodes]
        for replica in found:
            self._members[replica].leaving = True
            self._members[replica].actor.drain.remote()
            self._log.at(replica=replica).info("its node %s is being drained", self._members[replica].node)
        self._refill()
        return found

    def keep_journals(self) -> None:
        """Let every replica write what it has finished, now and every second from now on."""
        for replica in self.alive:
            self._members[replica].actor.drain.remote()

    def release(self, replica: int) -> None:
        """End a replica that runs nothing."""
        self._end({replica}, STOP_SECONDS)
        self._log.at(replica=replica).info("released")

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End every replica and its engine's processes; they have `seconds` to write their journals."""
        self._end(set(self._members), seconds)

    def _end(self, replicas: set[int], seconds: float = 0.0) -> None:
        """End the replicas, the living ones after `seconds` to write their journals, and ignore their open calls."""
        stopping = [self._members[replica].actor.stop.remote() for replica in replicas & self.alive] if seconds else []
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=seconds)
        self.alive -= replicas
        for replica in replicas:
            member = self._members.pop(replica)
            for reference in member.calls:
                self._calls.pop(reference, None)
            ray.kill(member.actor, no_restart=True)

    def _refill(self) -> None:
        """Ask for the replicas that are missing."""
        staying = sum(not member.leaving for member in self._members.values())
        while staying < self._size and self._failed_starts < START_ATTEMPTS:
            staying += 1
            self._asked_for += 1
            actor = self._make.remote(self._arguments, self._asked_for, logs.level_of_replicas())
            self._members[self._asked_for] = _Member(actor)
            self._call(actor.where.remote(), "where", self._asked_for)
            self._call(actor.start_here.remote(), "start", self._asked_for)
            self._log.at(replica=self._asked_for).info("asked for")

    def _settle(self, reference: ObjectRef) -> Iterator[Event]:
        """Raises the errors of ours that end the job."""
        kind, replica, item = self._calls.pop(reference)
        if kind != "log":
            self._members[replica].calls.discard(reference)
        try:
            result = ray.get(reference)
        except RayError as error:
            if kind in ("where", "log"):  # the other calls of the replica tell of its death; the log went with its node
                return
            raised = isinstance(error, RayTaskError)  # by a method of the actor
            cause = error.cause if raised and isinstance(error.cause, BaseException) else error
            if isinstance(cause, ObjectLostError):
                self._members[replica].actor.skip.remote()
                yield BlockLost(replica, item, safe_message(cause))
            elif isinstance(cause, BatchgenError) and not isinstance(cause, EngineError):
                raise cause from error
            elif raised and kind == "start" and not self._ready_once:
                on = f" on {where}" if (where := self.where(replica)) else ""
                raise EngineError(f"no replica can start{on}: {cause}") from error
            elif raised:
                yield from self._died(kind, replica, str(cause), True)
            else:
                account = safe_message(error, 2000)  # Ray's begins with the names of actor, node and owner
                yield from self._died(kind, replica, (account.partition(" because ")[2] or account)[:300], False)
        else:
            match kind:
                case "run":
                    yield Finished(replica, item, result)
                case "capacity":
                    self._members[replica].asked = False
                    yield Capacity(replica, result)
                case "where":
                    self._members[replica].place = _Place(*result)
                case "log" if result:
                    yield Said(replica, f"the end of its log:{result}")
                case "start":
                    engine, self._members[replica].node = result
                    self.alive.add(replica)
                    self._ready_once, self._failed_starts = True, 0
                    self._refill()
                    self.ask_capacity(replica)
                    self._log.at(replica=replica).info("ready on node %s: %s", self._members[replica].node, engine)
                    yield Ready(replica, engine)

    def _died(self, kind: str, replica: int, message: str, raised: bool) -> Iterator[Event]:
        """Yields the spans that the replica had finished before it died in a call of this kind, then its death. An error that it
        `raised` itself has the end of its log; of other deaths its node is asked."""
        runs = {one: self._calls[one][2] for one in self._members[replica].calls if self._calls[one][0] == "run"}
        for reference in ray.wait([*runs], num_returns=len(runs), timeout=0)[0] if runs else ():
            with contextlib.suppress(RayError):
                yield Finished(replica, runs[reference], ray.get(reference))
        place = self._members[replica].place
        self._end({replica})
        log = None if place is None or raised or NODE_DIED in message else _log_of(place)
        self._failed_starts += kind == "start" and NODE_DIED not in message
        self._refill()
        if not self._members:
            with contextlib.suppress(RayError):
                message += ray.get(log, timeout=LOG_SECONDS) if log is not None else ""
            on = f" on {place}" if place else ""
            raise EngineError(f"{'every replica died' if self._ready_once else 'no replica can start'}{on}: {message}")
        if log is not None:
            self._call(log, "log", replica)
        yield Died(replica, message, str(place or ""), "engine" if raised else kind_of(message))


def _log_of(place: _Place) -> ObjectRef:
    """The end of a log, by a task on its node; it fails where the node is gone."""
    there = NodeAffinitySchedulingStrategy(place.node, soft=False)
    found: ObjectRef = ray.remote(logs.tail).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(place.log)
    return found


class _Actor(Replica):
    """A Replica in a process of its own. Replica's arguments come as one object, put once for all replicas."""

    def __init__(self, arguments: tuple[Renderer, str, list[str], set[str]], number: int, log_level: int) -> None:
        logs.configure(log_level)
        logs.identify(job=arguments[0].job.name, replica=number)
        self._log = logs.logger("replica")
        super().__init__(*arguments)

    async def where(self) -> tuple[str, str, str]:
        """The id and the address of this node, and the file that this process logs to."""
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), logs.own_file()

    async def start_here(self) -> tuple[dict[str, int], str]:
        """As start, with the id of the node."""
        node = ray.get_runtime_context().get_node_id()
        self._log.info("process %d on node %s starts its engine", os.getpid(), node)
        await asyncio.to_thread(preflight.look, self.job, self.renderer.model, self.store)
        engine = await super().start()
        self._log.info("engine ready: %s", engine)
        return engine, node
