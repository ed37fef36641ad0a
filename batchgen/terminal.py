"""What a person sees: the progress of a run, messages, the summary at its end, and the results of the verbs as text."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batchgen.cluster.monitor import Monitor
from batchgen.errors import VerifyError, printable
from batchgen.output import parts
from batchgen.output.format import Fields
from batchgen.output.plan_file import Plan
from batchgen.output.progress import Tally
from batchgen.output.store import Store
from batchgen.output.verify import Verdict

if TYPE_CHECKING:
    from batchgen.check import Findings
    from batchgen.export.fidelity import Fidelity

LINE_SECONDS = 10.0
"""How often a line is printed where there is no terminal."""
SUMMARY_SPANS, SUMMARY_ROWS = 8, 2_000
"""How much of an output is searched for the answers that a summary shows."""


def monitor(tally: Tally, store: Store, name: str, out: TextIO, quiet: bool = False) -> Monitor:
    """Shows job `name` as it runs: a bar on a terminal, else a line every LINE_SECONDS; `quiet` leaves only the messages."""
    console = Console(file=out)
    kind = Monitor if quiet else LiveBar if console.is_terminal else Lines
    return kind(tally, store, name, console)


class Lines(Monitor):
    """A line of progress now and then."""

    _shown = 0.0

    def show(self, text: str, force: bool) -> None:
        if force or time.monotonic() - self._shown >= LINE_SECONDS:
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

    def live(self) -> Progress:
        return self._bars

    def show(self, text: str, force: bool) -> None:
        done, planned = self.tally.counts.rows, self.tally.rows_planned
        self._bars.update(self._bars.task_ids[0], completed=done, total=planned, more=text)


def print_summary(tally: Tally, store: Store, plan: Plan, varied: list[str], out: TextIO) -> None:
    """The end of a run: counts, the first answers side by side, where the data is, what to do next."""
    console = Console(file=out)
    counts, status = tally.counts, tally.status()
    console.print(
        f"\n{counts.rows:,} rows: {counts.ok:,} ok, {counts.error:,} error; {counts.completion_tokens:,} tokens in "
        f"{status['seconds_generating']:.1f} s of generating ({status['tokens_per_second']:,.0f} tokens/s)"
        f"{_cached(tally, bool(varied))}",
        highlight=False,
    )
    for sample in tally.samples:
        console.print(f"  {printable(sample)}", highlight=False, markup=False, soft_wrap=True)
    for answers in _first_answers(store, plan):
        console.print(_answers_table(answers, varied))
    console.print(f"Parquet: {store.url}/{parts.DATA}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Next:    batchgen verify {store.url}", highlight=False, markup=False, soft_wrap=True)


def _cached(tally: Tally, shared: bool) -> str:
    """How many prompt tokens the engine's prefix cache held; of prompts that share nothing only where it held some."""
    counts = tally.counts
    if not counts.cached_tokens and not (shared and counts.prompt_tokens):
        return ""
    return f"; {counts.cached_tokens / counts.prompt_tokens:.0%} of the prompt tokens were cached"


def _first_answers(store: Store, plan: Plan, rows: int = 3) -> Iterator[list[Fields]]:
    """The ok answers of the first few input rows, the variants of one row together."""
    for span in [span for span in plan.spans if not span.retry][:SUMMARY_SPANS]:
        try:
            table = parts.read_part(store, span.name)
        except VerifyError:  # no part yet
            continue
        wanted = ["row", "variant", "sample", "attributes", "messages", "response", "status"]
        table = table.select([name for name in wanted if name in table.column_names]).slice(0, SUMMARY_ROWS)
        by_row: dict[int, list[Fields]] = {}
        for answer in table.to_pylist():
            if answer["status"] == "ok":
                by_row.setdefault(answer["row"], []).append(answer)
        for answers in list(by_row.values())[:rows]:
            rows -= 1
            yield answers
        if rows <= 0:
            return


def _answers_table(answers: list[Fields], varied: list[str]) -> Table:
    table = Table(title=None, show_lines=False, expand=False)
    table.add_column("variant" if varied else "sample")
    table.add_column(Text(printable(f"answer to: {answers[0]['messages'][-2]['content'][:100]}")), overflow="fold")
    for answer in answers if len(answers) <= 3 else [answers[0], answers[-1]]:
        label = ", ".join(f"{name} {answer['attributes'][name]}" for name in varied) or str(answer["sample"])
        table.add_row(label, Text(printable((answer["response"] or "").strip()[:400])))
    return table


def print_prompts(prompts: list[Fields]) -> None:
    for prompt in prompts:
        print(f"--- row {prompt['row']} variant {prompt['variant']}: {len(prompt['token_ids'])} tokens")
        print(printable(prompt["text"] if prompt["error"] is None else prompt["error"]))
        print(f"token ids: {prompt['token_ids']}")


def print_findings(found: Findings, predicted: str | None) -> None:
    print(f"input:    {found.rows:,} rows in {found.shards:,} shards, {found.spans:,} spans")
    print(f"output:   {found.planned_rows:,} rows planned ({found.prompts:,} prompts)")
    if predicted is not None:
        print(f"labels:   {predicted}, asked for through the {found.layout}")
    elif found.layout != "none":
        print(f"steering: through the {found.layout}, every attribute changes the prompt")
    if found.tokens:
        tokens = ", ".join(f"{name} {value:,}" for name, value in found.tokens.items())
        print(f"tokens:   {tokens} (context {found.context or 'unbounded'})")
    counted = ", ".join(f"{code} {number:,}" for code, number in sorted(found.errors.items()))
    print(f"bad rows: {found.bad:,}" + (f" ({counted})" if counted else ""))
    for line in found.first_errors:
        print(f"  {printable(line)}")
    if found.bad > len(found.first_errors):
        print(f"  ... and {found.bad - len(found.first_errors):,} more")


def print_status(found: Fields) -> None:
    print(f"{found['name']}: {found['state']}")
    print(f"rows:   {found['rows_ok']:,} ok, {found['rows_error']:,} error, {found['rows_planned']:,} planned")
    print(f"spans:  {found['spans_done']:,} of {found['spans_planned']:,}")
    speed = f"{found['tokens_per_second']:,.0f}/s"
    print(f"tokens: {found['prompt_tokens']:,} read, {found['completion_tokens']:,} generated, {speed}")
    print(f"time:   {found['seconds_total']:,.1f} s, {found['seconds_generating']:,.1f} s of them generating")
    for code, number in found["errors"].items():
        print(f"errors: {code} {number:,}")


def print_verdict(verdict: Verdict) -> None:
    for problem in verdict.problems:
        print(printable(problem))
    rows = verdict.rows_ok + verdict.rows_error
    proven = "NOT proven" if verdict.problems else "every planned row is there exactly once"
    print(f"{proven}: {rows:,} rows ({verdict.rows_ok:,} ok, {verdict.rows_error:,} error) in {verdict.spans:,} spans")


def print_fidelity(found: dict[str, Fidelity], lines: list[tuple[str, int, int, float, float | None]]) -> None:
    """The `lines` of fidelity.table, and what holds of each attribute as a whole."""
    print(f"{'attribute':<20} {'asked':>6} {'answers':>10} {'tokens':>8} {'label':>6}")
    for name, value, answers, tokens, label in lines:
        print(f"{name:<20} {value:>6} {answers:>10,} {tokens:>8.1f} {'-' if label is None else format(label, '.2f'):>6}")
    for name, one in found.items():
        for what, r in (("tokens", one.correlation_with_tokens), ("labels", one.correlation_with_labels)):
            if r is not None:
                print(f"{name}: correlation with {what} {r:.2f}")
        if one.exact is not None:
            print(f"{name}: label as asked {one.exact:.0%}, {one.mean_error:+.2f} on average")
