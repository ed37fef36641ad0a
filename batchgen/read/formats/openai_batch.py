"""OpenAI's batch files: JSONL with a request per line, whose parameters become columns (requests.py).

Format: https://platform.openai.com/docs/api-reference/batch (request input)."""

from batchgen.errors import BadRow
from batchgen.job.input import Input
from batchgen.read.formats.text.jsonl import Jsonl
from batchgen.read.requests import CHAT, KINDS, columns_of
from batchgen.records import Data


class OpenAIBatch(Jsonl):
    name = "openai-batch"
    endings = ()

    def name_of(self, line: Data) -> Data | None:
        return {"custom_id": line["custom_id"]} if isinstance(line.get("custom_id"), str) else None

    def data(self, line: Data, spec: Input | None = None) -> Data:
        """A line's request as columns: custom_id, and those of its body. Raises BadRow also for a request of another kind than
        those that the job reads."""
        body, url = line.get("body"), line.get("url", CHAT)
        if not isinstance(line.get("custom_id"), str) or not isinstance(body, dict):
            raise BadRow("input", "an OpenAI batch line has custom_id (a string) and body (an object)")
        if url not in KINDS:
            raise BadRow("input", f"url {url!r} is not one of {', '.join(KINDS)}")
        if (method := line.get("method", "POST")) != "POST":
            raise BadRow("input", f"method {method!r} is not POST")
        columns = columns_of(body, url)
        if spec is not None and (spec.source[1] not in columns or (spec.documents is not None) != ("documents" in columns)):
            kind = KINDS[url]
            raise BadRow("input", f"url {url}: the job is of other requests; for these set {kind.words}")
        return {"custom_id": line["custom_id"], **columns}


OPENAI_BATCH = OpenAIBatch()
