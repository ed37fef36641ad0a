"""OpenAI's batch files: JSONL with a request for a chat completion per line.

Format: https://platform.openai.com/docs/api-reference/batch (request input). A request's parameters, vLLM's additions (top_k,
min_p, ...) included, become the row's own `sampling`. Any other that would change an answer makes the row an error."""

from batchgen.errors import BadRow
from batchgen.job.sampling import Sampling
from batchgen.read.formats.jsonl import Jsonl
from batchgen.records import Data

URL = "/v1/chat/completions"
_SAMPLING = Sampling.model_fields.keys() - {"logprobs"}
_IGNORED = {"model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_IGNORED |= {"stream", "stream_options"}
_HARMLESS: dict[str, tuple[object, ...]] = {"tools": ([],), "functions": ([],), "logit_bias": ({},), "modalities": (["text"],)}
"""Parameters with the values that mean no more than their absence."""
_OF_TOOLS = {"tool_choice", "parallel_tool_calls", "function_call"}
_OWN = {"max_completion_tokens", "logprobs", "top_logprobs", "response_format"}


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
        for name in given.keys() - _SAMPLING - _IGNORED - _OWN:
            raise BadRow("input", f"body.{name}: not understood")
        sampling = {name: given[name] for name in given.keys() & _SAMPLING}
        if "max_completion_tokens" in given:
            sampling["max_tokens"] = given["max_completion_tokens"]
        if given.get("logprobs"):
            sampling["logprobs"] = given.get("top_logprobs", 0)
        if constraint := _constraint(given.get("response_format")):
            sampling["structured_outputs"] = constraint
        return {"custom_id": line["custom_id"], "messages": body.get("messages"), "sampling": sampling}


def _constraint(form: object) -> dict[str, object] | None:
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"json": {"type": "object"}}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"json": schema}
    raise BadRow("input", "body.response_format: expected text, json_object or json_schema with its schema")


OPENAI_BATCH = OpenAIBatch()
