"""restarting.py: an engine that dies, hangs or cannot start again, and the prompts that were in it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.engines.base import Request
from batchgen.engines.restarting import MOST_DEATHS, SPLIT, RestartingEngine
from batchgen.errors import BadRow, EngineError
from batchgen.job.sampling import Sampling
from batchgen.records import Answer
from tests.support import clock

PATIENCE = 60


class Mortal:
    """Answers with the prompt's first token; dies of `poison` tokens, with all that is in it; `broken` ones do not start."""

    def __init__(self, poison: set[int] = frozenset(), broken: bool = False) -> None:
        self.poison, self.broken = poison, broken
        self.capacity, self.workers = 64, 1
        self.inside: dict[str, asyncio.Future[None]] = {}
        self.seen: list[list[int]] = []
        self.dead = self.hung = self.stopped = False

    async def start(self) -> None:
        if self.broken:
            raise EngineError("no memory")

    async def stop(self) -> None:
        self.stopped = True

    async def probe(self) -> None:
        if self.hung:
            await asyncio.Event().wait()
        if self.dead:
            raise EngineError("dead")

    async def generate(self, request: Request) -> list[Answer]:
        assert not self.stopped
        assert request.name not in self.inside
        token_ids = request.token_ids
        mine = self.inside[request.name] = asyncio.get_running_loop().create_future()
        self.seen.append(token_ids)
        try:
            await asyncio.sleep(0.001 * (1 + token_ids[0] % 3) + 1e-6 * token_ids[0])
            if self.hung:
                await asyncio.Event().wait()
            if token_ids[0] in self.poison:
                self.dead = True
                for other in self.inside.values():
                    if not other.done():
                        other.set_result(None)
            if self.dead or mine.done():
                raise EngineError("killed")
            return [Answer(str(token_ids[0]), 1, "stop")]
        finally:
            del self.inside[request.name]


def guarded(
    made: list[Mortal], make: Callable[[int], Mortal], watchdog: float = 600, row_seconds: float | None = None
) -> RestartingEngine:
    def another() -> Mortal:
        made.append(make(len(made)))
        return made[-1]

    return RestartingEngine(another, watchdog, row_seconds)


async def ask(engine: RestartingEngine, token: int) -> str:
    try:
        [output] = await engine.generate(Request(str(token), [token], Sampling()))
    except (BadRow, EngineError) as error:
        return error.code if isinstance(error, BadRow) else str(error)
    return output.text


def answers(engine: RestartingEngine, tokens: range) -> list[str]:
    async def scenario() -> list[str]:
        await engine.start()
        try:
            return await asyncio.wait_for(asyncio.gather(*(ask(engine, token) for token in tokens)), PATIENCE)
        finally:
            await engine.stop()

    return clock.run(scenario())


@settings(max_examples=40)
@given(st.integers(1, 200), st.sets(st.integers(0, 199), max_size=3))
def test_every_poisonous_prompt_and_no_other_ends_as_engine_crash(prompts: int, poison: set[int]) -> None:
    made: list[Mortal] = []
    engine = guarded(made, lambda _: Mortal(poison))
    expected = ["engine_crash" if token in poison else str(token) for token in range(prompts)]
    assert answers(engine, range(prompts)) == expected
    guilty = expected.count("engine_crash")
    rounds = 1 + math.ceil(math.log(max(prompts, 2), SPLIT))
    assert engine.restarts <= guilty * (rounds + 1)
    assert engine.restarts == len(engine.causes) == len(made) - 1
    assert all(engine.stopped for engine in made)


def test_a_death_without_a_guilty_prompt_costs_no_row() -> None:
    made: list[Mortal] = []
    engine = guarded(made, lambda number: Mortal({7} if number == 0 else set()))
    assert answers(engine, range(20)) == [str(token) for token in range(20)]
    assert engine.restarts == 1


def test_fresh_prompts_wait_until_the_suspects_are_done() -> None:
    made: list[Mortal] = []
    engine = guarded(made, lambda number: Mortal({3} if number == 0 else set()))

    async def scenario() -> None:
        await engine.start()
        first = [asyncio.create_task(ask(engine, token)) for token in range(16)]
        while not engine.restarts:
            await asyncio.sleep(0.0001)
        await asyncio.gather(*first, *(ask(engine, token) for token in range(100, 110)))
        await engine.stop()

    clock.run(asyncio.wait_for(scenario(), PATIENCE))
    after = [ids[0] for ids in made[1].seen]
    assert min(map(after.index, range(100, 110))) > max(after.index(token) for token in after if token < 16)


def test_an_engine_that_dies_of_everything_is_given_up() -> None:
    made: list[Mortal] = []
    engine = guarded(made, lambda _: Mortal(set(range(1000))))
    found = answers(engine, range(500))
    assert set(found) == {f"the engine died {MOST_DEATHS} times without an answer: killed"}
    assert len(made) == MOST_DEATHS


def test_an_engine_that_cannot_start_again_is_given_up_with_its_own_message() -> None:
    made: list[Mortal] = []
    engine = guarded(made, lambda number: Mortal({5}, broken=number > 0))
    assert set(answers(engine, range(10, 20))) == {str(token) for token in range(10, 20)}

    made.clear()
    engine = guarded(made, lambda number: Mortal({5, 6}, broken=number > 0))
    found = answers(engine, range(10))
    assert found[5] == found[6] == "no memory"


def test_a_first_start_that_fails_raises() -> None:
    with pytest.raises(EngineError, match="no memory"):
        answers(guarded([], lambda _: Mortal(broken=True)), range(1))


def test_an_engine_without_a_sign_of_life_is_started_again() -> None:
    made: list[Mortal] = []
    engine = guarded(made, lambda _: Mortal(), watchdog=0.2)

    async def scenario() -> list[str]:
        await engine.start()
        made[0].hung = True
        try:
            return await asyncio.wait_for(asyncio.gather(*(ask(engine, token) for token in range(10))), PATIENCE)
        finally:
            await engine.stop()

    assert clock.run(scenario()) == [str(token) for token in range(10)]
    assert engine.restarts == 1


def test_an_engine_that_is_slow_but_alive_is_left_alone() -> None:
    class Slow(Mortal):
        async def generate(self, request: Request) -> list[Answer]:
            await asyncio.sleep(1)
            return await super().generate(request)

    engine = guarded([], lambda _: Slow(), watchdog=0.2)
    assert answers(engine, range(3)) == ["0", "1", "2"]
    assert engine.restarts == 0


def test_a_row_over_its_time_is_cut_and_the_others_are_not() -> None:
    class Stuck(Mortal):
        async def generate(self, request: Request) -> list[Answer]:
            if request.token_ids == [2]:
                await asyncio.Event().wait()
            return await super().generate(request)

    made: list[Mortal] = []
    engine = guarded(made, lambda _: Stuck(), row_seconds=0.3)
    assert answers(engine, range(5)) == ["0", "1", "timeout", "3", "4"]
    assert engine.restarts == 0


def test_who_is_cancelled_from_outside_is_cancelled_even_as_a_suspect() -> None:
    """Every other prompt, and one group of suspects altogether, while the engine is being started again."""
    starting, cancelled = asyncio.Event(), asyncio.Event()

    class Slow(Mortal):
        async def start(self) -> None:
            starting.set()
            await cancelled.wait()

    engine = guarded([], lambda number: Slow() if number else Mortal({0}))

    async def scenario() -> list[str]:
        await engine.start()
        tasks = [asyncio.create_task(ask(engine, token)) for token in range(32)]
        gone = [*tasks[:8], *tasks[8::2]]
        await starting.wait()
        for task in gone:
            task.cancel()
        late = asyncio.create_task(ask(engine, 99))
        await asyncio.sleep(0)
        cancelled.set()
        found = dict(zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True))
        assert all(isinstance(found[task], asyncio.CancelledError) for task in gone)
        answers = [str(found[task]) for task in tasks if task not in gone] + [await late]
        await engine.stop()
        return answers

    assert clock.run(asyncio.wait_for(scenario(), PATIENCE)) == [*map(str, range(9, 32, 2)), "99"]


def test_an_engines_own_timeout_is_not_taken_for_the_rows() -> None:
    class Impatient(Mortal):
        async def generate(self, request: Request) -> list[Answer]:
            raise TimeoutError("the engine's own")

    async def scenario() -> None:
        engine = guarded([], lambda _: Impatient(), row_seconds=60)
        await engine.start()
        try:
            await engine.generate(Request("1", [1], Sampling()))
        finally:
            await engine.stop()

    with pytest.raises(TimeoutError, match="the engine's own"):
        clock.run(scenario())


def test_each_attempt_has_a_name_of_its_own() -> None:
    names: list[str] = []

    class Noting(Mortal):
        async def generate(self, request: Request) -> list[Answer]:
            names.append(request.name)
            return await super().generate(request)

    engine = guarded([], lambda number: Noting({5} if number == 0 else set()))
    assert answers(engine, range(5, 6)) == ["5"]
    assert len(set(names)) == len(names) == 2


def test_whatever_a_restart_raises_reaches_the_prompts_that_wait() -> None:
    class Odd(Mortal):
        async def start(self) -> None:
            raise RuntimeError("odd")

    engine = guarded([], lambda number: Odd() if number else Mortal({5, 6}))
    assert answers(engine, range(5, 7)) == ["RuntimeError: odd"] * 2
