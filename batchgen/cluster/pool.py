"""The pool of a job: where its replicas go, how many there are, their start, death and replacement.

`max_restarts=0` and no task retries: recovery is the dispatcher's re-queue, and a new actor replaces a dead one. Each reserves a
place (state/members.py) and is used as soon as it is ready. `adjust`, asked every few seconds, looks at the cluster:
policy/size.py says how many there should be, policy/health.py which nodes are left out and when the job cannot go on."""

import contextlib
import time
from collections.abc import Collection, Hashable, Iterator

import ray
from ray import ObjectRef
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from batchgen import logs
from batchgen.cluster import answers
from batchgen.cluster.actor import Place, environment, log_of
from batchgen.cluster.placement import Placement
from batchgen.cluster.policy.dispatch import BlockLost, Capacity, Died, Event, Finished, Ready, Said
from batchgen.cluster.policy.health import Health, Kind, kind_of, short
from batchgen.cluster.policy.sizing import Sizing, Staying
from batchgen.cluster.state import places
from batchgen.cluster.state.autoscaler import Autoscaler
from batchgen.cluster.state.members import Call, Members
from batchgen.cluster.state.ray_adapter import living_nodes
from batchgen.cluster.state.rivals import Rivals
from batchgen.errors import BatchgenError, EngineError, safe_message
from batchgen.records import Shard
from batchgen.render.renderer import Renderer
from batchgen.replica.admission import share
from batchgen.replica.careful import Care

STOP_SECONDS = 20.0  # that replicas have to write their journals when they are stopped
LOOK_SECONDS = 2.0  # between looks at the cluster
LOG_SECONDS = 5.0  # that the end of a job's last replica waits for the end of its log
TELLS_LITTLE = ("where", "uncommitted", "log")  # calls whose error another one explains


class Pool:
    """The replicas of a job. Raises EngineError when none of them can start, JobError when none will ever find room."""

    def __init__(
        self, renderer: Renderer, output: str, shards: tuple[Shard, ...], journaled: set[str], placement: Placement
    ) -> None:
        names = [shard.name for shard in shards]
        self._arguments = [ray.put((renderer.of_job(group.job), output, names, journaled)) for group in placement.groups]
        self._environment, self._taken = environment(renderer.job), placement.taken
        self._log = logs.logger("pool", job=renderer.job.name)
        self._ledger = answers.begin() if renderer.job.dedupe else None
        self._members = Members(self._ledger)
        self._health = Health(renderer.job.replicas.start_seconds)
        self._autoscaler, self._rivals, living = Autoscaler(placement.types), Rivals(placement), living_nodes()
        nodes, types = places.nodes_of(living, placement.taken), self._autoscaler.types(living)
        self._sizing = Sizing(placement, nodes, types, self._rivals.parts)
        self.prompts_left = 0.0  # unfinished prompts of the job, set by the driver
        self._refill()

    @property
    def alive(self) -> set[int]:
        """The replicas that are ready."""
        return self._members.alive

    @property
    def size(self) -> int:
        """How many replicas there are to be."""
        return sum(self._sizing.targets)

    @property
    def waits_for(self) -> str:
        """What replicas without a place wait for, or else those that start, in words; empty where none does."""
        return self._sizing.waits_for or self._members.loading(time.monotonic())

    @property
    def uncommitted(self) -> int:
        """Rows that are finished, and whose spans are not."""
        return sum(self._members[replica].uncommitted for replica in self.alive)

    def assign(self, replica: int, item: Hashable, again: bool, care: Care | None = None, pace: float = 1.0) -> None:
        """Let the replica run the span in block `item`; `again` when another replica has had it in this run, `care` when replicas
        died of it. `pace`: as ask_capacity has it."""
        member = self._members[replica]
        member.assigned += 1
        self._members.call(member.actor.run.remote(item, again, care), "run", replica, item)
        self.ask_capacity(replica, pace)

    def where(self, replica: int) -> str:
        """The node of a replica, in words; empty where it is not known."""
        return str(self._members[replica].place or "") if replica in self._members else ""

    def ask_capacity(self, replica: int, pace: float = 1.0) -> None:
        """Let the replica say when it can take another span; one question at a time. `pace`: of its share of what is left."""
        member = self._members[replica]
        if not member.asked and not member.ending:
            member.asked = True
            call = member.actor.capacity_left.remote(member.assigned, pace * share(self.prompts_left, max(1, self.size)))
            self._members.call(call, "capacity", replica)

    def wait(self, seconds: float) -> Iterator[Event]:
        """What happened, waiting up to `seconds` for something to happen."""
        for reference, call in self._members.returned(seconds):
            yield from self._settle(reference, call)

    def adjust(
        self, waiting: int, running: int, feed_ended: bool, idle: Collection[int]
    ) -> tuple[list[int], list[int], list[str]]:
        """Look at the cluster: replicas whose node is being drained, each once (they keep a close journal from now on, and others
        replace them), idle ones that are not needed any more, and lines about those, those whose start hangs and those that wait
        for a place. `waiting` and `running`: spans. Raises EngineError when the job cannot go on."""
        now = time.monotonic()
        try:
            living = living_nodes()
        except RayError as error:  # the next look will tell
            self._log.debug("the head did not say how the nodes are: %s", safe_message(error))
            return [], [], []
        self._members.ask_uncommitted(now)
        self._sizing.nodes, self._sizing.types = places.nodes_of(living, self._taken), self._autoscaler.types(living)
        drained, futile, lines = self._members.drained(living)
        self._end(futile)
        lines += self._overdue(now)
        self._sizing.aim(self._members.has_all(len(self._arguments)), waiting, running, feed_ended, self._health.left_out(now))
        unneeded = self._unneeded(idle)
        self._refill()
        self._refuse_hopeless()
        if line := self._sizing.waiting_line(self._members.has_all(len(self._arguments))):
            lines.append(line)
        return drained, unneeded, lines

    @property
    def staying(self) -> set[int]:
        """The living replicas that are to go on."""
        return self._members.staying

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
        self._members.call(member.actor.stop.remote(), "stop", replica)
        self._log.at(replica=replica).info("released")

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End every replica and its engine's processes; they have `seconds` to write their journals."""
        self._rivals.leave()
        self._end(set(self._members), seconds)
        if self._ledger is not None:
            ray.kill(self._ledger)

    def _overdue(self, now: float) -> list[str]:
        """Give up the starts that hang, and say so. A start begins with its place, even if no process answers there."""
        for replica in self._members.silent():
            self._health.began(replica, None, now)
        lines = []
        for replica in self._health.overdue(now):
            if (member := self._members[replica]).place is None:
                self._health.began(replica, places.node_of(member.room), now)
            cause = f"not ready after {self._health.start_seconds:g} s"
            cause = f"on {self.where(replica)}: {cause}" if member.place else f"{cause}, its process has not answered"
            lines.append(f"replica {replica} {cause}: it is given up")
            self._health.start_failed(replica, "outside", cause, now)
            self._withdraw()
            self._end({replica})
        return lines

    def _unneeded(self, idle: Collection[int]) -> list[int]:
        """End those of which there are too many and that run nothing; the others of them are to be retired."""
        by_group = [self._members.of_group(number) for number in range(len(self._arguments))]
        groups = [[Staying(one, self._members[one].node, one in self.alive) for one in numbers] for numbers in by_group]
        ended, retired = self._sizing.unneeded(groups, idle)
        self._end(set(ended))
        for replica in retired:
            self._members[replica].retired = True
        return retired

    def _withdraw(self) -> set[str]:
        """Ask no more for places by an older choice of nodes: a node that fails again would get the next start as soon as it is
        free, and one that may be asked again would get none. Returns the nodes that are left out."""
        left_out = self._health.left_out(time.monotonic())
        self._end(self._members.misplaced(left_out))
        return left_out

    def _refill(self) -> None:
        """Ask for the replicas that are missing."""
        left_out = self._withdraw()
        for number, wanted in enumerate(self._sizing.targets):
            missing = wanted - len(self._members.of_group(number))
            for shape in self._sizing.shapes(number, missing, left_out):
                replica = self._members.ask_for(number, self._arguments[number], shape, left_out, self._environment)
                self._log.at(replica=replica).info("asked for: %s", shape)

    def _refuse_hopeless(self) -> None:
        if (why := self._health.verdict(self._sizing.fitting())) is not None:
            raise EngineError(why)

    def _end(self, replicas: set[int], seconds: float = 0.0) -> None:
        self._members.end(replicas, seconds)
        for replica in replicas:
            self._health.ended(replica)

    def _settle(self, reference: ObjectRef, call: Call) -> Iterator[Event]:
        """Raises the errors of ours that end the job."""
        kind, replica, item = call
        if kind != "log" and self._members[replica].ending:
            if kind == "stop":
                self._end({replica})
            return
        try:
            result = ray.get(reference)
        except RayError as error:
            if kind in TELLS_LITTLE:  # the other calls of the replica tell of its death; the log went with its node
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
                account = safe_message(error, 8000)  # Ray's begins with the names of actor, node and owner
                account = account.partition(" because ")[2] or account
                yield from self._died(replica, short(account), kind_of(account), False)
        else:
            match kind:
                case "run":
                    yield Finished(replica, item, result)
                case "uncommitted":
                    self._members[replica].uncommitted = result
                case "capacity":
                    self._members[replica].asked = False
                    yield Capacity(replica, result)
                case "where":
                    place = self._members[replica].place = Place(*result)
                    self._members[replica].began = time.monotonic()
                    self._health.began(replica, place.node, time.monotonic())
                case "close":
                    yield from self._died(replica, "it was ended with its journal written, since its node goes", "node", True)
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
        runs = self._members.runs(replica)
        for reference in ray.wait([*runs], num_returns=len(runs), timeout=0)[0] if runs else ():
            with contextlib.suppress(RayError):
                yield Finished(replica, runs[reference], ray.get(reference))
        place, now = self._members[replica].place, time.monotonic()
        if replica in self.alive:
            self._health.died(replica, kind, message, now)
        else:
            self._health.start_failed(replica, kind, f"on {place}: {message}" if place else message, now)
            self._withdraw()
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
            self._members.call(log, "log", replica)
        yield Died(replica, message, str(place or ""), kind)
