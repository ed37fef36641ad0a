"""What engines and tasks return, before it is counted, kept and written: engines and tasks may be of other packages."""

import math
import reprlib

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.job.fields import MOST
from batchgen.records import Answer, Completion, Pooled


def refuse_answers(answers: object, wanted: int) -> None:
    """Raises ValueError where an engine did not return this many answers, or for one that the output cannot hold."""
    if not isinstance(answers, list) or not all(isinstance(answer, Answer) for answer in answers):
        raise ValueError("the engine returned no list of answers")
    if len(answers) != wanted:
        raise ValueError(f"the engine answered {len(answers)} times instead of {wanted}")
    for answer in answers:
        if not isinstance(answer.text, str) or not isinstance(answer.finish_reason, str):
            raise ValueError("the engine's answer is no text with a finish reason")
        try:
            (answer.text + answer.finish_reason).encode()
        except UnicodeEncodeError:
            raise ValueError("the engine's answer has half of a surrogate pair in it") from None
        for name in ("tokens", "cached_tokens", "prompt_tokens"):
            if name != "prompt_tokens" or answer.prompt_tokens is not None:
                _refuse_count(f"the engine's answer: {name}", getattr(answer, name))
        logprob = answer.cumulative_logprob
        if logprob is not None and not (isinstance(logprob, float | int) and (abs(logprob) < MOST or logprob == -math.inf)):
            raise ValueError(f"the engine's answer: cumulative_logprob {reprlib.repr(logprob)} is no log-probability")
        _refuse_more(answer)
        for name in ("token_logprobs", "prompt_logprobs"):
            if not isinstance(getattr(answer, name), pa.StructArray | None):
                raise ValueError(f"the engine's answer: {name} are no array of tokens")


def _refuse_more(answer: Answer) -> None:
    """Raises ValueError for reasoning that is no text, and for calls that are not OpenAI's."""
    texts: list[object] = [answer.reasoning or ""]
    if answer.reasoning_tokens is not None:
        _refuse_count("the engine's answer: reasoning_tokens", answer.reasoning_tokens)
    for call in answer.tool_calls or ():
        function = call.get("function")
        if not isinstance(function, dict):
            raise ValueError("the engine's answer: a tool call has no function")
        texts += [call.get("id") or "", call.get("type") or "", function.get("name"), function.get("arguments")]
    try:
        "".join(texts).encode()  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError):
        raise ValueError("the engine's answer: reasoning or a tool call is no text") from None


def refuse_pooled(found: object, wanted: int | None, size: int | None) -> None:
    """Raises ValueError where an engine did not return `size` finite numbers for each of the `wanted` texts. None: any number of
    them, but not none."""
    if not isinstance(found, Pooled) or not isinstance(found.values, list):
        raise ValueError("the engine returned no lists of numbers")
    if not found.values or (wanted is not None and len(found.values) != wanted):
        raise ValueError(f"the engine returned numbers of {len(found.values)} texts instead of {wanted}")
    for numbers in found.values:
        if not isinstance(numbers, pa.Array) or numbers.type != pa.float32() or numbers.null_count:
            raise ValueError("the engine returned something else than float32 numbers")
        if len(numbers) != (size or max(1, len(numbers))):
            raise ValueError(f"the engine returned {len(numbers)} numbers instead of {size or 'one or more'}")
        if not pc.all(pc.is_finite(numbers)).as_py():
            raise ValueError("the engine returned a number that is not finite")
    if found.label is not None and not isinstance(found.label, str):
        raise ValueError("the engine's label is no text")
    _refuse_count("the engine's cached_tokens", found.cached_tokens)
    if found.prompt_tokens is not None:
        _refuse_count("the engine's prompt_tokens", found.prompt_tokens)


def refuse_completions(completions: object, index: int, samples: list[tuple[int, int]]) -> None:
    """Raises ValueError where a task did not return a completion for each of the samples of a prompt, with counts of tokens."""
    if not isinstance(completions, list) or not all(isinstance(each, Completion) for each in completions):
        raise ValueError("the task returned no list of completions")
    if [(each.prompt, each.sample) for each in completions] != [(index, number) for number, _ in samples]:
        raise ValueError("the task returned completions of other samples than the prompt's")
    for each in completions:
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            _refuse_count(name, getattr(each, name))


def _refuse_count(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"{name} {reprlib.repr(value)} is no number of tokens")
