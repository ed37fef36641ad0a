"""The replicas that a pool has asked for: their places (places.py), and the calls of their actors that have not returned."""

import contextlib
import queue
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup

from batchgen import logs
from batchgen.cluster.actor import Place, ReplicaActor
from batchgen.cluster.fit.shape import Shape
from batchgen.cluster.policy.sizing import Has
from batchgen.cluster.state import places
from batchgen.cluster.state.ray_adapter import Living

CLOSE_SECONDS = 5.0  # before its node goes that a replica gives up what it runs
UNCOMMITTED_SECONDS = 4.0  # between two questions to a replica how many finished rows it holds
Kind = Literal["where", "start", "capacity", "uncommitted", "run", "close", "stop", "log"]


class Call(NamedTuple):
    """A call that has not returned: what was called, the replica, and the block of a `run`. All but `log` are of its actor."""

    kind: Kind
    replica: int
    item: Hashable = None


@dataclass(eq=False)
class Member:
    """A replica that was asked for, of group `group` of the placement, in a `room` of its own (`has_room`: it was reserved), not
    on the nodes that it `avoids`. `place`: where it is, once its process runs. `leaving`: its node is being drained. `closing`:
    it writes its last journal. `retired`: it takes no new span. `ending`: it was released. `assigned`: spans given to it.
    `asked`: it has yet to answer when it can take another. `calls`: those of its actor that have not returned. `began`: when its
    process was there. `uncommitted`: finished rows of the spans that it runs, asked for when it `looked`."""

    actor: ActorHandle
    group: int
    room: PlacementGroup | None
    avoids: Collection[str]
    calls: set[ObjectRef] = field(default_factory=set)
    has_room: bool = False
    place: Place | None = None
    leaving: bool = False
    closing: bool = False
    retired: bool = False
    ending: bool = False
    assigned: int = 0
    asked: bool = False
    began: float = 0.0
    uncommitted: int = 0
    looked: float = 0.0

    @property
    def node(self) -> str | None:
        return self.place.node if self.place else None

    @property
    def stays(self) -> bool:
        return not (self.leaving or self.retired or self.ending)


class Members(dict[int, Member]):
    """The replicas by number. `alive`: those that are ready. `ledger`: of the answers that they share, where they do."""

    def __init__(self, ledger: ActorHandle | None = None) -> None:
        super().__init__()
        self._ledger = ledger
        self.alive: set[int] = set()
        self._calls: dict[ObjectRef, Call] = {}
        self._returned: queue.SimpleQueue[ObjectRef] = queue.SimpleQueue()  # filled by Ray's threads: no wait scans the calls
        self._asked_for = 0

    @property
    def staying(self) -> set[int]:
        """The living replicas that are to go on."""
        return {replica for replica in self.alive if self[replica].stays}

    def of_group(self, number: int) -> list[int]:
        """The replicas of a group that stay, the youngest last."""
        return [one for one, member in self.items() if member.group == number and member.stays]

    def has_all(self, groups: int) -> list[Has]:
        """What each of so many groups has."""
        return [self.has(number) for number in range(groups)]

    def has(self, number: int) -> Has:
        """What a group has."""
        members = self.of_group(number)
        alive = self.alive.intersection(members)
        busy = sum(bool(self.runs(one)) for one in alive)
        placeless = sum(not self.has_room(one) for one in members)
        ending = sum(member.group == number for member in self.values()) - len(members)
        return Has(len(alive), len(members) - len(alive), placeless, busy, ending)

    def has_room(self, replica: int) -> bool:
        """Whether the replica's place is reserved."""
        member = self[replica]
        member.has_room = member.has_room or member.place is not None or places.is_there(member.room)
        return member.has_room

    def silent(self) -> list[int]:
        """The replicas that have reserved a place, and whose process has not answered yet."""
        return [one for one, member in self.items() if member.place is None and member.room is not None and self.has_room(one)]

    def misplaced(self, left_out: Collection[str]) -> set[int]:
        """The replicas without a place that avoid other nodes than these."""
        found = {one for one, member in self.items() if member.place is None and member.avoids != left_out}
        return {one for one in found if self[one].room is None or not self.has_room(one)}

    def loading(self, now: float) -> str:
        """Where replicas start and since when, in words: the one that began first; empty where none does."""
        starting = [member for one, member in self.items() if member.place is not None and one not in self.alive and member.stays]
        first = min(starting, key=lambda member: member.began, default=None)
        if first is None:
            return ""
        more = f" and {len(starting) - 1:,} more" if len(starting) > 1 else ""
        return f"the model to load ({now - first.began:.0f} s, {first.place}{more})"

    def ask_uncommitted(self, now: float) -> None:
        """Ask the replicas that run spans, now and then, how many finished rows these have."""
        for replica in self.alive:
            member = self[replica]
            if now - member.looked >= UNCOMMITTED_SECONDS and not member.ending:
                member.looked = now
                self.call(member.actor.uncommitted.remote(), "uncommitted", replica)

    def drained(self, living: Mapping[str, Living]) -> tuple[list[int], set[int], list[str]]:
        """The ready replicas whose node is being drained, each once; those that start there, which is futile; lines about both.
        From now on they keep a close journal, and CLOSE_SECONDS before the node goes they give up what they run."""
        found, futile, lines = list[int](), set[int](), list[str]()
        for replica, member in self.items():
            node = living.get(member.place.node) if member.place and not member.ending else None
            if node is None or not node.is_drained:
                continue
            left, what = node.seconds_left, "it takes no new span"
            if not member.leaving:
                if replica in self.alive:
                    found.append(replica)
                    member.leaving = True
                    member.actor.drain.remote()
                else:
                    what = "its start is given up"
                    futile.add(replica)
                when = "is about to go" if left is None else f"goes in {max(0.0, left):.0f} s"
                lines.append(f"replica {replica} on {member.place}: its node {when}; {what}")
            elif left is not None and left < CLOSE_SECONDS and not member.closing:
                member.closing = True
                self.call(member.actor.close.remote(), "close", replica)
        return found, futile, lines

    def runs(self, replica: int) -> dict[ObjectRef, Hashable]:
        """The calls and blocks of the spans that a replica runs."""
        return {one: self._calls[one].item for one in self[replica].calls if self._calls[one].kind == "run"}

    def ask_for(
        self, group: int, arguments: ObjectRef, shape: Shape, left_out: Collection[str], environment: Mapping[str, str]
    ) -> int:
        """Ask for a replica of a group, not on the nodes that are left out. Returns its number."""
        room, options = places.reserve(shape, left_out)
        make = ray.remote(ReplicaActor).options(max_restarts=0, max_task_retries=0, max_concurrency=10_000, **options)
        self._asked_for += 1
        nodes, level = max(1, len(shape.bundles)), logs.level_of_replicas()
        actor = make.remote(arguments, self._asked_for, level, nodes, environment, self._ledger)
        self[self._asked_for] = Member(actor, group, room, left_out)
        self.call(actor.where.remote(), "where", self._asked_for)
        self.call(actor.start_here.remote(), "start", self._asked_for)
        return self._asked_for

    def call(self, reference: ObjectRef, kind: Kind, replica: int, item: Hashable = None) -> None:
        """Let `returned` yield a call when it returns."""
        self._calls[reference] = Call(kind, replica, item)
        if kind != "log":
            self[replica].calls.add(reference)
        reference.future().add_done_callback(lambda _: self._returned.put(reference))

    def returned(self, seconds: float) -> Iterator[tuple[ObjectRef, Call]]:
        """The calls that have returned, waiting up to `seconds` for one; each is forgotten when it is yielded."""
        with contextlib.suppress(queue.Empty):
            found = [self._returned.get(timeout=seconds)]
            found += [self._returned.get() for _ in range(self._returned.qsize())]
            for reference in found:
                if (call := self._calls.pop(reference, None)) is not None:
                    if call.kind != "log":
                        self[call.replica].calls.discard(reference)
                    yield reference, call

    def end(self, replicas: set[int], seconds: float = 0.0) -> None:
        """End replicas, the living ones after `seconds` for their journals; forget their calls and give back their places."""
        stopping = [self[replica].actor.stop.remote() for replica in replicas & self.alive] if seconds else []
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=seconds)
        self.alive -= replicas
        for replica in replicas:
            member = self.pop(replica)
            for reference in member.calls:
                self._calls.pop(reference, None)
            ray.kill(member.actor, no_restart=True)
            places.give_back(member.room)
            if self._ledger is not None:
                self._ledger.forget.remote(replica)
