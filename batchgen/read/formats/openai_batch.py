"""OpenAI's batch files: JSONL with a request for a chat completion per line.

Format: https://platform.openai.com/docs/api-reference/batch (request input). A request's parameters, vLLM's additions (top_k,
min_p, ...) included, become the row's own `sampling`. Any other that would change an answer, or one that is out of its documented
range, makes the row an error."""

import math
import reprlib
from typing import NoReturn

from batchgen.errors import BadRow
from batchgen.job.fields import MOST
from batchgen.job.sampling import Sampling, bias_text
from batchgen.read.formats.text.jsonl import Jsonl
from batchgen.records import Data

URL = "/v1/chat/completions"
_SAMPLING = Sampling.model_fields.keys() - {"logprobs"}
_IGNORED = {"model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_IGNORED |= {"stream", "stream_options"}
_HARMLESS: dict[str, tuple[object, ...]] = {"tools": ([],), "functions": ([],), "logit_bias": ({},), "modalities": (["text"],)}
"""Parameters with the values that mean no more than their absence."""
_OF_TOOLS = {"tool_choice", "parallel_tool_calls", "function_call"}
_OWN = {"max_completion_tokens", "logprobs", "top_logprobs", "response_format"}
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


class OpenAIBatch(Jsonl):
    name = "openai-batch"
    endings = ()

    def name_of(self, line: Data) -> Data | None:
        return {"custom_id": line["custom_id"]} if isinstance(line.get("custom_id"), str) else None

    def data(self, line: Data) -> Data:
        """A line's request as columns: custom_id, messages, sampling."""
        body = line.get("body")
        if not isinstance(line.get("custom_id"), str) or not isinstance(body, dict):
            raise BadRow("input", "an OpenAI batch line has custom_id (a string) and body (an object)")
        for name, only in (("url", URL), ("method", "POST")):
            if line.get(name, only) != only:
                raise BadRow("input", f"{name} {line[name]!r} is not {only}")
        given = {name: value for name, value in body.items() if value is not None}
        harmless = {name for name, values in _HARMLESS.items() if given.get(name) in values}
        if not given.get("tools") and not given.get("functions"):
            harmless |= _OF_TOOLS
        given = {name: value for name, value in given.items() if name not in harmless}
        if unknown := given.keys() - _SAMPLING - _IGNORED - _OWN:
            raise BadRow("input", f"body.{min(unknown)}: not understood")
        return {"custom_id": line["custom_id"], "messages": body.get("messages"), "sampling": _sampling(given)}


def _sampling(given: Data) -> Data:
    """The `sampling` of a row whose request has these parameters, none of them null."""
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
    if constraint := _constraint(given.get("response_format")):
        sampling["structured_outputs"] = constraint
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


OPENAI_BATCH = OpenAIBatch()
