"""Pools of up to 1,000 replicas, simulated: dispatch.py, the plan's span sizes and admission.py are the ones that run in a job.

    python tests/bench/simulate.py [--replicas 1,8,64,1000] [--rows-per-replica 1000] [--step 0.030 0.0003] [--seed 0]
                                   [--sequences 64] [--mean 300] [--cold 90] [--feed 200] [--deaths 0 0.1]
                                   [--lengths known,unknown,plain] [--slow 0] [--slower 4]

A replica is a continuous batch of `--sequences`: with n of them running, every sequence gains a token each base + n x slope
seconds (`--step`; service.py measures it). Rows wait in the engine in the order of admission.py. Spans come from the feed at
`--feed` a second. Replicas start after a lognormal cold start (`--cold` seconds) and die at `--deaths` an hour each; a dead
one's open spans are done again, whole (no journal), and another starts. `--slow` of them are `--slower` times slower. The lengths
of answers are known beforehand, as with `ignore_eos`, or unknown; `plain` is one size of span and rows in their order.
Utilisation is of the whole job, cold starts included, and of the time that replicas were up. Nothing else is modelled: no
prefill, no store, no network.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import math
import random
from dataclasses import dataclass, field

from batchgen.cluster.policy.dispatch import Dispatcher
from batchgen.job.job import Job
from batchgen.job.sampling import Sampling
from batchgen.plan.plan import Sizes, span_sizes
from batchgen.records import Prompt
from batchgen.replica.admission import Priority, share

LOOK = 0.5  # seconds between the driver's looks for stragglers


@dataclass
class World:
    """What is assumed. Seconds; lengths in tokens."""

    replicas: int
    rows: int
    sequences: int = 256
    base: float = 0.030
    slope: float = 0.0003
    mean: float = 300.0
    sigma: float = 0.8
    most: int = 2048
    feed: float = 200.0
    cold: float = 90.0
    deaths: float = 0.0
    seed: int = 0
    slow: int = 0
    """Replicas that are `slower` times slower than the others: the first to start."""
    slower: float = 4.0
    known: bool = True
    """Whether the lengths of answers are known beforehand (`ignore_eos`); else one is as likely as another."""
    shrink: bool = True
    longest_first: bool = True


@dataclass
class Replica:
    """One engine: `clock` counts the tokens that each running sequence has gained since the start."""

    order: Priority
    slower: float = 1.0
    since: float = 0.0
    clock: float = 0.0
    at: float = 0.0
    running: list[tuple[float, int, int]] = field(default_factory=list)  # finish clock, serial, span
    waiting: list[tuple[int, int, int, int]] = field(default_factory=list)  # place, serial, span, tokens
    open: dict[int, int] = field(default_factory=dict)
    lengths: dict[int, float] = field(default_factory=dict)  # of unfinished rows, as expected, by the mean
    load: float = 0.0
    version: int = 0
    asked: bool = True
    """For capacity: the driver asks once after each span that it assigns."""

    @property
    def unfinished(self) -> int:
        return len(self.running) + len(self.waiting)

    def wants(self, sequences: int, share: float) -> bool:
        return self.order.wants_more(self.unfinished, self.load, sequences, share)


@dataclass
class Outcome:
    makespan: float
    utilisation: float
    up: float
    """Utilisation of the time in which replicas were up: without cold starts."""
    tail: float
    redone: float


def simulate(world: World) -> Outcome:
    """Run a job of `world.rows` rows to its end. Utilisation: tokens kept, by what the pool makes in the same time when every
    replica is up and full. Tail: the part of the makespan after the first replica had nothing left to do."""
    dice = random.Random(world.seed)
    lengths = [_length(world, dice) for _ in range(world.rows)]
    spans = _spans(world)
    dispatcher: Dispatcher[int] = Dispatcher()
    dispatcher.rows_left = world.rows
    replicas: dict[int, Replica] = {}
    events: list[tuple[float, int, str, int]] = []
    serial = itertools.count()
    names = itertools.count(1)
    fed, left, made, first_idle, now, could = 0, world.rows, 0.0, math.inf, 0.0, 0.0

    def at(when: float, kind: str, who: int) -> None:
        heapq.heappush(events, (when, next(serial), kind, who))

    def start() -> None:
        at(now + dice.lognormvariate(math.log(world.cold), 0.3), "join", next(names))

    def advance(replica: Replica) -> None:
        step = replica.slower * (world.base + world.slope * len(replica.running))
        if replica.running:
            replica.clock += (now - replica.at) / step
        replica.at = now

    def fill(name: int) -> None:
        replica = replicas[name]
        while replica.waiting and len(replica.running) < world.sequences:
            _, number, span, tokens = heapq.heappop(replica.waiting)
            heapq.heappush(replica.running, (replica.clock + tokens, number, span))
        replica.version += 1
        if replica.running:
            step = replica.slower * (world.base + world.slope * len(replica.running))
            at(now + max(0.0, replica.running[0][0] - replica.clock) * step, f"row {replica.version}", name)
        if replica.asked and replica.wants(world.sequences, share(left, world.replicas) * dispatcher.pace(name, now)):
            answer(name)

    def answer(name: int) -> None:
        replicas[name].asked = False
        dispatcher.has_capacity(name, replicas[name].load)
        at(now, "look", 0)

    for _ in range(world.replicas):
        start()
    at(0.0, "feed", 0)
    at(0.0, "tick", 0)
    while not (fed == len(spans) and dispatcher.idle):
        now, _, kind, who = heapq.heappop(events)
        if kind == "feed":
            if fed < len(spans) and dispatcher.wants_item:
                dispatcher.enqueue(fed)
                fed += 1
            if fed == len(spans):
                dispatcher.end_feed()
            else:
                at(now + 1 / world.feed, "feed", 0)
        elif kind == "tick":
            at(now + LOOK, "tick", 0)
        elif kind == "join":
            replicas[who] = Replica(Priority(), world.slower if who <= world.slow else 1.0, now, at=now)
            dispatcher.join(who)
            answer(who)
            if world.deaths:
                at(now + dice.expovariate(world.deaths / 3600), "die", who)
        elif kind == "die" and who in replicas:
            dead = replicas.pop(who)
            could += (now - dead.since) / dead.slower
            dispatcher.lost(who)
            start()
            at(now, "look", 0)
        elif kind.startswith("row") and who in replicas and kind == f"row {replicas[who].version}":
            replica = replicas[who]
            advance(replica)
            replica.clock = max(replica.clock, replica.running[0][0])
            while replica.running and replica.running[0][0] <= replica.clock + 1e-9:
                _, number, span = heapq.heappop(replica.running)
                replica.open[span] -= 1
                replica.load -= replica.lengths.pop(number)
                made += lengths[number]
                if replica.open[span] == 0 and dispatcher.finish(who, span, now, size := spans[span][1] - spans[span][0]):
                    left -= size
                    dispatcher.rows_left = left
            fill(who)
            if not replica.unfinished and dispatcher.feed_ended and not dispatcher.queue:
                first_idle = min(first_idle, now)
        while kind in ("feed", "look", "tick") and (assignment := dispatcher.take(now)) is not None:
            name, span = assignment
            replica = replicas[name]
            advance(replica)
            low, high = spans[span]
            replica.open[span] = high - low
            places = _places(world, replica, lengths[low:high])
            for number, (place, length) in zip(range(low, high), places, strict=True):
                replica.lengths[number] = length
                replica.load += length
                heapq.heappush(replica.waiting, (place, number, span, lengths[number]))
            replica.asked = True
            fill(name)
    full = world.sequences / (world.base + world.slope * world.sequences)
    tokens = sum(lengths)
    could += sum((now - replica.since) / replica.slower for replica in replicas.values())
    pool = world.replicas - world.slow * (1 - 1 / world.slower)
    return Outcome(
        makespan=now,
        utilisation=tokens / (full * pool * now),
        up=tokens / (full * could),
        tail=max(0.0, now - first_idle) / now,
        redone=made / tokens - 1,
    )


def _length(world: World, dice: random.Random) -> int:
    tokens = dice.lognormvariate(math.log(world.mean) - world.sigma**2 / 2, world.sigma)
    return max(1, min(world.most, int(tokens)))


def _spans(world: World) -> list[tuple[int, int]]:
    job = {"input": {"path": "x", "prompt": "p"}, "engine": {"kind": "echo"}, "output": {"path": "y"}}
    sizes = span_sizes(Job.parse({**job, "replicas": {"max": world.replicas}}), world.rows)
    if not world.shrink:
        sizes = Sizes(sizes.most, sizes.most, sizes.pool)
    spans, low = [], 0
    while low < world.rows:
        spans.append((low, min(world.rows, low + sizes.rows(world.rows - low))))
        low = spans[-1][1]
    return spans


@functools.cache
def _sampling(most: int) -> Sampling:
    return Sampling.model_construct(max_tokens=most, ignore_eos=True)


def _places(world: World, replica: Replica, lengths: list[int]) -> list[tuple[int, float]]:
    if not world.longest_first:
        return [(0, 1.0)] * len(lengths)  # then the rows' numbers decide
    told = lengths if world.known else [world.most] * len(lengths)
    prompts = [Prompt(n, "", n, 0, None, sampling=_sampling(most)) for n, most in enumerate(told)]
    return replica.order.of_span(prompts, world.sequences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,8,64,1000")
    parser.add_argument("--rows-per-replica", type=int, default=1000)
    parser.add_argument("--step", type=float, nargs=2, default=(0.030, 0.0003))
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--mean", type=float, default=300.0)
    parser.add_argument("--cold", type=float, default=90.0)
    parser.add_argument("--feed", type=float, default=200.0)
    parser.add_argument("--deaths", type=float, nargs="*", default=(0.0, 0.1))
    parser.add_argument("--lengths", default="known,unknown,plain")
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--slower", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    head = ["replicas", "rows", "deaths/h each", "lengths", "hours", "utilisation", "of the time up", "tail", "done twice"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for size, deaths, kind in itertools.product(
        map(int, options.replicas.split(",")), options.deaths, options.lengths.split(",")
    ):
        world = World(
            replicas=size,
            rows=size * options.rows_per_replica,
            sequences=options.sequences,
            base=options.step[0],
            slope=options.step[1],
            mean=options.mean,
            cold=options.cold,
            feed=options.feed,
            deaths=deaths,
            seed=options.seed,
            slow=options.slow,
            slower=options.slower,
            known=kind != "unknown",
            shrink=kind != "plain",
            longest_first=kind != "plain",
        )
        made = simulate(world)
        shares = [f"{share:.1%}" for share in (made.utilisation, made.up, made.tail, made.redone)]
        print(
            f"| {size:,} | {world.rows:,} | {deaths:g} | {kind} | {made.makespan / 3600:.2f} | {' | '.join(shares)} |", flush=True
        )


if __name__ == "__main__":
    main()
