"""check: read and render the whole input here, without Ray, an engine or an output, by the plan, reader and renderer of run."""

import itertools
import reprlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np

from batchgen.engines.base import ENGINES
from batchgen.errors import printable
from batchgen.job.fields import Fields
from batchgen.job.job import Job
from batchgen.plan import plan
from batchgen.prepare import Prepared
from batchgen.read import reader
from batchgen.read.formats.openai_batch import OPENAI_BATCH
from batchgen.records import Prompt, Row, Shard, Span

SHOWN_ERRORS = 20
SHOW_SECONDS = 0.5  # how often the rows so far are shown on a terminal
SAMPLED_SPANS = 16  # that a sample is taken from
ASKING_ROWS = 10_000  # the first rows of the input, which are asked whether they want log-probabilities
KNOWN_IDS = 1_000_000  # the first custom_ids of a shard, among which the repeated ones are found


@dataclass
class Findings:
    """`rows` are input rows, `prompts` those times the variants; tokens are per prompt. `sampled_of`: the rows of the whole input
    where a sample was looked at."""

    shards: int
    spans: int
    rows: int = 0
    prompts: int = 0
    bad: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first_errors: list[str] = field(default_factory=list)
    """The first row of each cause, and beside them in `rows_of_cause` how many there are."""
    rows_of_cause: list[int] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    context: int | None = None
    layout: str = "none"
    planned_rows: int = 0
    skipped: str | None = None
    warnings: list[str] = field(default_factory=list)
    sampled_of: int | None = None

    def add(self, cause: int, line: str) -> None:
        """Count a bad row of the cause with this number; the first one is shown."""
        if cause == len(self.first_errors):
            self.first_errors.append(line)
            self.rows_of_cause.append(0)
        self.rows_of_cause[cause] += 1


class _Empty:
    """Prompts without a text: the model gets its chat template alone."""

    def __init__(self) -> None:
        self._number, self._first = 0, ""

    def add(self, prompt: Prompt) -> None:
        last = prompt.messages[-1] if prompt.messages else {}
        if last.get("role") == "user" and isinstance(text := last.get("content"), str) and not text.strip():
            self._number, self._first = self._number + 1, self._first or prompt.place

    def warnings(self) -> list[str]:
        found = f"{self._number:,} rows have an empty prompt, which is sent to the model as it is; the first is {self._first}"
        return [found] if self._number else []


def shown_on(stream: TextIO | None) -> Callable[[int], None]:
    """Shows how many rows were looked at, on a terminal; nothing elsewhere. Below zero: the line is taken away."""
    shown = 0.0

    def show(rows: int) -> None:
        nonlocal shown
        if rows <= 0 or time.monotonic() - shown >= SHOW_SECONDS:
            shown = time.monotonic()
            words = "" if rows < 0 else f"{rows:,} rows read and rendered" if rows else "looking for rows"
            print(f"\r\x1b[K{words}", end="", file=stream, flush=True)

    return show if stream is not None and stream.isatty() else lambda rows: None


class _Requests:
    """What is odd about the requests of OpenAI batch files: custom_ids that a file has twice, log-probabilities that are lost."""

    def __init__(self, job: Job) -> None:
        self._loses_logprobs, self._rows = not job.output.token_logprobs, 0
        self._lines: list[str] = []
        self._shard = ""
        self._first: dict[str, int] = {}  # the first row of each custom_id of the shard
        self._repeated: dict[str, tuple[int, int]] = {}  # the first two rows of each that it has twice

    def add(self, row: Row, prompt: Prompt) -> None:
        self._rows += 1
        asked = (row.data or {}).get("sampling", {}).get("logprobs") is not None
        if asked and self._loses_logprobs and self._rows <= ASKING_ROWS:
            self._loses_logprobs = False  # once is enough
            self._lines.append(f"{prompt.place} asks for logprobs, but the result has none; set output.token_logprobs: true")
        if prompt.shard != self._shard:
            self._end_shard()
            self._shard = prompt.shard
        if prompt.id in self._first:
            self._repeated.setdefault(prompt.id, (self._first[prompt.id], prompt.row))
        elif prompt.id is not None and len(self._first) < KNOWN_IDS:
            self._first[prompt.id] = prompt.row

    def _end_shard(self) -> None:
        if self._repeated:
            name, (first, second) = next(iter(self._repeated.items()))
            more = f" (and {len(self._repeated) - 1:,} more are repeated)" if len(self._repeated) > 1 else ""
            lines = f"stands on lines {first + 1} and {second + 1}{more}"
            self._lines.append(f"shard {self._shard}: custom_id {reprlib.repr(name)} {lines}")
        self._first, self._repeated = {}, {}

    def warnings(self) -> list[str]:
        """At most one line for lost log-probabilities, and one for each shard with repeated custom_ids."""
        self._end_shard()
        return self._lines


def _rows(prepared: Prepared, shards: list[Shard], spans: list[Span]) -> Iterator[tuple[Row, list[Prompt]]]:
    """Each planned row with its prompts."""
    for shard in shards:
        if mine := [span for span in spans if span.shard == shard.index]:
            renderer, kept = prepared.renderer, prepared.columns.kept
            for _, rows, _ in reader.read_spans(prepared.job, shard, mine, kept, renderer.needed, renderer.functions.before):
                yield from ((row, renderer.prompts(row, shard.name)) for row in rows)


def _sample(spans: list[Span], rows: int) -> list[Span]:
    """Some spans, from all over the input, which have at least that many rows."""
    step = max(1, len(spans) // SAMPLED_SPANS)
    chosen, have = set[int](), 0
    for number in (number for first in range(step) for number in range(first, len(spans), step)):
        if have < rows:
            chosen.add(number)
            have += spans[number].rows
    return [spans[number] for number in sorted(chosen)]


def _sampled(prepared: Prepared, shards: list[Shard], spans: list[Span], most: int) -> Iterator[tuple[Row, list[Prompt]]]:
    """The first rows of each span, `most` in all, in even shares."""
    for left, span in zip(range(len(spans), 0, -1), spans, strict=True):
        taken = itertools.islice(_rows(prepared, shards, [span]), -(-most // left))
        for each in taken:
            most -= 1
            yield each


def check(prepared: Prepared, sample: int | None = None, show: Callable[[int], None] = lambda rows: None) -> Findings:
    """Look at every row, or at a `sample` of so many from all over the input. `show` is told the rows so far. Raises UsageError
    for what concerns the whole input."""
    try:
        show(0)
        return _check(prepared, sample, show)
    finally:
        show(-1)


def _check(prepared: Prepared, sample: int | None, show: Callable[[int], None]) -> Findings:
    shards, spans = plan.make_plan(prepared.job, prepared.found, prepared.columns)
    renderer = prepared.renderer
    found = Findings(len(shards), len(spans), context=renderer.context, layout=renderer.layout, skipped=prepared.skipped_words)
    lengths: list[int] = []
    requests = _Requests(prepared.job) if prepared.job.input.format == OPENAI_BATCH.name else None
    causes: dict[tuple[str, str], int] = {}
    empty, looked_at = _Empty(), _rows(prepared, shards, spans)
    if sample is not None and sample < (every := sum(span.rows for span in spans)):
        found.sampled_of = every
        looked_at = _sampled(prepared, shards, _sample(spans, sample), sample)
    for row, prompts in looked_at:
        if requests:
            requests.add(row, prompts[0])
        empty.add(prompts[0])
        found.rows += 1
        show(found.rows)
        found.prompts += len(prompts)
        lengths += [len(prompt.token_ids) for prompt in prompts if prompt.token_ids]
        found.planned_rows += sum(p.sampling.n if p.sampling else prepared.job.samples for p in prompts)
        if error := next((prompt.error for prompt in prompts if prompt.error), None):
            found.bad += 1
            found.errors[error.code] = found.errors.get(error.code, 0) + 1
            if (error.code, error.cause) in causes or len(causes) < SHOWN_ERRORS:
                found.add(causes.setdefault((error.code, error.cause), len(causes)), f"{error.code}: {error.detail}")
    found.warnings = plan.half_lines(shards) + (requests.warnings() if requests else []) + empty.warnings()
    found.warnings += prepared.asked.notes if prepared.asked else ()
    if lengths and not ENGINES.named(prepared.job.engine.kind).capabilities.counts_tokens:
        marks = np.percentile(lengths, [0, 50, 90, 99, 100]).astype(int)
        found.tokens = dict(zip(("min", "p50", "p90", "p99", "max"), map(int, marks), strict=True))
        found.tokens["total"] = sum(lengths)
    return found


def prompts(prepared: Prepared, most: int) -> list[Fields]:
    """The first prompts exactly as the model will see them."""
    rows = _rows(prepared, *plan.make_plan(prepared.job, prepared.found, prepared.columns))
    return [
        {
            "row": prompt.row,
            "variant": prompt.variant,
            "text": prompt.text,
            "token_ids": prompt.token_ids,
            "attributes": prompt.attributes,
            "sampling": prompt.sampling and dict(prompt.sampling),
            "error": f"{prompt.error.code}: {prompt.error.detail}" if prompt.error else None,
        }
        for prompt in itertools.islice((prompt for _, prompts in rows for prompt in prompts), most)
    ]


def print_prompts(prompts: list[Fields]) -> None:
    for prompt in prompts:
        print(f"--- row {prompt['row']} variant {prompt['variant']}: {len(prompt['token_ids'])} tokens")
        print(printable(prompt["text"] if prompt["error"] is None else prompt["error"]))
        print(f"token ids: {prompt['token_ids']}")


def print_findings(found: Findings, job: Job) -> None:
    predicted = job.attributes.predict if job.attributes else None
    if found.sampled_of is not None:
        print(f"sample:   {found.rows:,} of {found.sampled_of:,} rows; the counts below are of these")
    print(f"input:    {found.rows:,} rows in {found.shards:,} shards, {found.spans:,} spans")
    if found.skipped:
        print(f"skipped:  {printable(found.skipped)}")
    print(f"output:   {found.planned_rows:,} rows planned ({found.prompts:,} prompts)")
    if predicted is not None:
        print(f"labels:   {predicted}, asked for through the {found.layout}")
    elif found.layout != "none":
        print(f"steering: through the {found.layout}, every attribute changes the prompt")
    if found.tokens:
        tokens = ", ".join(f"{name} {value:,}" for name, value in found.tokens.items())
        print(f"tokens:   {tokens} (context {found.context or 'unbounded'})")
    for line in found.warnings:
        print(f"warning:  {printable(line)}")
    counted = ", ".join(f"{code} {number:,}" for code, number in sorted(found.errors.items()))
    print(f"bad rows: {found.bad:,}" + (f" ({counted})" if counted else ""))
    for line, rows in zip(found.first_errors, found.rows_of_cause, strict=True):
        print(f"  {printable(line)}" + (f" (and {rows - 1:,} rows more)" if rows > 1 else ""))
    if found.bad > sum(found.rows_of_cause):
        print(f"  ... and {found.bad - sum(found.rows_of_cause):,} rows more, of other causes")
