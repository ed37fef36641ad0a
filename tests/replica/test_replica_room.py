"""When a replica has room for another span: how many prompts it holds, and how many of them are in its engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from batchgen.engines.base import Request
from batchgen.records import Answer
from tests.support.replicas import Backwards, blocks, prepared, replica


class Gate(Backwards):
    """An engine whose prompts wait until each is let through."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.entered = asyncio.Semaphore(0)
        self.inside = 0
        self.open = asyncio.Semaphore(0)

    async def generate(self, request: Request) -> list[Answer]:
        self.entered.release()
        self.inside += 1
        await self.open.acquire()
        return [Answer("yes", 1, "stop")]


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_full_replica_has_no_room_until_prompts_finish(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": str(number)} for number in range(4)])
    gate = Gate(2)
    worker = replica(made, gate)

    async def scenario() -> list[bool]:
        span = asyncio.create_task(worker.run(blocks(made)[0]))
        for _ in range(4):
            await gate.entered.acquire()
        room = asyncio.create_task(worker.capacity_left(1))
        await settled()
        seen = [room.done()]
        gate.open.release()
        await asyncio.wait_for(room, 10)
        seen.append(span.done())
        for _ in range(3):
            gate.open.release()
        await span
        return seen

    assert asyncio.run(scenario()) == [False, False], "no room with 2 x capacity prompts unfinished, room with one less"


@pytest.mark.parametrize(("lengths", "rooms"), [((1, 400), [True, False]), ((50, 50), [False, False])])
def test_a_replica_that_can_tell_long_rows_from_short_ones_takes_more_than_are_in_its_engine(
    tmp_path: Path, lengths: tuple[int, int], rooms: list[bool]
) -> None:
    rows = [{"prompt": str(number), "sampling": {"max_tokens": lengths[number % 2]}} for number in range(10)]
    made = prepared(tmp_path, rows, sampling={"ignore_eos": True})
    gate = Gate(2)
    worker = replica(made, gate)

    async def scenario() -> tuple[list[bool], int]:
        span = asyncio.create_task(worker.run(blocks(made)[0]))
        for _ in range(4):
            await gate.entered.acquire()
        asked = [asyncio.create_task(worker.capacity_left(1, share)) for share in (1_000.0, 8.0)]
        await settled()
        seen, inside = [task.done() for task in asked], gate.inside
        for _ in range(10):
            gate.open.release()
        await span
        await asyncio.wait_for(asyncio.gather(*asked), 10)
        return seen, inside

    assert asyncio.run(scenario()) == (rooms, 4)


def test_there_is_no_room_while_an_assigned_span_is_still_on_its_way(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}])
    worker = replica(made)

    async def scenario() -> list[bool]:
        await worker.start()
        first, second = asyncio.create_task(worker.capacity_left(0)), asyncio.create_task(worker.capacity_left(1))
        await settled()
        seen = [first.done(), second.done()]
        await worker.run(blocks(made)[0])
        await asyncio.wait_for(second, 10)
        return seen

    assert asyncio.run(scenario()) == [True, False]
