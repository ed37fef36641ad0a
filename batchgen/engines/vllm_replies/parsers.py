"""Reasoning and calls of tools in vLLM's answers, told apart by vLLM's own parsers in the way of its server. They need its
request of a chat completion, whose messages they hardly look at: the prompt is made here (render/)."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

from batchgen.engines.base import Request
from batchgen.errors import BadRow, EngineError, JobError, safe_message
from batchgen.job.fields import Fields
from batchgen.job.job import Job
from batchgen.jsontext import loads
from batchgen.records import Answer
from batchgen.render.model_files import ModelFiles

_FIELDS = ("tools", "tool_choice", "chat_template_kwargs")  # JSON texts of a Sampling


Theirs = Any  # an object of vLLM's


class Names(NamedTuple):
    """The parsers of a model; None: nothing is looked for."""

    reasoning: str | None = None
    tools: str | None = None


class Parsers:
    """`names` are those of vLLM's parsers, of reasoning and of tools; `variables` are the job's of the chat template. `engine` is
    a started AsyncLLM, `vllm` the names that are imported from vLLM. Raises EngineError for an unknown name, and for a parser
    that the model's tokenizer does not fit."""

    def __init__(self, vllm: SimpleNamespace, engine: Theirs, names: Names, variables: Fields) -> None:
        self._vllm, self._model, self.tokenizer = vllm, engine.model_config, engine.renderer.tokenizer
        self.calls, self._defaults = names.tools is not None, variables
        try:
            self._kind = vllm.ParserManager.get_parser(
                tool_parser_name=names.tools,
                reasoning_parser_name=names.reasoning,
                enable_auto_tools=self.calls,
                tool_strict_level="parameter",  # the arguments of a call keep to its schema
                model_name=self._model.model,
                is_harmony=self._model.hf_config.model_type == "gpt_oss",
                tokenizer=self.tokenizer,
            )
        except Exception as error:  # KeyError, TypeError, RuntimeError, ValueError, by version and parser
            remedy = "name another model.reasoning_parser or model.tool_call_parser"
            raise EngineError(f"vLLM's parser: {safe_message(error)}", remedy) from None

    def reader(self, request: Request) -> "Reader":
        """For the answers to one request. Raises ValueError for what vLLM refuses of it."""
        sampling = request.sampling
        fields = {name: loads(text) if text[:1] in "[{" else text for name in _FIELDS if (text := getattr(sampling, name))}
        for name in ("reasoning_effort", "parallel_tool_calls", "skip_special_tokens"):
            if (value := getattr(sampling, name)) is not None:
                fields[name] = value
        if sampling.structured_outputs is not None:
            fields["structured_outputs"] = loads(sampling.structured_outputs)
        asked = self._vllm.ChatCompletionRequest(messages=[], model="", **fields)
        parser = self.parser(asked)
        asked = parser.adjust_request(asked)
        thinks = parser.reasoning_parser is not None
        more = {"reasoning_ended": asked.resolve_reasoning_ended(parser, request.token_ids)}
        if thinks:
            more["reasoning_parser_kwargs"] = {"chat_template_kwargs": self._variables(asked)}
        return Reader(self, asked, more)

    def _variables(self, asked: Theirs) -> dict[str, object]:
        return dict(asked.build_chat_params(None, "auto").with_defaults(self._defaults).chat_template_kwargs)

    def parser(self, asked: Theirs) -> Theirs:
        """A parser of vLLM for one answer to a request."""
        return self._kind(self.tokenizer, asked.tools, chat_template_kwargs=self._variables(asked), model_config=self._model)


@dataclass(frozen=True)
class Reader:
    """`asked` is vLLM's request as its parsers want it, `more` the arguments of `generate` that go with it."""

    parsers: Parsers
    asked: Theirs
    more: dict[str, object]

    @property
    def fields(self) -> dict[str, object]:
        """Fields of SamplingParams that the parsers set."""
        return {
            "structured_outputs": self.asked.extract_structured_outputs(),
            "skip_special_tokens": self.asked.skip_special_tokens,
        }

    def read(self, answer: Answer, output: Theirs) -> Answer:
        """The answer in a CompletionOutput with its reasoning, its text and its calls of tools apart. Raises BadRow (parse)."""
        parsers = self.parsers
        try:
            parser = parsers.parser(self.asked)
            ids = list(output.token_ids)
            found = parser.parse(output.text, self.asked, enable_auto_tools=parsers.calls, model_output_token_ids=ids)
            reasoning, text, calls = found
            tokens = parser.count_reasoning_tokens(ids) if parser.reasoning_parser is not None else None
            if reasoning and not tokens:  # a parser that counts from the mark of the beginning, which the prompt may have
                tokens = len(parsers.tokenizer.encode(reasoning, add_special_tokens=False))
        except Exception as error:  # of an answer that the parser does not understand
            raise BadRow("parse", f"vLLM's parser: {type(error).__name__}: {safe_message(error)}") from None
        made = [_call(number, call) for number, call in enumerate(calls or ())]
        return replace(answer, text=text or "", reasoning=reasoning, reasoning_tokens=tokens, tool_calls=made or None)


def _call(number: int, call: Theirs) -> Fields:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}


def parser_names(job: Job, model: ModelFiles) -> Names:
    """vLLM's parsers for the model of a job. Its reasoning parser also lets constraints begin after the reasoning."""
    if job.model is None:
        return Names()
    named = job.model.reasoning_parser
    reasoning = model.reasoning_parser if named == "auto" else named if isinstance(named, str) else None
    return Names(reasoning, job.model.tool_call_parser)


def check_parsers(job: Job) -> None:
    """Raises JobError for a job whose answers need a parser that it does not name."""
    if job.model is None:
        return
    if "tools" in job.sampling and job.model.tool_call_parser is None:
        raise JobError("sampling.tools: vLLM finds calls of tools by a parser", "name it: model.tool_call_parser: hermes")
    if isinstance(job.model.reasoning_parser, str):
        return
    remedy = "name one of vLLM's reasoning parsers in model.reasoning_parser: qwen3"
    if "thinking_token_budget" in job.sampling:
        raise JobError("sampling.thinking_token_budget: vLLM ends the reasoning by its parser", remedy)
    if job.model.reasoning_parser is not None and "structured_outputs" in job.sampling:
        raise JobError("sampling.structured_outputs: with marks alone vLLM would hold the reasoning to it too", remedy)
