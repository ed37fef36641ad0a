"""The replicas as Ray actors: where they go, how many there are, their start, death and replacement.

`max_restarts=0` and no task retries: recovery is the dispatcher's re-queue, and a new actor replaces a dead one. Each reserves a
place (places.py) and is used as soon as it is ready. `adjust`, asked every few seconds, looks at the cluster:
policy/size.py says how many there should be, policy/health.py which nodes are left out and when the job cannot go on."""

import contextlib
import queue
import time
from collections.abc import Collection, Hashable, Iterator
from typing import Literal

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from batchgen import logs
from batchgen.cluster import places
from batchgen.cluster.actor import Member, Place, ReplicaActor, environment, log_of
from batchgen.cluster.placement import Placement
from batchgen.cluster.policy.dispatch import BlockLost, Capacity, Died, Event, Finished, Ready, Said
from batchgen.cluster.policy.health import Health, Kind, kind_of
from batchgen.cluster.policy.sizing import Has, Sizing
from batchgen.cluster.ray_adapter import living_nodes
from batchgen.errors import BatchgenError, EngineError, safe_message
from batchgen.records import Shard
from batchgen.render.renderer import Renderer
from batchgen.replica.admission import share
from batchgen.replica.careful import Care

STOP_SECONDS = 20.0  # that replicas have to write their journals when they are stopped
LOOK_SECONDS = 2.0  # between looks at the cluster
LOG_SECONDS = 5.0  # that the end of a job's last replica waits for the end of its log
_Kind = Literal["where", "start", "capacity", "run", "stop", "log"]
_Call = tuple[_Kind, int, Hashable]
"""A call that has not returned: what was called, the replica, and the block of a `run`. All but `log` are of its actor."""

Changes = tuple[list[int], list[int], list[str]]  # replicas to retire since their nodes go, idle ones too many, lines to tell


class Pool:
    """The replicas of a job. Raises EngineError when none of them can start, JobError when none will ever find room."""

    def __init__(
        self, renderer: Renderer, output: str, shards: tuple[Shard, ...], journaled: set[str], placement: Placement
    ) -> None:
        names = [shard.name for shard in shards]
        self._arguments = [ray.put((renderer.of_job(group.job), output, names, journaled)) for group in placement.groups]
        self._environment, self._taken = environment(renderer.job), placement.taken
        self._log = logs.logger("pool", job=renderer.job.name)
        self._members: dict[int, Member] = {}
        self._calls: dict[ObjectRef, _Call] = {}
        self._returned: queue.SimpleQueue[ObjectRef] = queue.SimpleQueue()  # filled by Ray's threads: no wait scans the calls
        self.alive: set[int] = set()
        """The replicas that are ready."""
        self._health, self._sizing = Health(), Sizing(placement, places.nodes_of(living_nodes(), placement.taken))
        self._asked_for = 0
        self.prompts_left = 0.0  # unfinished prompts of the job, set by the driver
        self._refill()

    @property
    def size(self) -> int:
        """How many replicas there are to be."""
        return sum(self._sizing.targets)

    @property
    def waits_for(self) -> str:
        """What replicas without a place wait for, in words; empty where none does."""
        return self._sizing.waits_for

    def assign(self, replica: int, item: Hashable, again: bool, care: Care | None = None, pace: float = 1.0) -> None:
        """Let the replica run the span in block `item`; `again` when another replica has had it in this run, `care` when replicas
        died of it. `pace`: as ask_capacity has it."""
        member = self._members[replica]
        member.assigned += 1
        self._call(member.actor.run.remote(item, again, care), "run", replica, item)
        self.ask_capacity(replica, pace)

    def where(self, replica: int) -> str:
        """The node of a replica, in words; empty where it is not known."""
        member = self._members.get(replica)
        return str(member.place) if member and member.place else ""

    def ask_capacity(self, replica: int, pace: float = 1.0) -> None:
        """Let the replica say when it can take another span; one question at a time. `pace`: of its share of what is left."""
        member = self._members[replica]
        if not member.asked and not member.ending:
            member.asked = True
            call = member.actor.capacity_left.remote(member.assigned, pace * share(self.prompts_left, max(1, self.size)))
            self._call(call, "capacity", replica)

    def wait(self, seconds: float) -> Iterator[Event]:
        """What happened, waiting up to `seconds` for something to happen."""
        with contextlib.suppress(queue.Empty):
            returned = [self._returned.get(timeout=seconds)]
            returned += [self._returned.get() for _ in range(self._returned.qsize())]
            for reference in returned:
                if reference in self._calls:
                    yield from self._settle(reference)

    def adjust(
        self, waiting: int, running: int, feed_ended: bool, idle: Collection[int]
    ) -> tuple[list[int], list[int], list[str]]:
        """Look at the cluster: replicas whose node is being drained, each once (they keep a close journal from now on, and others
        replace them), idle ones that are not needed any more, and lines about those whose start hangs and those that wait for a
        place. `waiting` and `running`: spans. Raises EngineError when the job cannot go on."""
        now = time.monotonic()
        try:
            living = living_nodes()
        except RayError as error:  # the next look will tell
            self._log.debug("the head did not say how the nodes are: %s", safe_message(error))
            return [], [], []
        self._sizing.nodes = places.nodes_of(living, self._taken)
        drained = self._drained({name for name, one in living.items() if one.is_drained})
        lines = []
        for replica in self._health.overdue(now):
            cause = f"on {self.where(replica)}: not ready after {self._health.start_seconds:g} s"
            lines.append(f"replica {replica} {cause}: it is given up")
            self._health.start_failed(replica, "outside", cause, now)
            self._end({replica})
        self._sizing.aim(self._has(), waiting, running, feed_ended, self._health.left_out(now))
        unneeded = self._unneeded(idle)
        self._refill()
        self._refuse_hopeless()
        if line := self._sizing.waiting_line(self._has()):
            lines.append(line)
        return drained, unneeded, lines

    @property
    def staying(self) -> set[int]:
        """The living replicas whose node is not being drained."""
        return {replica for replica in self.alive if not self._members[replica].leaving}

    def keep_journals(self) -> None:
        """Let every replica write what it has finished, now and every second from now on."""
        for replica in self.alive:
            self._members[replica].actor.drain.remote()

    def release(self, replica: int) -> None:
        """End a replica that runs nothing, once it has written its journal."""
        member = self._members[replica]
        member.ending = True
        self.alive.discard(replica)
        self._health.ended(replica)
        self._call(member.actor.stop.remote(), "stop", replica)
        self._log.at(replica=replica).info("released")

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End every replica and its engine's processes; they have `seconds` to write their journals."""
        self._end(set(self._members), seconds)

    def _call(self, reference: ObjectRef, kind: _Kind, replica: int, item: Hashable = None) -> None:
        """Let `wait` settle a call when it returns."""
        self._calls[reference] = kind, replica, item
        if kind != "log":
            self._members[replica].calls.add(reference)
        reference.future().add_done_callback(lambda _: self._returned.put(reference))

    def _drained(self, nodes: Collection[str]) -> list[int]:
        found = [one for one in self.staying if (place := self._members[one].place) is not None and place.node in nodes]
        for replica in found:
            self._members[replica].leaving = True
            self._members[replica].actor.drain.remote()
            self._log.at(replica=replica).info("its node is being drained: %s", self.where(replica))
        return found

    def _of_group(self, number: int) -> list[int]:
        """The replicas of a group that stay, the youngest last."""
        return [one for one, member in self._members.items() if member.group == number and not (member.leaving or member.ending)]

    def _has(self) -> list[Has]:
        found = []
        for number in range(len(self._arguments)):
            members = self._of_group(number)
            alive = self.alive.intersection(members)
            busy = sum(any(self._calls[call][0] == "run" for call in self._members[one].calls) for one in alive)
            placeless = sum(self._members[one].place is None and not places.is_there(self._members[one].room) for one in members)
            found.append(Has(len(alive), len(members) - len(alive), placeless, busy))
        return found

    def _unneeded(self, idle: Collection[int]) -> list[int]:
        """End those without a place of which there are too many; the idle ones of which there are."""
        found: list[int] = []
        for number, wanted in enumerate(self._sizing.targets):
            members = self._of_group(number)
            surplus = len(members) - wanted
            placeless = [one for one in reversed(members) if self._members[one].place is None][: max(0, surplus)]
            self._end(set(placeless))
            found += [one for one in reversed(members) if one in idle and one in self.alive][: max(0, surplus - len(placeless))]
        return found

    def _refill(self) -> None:
        """Ask for the replicas that are missing."""
        left_out = self._health.left_out(time.monotonic())
        for number, wanted in enumerate(self._sizing.targets):
            for shape in self._sizing.shapes(number, wanted - len(self._of_group(number)), left_out):
                room, options = places.reserve(shape, left_out)
                make = ray.remote(ReplicaActor).options(max_restarts=0, max_task_retries=0, max_concurrency=10_000, **options)
                self._asked_for += 1
                more = logs.level_of_replicas(), max(1, len(shape.bundles)), self._environment
                actor = make.remote(self._arguments[number], self._asked_for, *more)
                self._members[self._asked_for] = Member(actor, number, room)
                self._call(actor.where.remote(), "where", self._asked_for)
                self._call(actor.start_here.remote(), "start", self._asked_for)
                self._log.at(replica=self._asked_for).info("asked for: %s", shape)

    def _refuse_hopeless(self) -> None:
        if (why := self._health.verdict(self._sizing.fitting())) is not None:
            raise EngineError(why)

    def _end(self, replicas: set[int], seconds: float = 0.0) -> None:
        """End the replicas, the living ones after `seconds` to write their journals, and ignore their open calls."""
        stopping = [self._members[replica].actor.stop.remote() for replica in replicas & self.alive] if seconds else []
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=seconds)
        self.alive -= replicas
        for replica in replicas:
            member = self._members.pop(replica)
            self._health.ended(replica)
            for reference in member.calls:
                self._calls.pop(reference, None)
            ray.kill(member.actor, no_restart=True)
            places.give_back(member.room)

    def _settle(self, reference: ObjectRef) -> Iterator[Event]:
        """Raises the errors of ours that end the job."""
        kind, replica, item = self._calls.pop(reference)
        if kind != "log":
            self._members[replica].calls.discard(reference)
            if self._members[replica].ending:
                if kind == "stop":
                    self._end({replica})
                return
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
            elif raised:
                yield from self._died(replica, str(cause), "start" if kind == "start" else "engine", True)
            else:
                account = safe_message(error, 2000)  # Ray's begins with the names of actor, node and owner
                account = (account.partition(" because ")[2] or account)[:300]
                yield from self._died(replica, account, kind_of(account), False)
        else:
            match kind:
                case "run":
                    yield Finished(replica, item, result)
                case "capacity":
                    self._members[replica].asked = False
                    yield Capacity(replica, result)
                case "where":
                    place = self._members[replica].place = Place(*result)
                    self._health.began(replica, place.node, time.monotonic())
                case "log" if result:
                    yield Said(replica, f"the end of its log:{result}")
                case "start":
                    engine, node, version = result
                    self.alive.add(replica)
                    self._health.ready(replica, node)
                    self.ask_capacity(replica)
                    self._log.at(replica=replica).info("ready on %s: %s", self.where(replica) or node, engine)
                    yield Ready(replica, engine, version)

    def _died(self, replica: int, message: str, kind: Kind, raised: bool) -> Iterator[Event]:
        """Yields the spans that the replica had finished before it died, then its death. An error that it `raised` itself has the
        end of its log; of other deaths its node is asked."""
        runs = {one: self._calls[one][2] for one in self._members[replica].calls if self._calls[one][0] == "run"}
        for reference in ray.wait([*runs], num_returns=len(runs), timeout=0)[0] if runs else ():
            with contextlib.suppress(RayError):
                yield Finished(replica, runs[reference], ray.get(reference))
        place, now = self._members[replica].place, time.monotonic()
        if replica in self.alive:
            self._health.died(replica, kind, message, now)
        else:
            self._health.start_failed(replica, kind, f"on {place}: {message}" if place else message, now)
        self._end({replica})
        log = None if place is None or raised or kind == "node" else log_of(place)
        try:
            self._refuse_hopeless()
        except EngineError as error:
            with contextlib.suppress(RayError):
                found = ray.get(log, timeout=LOG_SECONDS) if log is not None else ""
                raise EngineError(f"{error}{found}") from None
            raise
        self._refill()
        if log is not None:
            self._call(log, "log", replica)
        yield Died(replica, message, str(place or ""), kind)
