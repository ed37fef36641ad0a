"""Numbers of texts from an endpoint: what is asked for a task, and the body of the reply, checked as it comes. Formats: OpenAI's
/v1/embeddings (https://platform.openai.com/docs/api-reference/embeddings); those of vLLM's server: /v1/score, /v1/rerank (Jina's,
Cohere's), and beside /v1 /classify and /pooling (https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html)."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from batchgen import jsontext
from batchgen.engines.base import PoolingRequest
from batchgen.engines.openai_replies.chat import Object, count_in, object_in, rejected, shown
from batchgen.records import Pooled

PATHS = {
    "embed": "/v1/embeddings",
    "classify": "/classify",
    "score": "/v1/score",
    "rerank": "/v1/rerank",
    "reward": "/pooling",
}
"""Of a server, whose `base_url` ends in /v1 or, at some, does not."""


def url_of(base_url: str, task: str) -> str:
    """Where the task's requests go."""
    base, path = base_url.rstrip("/"), PATHS[task]
    if path.startswith("/v1/"):
        return base + path.removeprefix("/v1")
    return base.removesuffix("/v1") + path


def body_of(request: PoolingRequest, model: str) -> Object:
    """The body of a request. Fields that OpenAI lacks are there only where the job sets them."""
    pooling, given = request.pooling, _given(request)
    body: Object = {"model": model, **given}
    if request.task == "score":
        [document] = given["documents"]
        body = {"model": model, "text_1": given["query"], "text_2": document}
    if request.task == "embed":
        body |= {"encoding_format": "float"} | ({} if pooling.dimensions is None else {"dimensions": pooling.dimensions})
    if request.task == "reward":
        body["task"] = "classify"
    if pooling.normalize is not None or request.task == "reward":
        body["use_activation"] = pooling.is_normalized(request.task)
    return body | ({} if pooling.max_tokens is None else {"truncate_prompt_tokens": pooling.max_tokens})


def pooled_in(request: PoolingRequest) -> Callable[[bytes], Pooled]:
    """What reads the body of the reply. It raises BadRow (engine_rejected) with the cause, BusyError."""
    wanted = len(_given(request)["documents"]) if request.task == "rerank" else 1

    def read(body: bytes) -> Pooled:
        reply = object_in(body)
        entries = _in_order(reply, "results" if request.task == "rerank" else "data", wanted)
        values = [_numbers(request.task, entry) for entry in entries]
        if wrong := [len(each) for each in values if len(each) != (request.size or len(each))]:
            raise rejected(f"{wrong[0]} numbers instead of {request.size}")
        label = entries[0].get("label") if request.task == "classify" else None
        if label is not None and not isinstance(label, str):
            raise rejected(f"label is {shown(label)}")
        usage = reply.get("usage") or {}
        if not isinstance(usage, dict):
            raise rejected(f"usage is {shown(usage)}")
        return Pooled(values, label, count_in(usage, "prompt_tokens") or count_in(usage, "total_tokens") or 0)

    return read


def _given(request: PoolingRequest) -> Object:
    """The texts of a row, as rendering made them."""
    [text] = request.texts
    given: Object = jsontext.loads(bytes(text.token_ids))
    return given


def _in_order(reply: Object, name: str, wanted: int) -> list[Object]:
    """The entries of a reply by their index; where none has one, as they stand."""
    entries = reply.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise rejected(f"{name} is {shown(entries)}")
    if len(entries) != wanted:
        raise rejected(f"{len(entries)} {name} instead of {wanted}")
    numbers = [entry.get("index") for entry in entries]
    if name == "data" and all(number is None for number in numbers):
        return entries
    if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(wanted)):
        raise rejected(f"the indexes of its {name} are {shown(numbers)}")
    return sorted(entries, key=lambda entry: int(entry["index"]))


def _numbers(task: str, entry: Object) -> pa.FloatArray:
    name = {"embed": "embedding", "classify": "probs", "score": "score", "rerank": "relevance_score", "reward": "data"}[task]
    value = entry.get(name)
    if task == "reward" and isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # of a server that lists tokens, of which there is one
    values = value if task in ("embed", "classify", "reward") else [value]
    if not isinstance(values, list) or not values:
        raise rejected(f"{name} is {shown(value)}, not a list of numbers")
    if wrong := [each for each in values if type(each) not in (int, float)]:  # a bool is an int to isinstance
        raise rejected(f"{name} has {shown(wrong[0])} in it, not a number")
    try:
        with np.errstate(over="ignore"):
            made = np.asarray(values, np.float64).astype(np.float32)
    except OverflowError:
        raise rejected(f"{name} has a number that is not finite") from None
    if not np.isfinite(made).all():
        raise rejected(f"{name} has a number that is not finite")
    return pa.array(made)
