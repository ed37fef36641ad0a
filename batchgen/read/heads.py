"""What the first rows of JSONL shards tell: the types of their columns, how long a row is, and which keys
messages have."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from batchgen.read.formats import Head
from batchgen.read.layouts.sharegpt import CALLERS, speaker
from batchgen.records import CALL_KEYS, REASONINGS, Data

MOST_COLUMNS = 10_000  # get a type; a row's other ones go into `input_extra`
ODD = 0.01  # of the values of a column have another type than the others and go into `input_extra`
SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass
class Seen:
    """What is known of the rows of some heads once they have gone by: how many, the bytes of their text, and whether there were
    calls of tools, or reasoning, in the column with conversations."""

    conversation: str | None
    rows: int = 0
    bytes: int = 0
    calls: bool = False
    reasoning: bool = False

    def rows_of(self, head: Head, most: int) -> Iterator[Data]:
        """The rows of a head, up to one with which they have over `most` bytes."""
        upto = self.bytes + most
        for row, size in head if not isinstance(head, pa.Schema) else ():
            self.rows, self.bytes = self.rows + 1, self.bytes + size
            if self.conversation is not None:
                self._look(row.get(self.conversation))
            yield row
            if self.bytes > upto:
                return

    def _look(self, messages: object) -> None:
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict):
                self.calls = self.calls or speaker(message) in CALLERS or any(message.get(key) for key in CALL_KEYS)
                self.reasoning = self.reasoning or any(message.get(key) for key in REASONINGS)


def message_fields(schemas: Iterable[pa.Schema], column: str) -> tuple[bool, bool]:
    """Whether a conversation of these types may have calls, and reasoning; one of ShareGPT's may call, whose calls are texts in a
    type of texts, and one of JSON text (formats/query.py) may have both."""
    fields = [schema.field(column) for schema in schemas if schema.names.count(column) == 1]
    if any(b"json" in (field.metadata or {}) for field in fields):
        return True, True
    kinds = (field.type for field in fields)
    inner = (getattr(kind, "value_type", None) for kind in kinds)
    names = {field.name for kind in inner if kind is not None and pa.types.is_struct(kind) for field in kind}
    return not names.isdisjoint((*CALL_KEYS, "from")), not names.isdisjoint(REASONINGS)


def infer_types(rows: Iterable[Data]) -> dict[str, pa.DataType | None]:
    """Arrow types for the columns of JSONL rows, in order of appearance. Scalars and lists of scalars keep their type (int and
    float together are float64); None is for objects and values of several types, which are carried as JSON text. A few odd
    values (ODD) do not count."""
    kinds: defaultdict[str, Counter[type]] = defaultdict(Counter)
    items: defaultdict[str, Counter[type]] = defaultdict(Counter)
    for row in rows:
        for name, value in row.items():
            if name not in kinds and len(kinds) >= MOST_COLUMNS:
                continue
            is_huge = type(value) is int and not -(2**63) <= value < 2**63
            kinds[name][object if is_huge else type(value)] += 1
            if isinstance(value, list):
                items[name].update(map(type, value))
    return {name: _one_type(kind, items[name]) for name, kind in kinds.items()}


def _one_type(kinds: Counter[type], items: Counter[type]) -> pa.DataType | None:
    counted = Counter({kind: times for kind, times in kinds.items() if kind is not type(None)})
    numbers = counted[int] + counted[float]
    found = {kind for kind, times in counted.items() if (numbers if kind in (int, float) else times) > ODD * counted.total()}
    if found == {list}:
        item = _one_type(items, Counter())
        return None if item is None else pa.list_(item)
    if found == {int, float}:
        return pa.float64()
    return SCALARS.get(found.pop()) if len(found) == 1 else None
