"""The record of each stage. The columns of the output, in which they end, are in records/columns.py."""

import operator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from batchgen.errors import ErrorCode, RowError, place
from batchgen.job.sampling import Sampling

CALL_KEYS = ("name", "tool_call_id", "tool_calls")
"""Keys of a message that belong to calls of tools."""
REASONING = "reasoning_content"
"""The key of an answer's reasoning in a message, as chat templates and training data have it."""
REASONINGS = (REASONING, "reasoning", "thinking")
"""Its spellings: in messages that are read, and for the templates that get them."""
MESSAGE_KEYS = (*CALL_KEYS, REASONING)


@dataclass(frozen=True)
class Shard:
    """One input file as it was when it was planned. `name` is the path as the job spells it, `size` its stored bytes, `version` a
    mark that the store gives cheaply (location.stat). `digest` is xxh3-128 over the first `text_bytes` of its uncompressed text
    (JSONL), over the footer (Parquet), or the fingerprint of a dataset. `lines` is the ordinal after the last planned row, `rows`
    the number of planned rows, `terminated` whether the last planned line ended in a newline, `rest` the bytes of a half line
    after it, which waits for a later run. `content` is xxh3-128 over the pages that are read (Parquet)."""

    index: int
    name: str
    format: str
    size: int
    version: str
    digest: str
    lines: int
    rows: int
    text_bytes: int = 0
    terminated: bool = True
    rest: int = 0
    content: str = ""


@dataclass(frozen=True)
class Failed:
    """A failed row that a retry runs again: the `code` of its error, the attempts that were made."""

    row: int
    variant: int
    sample: int
    attempt: int
    code: str


@dataclass(frozen=True)
class Within:
    """Where the elements of a span lie (`input.each`): in these rows of the shard's format, after the first `skip` elements."""

    start: int
    end: int
    rows: int
    skip: int


@dataclass(frozen=True)
class Span:
    """Rows `start <= ordinal < end` of one shard, `rows` of which exist (blank lines do not). `offset` and `bytes` locate the
    lines of a JSONL shard in its uncompressed text, `digest` is xxh3-64 over them; 0 and "" for other formats. A span with a
    `retry` (the number of its plan file) has the `again` rows alone; its part supersedes what earlier parts say of them. Where
    rows are elements (`input.each`), `within` is set, and offset, bytes and digest are of the format's rows."""

    shard: int
    start: int
    end: int
    rows: int
    offset: int = 0
    bytes: int = 0
    retry: int = 0
    again: tuple[Failed, ...] = ()
    digest: str = ""
    within: Within | None = None

    @property
    def name(self) -> str:
        """The name of the span's part, derived from the span alone."""
        return f"{self.place}-r{self.retry:06d}" if self.retry else self.place

    @property
    def place(self) -> str:
        """The name of the span that has all these rows, this one or the one that this one is a retry of."""
        return f"{self.shard:06d}-{self.start:012d}-{self.end:012d}"


Data = dict[str, Any]
"""A row's columns by name, as its format gives them."""
Message = dict[str, Any]
"""One message of a conversation: `role`, `content` (a text, a list of parts, or None beside `tool_calls`), its MESSAGE_KEYS
(render/messages.py), and the attribute values that steer it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as read and laid out: the conversation so far, and the user turns that follow the model's answers. `error` says why
    `data` or `messages` is None."""

    ordinal: int
    data: Data | None
    error: RowError | None = None
    messages: list[Message] | None = None
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One variant of a row, ready for an engine, or the `error` that makes it none. `source` is the index of the row in its
    span's table of carried columns, `shard` the shard's name. `messages` is the conversation so far, `turns` the user messages
    that follow the model's answers, `text` what `token_ids` encode. `failed` are the samples that a retry runs again, none in a
    first run. `columns`: its row of carried columns, where the job has a function that reads them. `pairs`: of a prompt that is
    pairs of texts, where each ends in `token_ids`, and where the second text of it begins in the pair (its length: nowhere)."""

    source: int
    shard: str
    row: int
    variant: int
    id: str | None
    attributes: dict[str, int] | None = None
    messages: list[Message] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    sampling: Sampling | None = None
    error: RowError | None = None
    failed: tuple[Failed, ...] = ()
    columns: pa.Table | None = None
    pairs: list[tuple[int, int]] | None = None

    @property
    def place(self) -> str:
        """How errors name the row: shard:line."""
        return place(self.shard, self.row)

    def samples(self, most: int) -> list[tuple[int, int]]:
        """The samples to answer, each with the attempts that were made of it; `most` of a prompt without a sampling."""
        again = [(one.sample, one.attempt) for one in self.failed]
        return again or [(number, 0) for number in range(self.sampling.n if self.sampling else most)]


@dataclass(frozen=True)
class Answer:
    """One of an engine's `n` answers to a prompt. `cumulative_logprob` needs `sampling.logprobs`, `token_logprobs`
    (logprobs.of_answer) needs `output.token_logprobs` besides. `cached_tokens` of the prompt were found in the engine's prefix
    cache. `prompt_tokens` is set by an engine that counts them itself. `reasoning` is what the model said before `text`, where
    the engine tells them apart; of `tokens` so many are of the reasoning. `tool_calls` are OpenAI's. `prompt_logprobs`, of the
    prompt's tokens, are the same in each of the `n`. `copied`: of an equal request (tasks/dedupe.py)."""

    text: str
    tokens: int
    finish_reason: str
    cumulative_logprob: float | None = None
    cached_tokens: int = 0
    prompt_tokens: int | None = None
    token_logprobs: pa.StructArray | None = None
    reasoning: str | None = None
    reasoning_tokens: int | None = None
    tool_calls: list[Data] | None = None
    prompt_logprobs: pa.StructArray | None = None
    copied: bool = False


@dataclass(frozen=True)
class Pooled:
    """What a model says of a prompt's texts: for each the numbers (float32, finite, not null), and of one that is classified the
    `label`, where the engine knows it. `prompt_tokens` is set by an engine that counts them itself."""

    values: list[pa.FloatArray]
    label: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One row of a part: a sample of the prompt at index `prompt` of its span. `messages` are as in the output. `sampling` is
    set where it is not the prompt's, with the prompt's `n`. `token_logprobs` (logprobs.of_answer) are those of `response`, or of
    it and its reasoning. `attempts` (columns.ATTEMPTS) were made before it in this run. `copied_tokens` of its
    completion tokens, and `copied_prompt_tokens`, are of an equal row's answer; None in a row that is no copy. `embedding`,
    `probabilities` and `scores` are numbers (records/numbers.py)."""

    prompt: int
    sample: int
    messages: tuple[dict[str, str | None], ...] | None
    response: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cumulative_logprob: float | None
    prompt_hash: str | None
    seconds: float
    attempt: int
    error: RowError | None = None
    cached_tokens: int = 0
    sampling: Sampling | None = None
    parsed: dict[str, object] | None = None
    token_logprobs: pa.StructArray | None = None
    reasoning: str | None = None
    reasoning_tokens: int | None = None
    tool_calls: list[Data] | None = None
    attempts: list[dict[str, object]] | None = None
    prompt_logprobs: pa.StructArray | None = None
    copied_tokens: int | None = None
    copied_prompt_tokens: int = 0
    judge_tokens: int = 0
    judge_prompt_tokens: int = 0
    embedding: pa.FloatArray | None = None
    label: str | None = None
    probabilities: pa.FloatArray | None = None
    score: float | None = None
    scores: pa.FloatArray | None = None


def failed(prompt: int, sample: int, attempts: int, error: RowError) -> Completion:
    """The completion of a sample that has an error and nothing else, after `attempts` earlier ones."""
    return Completion(prompt, sample, None, None, None, 0, 0, None, None, 0.0, attempts + 1, error)


@dataclass(frozen=True)
class Counts:
    """Rows and tokens of a part, a run or a job. The engine found `cached_tokens` of the prompt tokens in its prefix cache. The
    tokens of `deduplicated` rows, whose answers are copies, are not counted. A judge read `judge_prompt_tokens` and said
    `judge_tokens`, which are none of the others."""

    ok: int = 0
    error: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    deduplicated: int = 0
    judge_prompt_tokens: int = 0
    judge_tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(operator.add, vars(self).values(), vars(other).values()))  # astuple copies deeply

    @property
    def rows(self) -> int:
        return self.ok + self.error

    @property
    def tokens(self) -> int:
        """Those that were generated, or read where none are: for numbers."""
        return self.completion_tokens or self.prompt_tokens


@dataclass(frozen=True)
class Receipt:
    """What a replica answers for a span. `created` is False where the part was there already; `counts` are those of that part
    then, and its `sha256` is None. `samples`: the first rows of the first causes of errors, and how many have each.
    `from_journal` rows come from the span's journal. `first` and `last` are the replica's wall-clock seconds at which the span's
    first row entered the engine and its last one left it. Since the replica's last receipt: `committing`, the CPU seconds of
    encoding and putting parts and journal files, `restarts` of the engines, and what they `died` of, with the end of their
    log."""

    span: str
    created: bool
    counts: Counts
    errors: dict[ErrorCode, int]
    samples: list[tuple[RowError, int]]
    first: float
    last: float
    committing: float = 0.0
    from_journal: int = 0
    restarts: int = 0
    sha256: str | None = None
    died: list[str] = field(default_factory=list)
