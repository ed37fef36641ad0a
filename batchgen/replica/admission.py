"""Which prompt enters the engine when: longer answers ahead, so that a job does not end on a few long rows.

The length of an answer with `ignore_eos` is known; others are learned from finished rows, by attribute values (answers of
verbosity 4 are longer than those of verbosity 0). A row moves ahead of its turn by PUSH times as many places as an engine has
sequences, times its length relative to the mean: rows of one length keep their order, and no row waits for more than MOST_AHEAD
engines full of later ones, so that spans still finish in about the order of the plan. `python tests/bench/simulate.py` shows the
effect of each constant."""

import asyncio
import heapq
import itertools
from collections.abc import Iterable

from batchgen.records import Prompt

MIN_HELD, IN_ENGINE, MAX_HELD = 1.25, 2, 16
"""Prompts as multiples of the engine's sequences: held at least; inside the engine; held at most, where their order matters."""
APART = 0.3  # lengths differ when their standard deviation is over this fraction of their mean
PUSH, MOST_AHEAD = 4.0, 16.0  # engines full of rows by which a row moves ahead: one of mean length, and any at most
HALF_LIFE = 16.0  # engines full of rows after which an expectation counts half
PRIOR_ROWS = 8.0  # rows of mean length with which every combination of attribute values begins
UNBOUNDED = 1024  # tokens assumed as the maximum of an answer without max_tokens


class Priority:
    """The priority of each prompt in the queue for an engine, by the lengths of finished ones; the lowest goes first."""

    def __init__(self) -> None:
        self._learned: dict[tuple[int, ...] | None, tuple[int, int]] = {}
        """Answers that finished and their tokens, by attribute values; of all under None."""
        self._arrivals = itertools.count(1)
        self._rows = self._tokens = self._squares = 0.0
        """Of the rows expected lately: how many, their tokens, the squares of these."""

    def learn(self, prompt: Prompt, tokens: int) -> None:
        """The prompt was answered with this many tokens in all its turns."""
        for key in (None, tuple((prompt.attributes or {}).values())):
            answers, total = self._learned.get(key, (0, 0))
            self._learned[key] = answers + 1, total + tokens // (1 + len(prompt.turns))

    def expect(self, prompt: Prompt) -> float:
        """Tokens of all turns, 0 for an error. Of a turn: the mean for its attributes, drawn to the mean of all by PRIOR_ROWS. Of
        a prompt without an answer, which has no sampling: its own."""
        sampling, turns = prompt.sampling, 1 + len(prompt.turns)
        if prompt.error is not None or sampling is None:
            return 0.0 if prompt.error is not None else float(len(prompt.token_ids))
        most = sampling.max_tokens or UNBOUNDED
        if sampling.ignore_eos or None not in self._learned:
            return float(turns * most)
        all_answers, all_tokens = self._learned[None]
        answers, tokens = self._learned.get(tuple((prompt.attributes or {}).values()), (0, 0))
        learned = (tokens + PRIOR_ROWS * all_tokens / all_answers) / (answers + PRIOR_ROWS)
        return float(turns * min(max(learned, sampling.min_tokens, 1), most))

    @property
    def tells_apart(self) -> bool:
        """Whether the lengths expected lately differ."""
        return self._squares * self._rows > (1 + APART**2) * self._tokens**2

    def wants_more(self, prompts: int, load: float, capacity: int, share: float) -> bool:
        """Whether a replica with this many unfinished `prompts`, worth `load` prompts of mean length, should have more. `share`
        is its part of the job. It holds more prompts than may be inside only where long ones can be told from short ones."""
        most = max(IN_ENGINE * capacity, min(MAX_HELD * capacity, share) if self.tells_apart else 0.0)
        return prompts < MIN_HELD * capacity or load < most

    def of_span(self, prompts: Iterable[Prompt], capacity: int) -> list[tuple[int, float]]:
        """The priority of each prompt of a span, and its expected length relative to the mean. The variants of a row share a
        priority, and with it their prefix in the cache."""
        expected = [(prompt.source, self.expect(prompt)) for prompt in prompts]
        longest: dict[int, float] = {}
        for source, tokens in expected:
            if tokens:
                longest[source] = max(longest.get(source, 0.0), tokens)
        # Expectations from before anything was learned are forgotten.
        kept = 0.5 ** (len(longest) / (HALF_LIFE * capacity))
        self._rows = kept * self._rows + len(longest)
        self._tokens = kept * self._tokens + sum(longest.values())
        self._squares = kept * self._squares + sum(tokens**2 for tokens in longest.values())
        mean = self._tokens / self._rows if self._rows else 1.0
        ahead = {source: round(capacity * min(PUSH * tokens / mean, MOST_AHEAD)) for source, tokens in longest.items()}
        priorities = {source: next(self._arrivals) - places for source, places in ahead.items()}
        return [(priorities.get(source, 0), tokens / mean) for source, tokens in expected]


class Queue:
    """Where prompts wait for their turn in an engine, by priority; those of one priority in the order in which they came."""

    def __init__(self) -> None:
        self._inside = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = itertools.count()

    async def enter(self, priority: int, most: int) -> None:
        """Return when fewer than `most` are inside and nobody with a lower priority waits."""
        if self._inside < most:
            self._inside += 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._serial), turn))
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


def share(left: float, pool: int) -> float:
    """The prompts that one replica of `pool` may hold of `left` unfinished ones: all where it is alone, else somewhat less than
    its part, so that the last ones go to whoever is done first."""
    return left / (1.5 * pool - 0.5)
