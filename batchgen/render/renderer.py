"""Row -> prompts: attributes, chat template, token ids, length check. An engine gets the token ids, never text or messages, so
that the prompt which `check --prompts` shows is the prompt which the model reads."""

import array
import base64
import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import orjson
import xxhash

from batchgen import logs
from batchgen.errors import BadRow, ModelError, RowError, place
from batchgen.job.fields import Fields
from batchgen.job.job import Job, unknown_adapter
from batchgen.job.sampling import Sampling, check_sampling
from batchgen.jsontext import dumps, loads
from batchgen.records import Data, Message, Prompt, Row
from batchgen.render.capabilities import Capabilities
from batchgen.render.layout import PromptText
from batchgen.render.messages import images
from batchgen.render.model_files import ModelFiles
from batchgen.render.pooled import PooledText
from batchgen.render.safe.functions import RowFunctions
from batchgen.render.steering import Steering
from batchgen.render.tokens import TokenEncoder

SURELY_READ = 2**20  # characters up to which a prompt is tokenized whatever the context
UNBOUNDED_ANSWER = 128  # tokens of an answer without max_tokens and without a context
KNOWN_SAMPLINGS, KNOWN_TEXT = 4096, 4096
"""Checked samplings that are remembered, none with a text of more characters: a check costs more than the rest of a short row,
and many rows say the same."""
JUDGE = "accept.judge"
TAIL_TOKENS = 32  # of a prompt, in which a mark of reasoning is looked for
TOKENS, NO_FUNCTIONS, DEFAULTS = Capabilities(), RowFunctions(), check_sampling({})
_LOG = logs.logger("render")


class Renderer:
    """Turns rows into prompts for an engine with these capabilities, whose context is `context` tokens (None: the model's own).
    Has the `functions` of the job for those who read rows and answers, and the renderer of a `judge` that is another engine.
    Pickles as its arguments. Raises ModelError when the model has no chat template for a conversation, or when neither its
    template nor the schema's layout honours an attribute."""

    def __init__(
        self,
        job: Job,
        model: ModelFiles,
        capabilities: Capabilities = TOKENS,
        context: int | None = None,
        functions: RowFunctions = NO_FUNCTIONS,
        judge: "Renderer | None" = None,
    ) -> None:
        self.job, self.model, self.functions, self.judge = job, model, functions, judge
        self._capabilities = capabilities
        self.context = context or (model.pooling.context if job.pools else None) or model.context
        self._steering = Steering(job.attributes)
        self._constant_sampling = check_sampling(job.constant_sampling)
        self._sampling_columns = job.sampling_columns
        self._known_sampling = functools.lru_cache(KNOWN_SAMPLINGS, typed=True)(self._check_sampling)
        self._tokens = TokenEncoder(model)
        self._text = PromptText(job, model, self._steering, capabilities)
        self.layout = self._text.form.kind
        self._has_template = self._text.form.template is not None
        if not self._has_template and (job.input.conversation or job.input.turns or job.input.history):
            problem = f"model {model.label} has no chat template, which conversations need"
            raise ModelError(problem, "name one with model.chat_template")
        pooled = job, model, capabilities, self._text, self._tokens, self.context
        self._pooled = PooledText(*pooled) if job.pools else None

    def __reduce__(self) -> tuple[object, ...]:
        return Renderer, (self.job, self.model, self._capabilities, self.context, self.functions, self.judge)

    def of_job(self, job: Job) -> "Renderer":
        """This renderer for a job whose rows mean the same."""
        if job == self.job:
            return self
        judge = self.judge
        if judge is not None and job.judge is not None:  # the model as it was looked at
            judge = judge.of_job(job.judge.model_copy(update={"model": judge.job.model}))
        return Renderer(job, self.model, self._capabilities, self.context, self.functions, judge)

    @property
    def versions(self) -> dict[str, object]:
        """As versions_of says."""
        return versions_of(self.functions, self.judge)

    @property
    def needed(self) -> set[str]:
        """The input columns that rendering reads, beside those of the row's layout."""
        return self.job.columns

    def prompts(self, row: Row, shard: str, source: int = 0) -> list[Prompt]:
        """The prompts of a row, one per variant; of a bad row, error prompts. `source` is the row's index in its span."""
        return list(self.each(row, shard, source))

    def each(self, row: Row, shard: str, source: int = 0) -> Iterator[Prompt]:
        """As `prompts`, each when it is asked for."""
        value = (row.data or {}).get(self.job.input.id) if self.job.input.id else None
        name, error = _id(value), row.error
        done = 0
        if error is None:
            try:
                for prompt in self._prompts(row, shard, source, name):
                    yield prompt
                    done += 1
                return
            except BadRow as bad:
                error = RowError(bad.code, f"{place(shard, row.ordinal)}: {bad}")
            except Exception as unforeseen:
                error = logs.internal_error(_LOG, place(shard, row.ordinal), unforeseen)
        for number in range(done, self.job.variants):
            yield Prompt(source, shard, row.ordinal, number, name, error=error)

    def _prompts(self, row: Row, shard: str, source: int, name: str | None) -> Iterator[Prompt]:
        data, messages = row.data or {}, row.messages or []
        if self._pooled is not None:
            made = self._pooled.make(data, messages)
            said = Prompt(source, shard, row.ordinal, 0, name, messages=messages, text=made.text)
            yield replace(said, token_ids=made.token_ids, pairs=made.pairs)
            return
        if pictures := images(messages):
            self._text.check_images(pictures)
        own = self._steering.own(data)
        sampling, row_seed = self._sampling(data)
        steers = bool(self._steering.names) and any(message["role"] == "user" for message in messages)
        for number, variant in enumerate(self._steering.variants(shard, row.ordinal)):
            steered = self._steering.steer(messages, own, variant)
            text, ids, error = "", list[int](), None
            changed: dict[str, int | None] = {}
            if sampling.seed is not None and not row_seed and not self.job.seeds_alike:
                changed["seed"] = derive_seed(sampling.seed, shard, row.ordinal, number)
            try:
                text, ids = self.encode(steered, sampling)
                changed["max_tokens"] = self.within_context(sampling, len(ids))
            except BadRow as bad:
                error = RowError(bad.code, f"{place(shard, row.ordinal)}: {bad}")
            yield Prompt(
                source=source,
                shard=shard,
                row=row.ordinal,
                variant=number,
                id=name,
                attributes=self._steering.of(steered[-1]) if steers else None,
                messages=steered,
                turns=list(row.turns),
                text=text,
                token_ids=ids,
                sampling=sampling.model_copy(update=changed),
                error=error,
            )

    def encode(self, messages: list[Message], sampling: Sampling = DEFAULTS) -> tuple[str, list[int]]:
        """Text and token ids of a conversation whose user messages carry their values. Raises BadRow (render, too_long)."""
        variables = _variables(sampling.chat_template_kwargs, sampling.reasoning_effort, sampling.tools)
        shown, tools, mark = self._tokens.hide(messages, variables.get("tools"))
        made = self._text.render(shown, {**variables, "tools": tools} if tools else variables)
        if self.context is not None and len(made) > max(SURELY_READ, self.context * self._tokens.longest):
            raise BadRow("too_long", f"the prompt has {len(made)} characters, which no {self.context} tokens hold")
        text, ids = self._tokens.encode(made, mark, add_special_tokens=not self._has_template)
        if not ids:
            raise BadRow("render", "the prompt has no tokens")
        if self.context is not None and len(ids) >= self.context:
            raise BadRow("too_long", f"the prompt has {len(ids)} tokens, the context {self.context}: no room for an answer")
        return text, ids

    def continued(self, messages: list[Message], answer: Message, turn: str) -> list[Message]:
        """The conversation after the model's answer and the next scripted user turn, with the same values."""
        values = self._steering.of(messages[-1])
        return [*messages, {**answer, **values}, {"role": "user", "content": turn, **values}]

    def ends_in(self, token_ids: list[int], mark: str) -> bool:
        """Whether the text of a prompt ends in this mark, white space aside."""
        return self._tokens.text(token_ids[-TAIL_TOKENS:]).rstrip().endswith(mark)

    def count_tokens(self, text: str) -> int | None:
        """The tokens of a text by itself; None where only the engine can count them."""
        return None if self._capabilities.counts_tokens else self._tokens.count(text)

    def within_context(self, sampling: Sampling, tokens: int) -> int | None:
        """The `max_tokens` of an answer to a prompt of `tokens`: no more than the context leaves. Raises BadRow (too_long)."""
        if self._capabilities.counts_tokens:  # only the engine knows how long the prompt is
            return sampling.max_tokens
        if self.context is None:
            return sampling.max_tokens or UNBOUNDED_ANSWER
        left = self.context - tokens
        if left < max(1, sampling.min_tokens):
            raise BadRow("too_long", f"the prompt has {tokens} tokens: no room for min_tokens {sampling.min_tokens}")
        return left if sampling.max_tokens is None else min(sampling.max_tokens, left)

    def _sampling(self, data: Data) -> tuple[Sampling, bool]:
        """The row's sampling, and whether the seed is the row's own."""
        own = data.get("sampling")
        if own is not None and not isinstance(own, dict):
            raise BadRow("input", f"sampling must be a struct, not {type(own).__name__}")
        given = [*((key, data.get(column)) for key, column in self._sampling_columns.items()), *(own or {}).items()]
        fields = {key: value for key, value in given if value is not None}
        if not fields:
            return self._constant_sampling, False
        hashable = not any(
            isinstance(one, list | dict) or (isinstance(one, str) and len(one) > KNOWN_TEXT) for one in fields.values()
        )
        check = self._known_sampling if hashable else self._check_sampling
        return check(tuple(fields), *fields.values()), "seed" in fields

    def _check_sampling(self, names: tuple[str, ...], *values: object) -> Sampling:
        try:
            sampling = check_sampling({**self.job.constant_sampling, **dict(zip(names, values, strict=True))})
        except ValueError as error:
            raise BadRow("input", f"sampling: {error}") from None
        if sampling.adapter is not None and sampling.adapter not in self.job.adapters:
            raise BadRow("input", f"sampling: adapter: {unknown_adapter(sampling.adapter, self.job.adapters)}")
        if sampling.tools is not None and not self.job.calls_tools:
            raise BadRow("input", "sampling: tools: the job expects no calls: name model.tool_call_parser")
        if sampling.tool_choice not in (None, "none") and sampling.tools is None:
            raise BadRow("input", "sampling: tool_choice: there are no tools to choose from: give sampling.tools")
        self.refuse_mistake(sampling)
        return sampling

    def refuse_mistake(self, sampling: Sampling) -> None:
        """Raises BadRow (input) for a sampling that the engine would refuse, so that it is not sent."""
        if self._capabilities.mistake is not None and (wrong := self._capabilities.mistake(sampling)):
            raise BadRow("input", f"sampling: {wrong}")


def versions_of(functions: RowFunctions, judge: Renderer | None) -> dict[str, object]:
    """What the meaning of a job has of its functions and of the model of its judge."""
    model = judge.model.version if judge is not None else {}
    return {**functions.versions, **{f"{JUDGE}.model.{name}": value for name, value in model.items()}}


@functools.lru_cache(32)  # tools of 256 kB are a few MB
def _variables(chosen: str | None, effort: str | None, tools: str | None) -> Fields:
    """The variables of the chat template that a sampling sets, as vLLM's server passes them: an effort switches thinking on."""
    variables: Fields = {}
    if effort is not None:
        variables = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    if chosen is not None:
        variables |= loads(chosen)
    return {**variables, "tools": loads(tools)} if tools is not None else variables


def _id(value: object) -> str | None:
    """A row's id as text: objects and lists as JSON, bytes as base64."""
    if isinstance(value, bool | list | dict):
        with contextlib.suppress(ValueError):
            return dumps(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if value is None else str(value)


def prompt_hash(ids: list[int], pictures: Sequence[str] = ()) -> str:
    """xxh3-128 of the prompt's token ids as little-endian int32, and of its images as data URLs, in hex."""
    return xxhash.xxh3_128_hexdigest(array.array("i", ids).tobytes() + "".join(pictures).encode())


def derive_seed(seed: int, shard: str, ordinal: int, variant: int) -> int:
    """A row's seed: 63 bits of xxh3 over the job's seed and the row's name; independent of placement."""
    return xxhash.xxh3_64_intdigest(orjson.dumps([seed, shard, ordinal, variant])) >> 1
