"""The replicas as Ray actors: start, death, replacement.

`max_restarts=0` and no task retries: recovery is the dispatcher's re-queue, and a new actor replaces a dead replica. All are
asked for at once, so that Ray's autoscaler sees the pending ones, and each is used as soon as it is ready. An engine that cannot
start before any other has is the job's error, with its own message. After START_ATTEMPTS failed starts in a row no more are
asked for, until a replica is ready again; a start that ends with its node does not count."""

import contextlib
import os
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Literal

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from batchgen import logs
from batchgen.cluster.dispatch import BlockLost, Capacity, Died, Event, Finished, Ready
from batchgen.cluster.placement import Placement
from batchgen.cluster.ray_adapter import draining_nodes
from batchgen.errors import BatchgenError, EngineError, safe_message
from batchgen.records import Shard
from batchgen.render.renderer import Renderer
from batchgen.replica.admission import share
from batchgen.replica.careful import Care
from batchgen.replica.replica import Replica

START_ATTEMPTS = 3
STOP_SECONDS = 20.0  # that replicas have to write their journals when they are stopped
DRAIN_POLL_SECONDS = 2.0
NODE_DIED = "node has died"  # Ray's words of an actor whose node is gone; the error's class is that of every dead actor
_Call = tuple[Literal["start", "capacity", "run"], int, Hashable]
"""A call of an actor that has not returned: what was called, the replica, and the block of a `run`."""


@dataclass(eq=False)
class _Member:
    """A replica that was asked for. `node`: the id of its node, once it is ready. `leaving`: that node is being drained.
    `assigned`: spans given to it. `asked`: it has yet to answer when it can take another."""

    actor: ActorHandle
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
        self._asked_for, self._failed_starts, self._ready_once = 0, 0, False
        self._looked = 0.0
        self.prompts_left = 0.0  # unfinished prompts of the job, set by the driver
        self._refill()

    def assign(self, replica: int, item: Hashable, again: bool, care: Care | None = None) -> None:
        """Let the replica run the span in block `item`; `again` when another replica has had it in this run, `care` when replicas
        died of it."""
        member = self._members[replica]
        member.assigned += 1
        self._calls[member.actor.run.remote(item, again, care)] = ("run", replica, item)
        self.ask_capacity(replica)

    def ask_capacity(self, replica: int) -> None:
        """Let the replica say when it can take another span; one question at a time."""
        member = self._members[replica]
        if not member.asked:
            member.asked = True
            call = member.actor.capacity_left.remote(member.assigned, share(self.prompts_left, self._size))
            self._calls[call] = ("capacity", replica, None)

    def wait(self, seconds: float) -> Iterator[Event]:
        """What happened, waiting up to `seconds` for something to happen."""
        if not self._calls:
            time.sleep(seconds)
            return
        calls = list(self._calls)
        ray.wait(calls, num_returns=1, timeout=seconds)
        for reference in ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
            if reference in self._calls:
                yield from self._settle(reference)

    @property
    def alive(self) -> set[int]:
        """The replicas that are ready."""
        return {replica for replica, member in self._members.items() if member.node is not None}

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
        self._calls = {reference: call for reference, call in self._calls.items() if call[1] not in replicas}
        for replica in replicas:
            ray.kill(self._members.pop(replica).actor, no_restart=True)

    def _refill(self) -> None:
        """Ask for the replicas that are missing."""
        staying = sum(not member.leaving for member in self._members.values())
        while staying < self._size and self._failed_starts < START_ATTEMPTS:
            staying += 1
            self._asked_for += 1
            actor = self._make.remote(self._arguments, self._asked_for, logs.level_of_replicas())
            self._members[self._asked_for] = _Member(actor)
            self._calls[actor.start_here.remote()] = ("start", self._asked_for, None)
            self._log.at(replica=self._asked_for).info("asked for")

    def _settle(self, reference: ObjectRef) -> Iterator[Event]:
        """Raises the errors of ours that end the job."""
        kind, replica, item = self._calls.pop(reference)
        try:
            result = ray.get(reference)
        except RayError as error:
            raised = isinstance(error, RayTaskError)  # by a method of the actor
            cause = error.cause if raised and isinstance(error.cause, BaseException) else error
            if isinstance(cause, ObjectLostError):
                self._members[replica].actor.skip.remote()
                yield BlockLost(replica, item, safe_message(cause))
            elif isinstance(cause, BatchgenError) and not isinstance(cause, EngineError):
                raise cause from error
            elif raised and kind == "start" and not self._ready_once:
                raise EngineError(f"no replica can start: {cause}") from error
            elif raised:
                yield from self._died(kind, replica, str(cause))
            else:
                account = safe_message(error, 2000)  # Ray's begins with the names of actor, node and owner
                yield from self._died(kind, replica, (account.partition(" because ")[2] or account)[:300])
        else:
            match kind:
                case "run":
                    yield Finished(replica, item, result)
                case "capacity":
                    self._members[replica].asked = False
                    yield Capacity(replica, result)
                case "start":
                    engine, self._members[replica].node = result
                    self._ready_once, self._failed_starts = True, 0
                    self._refill()
                    self.ask_capacity(replica)
                    self._log.at(replica=replica).info("ready on node %s: %s", self._members[replica].node, engine)
                    yield Ready(replica, engine)

    def _died(self, kind: str, replica: int, message: str) -> Iterator[Event]:
        """Yields the spans that the replica had finished before it died in a call of this kind, then its death."""
        runs = {reference: item for reference, (of, by, item) in self._calls.items() if (of, by) == ("run", replica)}
        for reference in ray.wait([*runs], num_returns=len(runs), timeout=0)[0] if runs else ():
            with contextlib.suppress(RayError):
                yield Finished(replica, runs[reference], ray.get(reference))
        self._end({replica})
        self._failed_starts += kind == "start" and NODE_DIED not in message
        self._refill()
        if not self._members:
            raise EngineError(f"{'every replica died' if self._ready_once else 'no replica can start'}: {message}")
        yield Died(replica, message)


class _Actor(Replica):
    """A Replica in a process of its own. Replica's arguments come as one object, put once for all replicas."""

    def __init__(self, arguments: tuple[Renderer, str, list[str], set[str]], number: int, log_level: int) -> None:
        logs.configure(log_level)
        logs.identify(job=arguments[0].job.name, replica=number)
        self._log = logs.logger("replica")
        super().__init__(*arguments)

    async def start_here(self) -> tuple[dict[str, int], str]:
        """As start, with the id of the node."""
        node = ray.get_runtime_context().get_node_id()
        self._log.info("process %d on node %s starts its engine", os.getpid(), node)
        engine = await super().start()
        self._log.info("engine ready: %s", engine)
        return engine, node
