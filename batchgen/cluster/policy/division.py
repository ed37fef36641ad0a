"""How the jobs of a cluster divide it: pure arithmetic. No Ray, no clocks.

Each job computes the same division from what all of them want, not from what they hold, so that nobody has to be asked, and the
division changes only when a job comes, ends or wants less, or the cluster changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from batchgen.cluster.fit.fits import capacity
from batchgen.cluster.fit.packing import put, rooms_of, units
from batchgen.cluster.fit.shape import Node, Shape


@dataclass(frozen=True)
class Wish:
    """A group of replicas: the best shape of each (see Shape), how many the job could use were it alone, and `replicas.min`."""

    bundles: tuple[Mapping[str, float], ...]
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
    share: float = 1.0
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


def divide(amount: int, claims: Sequence[Claim]) -> list[int]:
    """The replicas of each job, the oldest job first. One each, as far as there is room; then `least`, and then all that is
    wanted, by priority. Jobs of one priority get each replica where it makes the smallest amount for its share."""
    given, rest = [0] * len(claims), amount
    by_priority = _by_priority(claims)
    for order, upto in ((range(len(claims)), [1] * len(claims)), (by_priority, [claim.least for claim in claims])):
        for number in order:
            claim = claims[number]
            more = max(0, min(upto[number], claim.wants, given[number] + rest // claim.unit) - given[number])
            given[number] += more
            rest -= more * claim.unit
    while open_ := [n for n in by_priority if given[n] < claims[n].wants and claims[n].unit <= rest]:
        first = min(open_, key=lambda n: (-claims[n].priority, (given[n] + 1) * claims[n].unit / claims[n].share))
        given[first] += 1
        rest -= claims[first].unit
    return given


def part(jobs: Mapping[str, Note], name: str, group: int, nodes: Sequence[Node]) -> Part | None:
    """The part of a group of the job `name`, on these nodes; None where no other job could use those that it fits."""
    own = jobs[name].wishes[group]
    mine = [node for node in nodes if _fits(own.shape, node)]
    if not mine or not own.bundles:
        return None
    resource, others = _scarce(own.shape, mine), [node for node in nodes if node not in mine]
    claims, whose = list[Claim](), list[tuple[str, int]]()
    for job, note in sorted(jobs.items(), key=lambda one: (one[1].born, one[0])):
        found = dict[int, Claim]()
        for number, wish in enumerate(note.wishes):
            if unit := units(wish.shape.total).get(resource, 0):
                elsewhere = 0 if (job, number) == (name, group) else _held(wish, others)
                wants = min(wish.wants - elsewhere, _held(wish, mine))
                if wants > 0 or (job, number) == (name, group):
                    found[number] = Claim(unit, wants, note.share, note.priority, wish.least, wish.wants)
        claims += [Claim(**{**vars(claim), "share": claim.share / len(found)}) for claim in found.values()]
        whose += [(job, number) for number in found]
    if all(job == name for job, _ in whose):
        return None
    given = divide(sum(units(node.total).get(resource, 0) for node in mine), claims)
    first = next((whose[n] for n in _by_priority(claims) if claims[n].hopes > given[n]), None)
    return Part(given[whose.index((name, group))], first == (name, group))


def _by_priority(claims: Sequence[Claim]) -> list[int]:
    return sorted(range(len(claims)), key=lambda number: -claims[number].priority)


def _fits(shape: Shape, node: Node) -> bool:
    """Whether the node has room for a bundle of the shape."""
    return any(put(Shape((bundle,), shape.labels), rooms_of([node], total=True)) for bundle in shape.bundles)


def _held(wish: Wish, nodes: Sequence[Node]) -> int:
    """How many of the replicas find room on these nodes, were nothing else on them."""
    return capacity([wish.shape], nodes, upto=wish.wants, total=True) if nodes and wish.bundles else 0


def _scarce(shape: Shape, nodes: Sequence[Node]) -> str:
    """What jobs compete for: GPUs, or else what the nodes have the least of, by what a replica takes."""
    needs = shape.total
    if needs.get("GPU"):
        return "GPU"
    return min(needs, key=lambda name: (sum(node.total.get(name, 0) for node in nodes) / needs[name], name))
