"""How the jobs of a cluster divide it: pure arithmetic. No Ray, no clocks.

Each job computes the same division from what all of them want, not from what they hold, so that nobody has to be asked, and the
division changes only when a job comes, ends or wants less, or the cluster changes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from pydantic import Field

from batchgen.cluster.fit.fits import capacity
from batchgen.cluster.fit.packing import put, rooms_of, units
from batchgen.cluster.fit.shape import Node, Shape

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Wish:
    """A group of replicas: the best shape of each (see Shape), how many the job could use were it alone, and `replicas.min`."""

    bundles: tuple[Mapping[str, Positive], ...]
    wants: int
    least: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        return Shape(self.bundles, self.labels)


@dataclass(frozen=True)
class Note:
    """What a job tells the others. `born`: seconds since 1970, when it began."""

    born: float
    wishes: tuple[Wish, ...]
    share: Positive = 1.0
    priority: int = 0


class Part(NamedTuple):
    """Of a cluster that others want, too: `size` replicas, and whether it is for this job to ask for nodes that may come."""

    size: int
    asks: bool


@dataclass(frozen=True)
class Claim:
    """On what jobs compete for. `unit`: what a replica takes of it; `wants`: the replicas that find room, were the others not
    there; `hopes`: those with nodes that may come."""

    unit: int
    wants: int
    share: float = 1.0
    priority: int = 0
    least: int = 1
    hopes: int = 0


def divide(zones: Mapping[frozenset[int], int], claims: Sequence[Claim]) -> list[int]:
    """The replicas of each job, the oldest job first. `zones`: what there is, by the numbers of the claims that can use it. One
    each, as far as there is room; then `least`, and then all that is wanted, by priority. Jobs of one priority get each replica
    where it makes the smallest amount for its share. A job takes first what the fewest others can use."""
    given, left, by_priority = [0] * len(claims), dict(zones), _by_priority(claims)
    reach = [
        sorted((zone for zone in left if number in zone), key=lambda zone: (len(zone), *sorted(zone)))
        for number in range(len(claims))
    ]

    def has_room(number: int, upto: int) -> bool:
        room = sum(left[zone] for zone in reach[number])
        return given[number] < min(upto, claims[number].wants) and claims[number].unit <= room

    def give(number: int) -> None:
        given[number], need = given[number] + 1, claims[number].unit
        for zone in reach[number]:
            taken = min(need, left[zone])
            left[zone], need = left[zone] - taken, need - taken

    for order, upto in ((range(len(claims)), [1] * len(claims)), (by_priority, [claim.least for claim in claims])):
        for number in order:
            while has_room(number, upto[number]):
                give(number)
    while open_ := [n for n in by_priority if has_room(n, claims[n].wants)]:
        give(min(open_, key=lambda n: (-claims[n].priority, (given[n] + 1) * claims[n].unit / claims[n].share)))
    return given


def part(jobs: Mapping[str, Note], name: str, group: int, nodes: Sequence[Node]) -> Part | None:
    """The part of a group of the job `name`, on these nodes; None where no other job could use those that it fits."""
    if len(jobs) == 1:
        return None
    own = jobs[name].wishes[group].shape
    mine = [node for node in nodes if _fits(own, node)]
    if not mine:
        return None
    resource = _scarce(own, mine)
    claims, whose, places = list[Claim](), list[tuple[str, int]](), list[set[str]]()
    for job, note in sorted(jobs.items(), key=lambda one: (one[1].born, one[0])):
        rivals = [(number, wish) for number, wish in enumerate(note.wishes) if units(wish.shape.total).get(resource)]
        for number, wish in rivals:
            there = [node for node in nodes if _fits(wish.shape, node)]
            wants = capacity([wish.shape], there, upto=wish.wants, total=True)
            unit, share = units(wish.shape.total)[resource], note.share / len(rivals)
            claims.append(Claim(unit, wants, share, note.priority, wish.least, wish.wants))
            whose.append((job, number))
            places.append({node.id for node in there} if wants else set())
    zones = Counter[frozenset[int]]()
    for node in nodes:
        users = frozenset(number for number, ids in enumerate(places) if node.id in ids)
        zones[users] += units(node.total).get(resource, 0)
    index = whose.index((name, group))
    if all(whose[number][0] == name for zone in zones if index in zone for number in zone):
        return None
    given = divide(zones, claims)
    first = next((number for number in _by_priority(claims) if claims[number].hopes > given[number]), None)
    return Part(given[index], first == index)


def _by_priority(claims: Sequence[Claim]) -> list[int]:
    return sorted(range(len(claims)), key=lambda number: -claims[number].priority)


def _fits(shape: Shape, node: Node) -> bool:
    """Whether the node has room for a bundle of the shape."""
    return any(put(Shape((bundle,), shape.labels), rooms_of([node], total=True)) for bundle in shape.bundles)


def _scarce(shape: Shape, nodes: Sequence[Node]) -> str:
    """What jobs compete for: GPUs, or else what the nodes have the least of, by what a replica takes."""
    needs = shape.total
    if needs.get("GPU"):
        return "GPU"
    return min(needs, key=lambda name: (sum(node.total.get(name, 0) for node in nodes) / needs[name], name))
