"""What a pool reports to the driver. Numbers name replicas; an item is the reference to a span's block."""

from collections.abc import Hashable
from typing import NamedTuple, TypeAlias

from batchgen.records import Receipt


class Ready(NamedTuple):
    """The replica's engine has started. `engine`: its capacity (sequences) and workers (processes)."""

    replica: int
    engine: dict[str, int]


class Capacity(NamedTuple):
    """The replica can take one more span; `load`: its unfinished prompts, each by its expected length."""

    replica: int
    load: float


class Finished(NamedTuple):
    """The replica has committed the span of `item`, or found it committed."""

    replica: int
    item: Hashable
    receipt: Receipt


class BlockLost(NamedTuple):
    """The block of `item` went with its node: its span must be read again."""

    replica: int
    item: Hashable
    message: str


class Died(NamedTuple):
    """The replica is gone; `message` is the cause."""

    replica: int
    message: str


Event: TypeAlias = Ready | Capacity | Finished | BlockLost | Died
