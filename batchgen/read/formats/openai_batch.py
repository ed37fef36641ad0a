"""Requests of OpenAI's batch files: JSONL with a request per line.

Format: https://platform.openai.com/docs/api-reference/batch (request input) and the chat completions that it holds. A request's
parameters become the row's own `sampling`; vLLM's additions to them (top_k, min_p, ...) are understood too. A parameter
that would change an answer and is not understood makes the row an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from batchgen.errors import BadRow, RowError, place
from batchgen.job.input import Input
from batchgen.job.sampling import Sampling
from batchgen.read.formats.jsonl import Jsonl
from batchgen.records import Row

URL = "/v1/chat/completions"
_SAMPLING = Sampling.model_fields.keys() - {"logprobs"}
_IGNORED = {"model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream"}
_OWN = {"max_completion_tokens", "logprobs", "top_logprobs", "response_format"}
_LEAST = -9999.0
"""OpenAI's log-probability of a token that was all but impossible: JSON has no infinity."""
_STATUS = {"input": 400, "render": 400, "too_long": 400, "engine_rejected": 400, "timeout": 408}


class OpenAIBatch(Jsonl):
    name = "openai-batch"
    endings = ()

    def row(self, spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
        row = super().row(spec, shard, ordinal, line)
        if row.data is None:
            return row
        try:
            return Row(ordinal, request(row.data))
        except BadRow as bad:
            return Row(ordinal, None, RowError(bad.code, f"{place(shard, ordinal)}: {bad}"))


def request(line: dict[str, Any]) -> dict[str, Any]:
    """A line's request as the data of a row: custom_id, messages, sampling. Raises BadRow (input)."""
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


def _constraint(form: object) -> dict[str, Any] | None:
    kind = form.get("type") if isinstance(form, dict) else None
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return {"json": {"type": "object"}}
    schema = form.get("json_schema") if isinstance(form, dict) and kind == "json_schema" else None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        return {"json": schema["schema"]}
    raise BadRow("input", "body.response_format: expected text, json_object or json_schema with its schema")


def response(custom_id: str, rows: Iterable[dict[str, Any]], created: int) -> tuple[bool, dict[str, Any]]:
    """The line of a request whose samples are `rows` of the output, and whether it is one for the file of responses; it is
    one for the file of errors when no sample was answered."""
    rows = list(rows)
    answered = [row for row in rows if row["status"] == "ok"]
    name = f"{rows[0]['shard']}:{rows[0]['row']}:{rows[0]['variant']}"
    line: dict[str, Any] = {"id": f"batch_req_{name}", "custom_id": custom_id, "response": None, "error": None}
    if not answered:
        code, detail = rows[0]["error_code"], rows[0]["error_detail"]
        error = {"message": detail, "type": code, "param": None, "code": code}
        line["response"] = {"status_code": _STATUS.get(code, 500), "request_id": name, "body": {"error": error}}
        line["error"] = {"code": code, "message": detail}
        return False, line
    tokens = rows[0]["prompt_tokens"], sum(row["completion_tokens"] for row in rows)
    choices = [
        {
            "index": row["sample"],
            "message": {"role": "assistant", "content": row["response"]},
            "logprobs": _logprobs(row.get("token_logprobs")),
            "finish_reason": row["finish_reason"],
        }
        for row in answered
    ]
    body = {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": created,
        "model": rows[0]["model"],
        "choices": choices,
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
    line["response"] = {"status_code": 200, "request_id": name, "body": body}
    return True, line


def _logprobs(tokens: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    content = [{**_token(token), "top_logprobs": [_token(other) for other in token["top"]]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: dict[str, Any]) -> dict[str, Any]:
    """A token in OpenAI's words; `bytes` is null where its text does not have them, in a piece of a character."""
    text = token["token"] or ""
    known = text and "\ufffd" not in text
    return {"token": text, "logprob": max(token["logprob"], _LEAST), "bytes": list(text.encode()) if known else None}
