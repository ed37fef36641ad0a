"""How a task asks an engine: the answers are what a replica may take from one, their reasoning is told apart from their text, and
an answer that calls tools says so."""

from collections.abc import Sequence
from dataclasses import replace

from batchgen.engines.base import Engine, Request
from batchgen.errors import BadRow
from batchgen.job.sampling import Sampling
from batchgen.records import Answer
from batchgen.render.renderer import Renderer
from batchgen.tasks.reasoning import Splitter
from batchgen.tasks.sound import refuse_answers


class Asking:
    """An engine with the model of the renderer's job."""

    def __init__(self, renderer: Renderer, engine: Engine) -> None:
        model, self._engine = renderer.job.model, engine
        self._splitter = Splitter(model, renderer) if model is not None and model.reasoning_parser is not None else None
        self._requests = 0

    async def generate(self, ids: list[int], sampling: Sampling, priority: int = 0, pictures: Sequence[str] = ()) -> list[Answer]:
        """The answers to a prompt. Raises BadRow, EngineError."""
        self._requests += 1
        answers = await self._engine.generate(Request(str(self._requests), ids, sampling, priority, pictures))
        try:
            refuse_answers(answers, sampling.n)
        except ValueError as error:
            raise BadRow("engine_rejected", str(error)) from None
        if self._splitter is not None:
            answers = [self._splitter.split(answer, ids) for answer in answers]
        return [replace(one, finish_reason="tool_calls") if _calls(one) else one for one in answers]


def _calls(answer: Answer) -> bool:
    """Whether an answer that ended by itself calls tools; where the call was asked for by name, OpenAI's reason is `stop`."""
    return bool(answer.tool_calls) and answer.finish_reason == "stop"
