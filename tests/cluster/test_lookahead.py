"""lookahead.py: how far it goes ahead, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from batchgen.cluster.lookahead import END, Lookahead

SIZE = 1000


class Blocks:
    """Blocks of `size` bytes, numbered; `made` counts them, `closed` is set when nobody iterates any more."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size, self.made = count, size, 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        try:
            for number in range(self.count):
                self.made += 1
                yield number, self.size
        finally:
            self.closed.set()


def until(condition: Callable[[], bool]) -> None:
    patience = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_small_blocks_are_all_taken_before_they_are_asked_for() -> None:
    blocks = Blocks(100, 1)
    ahead = Lookahead(iter(blocks), 2, SIZE)
    assert blocks.closed.wait(60)
    assert [item for item in iter(ahead.next, END) if item is not None] == [*range(100)]
    assert ahead.next() is None


def test_large_blocks_are_held_back_and_go_on_one_by_one() -> None:
    blocks = Blocks(10, SIZE)
    ahead = Lookahead(iter(blocks), 2, SIZE)
    until(lambda: blocks.made == 3)
    time.sleep(0.1)
    assert blocks.made == 3, "two are held, the third waits"
    assert ahead.next() == 0
    until(lambda: blocks.made == 4)
    ahead.stop()
    assert ahead.next() is None
    assert blocks.closed.is_set()
    assert blocks.made == 4


def test_the_iterators_error_is_raised_where_blocks_are_taken() -> None:
    def broken() -> Iterator[tuple[int, int]]:
        yield 0, 1
        raise OSError("no disk")

    ahead = Lookahead(broken(), 2, SIZE)
    until(lambda: ahead.next() == 0)
    with pytest.raises(OSError, match="no disk"):
        until(lambda: ahead.next() is not None)
