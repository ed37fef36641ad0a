"""OpenAI's batch files: output.jsonl with the answered requests, errors.jsonl with the others.

Formats: https://platform.openai.com/docs/api-reference/batch (request output objects) and the chat completions that they hold. A
request that was refused has the response of its HTTP status; one that no answer came for has no response and an `error`. Where
some of a request's `n` samples failed, the line has the choices of the others under their own numbers."""

import hashlib
import itertools
import time
from collections.abc import Iterator

from batchgen.errors import InputError, VerifyError
from batchgen.export.files import Line
from batchgen.output.format import Fields
from batchgen.output.output import Output
from batchgen.read import values
from batchgen.records import Shard

_LEAST = -9999.0  # OpenAI's log-probability of a token that was all but impossible: JSON has no infinity
_STATUS = {"input": 400, "render": 400, "too_long": 400, "engine_rejected": 400}
_CODES = {"timeout": "request_timeout"}  # OpenAI's word, where it has one


def export(output: Output, line: Line) -> None:
    """Raises InputError for the output of a task that OpenAI's batch files do not have."""
    if output.job.job.pools and output.job.job.task != "embed":
        cause = f"{output.url}: it is of task {output.job.job.task}, and OpenAI's batch files have completions and embeddings"
        raise InputError(cause, "export it with --format jsonl")
    line("output.jsonl", None)
    line("errors.jsonl", None)
    is_plain = output.job.job.input.format == "openai-batch" and output.job.job.input.prompt is not None
    created, shards = int(time.time()), {shard.name: shard for shard in output.plan.shards}
    rows: Iterator[Fields] = itertools.chain.from_iterable(map(values.rows, output.tables()))
    for (name, row, variant), samples in itertools.groupby(rows, lambda row: (row["shard"], row["row"], row["variant"])):
        if (shard := shards.get(name)) is None:
            raise VerifyError(f"{output.url}: row {row} is of shard {name}, which the plan does not have", "run batchgen verify")
        answers = list(samples)
        custom_id = answers[0]["id"]
        if custom_id is None:
            custom_id = _nameless(shard, row) if output.job.job.input.id else f"{shard.index}-{row}" if shard.index else str(row)
        if output.job.job.variants > 1:  # of every request, so that no two of them can be called the same
            custom_id = f"{custom_id}-{variant}"
        number = f"{shard.index:06d}-{row:012d}-{variant:04d}"
        fields = response(custom_id, number, answers, created, is_plain)
        answered = fields["response"] is not None and fields["response"]["status_code"] == 200
        line("output.jsonl" if answered else "errors.jsonl", fields)


def _nameless(shard: Shard, row: int) -> str:
    """The custom_id of a line that brings none. No line can have it for its own: it comes from the text of them all."""
    return f"no-custom-id-{hashlib.sha256(f'{shard.digest} {row}'.encode()).hexdigest()[:24]}"


def response(custom_id: str, number: str, rows: list[Fields], created: int, is_plain: bool = False) -> Fields:
    """The line of a request whose samples are `rows` of the output: an answer where some are ok, else the first one's error.
    `number` stands for the request in the ids of the line; with `is_plain` it was for the completion of a text."""
    answered = [row for row in rows if row["status"] == "ok"]
    error, status = None, 200
    if answered:
        make = _embeddings if "embedding" in rows[0] else _completion if is_plain else _chat_completion
        body: Fields = {"model": rows[0]["model"], **make(rows, answered, number, created)}
    else:
        code, detail = rows[0]["error_code"], rows[0]["error_detail"]
        body = {"error": {"message": detail, "type": "invalid_request_error", "param": None, "code": code}}
        if (status := _STATUS.get(code, 0)) == 0:
            error = {"code": _CODES.get(code, code), "message": detail}
    answer = {"status_code": status, "request_id": f"req_{number}", "body": body} if status else None
    return {"id": f"batch_req_{number}", "custom_id": custom_id, "response": answer, "error": error}


def _embeddings(rows: list[Fields], answered: list[Fields], number: str, created: int) -> Fields:
    tokens = rows[0]["prompt_tokens"]
    data = [{"object": "embedding", "index": 0, "embedding": answered[0]["embedding"]}]
    return {"object": "list", "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _chat_completion(rows: list[Fields], answered: list[Fields], number: str, created: int) -> Fields:
    choices = [
        {
            "index": row["sample"],
            "message": _message(row),
            "logprobs": _logprobs(row.get("token_logprobs")),
            "finish_reason": row["finish_reason"],
        }
        for row in answered
    ]
    made = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": created}
    return {**made, "choices": choices, "usage": _usage(rows)}


def _completion(rows: list[Fields], answered: list[Fields], number: str, created: int) -> Fields:
    """Of a request for a completion of a text; its log-probabilities are lists, without the likeliest tokens' ids."""
    choices = []
    for row in answered:
        tokens = row.get("token_logprobs")
        scored = None if tokens is None else [_token(token) for token in tokens]
        listed = (
            None
            if scored is None or tokens is None
            else {
                "tokens": [token["token"] for token in scored],
                "token_logprobs": [token["logprob"] for token in scored],
                "top_logprobs": [{other["token"]: other["logprob"] for other in map(_token, token["top"])} for token in tokens],
                "text_offset": list(itertools.accumulate((len(token["token"]) for token in scored[:-1]), initial=0)),
            }
        )
        reason = row["finish_reason"]
        choices.append({"index": row["sample"], "text": row["response"], "logprobs": listed, "finish_reason": reason})
    made = {"id": f"cmpl-{number}", "object": "text_completion", "created": created}
    return {**made, "choices": choices, "usage": _usage(rows)}


def _usage(rows: list[Fields]) -> Fields:
    asked, said = rows[0]["prompt_tokens"], sum(row["completion_tokens"] for row in rows)
    usage: Fields = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
    thoughts = [row["reasoning_tokens"] for row in rows if row.get("reasoning_tokens") is not None]
    return usage | ({"completion_tokens_details": {"reasoning_tokens": sum(thoughts)}} if thoughts else {})


def _message(row: Fields) -> Fields:
    """An answer as a message; reasoning under the key of vLLM's server, since OpenAI's has none."""
    message: Fields = {"role": "assistant", "content": row["response"], "refusal": None}
    if calls := row.get("tool_calls"):
        message |= {"tool_calls": calls, "content": row["response"] or None}
    return message if row.get("reasoning") is None else {**message, "reasoning": row["reasoning"]}


def _logprobs(tokens: list[Fields] | None) -> Fields | None:
    if tokens is None:
        return None
    content = [{**_token(token), "top_logprobs": [_token(other) for other in token["top"]]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: Fields) -> Fields:
    """A token in OpenAI's words. `bytes` is null where its text lacks them: the token is a piece of a character."""
    text = token["token"] or ""
    logprob = _LEAST if token["logprob"] is None else max(token["logprob"], _LEAST)
    known = text and "\ufffd" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if known else None}
