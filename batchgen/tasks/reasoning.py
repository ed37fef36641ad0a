"""Answer -> reasoning and answer, by marks in its text. An engine with a parser of its own tells them apart itself."""

from dataclasses import replace

from batchgen.job.model import Marks, Model
from batchgen.records import Answer
from batchgen.render.renderer import Renderer


class Splitter:
    """By the marks of `model`; by the common ones where it names a parser that the engine does not have."""

    def __init__(self, model: Model, renderer: Renderer) -> None:
        named = model.reasoning_parser
        self._marks, self._renderer = named if isinstance(named, Marks) else renderer.model.marks, renderer

    def split(self, answer: Answer, prompt: list[int]) -> Answer:
        """The answer to a prompt with its reasoning apart, and the tokens of that; nothing is stripped. Without a mark of the end
        it is all reasoning where the prompt, or the answer, begins one: it was cut there."""
        if answer.reasoning is not None or (found := self._parts(answer.text, prompt)) is None:
            return answer
        reasoning, text = found
        return replace(answer, text=text, reasoning=reasoning, reasoning_tokens=self._renderer.count_tokens(reasoning))

    def _parts(self, text: str, prompt: list[int]) -> tuple[str, str] | None:
        start, end = self._marks.start, self._marks.end
        before, ended, after = text.partition(end)
        begun = before.lstrip().startswith(start)
        if ended or begun or self._renderer.ends_in(prompt, start):
            return before.lstrip().removeprefix(start) if begun else before, after
        return None
