"""check: read and render the whole input here, without Ray, an engine or an output, by the plan, reader and renderer of run."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from batchgen.engines.base import ENGINES
from batchgen.job.fields import Fields
from batchgen.plan import plan
from batchgen.prepare import Prepared
from batchgen.read import reader
from batchgen.records import Prompt, Shard, Span

SHOWN_ERRORS = 20


@dataclass
class Findings:
    """`rows` are input rows, `prompts` those times the variants; tokens are per prompt."""

    shards: int
    spans: int
    rows: int = 0
    prompts: int = 0
    bad: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first_errors: list[str] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    context: int | None = None
    layout: str = "none"
    planned_rows: int = 0


def walk(prepared: Prepared) -> tuple[list[Shard], list[Span], Iterator[list[Prompt]]]:
    """The plan of a new output, and the prompts of its rows, row by row."""
    job = prepared.job
    shards, spans = plan.make_plan(job, prepared.found, prepared.columns)

    def prompts() -> Iterator[list[Prompt]]:
        for shard in shards:
            mine = [span for span in spans if span.shard == shard.index]
            if mine:
                for _, rows, _ in reader.read_spans(job, shard, mine, prepared.columns.kept, prepared.renderer.needed):
                    yield from (prepared.renderer.prompts(row, shard.name) for row in rows)

    return shards, spans, prompts()


def check(prepared: Prepared) -> Findings:
    """Look at every row. Raises UsageError for what concerns the whole input."""
    shards, spans, rows = walk(prepared)
    renderer = prepared.renderer
    found = Findings(len(shards), len(spans), context=renderer.context, layout=renderer.layout)
    lengths: list[int] = []
    for prompts in rows:
        found.rows += 1
        found.prompts += len(prompts)
        errors = [prompt.error for prompt in prompts if prompt.error]
        lengths += [len(prompt.token_ids) for prompt in prompts if prompt.token_ids]
        found.planned_rows += sum(p.sampling.n if p.sampling else prepared.job.samples for p in prompts)
        if errors:
            found.bad += 1
            found.errors[errors[0].code] = found.errors.get(errors[0].code, 0) + 1
            if len(found.first_errors) < SHOWN_ERRORS:
                found.first_errors.append(f"{errors[0].code}: {errors[0].detail}")
    if lengths and not ENGINES.named(prepared.job.engine.kind).capabilities.counts_tokens:
        marks = np.percentile(lengths, [0, 50, 90, 99, 100]).astype(int)
        found.tokens = dict(zip(("min", "p50", "p90", "p99", "max"), map(int, marks), strict=True))
        found.tokens["total"] = sum(lengths)
    return found


def prompts(prepared: Prepared, most: int) -> list[Fields]:
    """The first prompts exactly as the model will see them."""
    _, _, rows = walk(prepared)
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
        for prompt in itertools.islice(itertools.chain.from_iterable(rows), most)
    ]
