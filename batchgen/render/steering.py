"""The attribute values of each message, in every variant of a row: the schema's defaults, the job's values, the row's columns,
the message's own keys, the variant's values, of which a later one wins. Where the schema says so, an earlier answer has its own
keys, else the defaults."""

import itertools
import random
from collections.abc import Mapping

import orjson
import xxhash

from batchgen.errors import BadRow
from batchgen.job.attributes import Attributes
from batchgen.records import Message


class Steering:
    """`names` are the schema's attributes, in its order; none without a schema."""

    def __init__(self, attributes: Attributes | None) -> None:
        self.schema = attributes.schema if attributes and attributes.names else None
        self.names = attributes.names if attributes else ()
        self.columns = attributes.column_of() if attributes else {}
        self._constant = self.schema.default_values | self.schema.check(attributes.values) if self.schema and attributes else {}
        self._draw = attributes.sample if attributes else None
        self._points = attributes.points if attributes else [{}]
        self._weights = list(itertools.accumulate(attributes.weights)) if attributes else []

    def own(self, data: Mapping[str, object]) -> dict[str, int]:
        """The row's own values, from its columns. Raises BadRow (input)."""
        return self._checked({name: data.get(column) for name, column in self.columns.items()})

    def variants(self, shard: str, ordinal: int) -> list[dict[str, int]]:
        """The values in which the variants of a row differ: the sweep's, or k draws from the seed and the row's name alone."""
        if self._draw is None:
            return self._points
        dice = random.Random(xxhash.xxh3_64_intdigest(orjson.dumps([self._draw.seed, shard, ordinal])))
        return dice.choices(self._points, cum_weights=self._weights, k=self._draw.k)

    def steer(self, messages: list[Message], own: dict[str, int], variant: dict[str, int]) -> list[Message]:
        """Put the values into every user message and answer. Raises BadRow (input)."""
        if self.schema is None:
            return messages
        row = self._constant | own
        steered = []
        values: dict[str, int] = {}
        for index, message in enumerate(messages):
            role, last = message["role"], index == len(messages) - 1
            if role == "user" or (self.schema.of_answers and role != "system"):
                given = self._checked({name: message[name] for name in self.names if name in message})
                earlier = self.schema.of_answers and role != "user" and not last
                values = self.schema.default_values | given if earlier else row | given | variant
            carried = {} if role == "system" else values  # an answer has the values of the message before it
            steered.append({key: value for key, value in message.items() if key not in self.names} | carried)
        return steered

    def of(self, message: Message) -> dict[str, int]:
        """The values that a steered message carries."""
        return {name: message[name] for name in self.names if name in message}

    def _checked(self, values: Mapping[str, object]) -> dict[str, int]:
        if self.schema is None:
            return {}
        try:
            return self.schema.check(values)
        except ValueError as error:
            raise BadRow("input", f"attribute {error}") from None
