"""generate.py: scripted turns, and that no row holds up another."""

from __future__ import annotations

import asyncio
import threading

from batchgen.engines.base import Request
from batchgen.job.sampling import Sampling
from batchgen.records import Answer, Message, Prompt
from batchgen.render.model_files import load_model
from batchgen.render.renderer import DEFAULTS, Renderer
from batchgen.tasks.generate import Generation
from tests.support.rendering import make_job, one

PATIENCE_SECONDS = 60


class Slow(Renderer):
    """A renderer whose later turns take until `free` is set."""

    free: threading.Event

    def encode(self, messages: list[Message], sampling: Sampling = DEFAULTS) -> tuple[str, list[int]]:
        if len(messages) > 1:
            assert self.free.wait(PATIENCE_SECONDS), "the other row was not answered while this one was rendered"
        return super().encode(messages, sampling)


class Same:
    """An engine that gives every prompt one answer."""

    capacity, workers = 8, 1

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def probe(self) -> None: ...

    async def generate(self, request: Request) -> list[Answer]:
        return [Answer("yes", 1, "stop") for _ in range(request.sampling.n)]


def test_a_template_that_takes_its_time_in_a_later_turn_holds_up_no_other_row() -> None:
    renderer = Slow(make_job(input={"path": "in.jsonl", "turns": "t"}), load_model(None))
    renderer.free = threading.Event()
    asked = [one(renderer, number, t=turns) for number, turns in enumerate((["a", "b"], ["c"]))]
    task = Generation(renderer, Same())

    async def other(prompt: Prompt) -> int:
        await asyncio.sleep(0)
        [completion] = await task.complete(1, prompt, 0)
        renderer.free.set()
        return len(completion.messages or ())

    async def scenario() -> tuple[int, int]:
        [completion], short = await asyncio.gather(task.complete(0, asked[0], 0), other(asked[1]))
        return len(completion.messages or ()), short

    assert asyncio.run(scenario()) == (4, 2)
