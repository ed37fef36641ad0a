"""The order in which rows enter an engine: longer answers ahead, so that a job does not end on a few long rows.

What `ignore_eos` makes exact is taken as it is; other lengths are learned from the rows that are finished, by attribute
values (verbosity 4 answers are longer than verbosity 0 ones). A row moves ahead of its turn by PUSH times as many places as an
engine has sequences, times its length relative to the mean: rows of one length keep their order, and no row waits for
more than MOST_AHEAD engines full of later ones, so that spans still finish in about the order of the plan.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Hashable, Iterable
from typing import Any

FULL, INSIDE, DEEP = 1.25, 2, 16
"""Engines full of prompts: that a replica always has, that are inside its engine, that it has where their order matters."""
APART = 0.3
PUSH, MOST_AHEAD = 4.0, 16.0
HALF_LIFE = 16.0
PRIOR_ROWS = 8.0
UNBOUNDED = 1024
"""Tokens that an answer without a bound is taken to have at most."""


class Lengths:
    """Expected completion tokens of a row, by a key of the caller's."""

    def __init__(self) -> None:
        self._by_key: dict[Hashable, tuple[float, float]] = {}
        self._rows = self._tokens = 0.0

    def learn(self, key: Hashable, tokens: int) -> None:
        """A row of this key was answered with so many tokens."""
        rows, total = self._by_key.get(key, (0.0, 0.0))
        self._by_key[key] = rows + 1, total + tokens
        self._rows, self._tokens = self._rows + 1, self._tokens + tokens

    def expect(self, key: Hashable, sampling: dict[str, Any]) -> float:
        """Tokens of one answer: the mean of the key's rows, drawn to the mean of all by PRIOR_ROWS of them."""
        most: int = sampling["max_tokens"] or UNBOUNDED
        if sampling["ignore_eos"] or not self._rows:
            return most
        rows, total = self._by_key.get(key, (0.0, 0.0))
        learned = (total + PRIOR_ROWS * self._tokens / self._rows) / (rows + PRIOR_ROWS)
        return float(min(max(learned, sampling["min_tokens"], 1), most))


class Order:
    """Gives each prompt of a replica its place in the queue for the engine; a lower one goes first."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._arrived = 0
        self._rows = self._tokens = self._squares = 0.0

    @property
    def tells_apart(self) -> bool:
        """Whether the lengths expected of late differ: their deviation is over APART of their mean."""
        return self._squares * self._rows > (1 + APART**2) * self._tokens**2

    def wants(self, prompts: int, load: float, capacity: int, share: float) -> bool:
        """Whether a replica with so many `prompts` unfinished, worth `load` prompts of mean length, should have more. `share`
        (sizes.share) is its part of the job. It has more than may be inside only where long ones can be told from short ones."""
        most = max(INSIDE * capacity, min(DEEP * capacity, share) if self.tells_apart else 0.0)
        return prompts < FULL * capacity or load < most

    def places(self, prompts: Iterable[dict[str, Any]], capacity: int) -> list[tuple[int, float]]:
        """Of each prompt of a span (rows of records.prompt_schema) its place, and its expected length by the mean. The
        variants of a row share a place, and with it their prefix in the cache."""
        prompts = list(prompts)
        expectations = [self._expect(prompt) for prompt in prompts]
        longest: dict[int, float] = {}
        for prompt, expected in zip(prompts, expectations, strict=True):
            if expected:
                longest[prompt["source"]] = max(longest.get(prompt["source"], 0.0), expected)
        # What was expected before anything was learned is forgotten.
        kept = 0.5 ** (len(longest) / (HALF_LIFE * capacity))
        self._rows = kept * self._rows + len(longest)
        self._tokens = kept * self._tokens + sum(longest.values())
        self._squares = kept * self._squares + sum(expected**2 for expected in longest.values())
        mean = self._tokens / self._rows if self._rows else 1.0
        first = {}
        for source, expected in longest.items():
            self._arrived += 1
            first[source] = self._arrived - round(capacity * min(PUSH * expected / mean, MOST_AHEAD))
        return [(first.get(prompt["source"], 0), expected / mean) for prompt, expected in zip(prompts, expectations, strict=True)]

    def _expect(self, prompt: dict[str, Any]) -> float:
        """Tokens of all turns; none of a prompt that is an error already."""
        if prompt["error_code"] is not None:
            return 0.0
        return (1 + len(prompt["turns"])) * self._lengths.expect(length_key(prompt), prompt["sampling"])


class Line:
    """Where prompts wait for their turn in an engine, in the order of their places; those of one place as they came."""

    def __init__(self) -> None:
        self._inside = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = itertools.count()

    async def enter(self, place: int, most: int) -> None:
        """Return when fewer than `most` are inside and nobody with a lower place waits."""
        if self._inside < most:
            self._inside += 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (place, next(self._serial), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Let the next one in."""
        while self._waiting:
            if not (turn := heapq.heappop(self._waiting)[2]).cancelled():
                return turn.set_result(None)
        self._inside -= 1


def length_key(prompt: dict[str, Any]) -> Hashable:
    """What the length of a prompt's answer is learned by: its attribute values."""
    return tuple(prompt["attributes"].values()) if prompt["attributes"] else ()
