"""Pools of up to 1,000 replicas, simulated: dispatch.py, size.py, the plan's span sizes and admission.py are the ones of a job.

    python tests/bench/simulate.py [--replicas 8 64 1000] [--rows-per-replica 10000] [--step 0.030 0.0003] [--seeds 3]
                                   [--sequences 64] [--mean 300] [--cold 90 600] [--feed 200] [--deaths 0 0.1]
                                   [--journal 30] [--lengths unknown] [--slow 0] [--slower 4]

A replica is a continuous batch of `--sequences`: with n of them running, every sequence gains a token each base + n x slope
seconds (`--step`; service.py measures it). Rows wait in the engine in the order of admission.py. Spans come from the feed at
`--feed` a second. Replicas start after a lognormal cold start of median `--cold` seconds and die at `--deaths` an hour each. The
open spans of a dead one are run again without the rows of its last journal, written every `--journal` seconds (0: no journal),
and another replica starts where size.py wants one; idle ones that it does not want are released. `--slow` of them are `--slower`
times slower. The lengths of answers are known beforehand, as with `ignore_eos`, or unknown; `plain` is one size of span and rows
in their order. Medians of `--seeds` seeds, in brackets the least and the most. Nothing else is modelled: no prefill, no store, no
network, no limit of the driver.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import statistics
from array import array
from dataclasses import dataclass

from simulated import Replica, World, places

from batchgen.cluster.policy.dispatch import Dispatcher
from batchgen.cluster.policy.size import State, target
from batchgen.job.job import Job
from batchgen.plan.plan import Sizes, span_sizes
from batchgen.replica.admission import share

LOOK = 0.5  # seconds between the driver's looks for stragglers
ADJUST = 2.0  # and between those at the size of the pool


@dataclass
class Outcome:
    makespan: float
    utilisation: float
    up: float
    """Utilisation of the time in which replicas were up: without cold starts."""
    tail: float
    redone: float


class Simulation:
    """A job of `world.rows` rows. Utilisation: tokens kept, by what the pool makes in the same time when every replica is up and
    full. Tail: the part of the makespan after the first replica had nothing left to do."""

    def __init__(self, world: World) -> None:
        self.world, self.dice = world, random.Random(world.seed)
        self.lengths = array("i", (_length(world, self.dice) for _ in range(world.rows)))
        self.spans = _spans(world)
        self.dispatcher: Dispatcher[int] = Dispatcher()
        self.dispatcher.rows_left = self.left = world.rows
        self.replicas: dict[int, Replica] = {}
        self.kept: dict[int, set[int]] = {}  # rows in the journals of replicas that are gone
        self.events: list[tuple[float, int, str, int, int]] = []
        self.serial, self.names = itertools.count(), itertools.count(1)
        self.target, self.starting, self.fed, self.done = world.replicas, 0, 0, 0
        self.made, self.could, self.first_idle, self.now = 0, 0.0, math.inf, 0.0

    def run(self) -> Outcome:
        for _ in range(self.world.replicas):
            self.start()
        for kind in ("feed", "tick", "adjust"):
            self.at(0.0, kind)
        while not (self.fed == len(self.spans) and self.dispatcher.idle):
            self.now, _, kind, who, version = heapq.heappop(self.events)
            if not who or kind == "join" or (who in self.replicas and version in (-1, self.replicas[who].version)):
                getattr(self, kind)(who)
            if kind in ("feed", "look", "tick"):
                self.assign()
        for name in [*self.replicas]:
            self.gone(name)
        tokens, world = sum(self.lengths), self.world
        full = world.sequences / world.step(world.sequences)
        pool = world.replicas - world.slow * (1 - 1 / world.slower)
        return Outcome(
            makespan=self.now,
            utilisation=tokens / (full * pool * self.now),
            up=tokens / (full * self.could),
            tail=max(0.0, self.now - self.first_idle) / self.now,
            redone=self.made / tokens - 1,
        )

    def at(self, when: float, kind: str, who: int = 0, version: int = -1) -> None:
        heapq.heappush(self.events, (when, next(self.serial), kind, who, version))

    def start(self) -> None:
        self.starting += 1
        self.at(self.now + self.dice.lognormvariate(math.log(self.world.cold), 0.3), "join", next(self.names))

    def join(self, name: int) -> None:
        self.starting -= 1
        replica = self.replicas[name] = Replica(self.world, self.now, self.world.slower if name <= self.world.slow else 1.0)
        self.dispatcher.join(name)
        if self.world.deaths:
            replica.dies = self.now + self.dice.expovariate(self.world.deaths / 3600)
            self.at(replica.dies, "die", name)
        self.follow(name)

    def die(self, name: int) -> None:
        for span in self.replicas[name].open:
            self.kept.setdefault(span, set()).update(self.replicas[name].journal(span, self.now))
        self.gone(name)
        self.dispatcher.lost(name)
        if len(self.replicas) + self.starting < self.target:
            self.start()
        self.look()

    def gone(self, name: int) -> None:
        replica = self.replicas.pop(name)
        self.made += sum(self.lengths[row] for one in replica.open.values() for when, row in one.done if when <= self.now)
        self.could += (self.now - replica.since) / replica.slower

    def feed(self, _: int = 0) -> None:
        if self.fed < len(self.spans) and self.dispatcher.wants_item:
            self.dispatcher.enqueue(self.fed)
            self.fed += 1
        if self.fed == len(self.spans):
            self.dispatcher.end_feed()
        else:
            self.at(self.now + 1 / self.world.feed, "feed")

    def look(self, _: int = 0) -> None:
        """Assign, here and where the events call it."""

    def tick(self, _: int = 0) -> None:
        self.at(self.now + LOOK, "tick")

    def adjust(self, _: int = 0) -> None:
        """Let the pool have the size that it should."""
        self.at(self.now + ADJUST, "adjust")
        running, most = self.dispatcher.open_items, self.world.replicas
        idle = [name for name, held in self.dispatcher.running.items() if not held]
        self.target = target(
            State(
                least=1,
                most=most,
                holds=most,
                could_hold=None,
                alive=len(self.replicas),
                starting=self.starting,
                busy=len(self.replicas) - len(idle),
                waiting=len(self.spans) - self.done - running,
                running=running,
                feed_ended=self.dispatcher.feed_ended,
            )
        )
        surplus = len(self.replicas) + self.starting - self.target
        for name in idle[::-1][: max(0, surplus)]:
            self.gone(name)
            self.dispatcher.lost(name)
        for _ in range(-surplus):
            self.start()

    def rows(self, name: int) -> None:
        """The replica has come to where something may be heard of it."""
        replica, spans = self.replicas[name], self.spans
        replica.generate(self.now)
        for span in replica.ended:
            self.made += sum(self.lengths[row] for _, row in replica.open.pop(span).done)
            low, high = spans[span]
            if self.dispatcher.finish(name, span, self.now, high - low):
                self.left -= high - low
                self.done += 1
                self.dispatcher.rows_left = self.left
                self.kept.pop(span, None)
        replica.ended.clear()
        if not replica.unfinished and self.dispatcher.feed_ended and not self.dispatcher.queue:
            self.first_idle = min(self.first_idle, self.now)
        self.follow(name)

    def follow(self, name: int) -> None:
        """Tell the driver of room for a span, and go on."""
        replica = self.replicas[name]
        if not replica.free and not replica.ended and replica.has_room:
            replica.free = True
            self.dispatcher.has_capacity(name, replica.load, self.now)
            self.at(self.now, "look")
        replica.version += 1
        if not replica.free:
            replica.generate(replica.dies)
        if replica.ended or (not replica.free and replica.has_room):
            self.at(replica.at, "rows", name, replica.version)
        elif replica.free and (when := replica.next_row) < replica.dies:
            self.at(when, "rows", name, replica.version)

    def assign(self) -> None:
        while (assignment := self.dispatcher.take(self.now)) is not None:
            name, span = assignment
            replica, low, high = self.replicas[name], *self.spans[span]
            replica.wait(self.now)
            rows: list[int] = [*range(low, high)]
            if self.dispatcher.has_run_before(span):
                found = self.kept.get(span, set()).union(*(one.journal(span, self.now) for one in self.replicas.values()))
                rows = [row for row in rows if row not in found]
            replica.add(span, rows, places(self.world, replica, [self.lengths[row] for row in rows]), self.lengths)
            alone = self.target < 2
            replica.share = share(self.left, max(1, self.target)) * (1.0 if alone else self.dispatcher.pace(name, self.now))
            replica.free = False
            self.follow(name)


def simulate(world: World) -> Outcome:
    return Simulation(world).run()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="*", default=(8, 64, 1000))
    parser.add_argument("--rows-per-replica", type=int, default=10_000)
    parser.add_argument("--step", type=float, nargs=2, default=(0.030, 0.0003))
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--mean", type=float, default=300.0)
    parser.add_argument("--cold", type=float, nargs="*", default=(90.0, 600.0))
    parser.add_argument("--feed", type=float, default=200.0)
    parser.add_argument("--deaths", type=float, nargs="*", default=(0.0, 0.1))
    parser.add_argument("--journal", type=float, default=30.0)
    parser.add_argument("--lengths", nargs="*", default=("unknown",))
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--slower", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    head = [
        "replicas",
        "rows",
        "cold start s",
        "deaths/h each",
        "lengths",
        "hours",
        "utilisation",
        "of the time up",
        "tail",
        "done twice",
    ]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for size, cold, deaths, kind in itertools.product(options.replicas, options.cold, options.deaths, options.lengths):
        worlds = [
            World(
                replicas=size,
                rows=size * options.rows_per_replica,
                sequences=options.sequences,
                base=options.step[0],
                slope=options.step[1],
                mean=options.mean,
                cold=cold,
                feed=options.feed,
                deaths=deaths,
                journal=options.journal,
                seed=seed,
                slow=options.slow,
                slower=options.slower,
                known=kind != "unknown",
                shrink=kind != "plain",
                longest_first=kind != "plain",
            )
            for seed in range(options.seeds)
        ]
        made = [simulate(world) for world in worlds]
        cells = [f"{size:,}", f"{worlds[0].rows:,}", f"{cold:g}", f"{deaths:g}", kind]
        cells.append(f"{statistics.median(one.makespan for one in made) / 3600:.2f}")
        for name in ("utilisation", "up", "tail", "redone"):
            found = sorted(getattr(one, name) for one in made)
            range_ = f" ({found[0]:.1%} to {found[-1]:.1%})" if found[1:] else ""
            cells.append(f"{statistics.median(found):.1%}{range_}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
