"""The order in which rows enter an engine: longer answers a little ahead, so that a job does not end on one long row.

What `ignore_eos` makes exact is taken as it is; other lengths are learned from the rows that are finished, by attribute
values (verbosity 4 answers are longer than verbosity 0 ones). A row moves ahead of its turn by as many places as an engine
has sequences, times its length relative to the mean, at most MOST_AHEAD times: rows of one length keep their order, and
no row waits for more than those places, so that spans still finish in about the order of the plan.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

MOST_AHEAD = 4.0
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
        return float(min(max(learned, sampling["min_tokens"]), most))


class Order:
    """Gives each prompt of a replica its place in the engine's queue; a lower one goes first."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._arrived = self._rows = 0
        self._tokens = 0.0

    def places(self, prompts: Iterable[dict[str, Any]], capacity: int) -> list[int]:
        """Places of the prompts of a span (rows of records.prompt_schema). The variants of a row share a place, and with
        it their prefix in the cache."""
        prompts = list(prompts)
        longest: dict[int, float] = {}
        for prompt in prompts:
            if prompt["error_code"] is None:
                turns = 1 + len(prompt["turns"])
                expected = turns * self._lengths.expect(length_key(prompt), prompt["sampling"])
                longest[prompt["source"]] = max(longest.get(prompt["source"], 0.0), expected)
        self._rows += len(longest)
        self._tokens += sum(longest.values())
        first = {}
        for source, expected in longest.items():
            self._arrived += 1
            relative = expected * self._rows / self._tokens
            first[source] = self._arrived - round(capacity * min(relative, MOST_AHEAD))
        return [first.get(prompt["source"], 0) for prompt in prompts]


def length_key(prompt: dict[str, Any]) -> Hashable:
    """What the length of a prompt's answer is learned by: its attribute values."""
    return tuple(prompt["attributes"].values()) if prompt["attributes"] else ()
