"""Where a job stands: what status, progress.json, report.json and the terminal show.

progress.json is rewritten as the job goes. It names, as a bitmap over the plan's spans, which parts its counts include: a run
that resumes reads the footers of the few others, so that reported counts are exact after any kill. Whatever it lacks, or says in
another format, is made again from the parts."""

import base64
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from batchgen import logs
from batchgen.errors import ErrorCode, NewerFormat, safe_message
from batchgen.output import parts
from batchgen.output.format import MARK, Fields, known, refuse_newer
from batchgen.output.lease import has_ended, process
from batchgen.output.plan_file import SUCCESS, Plan
from batchgen.output.store import Store
from batchgen.records import Counts, Span

PROGRESS, REPORT = "_batchgen/progress.json", "_batchgen/report.json"
_LOG = logs.logger("progress")
Number = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
SUMS = ("seconds_total", "seconds_generating", "seconds_committing", "spans_generated", "rows_from_journal", "engine_restarts")
"""What adds up over the runs of a job."""


@dataclass
class Tally:
    """Where a job stands. `counted` are the spans whose parts are in `counts`, `samples` the first errors in words, each with
    the rows of its cause in `sample_rows`.
    `seconds_committing` are CPU seconds of the replicas, spent on encoding parts and journal files, checksums included, and on
    putting them. `spans_generated` are those that replicas answered for; more than `spans_done` is work done twice.
    `rows_from_journal` did not need an engine, `engine_restarts` are of engines under a living replica. `waits_for`: what keeps a
    running job from generating, in words. `ended`: why the last run ended."""

    plan: Plan
    counted: set[str] = field(default_factory=set, init=False)
    counts: Counts = field(default_factory=Counts)
    errors: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    sample_rows: list[int] = field(default_factory=list)
    state: str = "planned"
    engine: dict[str, int] = field(default_factory=dict)
    seconds_total: float = 0.0
    seconds_generating: float = 0.0
    seconds_committing: float = 0.0
    spans_generated: int = 0
    rows_from_journal: int = 0
    engine_restarts: int = 0
    waits_for: str | None = None
    ended: "Ended | None" = None

    def __post_init__(self) -> None:
        self._places = {span.name: place for place, span in enumerate(self.plan.spans)}
        self._bits = bytearray(-(-len(self._places) // 8))  # of the counted spans, in plan order, the lowest bit first
        self._open_rows = sum(span.rows for span in self.plan.spans if not span.retry)

    def add(self, span: str, counts: Counts, errors: Mapping[ErrorCode, int]) -> None:
        """Count a part, once. A retry's rows are no failures any more."""
        if span in self.counted:
            return
        superseded = Counter(one.code for one in self._mark(span).again)
        self.counts += counts + Counts(error=-superseded.total())
        for code, number in errors.items():
            self.errors[code] += number
        self.errors.subtract(superseded)

    def run_begins(self) -> None:
        self.state, self.waits_for, self.ended = "running", None, None

    def run_ends(self, state: str, reason: str, exit_code: int) -> None:
        self.state, self.waits_for, self.ended = state, None, Ended(reason=reason, exit_code=exit_code)

    def _mark(self, name: str) -> Span:
        """Note that a span is counted."""
        place = self._places[name]
        span = self.plan.spans[place]
        self.counted.add(name)
        self._bits[place // 8] |= 1 << place % 8
        self._open_rows -= 0 if span.retry else span.rows
        return span

    @property
    def rows_planned(self) -> int:
        """Output rows: those of finished spans as they came, those of the others as planned."""
        return self.counts.rows + self.plan.factor * self._open_rows

    def status(self) -> Fields:
        """The fields of `status --json`: rows are output rows, seconds add up over the runs of the job."""
        tokens, generating = self.counts.completion_tokens, self.seconds_generating
        return {
            "state": self.state,
            "waits_for": self.waits_for,
            "ended": self.ended and self.ended.model_dump(),
            "rows_planned": self.rows_planned,
            "rows_ok": self.counts.ok,
            "rows_error": self.counts.error,
            "spans_planned": len(self.plan.spans),
            "spans_done": len(self.counted),
            "prompt_tokens": self.counts.prompt_tokens,
            "completion_tokens": tokens,
            "cached_tokens": self.counts.cached_tokens,
            "deduplicated": self.counts.deduplicated,
            "judge_prompt_tokens": self.counts.judge_prompt_tokens,
            "judge_tokens": self.counts.judge_tokens,
            **{name: round(getattr(self, name), 3) for name in SUMS},
            "tokens_per_second": round(tokens / generating, 1) if generating else 0.0,
            "errors": {code: number for code, number in sorted(self.errors.items()) if number},
        }

    def restore(self, saved: "Saved", committed: set[str]) -> None:
        """Take over what a progress.json says; its counts only where every part that they include is there. `running` is
        believed unless its driver was a process of this machine and is gone."""
        self.state, self.ended = saved.state or self.state, saved.ended
        if self.state == "running":
            self.waits_for = saved.waits_for
            if has_ended(saved.driver):
                self.state, self.waits_for, self.ended = "interrupted", None, Ended(reason="the driver is gone", exit_code=None)
        for name in SUMS:
            setattr(self, name, getattr(saved, name))
        self.engine = saved.engine
        if saved.counted is None or saved.errors is None or not saved.counts.keys() >= asdict(Counts()).keys():
            return
        bits = np.unpackbits(np.frombuffer(base64.b64decode(saved.counted), np.uint8), bitorder="little")
        counted = {span.name for span, bit in zip(self.plan.spans, bits, strict=False) if bit}
        if counted <= committed:
            self.counts, self.errors, self.samples = known(Counts, saved.counts), Counter(saved.errors), saved.error_samples
            self.sample_rows = [*saved.error_rows, *[1] * len(self.samples)][: len(self.samples)]
            for name in counted:
                self._mark(name)

    def encode(self) -> bytes:
        fields = self.status() | {
            "counts": asdict(self.counts),
            "counted": base64.b64encode(self._bits).decode(),
            "error_samples": self.samples,
            "error_rows": self.sample_rows,
            "engine": self.engine,
            "driver": process(os.getpid()),
            **MARK,
        }
        return orjson.dumps(fields, option=orjson.OPT_INDENT_2)


class Ended(BaseModel):
    """Why a run ended, and its exit code; None where nobody was left to give one."""

    model_config = ConfigDict(strict=True)

    reason: str
    exit_code: int | None = None


class Saved(BaseModel):
    """What is read of a progress.json. A value that it cannot have makes the whole of it damaged."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    state: Annotated[str, Field(pattern=r"^[a-z ]{1,40}$")] | None = None
    driver: dict[str, object] = {}
    engine: dict[str, Number] = {}
    counted: str | None = None
    counts: dict[str, Number] = {}
    errors: dict[str, Number] | None = None
    error_samples: list[str] = []
    error_rows: list[Number] = []
    seconds_total: Seconds = 0.0
    seconds_generating: Seconds = 0.0
    seconds_committing: Seconds = 0.0
    spans_generated: Number = 0
    rows_from_journal: Number = 0
    engine_restarts: Number = 0
    waits_for: str | None = None
    ended: Ended | None = None


def load_tally(store: Store, plan: Plan, committed: set[str]) -> Tally:
    """The tally of an output: progress.json, and the footers of parts that it does not count. Raises VerifyError, NewerFormat."""
    tally, is_done = Tally(plan), store.get(SUCCESS) is not None
    if committed:
        tally.state = "interrupted"
    try:
        fields = orjson.loads(store.get(PROGRESS) or b"{}")
        refuse_newer(fields, PROGRESS)
        tally.restore(Saved.model_validate(fields), committed)
    except NewerFormat:
        pass  # the parts say it all
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        _LOG.error("%s/%s: damaged, its counts are made again from the parts: %s", store.url, PROGRESS, safe_message(error))
    tally.state = "done" if is_done else tally.state
    late = [span.name for span in plan.spans if span.name in committed and span.name not in tally.counted]
    with ThreadPoolExecutor(8) as pool:
        for span, (counts, errors) in zip(late, pool.map(lambda name: parts.read_footer(store, name), late), strict=True):
            tally.add(span, counts, errors)
    return tally


def over_limit(tally: Tally, allowed: float) -> str:
    """How many rows failed, in words."""
    codes = ", ".join(f"{code} {number}" for code, number in tally.status()["errors"].items())
    return f"{tally.counts.error:,} of {tally.counts.rows:,} rows failed ({codes}), over limits.errors {allowed:g}"
