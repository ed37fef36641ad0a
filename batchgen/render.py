"""Row -> prompts: attributes, conversation, chat template, token ids, length check.

The prompt is rendered here and sent to the engine as token ids, never as text or messages, so
that what `check --prompts` shows is what the model reads.
"""

from __future__ import annotations

import array
import functools
from collections.abc import Sequence
from typing import Any, Literal

import orjson
import xxhash

from batchgen.attributes import Schema
from batchgen.content import check_inline, images, with_marks
from batchgen.conversation import Conversations, kind
from batchgen.errors import BadRow, ModelError, RowError, place
from batchgen.model import ModelFiles
from batchgen.records import Prompt, Row
from batchgen.sampling import check_sampling
from batchgen.spec import Job, unknown_adapter
from batchgen.template import ChatTemplate
from batchgen.tokens import TokenEncoder
from batchgen.values import Values

LayoutKind = Literal["model template", "schema template", "schema block", "none"]
UNBOUNDED_ANSWER = 128


class Renderer:
    """Turns rows into prompts. Pickles as its job and model files.

    Raises ModelError when the model cannot take the job: it has no chat template for a
    conversation, or neither its template nor the schema's layout honours an attribute.
    """

    def __init__(self, job: Job, model: ModelFiles) -> None:
        self.job = job
        self.model = model
        self.context: int | None = job.engine.options.get("max_model_len") or model.context
        self._values = Values(job.attributes)
        self._conversations = Conversations(job.input, self._values.names)
        self._constant_sampling = check_sampling(job.constant_sampling)
        self._tokens = TokenEncoder(model)
        self._template = ChatTemplate(model.chat_template, model.label) if model.chat_template else None
        self._hosted = job.engine.kind == "openai"
        self._continues = job.input.continue_final_message is True
        self._arguments = dict(job.model.chat_template_kwargs) if job.model else {}
        self.layout: LayoutKind = self._choose_layout()
        if self._template is None and (job.input.messages or job.input.turns):
            raise ModelError(
                f"model {model.label} has no chat template, which messages and turns need",
                "name one with model.chat_template",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return Renderer, (self.job, self.model)

    @property
    def needed(self) -> set[str]:
        """The input columns that rendering reads."""
        named = {self.job.input.id, "sampling", *self.job.sampling_columns.values(), *self._values.columns.values()}
        return {name for name in named if name} | self._conversations.columns

    def prompts(self, row: Row, shard: str) -> list[Prompt]:
        """The prompts of a row, one per variant; a bad row becomes error prompts. Never raises for a row."""
        error = row.error
        if error is None:
            try:
                assert row.data is not None
                return self._prompts(row.ordinal, row.data, shard)
            except BadRow as bad:
                error = RowError(bad.code, f"{place(shard, row.ordinal)}: {bad}")
        name = self._id(row.data or {})
        blank: dict[str, Any] = {"attributes": None, "messages": None, "turns": [], "text": "", "token_ids": []}
        return [Prompt(row.ordinal, variant, name, sampling=None, error=error, **blank) for variant in range(self.job.variants)]

    def _prompts(self, ordinal: int, data: dict[str, Any], shard: str) -> list[Prompt]:
        messages, turns = self._conversations.read(data)
        if pictures := images(messages):
            self._check_images(pictures)
        own = self._values.own(data)
        sampling, row_seed = self._sampling(data)
        made = []
        roles = {message["role"] for message in messages}
        for number, variant in enumerate(self._values.variants(shard, ordinal)):
            steered = self._values.steer(messages, own, variant)
            values = self._values.of(steered[-1]) if self._values.names and "user" in roles else None
            error, text, ids = None, "", list[int]()
            seeded = sampling
            try:
                text, ids = self.encode(steered)
                seeded = self.within_context(sampling, len(ids))
            except BadRow as bad:
                error = RowError(bad.code, f"{place(shard, ordinal)}: {bad}")
            if sampling["seed"] is not None and not row_seed:
                seeded = {**seeded, "seed": derive_seed(sampling["seed"], shard, ordinal, number)}
            made.append(Prompt(ordinal, number, self._id(data), values, steered, turns, text, ids, seeded, error))
        return made

    def encode(self, messages: list[dict[str, Any]]) -> tuple[str, list[int]]:
        """Text and token ids of a conversation whose user messages carry their attribute values.

        Raises BadRow (render, too_long).
        """
        shown, hidden = self._tokens.hide(messages)
        rendered = self._cut(shown) if messages[-1]["role"] == "assistant" and self._continues else self._render(shown)
        text, ids = self._tokens.encode(rendered, hidden, add_special_tokens=self._template is None)
        if not ids:
            raise BadRow("render", "the prompt has no tokens")
        if self.context is not None and len(ids) >= self.context:
            raise BadRow("too_long", f"the prompt has {len(ids)} tokens, the context {self.context}: no room for an answer")
        return text, ids

    def continued(self, messages: list[dict[str, Any]], answer: str, turn: str) -> list[dict[str, Any]]:
        """The conversation after the model's answer and the next scripted user turn, with the same values."""
        values = self._values.of(messages[-1])
        return [*messages, {"role": "assistant", "content": answer, **values}, {"role": "user", "content": turn, **values}]

    def _id(self, data: dict[str, Any]) -> str | None:
        value = data.get(self.job.input.id) if self.job.input.id else None
        return None if value is None else str(value)

    def _sampling(self, data: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The row's sampling, and whether the seed is the row's own."""
        columns = self.job.sampling_columns
        own = data.get("sampling")
        if own is not None and not isinstance(own, dict):
            raise BadRow("input", f"sampling must be a struct, not {kind(own)}")
        given = [*((key, data.get(column)) for key, column in columns.items()), *(own or {}).items()]
        fields = {key: value for key, value in given if value is not None}
        if not fields:
            return self._constant_sampling, False
        try:
            sampling = check_sampling({**self.job.constant_sampling, **fields})
        except ValueError as error:
            raise BadRow("input", f"sampling: {error}") from None
        adapter = sampling["adapter"]
        if adapter is not None and adapter not in self.job.adapters:
            raise BadRow("input", f"sampling: adapter: {unknown_adapter(adapter, self.job.adapters)}")
        return sampling, "seed" in fields

    def _check_images(self, pictures: list[str]) -> None:
        if self._hosted:
            return
        check_inline(pictures)
        if not self._takes_images:
            raise BadRow("render", f"the chat template of {self.model.label} takes no images")

    @functools.cached_property
    def _takes_images(self) -> bool:
        """Whether the template shows an image: one that takes texts only fails, or prints the list of parts."""
        values = self._values.schema.defaults if self._values.schema else {}
        parts = [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": ""}}]
        try:
            bare, full = (self._render([{"role": "user", "content": parts[:some], **values}]) for some in (1, 2))
        except BadRow:
            return False
        return bare != full and "'text'" not in full

    def within_context(self, sampling: dict[str, Any], tokens: int) -> dict[str, Any]:
        """`sampling` with max_tokens set to what is left after a prompt of `tokens`. Raises BadRow (too_long)."""
        wanted = sampling["max_tokens"]
        if self._hosted:  # whose context only the endpoint knows
            return sampling
        if self.context is None:
            return {**sampling, "max_tokens": wanted or UNBOUNDED_ANSWER}
        left = self.context - tokens
        if left < max(1, sampling["min_tokens"]):
            raise BadRow("too_long", f"the prompt has {tokens} tokens: no room for min_tokens {sampling['min_tokens']}")
        return {**sampling, "max_tokens": left if wanted is None else min(wanted, left)}

    def _cut(self, messages: list[dict[str, Any]]) -> str:
        """The conversation up to the end of its last message's text, which the model continues; as Transformers'
        continue_final_message, white space that the template strips is lost."""
        text, last = self._render(messages, answering=False), messages[-1]["content"]
        for beginning in (last, last.strip()):
            if beginning and (found := text.rfind(beginning)) >= 0:
                return text[: found + len(beginning)]
        raise BadRow("render", "the last message, which is to be continued, is not in what the chat template makes")

    def _render(self, messages: list[dict[str, Any]], answering: bool = True) -> str:
        if self.layout == "schema block":
            messages = self._with_block(messages)
        if self._template is None:
            return "\n\n".join(message["content"] for message in messages)
        if not self._hosted:
            messages = with_marks(messages)
        variables: dict[str, Any] = dict(self.model.special)
        if self._values.names:
            # Some templates read the values from their arguments instead of the message.
            values = {name: messages[-1].get(name) for name in self._values.names}
            variables = {**values, "attribute_names": list(self._values.names), **variables}
        return self._template.render(messages, {**self._arguments, **variables}, answering)

    def _with_block(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        schema = self._values.schema
        assert schema is not None
        assert schema.layout is not None
        layout = schema.layout
        last = max(i for i, m in enumerate(messages) if m["role"] == "user")
        return [
            {**m, "content": layout.apply(m["content"], self._values.of(m))}
            if m["role"] == "user" and (layout.turns == "all" or i == last)
            else m
            for i, m in enumerate(messages)
        ]

    def _choose_layout(self) -> LayoutKind:
        """Render one row with each attribute changed in turn; take the first layout that honours them all."""
        schema = self._values.schema
        if schema is None:
            return "none"
        ignored: list[str] = []
        if self._template is not None:
            self.layout = "model template"
            ignored = self._ignored(schema)
            if not ignored:
                return "model template"
        layout = schema.layout
        if layout is not None and (layout.template is None or not self._hosted):  # which has its own template
            if layout.template is not None:
                self._template = ChatTemplate(layout.template, self.model.label)
                self.layout = "schema template"
            else:
                self.layout = "schema block"
            ignored = self._ignored(schema)
            if not ignored:
                return self.layout
        raise ModelError(
            f"the chat template of {self.model.label} ignores {', '.join(ignored or schema.names)}: the prompt stays the "
            "same whatever the value",
            "use a template that reads them from the message or its arguments (model.chat_template), or give "
            "attributes.schema a layout",
        )

    def _ignored(self, schema: Schema) -> list[str]:

        def probe(values: dict[str, int]) -> str:
            try:
                return self._render([{"role": "user", "content": "Hello", **values}])
            except BadRow as error:
                raise ModelError(f"{self.model.label}: {error}", "give another model.chat_template") from None

        base = probe(schema.defaults)
        others = {a.name: a.low if a.default != a.low else a.high for a in schema.attributes if a.low != a.high}
        return [name for name, value in others.items() if probe({**schema.defaults, name: value}) == base]


def prompt_hash(ids: list[int], pictures: Sequence[str] = ()) -> str:
    """xxh3-128 of the prompt's token ids as little-endian int32, and of its images' URLs, in hex."""
    return xxhash.xxh3_128_hexdigest(array.array("i", ids).tobytes() + "".join(pictures).encode())


def derive_seed(seed: int, shard: str, ordinal: int, variant: int) -> int:
    """A row's seed: 63 bits of xxh3 over the job's seed and the row's name; independent of placement."""
    return xxhash.xxh3_64_intdigest(orjson.dumps([seed, shard, ordinal, variant])) >> 1
