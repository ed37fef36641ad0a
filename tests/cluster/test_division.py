"""How jobs divide a cluster: a table, and jobs that live on one together, each with a late view of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.cluster.fit.shape import Node
from batchgen.cluster.placement import place
from batchgen.cluster.policy.division import Claim, Note, Part, Wish, divide, part
from batchgen.cluster.policy.sizing import Has, Sizing, Staying
from batchgen.job.job import Job

MANY = 1_000

DIVISIONS = {
    "halves": (8, [Claim(1, MANY), Claim(1, MANY)], [4, 4]),
    "the odd one is the oldest job's": (5, [Claim(1, MANY), Claim(1, MANY)], [3, 2]),
    "each has one": (4, [Claim(1, MANY, share=100), Claim(1, MANY), Claim(1, MANY)], [2, 1, 1]),
    "by share": (8, [Claim(1, MANY, share=0.75), Claim(1, MANY, share=0.25)], [6, 2]),
    "all to a higher priority, but one": (8, [Claim(1, MANY), Claim(1, MANY, priority=1)], [1, 7]),
    "all to a higher priority, but min": (8, [Claim(1, MANY, least=3), Claim(1, MANY, priority=1)], [3, 5]),
    "what a higher priority does not want": (8, [Claim(1, MANY), Claim(1, 2, priority=1)], [6, 2]),
    "what one does not want": (9, [Claim(1, 1), Claim(1, MANY), Claim(1, MANY)], [1, 4, 4]),
    "a large min does not starve another": (8, [Claim(1, MANY, least=8), Claim(1, MANY)], [7, 1]),
    "replicas of four and of one": (8, [Claim(1, MANY), Claim(4, MANY)], [4, 1]),
    "what a large one leaves over": (10, [Claim(1, MANY), Claim(4, MANY)], [6, 1]),
    "no room for a large one": (4, [Claim(1, MANY), Claim(4, MANY)], [4, 0]),
    "more jobs than room": (2, [Claim(1, MANY), Claim(1, MANY), Claim(1, MANY, priority=9)], [1, 1, 0]),
    "nobody wants anything": (4, [Claim(1, 0), Claim(1, 0)], [0, 0]),
}


@pytest.mark.parametrize("name", DIVISIONS)
def test_divide(name: str) -> None:
    amount, claims, expected = DIVISIONS[name]
    assert divide({frozenset(range(len(claims))): amount}, claims) == expected


CLAIMS = st.lists(
    st.builds(
        Claim,
        unit=st.sampled_from((1, 2, 4)),
        wants=st.integers(0, 40),
        share=st.sampled_from((0.25, 1.0, 3.0)),
        priority=st.integers(0, 2),
        least=st.integers(1, 3),
    ),
    min_size=1,
    max_size=5,
)


@given(st.integers(0, 64), CLAIMS)
def test_a_division_leaves_nothing_that_is_wanted_and_starves_nobody(amount: int, claims: list[Claim]) -> None:
    parts = divide({frozenset(range(len(claims))): amount}, claims)
    rest = amount - sum(size * claim.unit for size, claim in zip(parts, claims, strict=True))
    assert rest >= 0
    assert all(size <= claim.wants for size, claim in zip(parts, claims, strict=True))
    assert all(size == claim.wants or claim.unit > rest for size, claim in zip(parts, claims, strict=True))
    if amount >= sum(claim.unit for claim in claims if claim.wants):
        assert all(size >= min(1, claim.wants) for size, claim in zip(parts, claims, strict=True))


@given(st.integers(8, 64), st.lists(st.sampled_from((1.0, 2.0, 3.0)), min_size=2, max_size=4))
def test_parts_are_as_the_shares_to_a_replica(amount: int, shares: list[float]) -> None:
    """Up to one replica a job, and the one that each has first."""
    parts = divide({frozenset(range(len(shares))): amount}, [Claim(1, MANY, share=share) for share in shares])
    fair = [amount * share / sum(shares) for share in shares]
    assert all(abs(size - due) < len(shares) for size, due in zip(parts, fair, strict=True))


def nodes(*gpus: float, kind: str = "a") -> list[Node]:
    return [Node(f"{kind}{number}", {"CPU": 8, "GPU": each}, {}, {"kind": kind}) for number, each in enumerate(gpus)]


def wish(gpus: float, wants: int = MANY, **labels: str) -> Note:
    return Note(0.0, (Wish(({"GPU": gpus},), wants, 1, labels),))


def test_a_part_is_of_the_nodes_that_another_job_could_use() -> None:
    cluster = nodes(4, 4) + nodes(4, 4, kind="b")
    anywhere, on_a, on_b = wish(1), wish(1, kind="a"), wish(2, kind="b")
    assert part({"1": on_a, "2": on_b}, "1", 0, cluster) is None
    assert part({"1": on_a, "2": wish(8)}, "1", 0, cluster) is None
    assert part({"1": on_a, "2": wish(1, wants=9)}, "1", 0, cluster) == Part(8, True)
    assert part({"1": on_a}, "1", 0, cluster) is None
    assert part({"1": on_a, "2": on_a}, "2", 0, cluster) == Part(4, False)
    assert part({"1": anywhere, "2": on_b}, "1", 0, cluster) == Part(8, True)
    assert part({"1": anywhere, "2": on_b}, "2", 0, cluster) == Part(4, False)


def test_a_replica_over_several_nodes_and_one_of_something_else_than_gpus() -> None:
    cluster = nodes(4, 4, 4, 4)
    wide, seats = Note(0.0, (Wish(({"GPU": 4}, {"GPU": 4}), MANY),)), Note(1.0, (Wish(({"CPU": 4, "seat": 0.5},), MANY),))
    assert part({"1": wide, "2": wish(1)}, "1", 0, cluster) == Part(1, True)
    assert part({"1": wide, "2": wish(1)}, "2", 0, cluster) == Part(8, False)
    assert part({"1": wide, "2": seats}, "1", 0, cluster) is None
    seated = [Node("n", {"CPU": 64, "seat": 2}, {})]
    assert part({"1": seats, "2": seats}, "1", 0, seated) == Part(2, True)


def test_two_groups_of_a_job_have_its_share_together() -> None:
    two = Note(0.0, wish(1).wishes * 2)
    assert part({"1": two, "2": wish(1)}, "2", 0, nodes(8)) == Part(4, False)
    assert [part({"1": two, "2": wish(1)}, "1", group, nodes(8)) for group in (0, 1)] == [Part(2, True), Part(2, False)]


JOB = {"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}}


@dataclass
class Member:
    node: str | None = None
    ready: bool = False
    retired: bool = False


@dataclass
class Living:
    """A job with work for ever, or until `ends`. It sees the others' notes only at every third look."""

    name: str
    gpus: int
    share: float
    priority: int
    comes: int
    ends: int
    notes: dict[str, Note]
    members: dict[int, Member] = field(default_factory=dict)
    seen: dict[str, Note] = field(default_factory=dict)
    sizing: Sizing | None = None
    asked: int = 0
    changes: int = 0

    def look(self, cluster: list[Node], now: int) -> None:
        if not self.comes <= now < self.ends:
            self.members.clear()
            self.notes.pop(self.name, None)
            return
        self.seen = dict(self.notes) if (now - self.comes) % 3 == 0 else self.seen
        if self.sizing is None:
            fields = {"kind": "echo", "gpus": 1, "tensor_parallel_size": self.gpus}
            replicas = {"share": self.share, "priority": self.priority}
            job = Job.parse({**JOB, "engine": fields, "replicas": replicas})
            self.sizing = Sizing(place(job, MANY, ()), cluster, (), self.parts)
        else:
            self.sizing.nodes = cluster
            has = [one for one in self.members.values() if not one.retired]
            alive, placeless = sum(one.ready for one in has), sum(one.node is None for one in has)
            ending = len(self.members) - len(has)
            self.sizing.aim([Has(alive, len(has) - alive, placeless, alive, ending)], MANY, alive, False, ())
        staying = [Staying(number, one.node, one.ready) for number, one in self.members.items() if not one.retired]
        ended, retired = self.sizing.unneeded([staying], ())
        for number in ended:
            del self.members[number]
        for number in retired:
            self.members[number].retired = True
        for _ in range(self.sizing.targets[0] - (len(staying) - len(ended) - len(retired))):
            self.asked += 1
            self.members[self.asked] = Member()
            self.changes += 1
        self.changes += len(ended) + len(retired)

    def parts(self, wants: Sequence[int], usable: Sequence[Node]) -> list[Part | None]:
        own = Note(self.comes, (Wish(({"GPU": self.gpus},), wants[0]),), self.share, self.priority)
        self.notes[self.name] = own
        others = {name: note for name, note in self.seen.items() if name != self.name}
        return [part({**others, self.name: own}, self.name, 0, usable) if others else None]


def live(jobs: list[Living], sizes: list[int], ticks: range) -> None:
    """Looks of all jobs, one after the other. Between them what waits gets a place, in the order of asking, what starts is ready,
    and what was retired is gone."""
    for now in ticks:
        for job in jobs:
            job.look(nodes(*sizes), now)
        for job in jobs:
            for number, one in list(job.members.items()):
                if one.retired:
                    del job.members[number]
                one.ready = one.node is not None
        waiting = [(number, job.name, job, one) for job in jobs for number, one in job.members.items() if one.node is None]
        for _, _, job, one in sorted(waiting, key=lambda each: each[:2]):
            held = {f"a{number}": float(size) for number, size in enumerate(sizes)}
            for other in jobs:
                for each in other.members.values():
                    if each.node is not None:
                        held[each.node] -= other.gpus
            assert min(held.values()) >= 0
            one.node = next((node for node, free in held.items() if free >= job.gpus), None)


def sizes_of(jobs: list[Living]) -> list[int]:
    return [sum(one.node is not None for one in job.members.values()) for job in jobs]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Living], list[int]]:
    """Two jobs whose replicas differ, or up to four of one kind, on nodes that each kind fills."""
    count = draw(st.integers(2, 4))
    units = [draw(st.sampled_from((1, 2, 4))) for _ in range(count)] if count == 2 else [draw(st.sampled_from((1, 2, 4)))] * count
    shares, notes = st.sampled_from((0.25, 1.0, 3.0)), dict[str, Note]()
    comes = [draw(st.integers(0, 20)) for _ in units]
    more = [(draw(shares), draw(st.integers(0, 1))) for _ in units]
    jobs = [Living(f"j{n}", unit, *more[n], comes[n], 10**9, notes) for n, unit in enumerate(units)]
    return jobs, draw(st.lists(st.sampled_from((4, 8)), min_size=count, max_size=6))


def expected(jobs: list[Living], sizes: list[int]) -> Iterator[int]:
    order = sorted(range(len(jobs)), key=lambda number: (jobs[number].comes, jobs[number].name))
    claims = [Claim(jobs[n].gpus, MANY, jobs[n].share, jobs[n].priority) for n in order]
    parts = dict(zip(order, divide({frozenset(order): sum(sizes)}, claims), strict=True))
    return (parts[number] for number in range(len(jobs)))


@settings(max_examples=40)
@given(worlds())
def test_jobs_that_share_a_cluster_come_to_rest_at_their_parts_and_one_that_ends_leaves_its_own(
    world: tuple[list[Living], list[int]],
) -> None:
    jobs, sizes = world
    live(jobs, sizes, range(45))
    assert sizes_of(jobs) == list(expected(jobs, sizes))
    assert all(sizes_of(jobs)), "nobody starves"
    before = [job.changes for job in jobs]
    live(jobs, sizes, range(45, 60))
    assert [job.changes for job in jobs] == before, "nothing flaps"
    jobs[0].ends = 60
    live(jobs, sizes, range(60, 75))
    assert sizes_of(jobs) == [0, *expected(jobs[1:], sizes)]
    live(jobs, [*sizes, 4], range(75, 90))
    assert sizes_of(jobs) == [0, *expected(jobs[1:], [*sizes, 4])]
    turnover = [job.changes for job in jobs]
    live(jobs, [*sizes, 4], range(90, 105))
    assert [job.changes for job in jobs] == turnover
