"""OpenAI's batch files: JSONL with a request for a chat completion per line.

Format: https://platform.openai.com/docs/api-reference/batch (request input). A request's parameters, vLLM's additions (top_k,
min_p, ...) included, become the row's own `sampling`. Any other that would change an answer makes the row an error."""

from batchgen.errors import BadRow
from batchgen.job.sampling import Sampling
from batchgen.read.formats.jsonl import Jsonl
from batchgen.records import Data

URL = "/v1/chat/completions"
_SAMPLING = Sampling.model_fields.keys() - {"logprobs"}
_IGNORED = {"model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream"}
_OWN = {"max_completion_tokens", "logprobs", "top_logprobs", "response_format"}


class OpenAIBatch(Jsonl):
    name = "openai-batch"
    endings = ()

    def data(self, line: Data) -> Data:
        """A line's request as columns: custom_id, messages, sampling."""
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
