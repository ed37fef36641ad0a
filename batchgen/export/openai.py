"""OpenAI's batch files: output.jsonl with the answered requests, errors.jsonl with the others.

Formats: https://platform.openai.com/docs/api-reference/batch (request output objects) and the chat completions that they hold."""

import itertools
import time

from batchgen.export.files import Line
from batchgen.output.format import Fields
from batchgen.output.output import Output

_LEAST = -9999.0  # OpenAI's log-probability of a token that was all but impossible: JSON has no infinity
_STATUS = {"input": 400, "render": 400, "too_long": 400, "engine_rejected": 400, "timeout": 408}


def export(output: Output, line: Line) -> None:
    line("output.jsonl", None)
    line("errors.jsonl", None)
    created = int(time.time())
    for (_, row, variant), samples in itertools.groupby(output.rows(), lambda row: (row["shard"], row["row"], row["variant"])):
        answers = list(samples)
        name = answers[0]["id"] or str(row)
        fields = response(f"{name}-{variant}" if variant else name, answers, created)
        line("errors.jsonl" if fields["error"] else "output.jsonl", fields)


def response(custom_id: str, rows: list[Fields], created: int) -> Fields:
    """The line of a request whose samples are `rows` of the output: an answer where some are ok, else the first one's error."""
    name = f"{rows[0]['shard']}:{rows[0]['row']}:{rows[0]['variant']}"
    choices = [
        {
            "index": row["sample"],
            "message": {"role": "assistant", "content": row["response"]},
            "logprobs": _logprobs(row.get("token_logprobs")),
            "finish_reason": row["finish_reason"],
        }
        for row in rows
        if row["status"] == "ok"
    ]
    status, error = 200, None
    if choices:
        asked, said = rows[0]["prompt_tokens"], sum(row["completion_tokens"] for row in rows)
        body: Fields = {"id": f"chatcmpl-{name}", "object": "chat.completion", "created": created, "model": rows[0]["model"]}
        body |= {"choices": choices, "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}}
    else:
        code, detail = rows[0]["error_code"], rows[0]["error_detail"]
        body = {"error": {"message": detail, "type": code, "param": None, "code": code}}
        status, error = _STATUS.get(code, 500), {"code": code, "message": detail}
    answer = {"status_code": status, "request_id": name, "body": body}
    return {"id": f"batch_req_{name}", "custom_id": custom_id, "response": answer, "error": error}


def _logprobs(tokens: list[Fields] | None) -> Fields | None:
    if tokens is None:
        return None
    content = [{**_token(token), "top_logprobs": [_token(other) for other in token["top"]]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: Fields) -> Fields:
    """A token in OpenAI's words. `bytes` is null where its text lacks them: the token is a piece of a character."""
    text = token["token"] or ""
    known = text and "\ufffd" not in text
    return {"token": text, "logprob": max(token["logprob"], _LEAST), "bytes": list(text.encode()) if known else None}
