"""OpenAI's requests as columns of a row: what the body of a request asks for, by its URL.

Format: https://platform.openai.com/docs/api-reference (chat, completions, embeddings), and vLLM's additions: score, rerank, and
the parameters of its own (top_k, guided_json, ...). What would change an answer and cannot be done makes the row an error that
names the key."""

import math
import reprlib
from dataclasses import dataclass
from typing import NoReturn

from batchgen.errors import BadRow
from batchgen.job.fields import MOST, Fields
from batchgen.job.sampling import Sampling, bias_text
from batchgen.records import Data

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
SCORES, RERANKS = ("/v1/score", "/score"), ("/v1/rerank", "/rerank", "/v2/rerank")
_SAMPLING = Sampling.model_fields.keys() - {"logprobs"}
_IGNORED = {"model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_IGNORED |= {"stream", "stream_options", "prediction", "prompt_cache_retention", "request_id", "priority", "cache_salt"}
"""Parameters that change no answer: who asks, how it travels, what is cached, what may be guessed."""
_HARMLESS: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "include_reasoning": (True,),
    "echo": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "encoding_format": ("float", "base64"),
}
"""Parameters with the values that mean no more than their absence."""
_OF_TOOLS = {"tool_choice", "parallel_tool_calls", "function_call"}
_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
_OWN = {"max_completion_tokens", "logprobs", "top_logprobs", "response_format", "functions", "function_call", *_GUIDED}
_NUMBERS: dict[str, tuple[type, float, float, str]] = {
    "temperature": (float, 0, 2, "a number 0..2"),
    "top_p": (float, math.ulp(0.0), 1, "a number over 0, up to 1"),
    "presence_penalty": (float, -2, 2, "a number -2..2"),
    "frequency_penalty": (float, -2, 2, "a number -2..2"),
    "n": (int, 1, 128, "an integer 1..128"),
    "max_tokens": (int, 1, MOST, f"an integer 1..{MOST}"),
    "max_completion_tokens": (int, 1, MOST, f"an integer 1..{MOST}"),
    "seed": (int, -(2**63), 2**63 - 1, "an integer -2^63..2^63-1"),
    "top_logprobs": (int, 0, 20, "an integer 0..20"),
}
"""Parameters with their least and greatest values, and both in words."""
_FORMATS = "{type: text}, {type: json_object} or {type: json_schema, json_schema: {name, schema}}"


@dataclass(frozen=True)
class RequestKind:
    """What a job needs for the requests of a URL: `task`, the `fields` of `input`, `template` for model.chat_template."""

    task: str
    fields: Fields
    template: str | None = None

    @property
    def words(self) -> str:
        fields = [f"input.{name}: {value}" for name, value in self.fields.items()]
        template = [f"model.chat_template: {self.template}"] if self.template else []
        return ", ".join([f"task: {self.task}", *fields, *template])


_READS_PAIRS = {"prompt": "prompt", "documents": "documents"}
KINDS = {
    CHAT: RequestKind("generate", {"messages": "messages"}),
    COMPLETIONS: RequestKind("generate", {"prompt": "prompt"}, "none"),
    EMBEDDINGS: RequestKind("embed", {"prompt": "prompt"}),
    **{url: RequestKind("score", _READS_PAIRS) for url in SCORES},
    **{url: RequestKind("rerank", _READS_PAIRS) for url in RERANKS},
}
"""The requests that are read, by their URL."""


def columns_of(body: Data, url: str = CHAT) -> Data:
    """The columns of a request: `messages`, or `prompt` (of scores and reranks with `documents`), and `sampling`. Raises BadRow
    (input) that names the key at fault."""
    given = {name: value for name, value in body.items() if value is not None}
    given = {name: value for name, value in given.items() if value not in _HARMLESS.get(name, ())}
    if url == CHAT:
        if not given.get("tools") and not given.get("functions"):
            given = {name: value for name, value in given.items() if name not in _OF_TOOLS}
        return {"messages": body.get("messages"), "sampling": _sampling(given)}
    if url == COMPLETIONS:
        return {"prompt": _text(given.pop("prompt", None), "prompt"), "sampling": _sampling(_completions(given))}
    if url == EMBEDDINGS:
        given = _only(given, "input", "dimensions")
        return {"prompt": _text(given.get("input"), "input"), "dimensions": given.get("dimensions")}
    if url in SCORES:
        given = _only(given, "text_1", "text_2", "queries", "documents", "items", "data_1", "data_2")
        query, other = (next((given[key] for key in keys if key in given), None) for keys in _PAIR)
        return {"prompt": _text(query, "text_1"), "documents": _text(other, "text_2")}
    given = _only(given, "query", "documents", "top_n", "return_documents", "max_tokens_per_doc")
    documents = given.get("documents")
    if not isinstance(documents, list) or not all(isinstance(each, str) for each in documents):
        _refuse("documents", documents, "a list of texts")
    return {"prompt": _text(given.get("query"), "query"), "documents": documents}


_PAIR = (("text_1", "data_1", "queries"), ("text_2", "data_2", "documents", "items"))


def _only(given: Data, *known: str) -> Data:
    if unknown := given.keys() - {*known, *_IGNORED} - {"encoding_format"}:
        raise BadRow("input", f"body.{min(unknown)}: not understood")
    return given


def _text(value: object, name: str) -> str:
    """One text: several in a request would be several rows, and token ids are of one tokenizer."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    if not isinstance(value, str):
        _refuse(name, value, "one text: put several into lines of their own")
    return value


def _completions(given: Data) -> Data:
    """A completion's parameters as those of a chat: its `logprobs` is a number of alternatives."""
    if isinstance(most := given.get("logprobs"), int) and not isinstance(most, bool):
        given = {**given, "logprobs": True, "top_logprobs": most}
    return given


def _sampling(given: Data) -> Data:
    """The `sampling` of a row whose request has these parameters, none of them null."""
    if unknown := given.keys() - _SAMPLING - _IGNORED - _OWN:
        raise BadRow("input", f"body.{min(unknown)}: not understood")
    for name, (kind, least, most, words) in _NUMBERS.items():
        if (value := given.get(name)) is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most or (kind is int and value != int(value)):
            _refuse(name, value, words)
    stop = given.get("stop", [])  # of any number: vLLM takes more than OpenAI's four
    if not all(isinstance(text, str) and text for text in (stop if isinstance(stop, list) else [stop])):
        _refuse("stop", stop, "a text or a list of texts, none of them empty")
    sampling = {name: given[name] for name in given.keys() & _SAMPLING}
    if "max_completion_tokens" in given:
        older = sampling.setdefault("max_tokens", given["max_completion_tokens"])
        if older != given["max_completion_tokens"]:
            _refuse("max_completion_tokens", given["max_completion_tokens"], f"body.max_tokens, {older}")
    if not isinstance(given.get("logprobs", False), bool):
        _refuse("logprobs", given["logprobs"], "true or false")
    if given.get("logprobs"):
        sampling["logprobs"] = given.get("top_logprobs", 0)
    elif given.get("top_logprobs"):  # some clients write 0 on every line
        raise BadRow("input", f"body.top_logprobs: {given['top_logprobs']} (0..20) needs body.logprobs: true")
    if "logit_bias" in given:
        try:
            sampling["logit_bias"] = bias_text(given["logit_bias"])
        except ValueError as error:
            raise BadRow("input", f"body.logit_bias: {error}") from None
    if functions := given.get("functions"):  # the older name of tools
        sampling.setdefault("tools", functions)
    if (choice := given.get("function_call")) is not None:
        sampling.setdefault("tool_choice", choice)
    if constraint := _constraint(given.get("response_format")):
        sampling["structured_outputs"] = constraint
    for name in _GUIDED.keys() & given.keys():
        sampling.setdefault("structured_outputs", {_GUIDED[name]: given[name]})
    return sampling


def _refuse(name: str, value: object, wanted: str) -> NoReturn:
    raise BadRow("input", f"body.{name}: {reprlib.repr(value)} is not {wanted}")


def _constraint(form: object) -> dict[str, object] | None:
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"json": {"type": "object"}}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}} if schema:
            return {"json": schema}
    _refuse("response_format", form, _FORMATS)
