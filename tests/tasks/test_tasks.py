"""The tasks by name, and one that another package adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchgen.engines.base import Engine, Request
from batchgen.errors import JobError
from batchgen.records import Completion, Prompt
from batchgen.render.renderer import Renderer
from tests.support.packages import install
from tests.support.replicas import answered


class Twice:
    """Puts the model's first answer back as the prompt, and keeps the second."""

    uses = "generate"

    def __init__(self, renderer: Renderer, engine: Engine) -> None:
        self.engine = engine

    async def complete(self, index: int, prompt: Prompt, priority: int) -> list[Completion]:
        assert prompt.sampling is not None
        [first] = await self.engine.generate(Request(f"{index} a", prompt.token_ids, prompt.sampling, priority))
        [answer] = await self.engine.generate(Request(f"{index} b", list(first.text.encode()), prompt.sampling, priority))
        tokens = len(prompt.token_ids)
        return [Completion(index, 0, None, answer.text, answer.finish_reason, tokens, answer.tokens, None, None, 0.0, 1)]


class Painting(Twice):
    uses = "paint"


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {name: f"{__name__}:{name.capitalize()}" for name in ("twice", "painting")}
    install(tmp_path / "site", monkeypatch, {"batchgen.tasks": tasks})


@pytest.mark.usefixtures("toys")
def test_a_task_from_outside_makes_the_completions(tmp_path: Path) -> None:
    rows, receipt = answered(tmp_path, [{"prompt": "one two"}, {"prompt": "three"}], task="twice", sampling={"temperature": 0})
    assert receipt.counts.ok == 2
    assert set(str(rows[0]["response"]).split()) <= {"user", "one", "two"}
    assert rows[0]["messages"] is None


@pytest.mark.usefixtures("toys")
def test_an_engine_that_cannot_do_the_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="task painting: engine echo cannot paint"):
        answered(tmp_path, [{"prompt": "a"}], task="painting")


def test_an_unknown_task_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="task generat: no such name, did you mean generate"):
        answered(tmp_path, [{"prompt": "a"}], task="generat")
