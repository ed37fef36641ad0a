"""Candidate: a sample of a row while it is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from batchgen.errors import RowError
from batchgen.job.input import Input
from batchgen.job.policy import Failure
from batchgen.job.sampling import Sampling
from batchgen.records import REASONING, Answer, Completion, Data, Message, Prompt
from batchgen.render.messages import as_kept
from batchgen.render.renderer import prompt_hash

UNFIT = ("parse", "rejected")
"""Codes of the errors of answers that are kept beside them."""


@dataclass
class Candidate:
    """One sample's conversation as it goes: its messages so far, the data URLs of their images, the tokens of all its turns, the
    last answer. `sampling` is the one it ran with, where that is not the prompt's."""

    spec: Input
    messages: list[Message]
    error: RowError | None = None
    pictures: Sequence[str] = ()
    last: Answer | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int | None = None
    logprob: float | None = 0.0
    digest: str | None = None
    attempt: int = 1
    parsed: dict[str, object] | None = None
    sampling: Sampling | None = None
    copied_tokens: int | None = None
    copied_prompt_tokens: int = 0
    judge_tokens: int = 0
    judge_prompt_tokens: int = 0
    attempts: list[dict[str, object]] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """The classes of the failure, as `errors` names them: an answer that was cut may also be one that does not parse."""
        cut = self.last is not None and self.last.finish_reason == "length"
        if self.error is None:
            return ["truncated"] if cut else []
        return ["truncated", self.error.code] if cut and self.error.code in UNFIT else [self.error.code]

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key of candidates, best first: accepted, rejected, unparsed, unanswered; within each the most likely."""
        if self.error is not None and self.error.code not in UNFIT:
            return 3, 0.0
        group = {"rejected": 1, "parse": 2}[self.error.code] if self.error else 0
        return group, math.inf if self.logprob is None else -self.logprob

    @property
    def text(self) -> str:
        """The last answer, after the beginning that it continues."""
        assert self.last is not None
        return (self.messages[-1]["content"] if self.spec.continue_final_message else "") + self.last.text

    def add(self, answer: Answer, ids: list[int]) -> None:
        """Add the answer to the conversation so far, whose token ids are `ids`."""
        self.last, self.digest = answer, prompt_hash(ids, self.pictures)
        prompt_tokens = len(ids) if answer.prompt_tokens is None else answer.prompt_tokens
        self.prompt_tokens += prompt_tokens
        if answer.copied:
            self.copied_tokens, self.copied_prompt_tokens = answer.tokens, prompt_tokens
        self.completion_tokens += answer.tokens
        self.cached_tokens += answer.cached_tokens
        if answer.reasoning_tokens is not None:
            self.reasoning_tokens = (self.reasoning_tokens or 0) + answer.reasoning_tokens
        if self.logprob is not None:
            self.logprob = None if answer.cumulative_logprob is None else self.logprob + answer.cumulative_logprob

    def judged(self, answer: Answer, prompt_tokens: int) -> None:
        """Count what a judge read and said."""
        self.judge_tokens += answer.tokens
        self.judge_prompt_tokens += prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens

    @property
    def said(self) -> Message:
        """The last answer as a message."""
        assert self.last is not None
        more = {"tool_calls": self.last.tool_calls, REASONING: self.last.reasoning}
        content = None if self.last.tool_calls and not self.text else self.text
        return {"role": self.spec.answer_role, "content": content} | {key: value for key, value in more.items() if value}

    @property
    def whole(self) -> tuple[dict[str, str | None], ...]:
        """The conversation with the last answer, as the output has it."""
        return (*map(as_kept, self.messages[: -1 if self.spec.continue_final_message else None]), as_kept(self.said))

    def row(self, prompt: Prompt) -> Data:
        """What the job's function gets: columns of the output, those of the input among them."""
        assert self.last is not None
        [carried] = prompt.columns.to_pylist() if prompt.columns is not None and prompt.columns.num_columns else [{}]
        own = {"id": prompt.id, "row": prompt.row, "variant": prompt.variant, "attributes": prompt.attributes}
        said = {"messages": [*self.whole], "response": self.text, "finish_reason": self.last.finish_reason}
        more = {"reasoning": self.last.reasoning, "tool_calls": self.last.tool_calls}
        return {**carried, **own, **said, **{name: value for name, value in more.items() if value is not None}}

    def completion(self, prompt: int, sample: int, attempt: int, seconds: float) -> Completion:
        kept = self.last if self.error is None or self.error.code in UNFIT else None
        text = None if kept is None else self.text
        messages = tuple(map(as_kept, self.messages)) if text is None else self.whole
        return Completion(
            prompt=prompt,
            sample=sample,
            messages=messages or None,
            response=text,
            finish_reason=None if kept is None else kept.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
            cumulative_logprob=None if kept is None else self.logprob,
            token_logprobs=None if kept is None else kept.token_logprobs,
            prompt_hash=self.digest,
            seconds=seconds,
            attempt=attempt,
            error=self.error,
            sampling=self.sampling,
            parsed=self.parsed,
            attempts=self.attempts,
            prompt_logprobs=None if kept is None else kept.prompt_logprobs,
            copied_tokens=self.copied_tokens,
            copied_prompt_tokens=self.copied_prompt_tokens,
            judge_tokens=self.judge_tokens,
            judge_prompt_tokens=self.judge_prompt_tokens,
            reasoning=None if kept is None else kept.reasoning,
            reasoning_tokens=None if kept is None else self.reasoning_tokens,
            tool_calls=None if kept is None else kept.tool_calls,
        )

    @property
    def as_attempt(self) -> dict[str, object]:
        """The candidate in the column `attempts` of the one that takes its place."""
        return {
            "response": self.text if self.last else None,
            "finish_reason": self.last.finish_reason if self.last else None,
            "error_code": self.error and self.error.code,
            "error_detail": self.error and self.error.detail,
            "completion_tokens": self.completion_tokens,
        }
