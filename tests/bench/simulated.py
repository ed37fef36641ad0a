"""The replicas of simulate.py: what is assumed of the world, and one engine with the rows that it holds."""

from __future__ import annotations

import functools
import heapq
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from batchgen.job.sampling import Sampling
from batchgen.records import Prompt
from batchgen.replica.admission import Priority


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
    journal: float = 30.0
    """Seconds between the journals of a replica; 0: none."""
    seed: int = 0
    slow: int = 0
    """Replicas that are `slower` times slower than the others: the first to start."""
    slower: float = 4.0
    known: bool = True
    """Whether the lengths of answers are known beforehand (`ignore_eos`); else one is as likely as another."""
    shrink: bool = True
    longest_first: bool = True

    def step(self, running: int) -> float:
        return self.base + self.slope * running


@dataclass
class Open:
    """A span that a replica has not finished: how many rows are missing, and when each of the others was done."""

    missing: int
    done: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class Replica:
    """One engine: `clock` counts the tokens that each running sequence has gained since the start. It runs ahead of the events,
    as far as nothing can reach it: up to a finished span, to room for another or to its death."""

    world: World
    since: float
    slower: float = 1.0
    dies: float = math.inf
    order: Priority = field(default_factory=Priority)
    clock: float = 0.0
    at: float = 0.0
    running: list[tuple[float, int, int, float]] = field(default_factory=list)  # finish clock, row, span, expected length
    waiting: list[tuple[int, int, int, float, int]] = field(default_factory=list)  # place, row, span, expected length, tokens
    open: dict[int, Open] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    """Spans that are done and not yet told."""
    load: float = 0.0
    share: float = 0.0
    """Of the question for capacity that the driver asked last."""
    free: bool = False
    """Whether that was answered: a span may come at any time."""
    version: int = 0

    def __post_init__(self) -> None:
        self.at = self.since

    @property
    def unfinished(self) -> int:
        return len(self.running) + len(self.waiting)

    @property
    def has_room(self) -> bool:
        return self.order.wants_more(self.unfinished, self.load, self.world.sequences, self.share)

    @property
    def next_row(self) -> float:
        """When the next row is done."""
        if not self.running:
            return math.inf
        return self.at + max(0.0, self.running[0][0] - self.clock) * self.slower * self.world.step(len(self.running))

    def add(self, span: int, rows: list[int], places: list[tuple[int, float]], lengths: array[int]) -> None:
        self.open[span] = Open(len(rows))
        for row, (place, length) in zip(rows, places, strict=True):
            self.load += length
            heapq.heappush(self.waiting, (place, row, span, length, lengths[row]))
        if not rows:
            self.ended.append(span)
        self.fill()

    def fill(self) -> None:
        while self.waiting and len(self.running) < self.world.sequences:
            _, row, span, length, tokens = heapq.heappop(self.waiting)
            heapq.heappush(self.running, (self.clock + tokens, row, span, length))

    def generate(self, until: float) -> None:
        """Go on to `until`, or to the first moment of which the driver hears."""
        while not self.ended and (self.free or not self.has_room) and (when := self.next_row) <= until:
            self.at, self.clock = when, max(self.clock, self.running[0][0])
            while self.running and self.running[0][0] <= self.clock + 1e-9:
                _, row, span, length = heapq.heappop(self.running)
                self.load -= length
                open_ = self.open[span]
                open_.missing -= 1
                open_.done.append((when, row))
                if not open_.missing:
                    self.ended.append(span)
            self.fill()

    def wait(self, now: float) -> None:
        """Let the rows run on to `now`, before which none is done."""
        if self.running:
            self.clock += (now - self.at) / (self.slower * self.world.step(len(self.running)))
        self.at = now

    def journal(self, span: int, now: float) -> Iterable[int]:
        """The rows of an open span in the journals that are written."""
        if not self.world.journal or span not in self.open:
            return ()
        last = now - (now - self.since) % self.world.journal
        return (row for when, row in self.open[span].done if when <= last)


@functools.cache
def _sampling(most: int) -> Sampling:
    return Sampling.model_construct(max_tokens=most, ignore_eos=True)


@functools.cache
def _prompt(row: int, most: int) -> Prompt:
    return Prompt(row, "", row, 0, None, sampling=_sampling(most))


def places(world: World, replica: Replica, lengths: list[int]) -> list[tuple[int, float]]:
    if not world.longest_first:
        return [(0, 1.0)] * len(lengths)  # then the rows' numbers decide
    told = lengths if world.known else [world.most] * len(lengths)
    return replica.order.of_span([_prompt(n, most) for n, most in enumerate(told)], world.sequences)
