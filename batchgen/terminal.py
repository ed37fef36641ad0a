"""What a person sees: the progress of a run, messages, the summary at its end, and what status and verify find, as text."""

import contextlib
import functools
import itertools
import shlex
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batchgen.cluster.monitor import Monitor
from batchgen.errors import VerifyError, printable
from batchgen.output import parts
from batchgen.output.format import Fields
from batchgen.output.lease import Lease
from batchgen.output.plan_file import Plan
from batchgen.output.progress import Tally
from batchgen.output.store import Store
from batchgen.output.verify import Verdict

SHOWN = 20  # lines of a list of damages
LINE_SECONDS, WAIT_SECONDS = 10.0, 5.0  # how often a line is printed where there is no terminal, and while a run waits
SUMMARY_SPANS, SUMMARY_ROWS, SUMMARY_BATCH = 8, 2_000, 64  # how much of an output is searched for the answers of a summary
SUMMARY_BYTES = 2**24  # of a part, after which no more of it is read for them


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich's own ends the process."""
        self.quiet = True


def monitor(tally: Tally, store: Store, name: str, out: TextIO, quiet: bool = False, lease: Lease | None = None) -> Monitor:
    """Shows job `name` as it runs: a bar on a terminal, else a line every LINE_SECONDS; `quiet` leaves only the messages."""
    console = _Console(file=out)
    kind = Monitor if quiet else LiveBar if console.is_terminal else Lines
    return kind(tally, store, name, console, lease)


@contextlib.contextmanager
def doing(what: str, out: TextIO, quiet: bool) -> Iterator[None]:
    """Shows what is done before there is progress: with its time on a terminal, else a line once it takes WAIT_SECONDS."""
    console = _Console(file=out)
    if quiet:
        yield
    elif console.is_terminal:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        ) as shown:
            shown.add_task(what)
            yield
    else:
        timer = threading.Timer(WAIT_SECONDS, lambda: console.print(f"{what} ...", highlight=False))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class Lines(Monitor):
    """A line of progress now and then, and more often while the run waits."""

    _shown = 0.0

    def show(self, text: str, force: bool) -> None:
        between = LINE_SECONDS if self.tally.waits_for is None else WAIT_SECONDS
        if force or time.monotonic() - self._shown >= between:
            self._shown = time.monotonic()
            self.message(f"{self.name}: {self.tally.counts.rows:,}/{self.tally.rows_planned:,} rows, {text}")


class LiveBar(Monitor):
    """A progress bar that is drawn again in its place."""

    @functools.cached_property
    def _bars(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"))
        bars = Progress(*columns, TimeElapsedColumn(), console=self.console)
        bars.add_task(self.name, total=None, more="")
        return bars

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        with contextlib.suppress(OSError, ValueError):
            self._bars.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._bars.stop()

    def show(self, text: str, force: bool) -> None:
        self._bars.update(self._bars.task_ids[0], completed=self.tally.counts.rows, total=self.tally.rows_planned, more=text)


def print_summary(tally: Tally, store: Store, plan: Plan, varied: list[str], out: TextIO) -> None:
    """The end of a run: counts, the first answers side by side, where the data is, what to do next."""
    console = _Console(file=out, highlight=False, markup=False)
    counts, status, cached = tally.counts, tally.status(), ""
    if counts.cached_tokens or (varied and counts.prompt_tokens):  # variants share their prompt
        cached = f"; {counts.cached_tokens / counts.prompt_tokens:.0%} of the prompt tokens were cached"
    if counts.judge_tokens:
        cached += f"; the judge read {counts.judge_prompt_tokens:,} tokens and wrote {counts.judge_tokens:,}"
    if counts.deduplicated:
        cached += f"; {counts.deduplicated:,} rows have the answer of an equal one"
    seconds = status["seconds_generating"]
    tokens = f"{counts.completion_tokens:,} tokens in {seconds:.1f} s of generating ({status['tokens_per_second']:,.0f} tokens/s)"
    if counts.prompt_tokens and not counts.completion_tokens:  # numbers were read from texts
        tokens = f"{counts.tokens:,} tokens read in {seconds:.1f} s ({counts.tokens / (seconds or 1):,.0f} tokens/s)"
    console.print(f"\n{counts.rows:,} rows: {counts.ok:,} ok, {counts.error:,} error; {tokens}{cached}")
    for sample, rows in zip(tally.samples, tally.sample_rows, strict=True):
        more = f" ({rows:,} rows)" if rows > 1 else ""
        console.print(f"  {printable(sample)}{more}", soft_wrap=True)
    for answers in itertools.islice(_answers(store, plan), 3):
        shown = Table("variant" if varied else "sample")
        shown.add_column(Text(printable(f"answer to: {_question(answers[0]['messages'])[:100]}")), overflow="fold")
        for answer in answers if len(answers) <= 3 else [answers[0], answers[-1]]:
            label = ", ".join(f"{name} {(answer.get('attributes') or {}).get(name)}" for name in varied) or str(answer["sample"])
            shown.add_row(label, Text(printable((answer["response"] or "").strip()[:400])))
        console.print(shown)
    console.print(f"Parquet: {store.url}/{parts.DATA}\nNext:    batchgen verify {shlex.quote(store.url)}", soft_wrap=True)


def _question(messages: list[Fields] | None) -> str:
    """What the last answer is to: the message before it, the only one where a conversation is the answer alone."""
    asked = (messages or [{}])[-2:][0]
    return str(asked.get("content") or "")


def _answers(store: Store, plan: Plan) -> Iterator[list[Fields]]:
    """The ok answers of the first input rows, the variants of one row together."""
    wanted = ["row", "variant", "sample", "attributes", "messages", "response", "status"]
    for span in [span for span in plan.spans if not span.retry][:SUMMARY_SPANS]:
        by_row: dict[int, list[Fields]] = {}
        rows = held = 0
        with contextlib.suppress(VerifyError):  # no part yet
            for table in parts.tables(store, span.name, SUMMARY_BATCH):
                if "response" not in table.column_names:  # of a task that reads numbers
                    return
                table = table.select([name for name in wanted if name in table.column_names])
                for answer in table.to_pylist():
                    if answer["status"] == "ok":
                        by_row.setdefault(answer["row"], []).append(answer)
                rows, held = rows + len(table), held + table.nbytes
                if rows >= SUMMARY_ROWS or held >= SUMMARY_BYTES:
                    break
        yield from by_row.values()


def print_status(found: Fields) -> None:
    print(printable(f"{found['name']}: {found['state']}"))
    print(f"rows:   {found['rows_ok']:,} ok, {found['rows_error']:,} error, {found['rows_planned']:,} planned")
    print(f"spans:  {found['spans_done']:,} of {found['spans_planned']:,}")
    generated = f", {found['completion_tokens']:,} generated" if found["completion_tokens"] else ""
    speed = found["tokens_per_second"] or found["prompt_tokens"] / (found["seconds_generating"] or 1)
    print(f"tokens: {found['prompt_tokens']:,} read{generated}, {speed:,.0f}/s")
    if found["judge_tokens"]:
        print(f"judge:  {found['judge_prompt_tokens']:,} tokens read, {found['judge_tokens']:,} generated")
    print(f"time:   {found['seconds_total']:,.1f} s, {found['seconds_generating']:,.1f} s of them generating")
    for code, number in found["errors"].items():
        print(printable(f"errors: {code} {number:,}"))
    if found["waits_for"]:
        print(printable(f"waits:  for {found['waits_for']}"))
    if ended := found["ended"]:
        code = "" if ended["exit_code"] is None else f" (exit code {ended['exit_code']})"
        print(printable(f"ended:  {ended['reason']}{code}"))


def print_verdict(verdict: Verdict) -> None:
    rows = verdict.rows_ok + verdict.rows_error
    found = f"{rows:,} rows ({verdict.rows_ok:,} ok, {verdict.rows_error:,} error) in {verdict.spans:,} spans"
    print_some(verdict.problems)
    if verdict.unfinished:
        return
    proven = "NOT proven" if verdict.problems else "every planned row is there exactly once"
    print(f"{proven}: {found}")
    later = f", {verdict.recorded_later:,} of them since after their commit" if verdict.recorded_later else ""
    print(f"sha256 recorded: {verdict.recorded:,} of {verdict.parts:,} parts{later}")


def print_some(lines: list[str], file: TextIO | None = None) -> None:
    """The first SHOWN lines, and how many more there are."""
    for line in lines[:SHOWN]:
        print(printable(line), file=file)
    if len(lines) > SHOWN:
        print(f"... and {len(lines) - SHOWN:,} more", file=file)
