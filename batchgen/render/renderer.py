"""Row -> prompts: attributes, conversation, chat template, token ids, length check.

The prompt is rendered here and sent to the engine as token ids, never as text or messages, so
that what `check --prompts` shows is what the model reads.
"""

from __future__ import annotations

import array
import functools
from collections.abc import Sequence
from typing import Any

import orjson
import xxhash

from batchgen.errors import BadRow, ModelError, RowError, place
from batchgen.job.job import Job, unknown_adapter
from batchgen.job.sampling import check_sampling
from batchgen.records import Prompt, Row
from batchgen.render.layout import LayoutKind, PromptText
from batchgen.render.messages import images
from batchgen.render.model_files import ModelFiles
from batchgen.render.steering import Values
from batchgen.render.tokens import TokenEncoder

UNBOUNDED_ANSWER = 128
KNOWN_SAMPLINGS = 4096


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
        self._constant_sampling = check_sampling(job.constant_sampling)
        self._sampling_columns = job.sampling_columns
        # Checking costs more than the rest of a short row, and many rows say the same.
        self._known_sampling = functools.lru_cache(KNOWN_SAMPLINGS, typed=True)(self._check_sampling)
        self._tokens = TokenEncoder(model)
        self._hosted = job.engine.kind == "openai"
        self._text = PromptText(job, model, self._values)
        if not self._text.has_template and (job.input.messages or job.input.turns):
            raise ModelError(
                f"model {model.label} has no chat template, which messages and turns need",
                "name one with model.chat_template",
            )

    @property
    def layout(self) -> LayoutKind:
        return self._text.kind

    def __reduce__(self) -> tuple[Any, ...]:
        return Renderer, (self.job, self.model)

    @property
    def needed(self) -> set[str]:
        """The input columns that rendering reads, beside those of the row's layout."""
        named = {self.job.input.id, "sampling", *self.job.sampling_columns.values(), *self._values.columns.values()}
        return {name for name in named if name}

    def prompts(self, row: Row, shard: str) -> list[Prompt]:
        """The prompts of a row, one per variant; a bad row becomes error prompts. Never raises for a row."""
        error = row.error
        if error is None:
            try:
                return self._prompts(row, shard)
            except BadRow as bad:
                error = RowError(bad.code, f"{place(shard, row.ordinal)}: {bad}")
        name = self._id(row.data or {})
        blank: dict[str, Any] = {"attributes": None, "messages": None, "turns": [], "text": "", "token_ids": []}
        return [Prompt(row.ordinal, variant, name, sampling=None, error=error, **blank) for variant in range(self.job.variants)]

    def _prompts(self, row: Row, shard: str) -> list[Prompt]:
        assert row.data is not None
        assert row.messages is not None
        ordinal, data, messages, turns = row.ordinal, row.data, row.messages, list(row.turns)
        if pictures := images(messages):
            self._text.check_images(pictures)
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
        text, ids = self._tokens.encode(self._text.render(shown), hidden, add_special_tokens=not self._text.has_template)
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
        own = data.get("sampling")
        if own is not None and not isinstance(own, dict):
            raise BadRow("input", f"sampling must be a struct, not {type(own).__name__}")
        given = [*((key, data.get(column)) for key, column in self._sampling_columns.items()), *(own or {}).items()]
        fields = {key: value for key, value in given if value is not None}
        if not fields:
            return self._constant_sampling, False
        hashable = not any(isinstance(value, list | dict) for value in fields.values())
        check = self._known_sampling if hashable else self._check_sampling
        return check(tuple(fields), *fields.values()), "seed" in fields

    def _check_sampling(self, names: tuple[str, ...], *values: Any) -> dict[str, Any]:
        try:
            sampling = check_sampling({**self.job.constant_sampling, **dict(zip(names, values, strict=True))})
        except ValueError as error:
            raise BadRow("input", f"sampling: {error}") from None
        adapter = sampling["adapter"]
        if adapter is not None and adapter not in self.job.adapters:
            raise BadRow("input", f"sampling: adapter: {unknown_adapter(adapter, self.job.adapters)}")
        return sampling

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


def prompt_hash(ids: list[int], pictures: Sequence[str] = ()) -> str:
    """xxh3-128 of the prompt's token ids as little-endian int32, and of its images' URLs, in hex."""
    return xxhash.xxh3_128_hexdigest(array.array("i", ids).tobytes() + "".join(pictures).encode())


def derive_seed(seed: int, shard: str, ordinal: int, variant: int) -> int:
    """A row's seed: 63 bits of xxh3 over the job's seed and the row's name; independent of placement."""
    return xxhash.xxh3_64_intdigest(orjson.dumps([seed, shard, ordinal, variant])) >> 1
