"""Row -> prompt for a task that reads numbers from a model. A text is read as it is, with the special tokens that the tokenizer
adds; a conversation goes through the chat template. Pairs of texts are the tokenizer's own pairs. A special token that a text of
a row spells stays text. What an endpoint gets is the JSON of its request's texts (a token is a byte)."""

from dataclasses import dataclass

from batchgen.errors import BadRow, safe_message
from batchgen.job.job import Job
from batchgen.job.pooling import PAIRS
from batchgen.jsontext import dumps
from batchgen.records import Data, Message
from batchgen.render.capabilities import Capabilities
from batchgen.render.layout import PromptText
from batchgen.render.messages import for_template, images
from batchgen.render.model_files import ModelFiles
from batchgen.render.tokens import TokenEncoder

SURELY_READ = 2**20  # characters up to which a text is tokenized whatever the context
SAYS_TOO_LONG = "set pooling.max_tokens to cut it"


@dataclass(frozen=True)
class Made:
    """A prompt: its text, its token ids, and of pairs where they end and where their second text begins (Prompt.pairs)."""

    text: str
    token_ids: list[int]
    pairs: list[tuple[int, int]] | None = None


class PooledText:
    """Makes the prompts of a job. Raises ModelError for dimensions that the model does not have."""

    def __init__(
        self, job: Job, model: ModelFiles, capabilities: Capabilities, text: PromptText, tokens: TokenEncoder, context: int | None
    ) -> None:
        self._job, self._spec, self._files = job, job.input, model.pooling
        self._hosted = capabilities.prompts == "messages"
        self._text, self._tokens, self.context = text, tokens, context
        self._most = job.pooling.max_tokens
        self._reader = tokens.reader(self._most, model.pooling.cuts_left)
        if capabilities.needs_model and capabilities.reads_model:
            model.pooling.refuse_dimensions(job, model.label)

    def make(self, data: Data, messages: list[Message]) -> Made:
        """The prompt of a row. Raises BadRow (input, render, too_long)."""
        own = data.get("dimensions") if self._spec.format == "openai-batch" else None  # a request's, where all have the job's
        if own is not None and own != (self._job.pooling.dimensions or self._files.dimensions):
            raise BadRow("input", f"body.dimensions: {own!r} is not the job's: set pooling.dimensions, for all requests")
        if images(messages):
            raise BadRow("render", f"task {self._job.task} reads no images")
        if self._job.task in PAIRS:
            return self._pairs(_only(messages), self._documents(data))
        if self._spec.conversation is not None:
            return self._conversation(messages)
        text = _only(messages)
        if self._hosted:
            return _request(text, {"input": text})
        return Made(text, self._fitting(self._encode(text)[0], "the text"))

    def _conversation(self, messages: list[Message]) -> Made:
        if self._hosted:
            given = [for_template(message, hosted=True) for message in messages]
            return _request(dumps(given), {"messages": given})
        shown, _, mark = self._tokens.hide(messages)
        text, ids = self._tokens.encode(self._text.render_whole(shown), mark, add_special_tokens=False)
        if self._most is not None and len(ids) > self._most:
            ids = ids[-self._most :] if self._files.cuts_left else ids[: self._most]
        return Made(text, self._fitting(ids, "the conversation"))

    def _documents(self, data: Data) -> list[str]:
        column, task = self._spec.documents or "", self._job.task
        found = data.get(column)
        if task == "score" and isinstance(found, str):
            return [found]
        if task == "score" and isinstance(found, list):
            raise BadRow("input", f"{column} is a list: task score compares one text; set task: rerank")
        if task == "rerank" and isinstance(found, str):
            raise BadRow("input", f"{column} is one text: task rerank compares a list of texts; set task: score")
        if found is None:
            raise BadRow("input", f"{column} is {'null' if column in data else 'missing'}")
        if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
            raise BadRow("input", f"{column} must be {'a text' if task == 'score' else 'a list of texts, at least one'}")
        return list(found)

    def _pairs(self, query: str, documents: list[str]) -> Made:
        text = "\n".join([query, *documents])
        if self._hosted:
            return _request(text, {"query": query, "documents": documents})
        ids, pairs = list[int](), list[tuple[int, int]]()
        for number, document in enumerate(documents, 1):
            found, kinds = self._encode(query + document) if self._files.joins else self._encode(query, document)
            one = self._fitting(found, "the pair" if len(documents) == 1 else f"the pair of document {number}")
            second = kinds.index(1) if self._files.has_types and 1 in kinds else len(one)
            ids += one
            pairs.append((len(ids), second))
        return Made(text, ids, pairs)

    def _encode(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """The token ids of a text or a pair, and the number of its text for each (0, 1). Raises BadRow (render, too_long)."""
        size = len(text) + len(pair or "")
        if self._most is None and self.context is not None and size > max(SURELY_READ, self.context * self._tokens.longest):
            raise BadRow("too_long", f"the text has {size} characters, which no {self.context} tokens hold; {SAYS_TOO_LONG}")
        if self._reader is None:
            first, second = text.encode(), (pair or "").encode()
            return list(first + second)[: self._most], ([0] * len(first) + [1] * len(second))[: self._most]
        try:
            made = self._reader.encode(text, pair)
        except BaseException as error:  # a panic of the library is no Exception
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise BadRow("render", f"the tokenizer failed: {safe_message(error)}") from None
            raise
        return made.ids, made.type_ids

    def _fitting(self, ids: list[int], what: str) -> list[int]:
        """The ids of what the model reads at once. Raises BadRow (render, too_long)."""
        if not ids:
            raise BadRow("render", f"{what} has no tokens")
        if self.context is not None and len(ids) > self.context:
            raise BadRow("too_long", f"{what} has {len(ids)} tokens, the context {self.context}; {SAYS_TOO_LONG}")
        return ids


def _only(messages: list[Message]) -> str:
    """The text of a row that is one message. Raises BadRow (input)."""
    if len(messages) != 1 or not isinstance(messages[0]["content"], str):
        raise BadRow("input", "the row is a conversation: name its column with input.messages")
    return messages[0]["content"]


def _request(text: str, fields: dict[str, object]) -> Made:
    return Made(text, list(dumps(fields).encode()))
