"""OpenAI's batch files as an input: a request per line (export/openai.py writes the responses).

Formats: https://platform.openai.com/docs/api-reference/batch (request input) and the chat completions that they
ask for. A request's parameters become the row's own `sampling`; vLLM's additions to them (top_k, min_p, ...)
are understood too. What would change an answer and is not understood makes the row an error.
"""

from __future__ import annotations

from typing import Any

from batchgen.errors import BadRow
from batchgen.job.sampling import Sampling

URL = "/v1/chat/completions"
_SAMPLING = set(Sampling.model_fields) - {"logprobs"}
_IGNORED = {"model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream"}
_OWN = {"max_completion_tokens", "logprobs", "top_logprobs", "response_format"}


def request(line: dict[str, Any]) -> dict[str, Any]:
    """A line's request as a row: custom_id, messages, sampling. Raises BadRow (input)."""
    body = line.get("body")
    if not isinstance(line.get("custom_id"), str) or not isinstance(body, dict):
        raise BadRow("input", "an OpenAI batch line has custom_id (a string) and body (an object)")
    if line.get("url", URL) != URL:
        raise BadRow("input", f"url {line['url']!r} is not {URL}")
    given = {name: value for name, value in body.items() if value is not None}
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


def _constraint(form: Any) -> dict[str, Any] | None:
    kind = form.get("type") if isinstance(form, dict) else None
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return {"json": {"type": "object"}}
    schema = form.get("json_schema") if kind == "json_schema" else None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return {"json": schema["schema"]}
    raise BadRow("input", "body.response_format: expected text, json_object or json_schema with its schema")
