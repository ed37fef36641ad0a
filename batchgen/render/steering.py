"""Attribute values, message by message, in every variant of a row.

The schema's defaults, the job's values, the row's columns, the message's own keys, the variant's values: each wins over those
before it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import orjson
import xxhash

from batchgen.errors import BadRow
from batchgen.job.attributes import WEIGHT, Attributes


class Values:
    """`names` are the schema's attributes, in its order; none without a schema."""

    def __init__(self, attributes: Attributes | None) -> None:
        self.schema = attributes.schema if attributes and attributes.names else None
        self.names = attributes.names if attributes else ()
        self.columns = attributes.column_of() if attributes else {}
        self._chooser = Chooser(attributes)
        self._constant = self.schema.defaults | self.schema.check(attributes.values) if self.schema and attributes else {}

    def own(self, data: Mapping[str, Any]) -> dict[str, int]:
        """The row's own values, from its columns. Raises BadRow (input)."""
        return self._checked({name: data.get(column) for name, column in self.columns.items()})

    def variants(self, shard: str, ordinal: int) -> list[dict[str, int]]:
        """The values in which each variant differs."""
        return self._chooser(shard, ordinal)

    def steer(self, messages: list[dict[str, Any]], own: dict[str, int], variant: dict[str, int]) -> list[dict[str, Any]]:
        """Put the values into every user message and into its answer. Raises BadRow (input)."""
        if self.schema is None:
            return messages
        row = self._constant | own
        steered = []
        values: dict[str, int] = {}
        for message in messages:
            if message["role"] == "user":
                values = row | self._checked({name: message[name] for name in self.names if name in message}) | variant
            carried = {} if message["role"] == "system" else values  # an answer's are those of what it answers
            steered.append({"role": message["role"], "content": message["content"], **carried})
        return steered

    def of(self, message: Mapping[str, Any]) -> dict[str, int]:
        """The values that a steered message carries."""
        return {name: message[name] for name in self.names if name in message}

    def _checked(self, values: Mapping[str, object]) -> dict[str, int]:
        if self.schema is None:
            return {}
        try:
            return self.schema.check(values)
        except ValueError as error:
            raise BadRow("input", f"attribute {error}") from None


class Chooser:
    """The values that make the variants of a row."""

    def __init__(self, attributes: Attributes | None) -> None:
        self._points: list[dict[str, int]] = [{}]
        self._draw = attributes.sample if attributes else None
        if attributes is not None and self._draw is not None:
            rows = self._draw.combinations
            self._points = [attributes.schema.check({k: v for k, v in row.items() if k != WEIGHT}) for row in rows]
            self._weights = list(itertools.accumulate(row.get(WEIGHT, 1) for row in rows))
        elif attributes is not None:
            self._points = attributes.points

    def __call__(self, shard: str, ordinal: int) -> list[dict[str, int]]:
        if self._draw is None:
            return self._points
        dice = random.Random(xxhash.xxh3_64_intdigest(orjson.dumps([self._draw.seed, shard, ordinal])))
        return dice.choices(self._points, cum_weights=self._weights, k=self._draw.k)
