"""The command line. Heavy modules are imported inside the verbs, after the arguments are parsed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from batchgen.errors import RUN_ERROR, BatchgenError, InputError, Interrupted, printable

app = typer.Typer(
    name="batchgen",
    help="Prompts in, one Parquet dataset out: every planned row exactly once, whatever dies on the way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file (YAML).", show_default=False)]
Output = Annotated[str, typer.Argument(metavar="OUT", help="Output directory or URL.", show_default=False)]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the job; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command()
def check(
    job: JobFile,
    set_: Set = [],  # noqa: B006 - typer reads the default, nobody changes it
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, metavar="N", help="Only show the first N prompts as the model will see them.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Read and render the whole input on this machine: bad rows, prompt lengths, spans. Starts nothing."""
    from batchgen import check as checking
    from batchgen.job.job import Job
    from batchgen.run import prepare

    prepared = prepare(Job.load(job, set_))
    if prompts:
        shown = checking.prompts(prepared, prompts)
        if as_json:
            return _print_json(shown)
        for prompt in shown:
            print(f"--- row {prompt['row']} variant {prompt['variant']}: {len(prompt['token_ids'])} tokens")
            print(printable(prompt["text"] if prompt["error"] is None else prompt["error"]))
            print(f"token ids: {prompt['token_ids']}")
        return None
    found = checking.check(prepared)
    if as_json:
        _print_json(asdict(found))
    else:
        _print_findings(found, prepared.job.attributes.predict if prepared.job.attributes else None)
    if found.bad > prepared.job.limits.errors * found.rows:
        sys.exit(3)


def _print_findings(found: Any, predicted: str | None) -> None:
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


@app.command()
def run(
    job: JobFile,
    set_: Set = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Take the output from another driver that is at work on it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job to its end; run it again to resume. Exit codes: 0 done, 1 run error, 2 bad job, 3 too many failed rows, 75 interrupted."""
    from batchgen.job.job import Job
    from batchgen.run import run as run_job

    parsed = Job.load(job, set_)
    with _stop_signals() as stopping:
        status = run_job(parsed, stopping=stopping, force=force)
    if as_json:
        _print_json(status)


@app.command()
def status(out: Output, as_json: AsJson = False) -> None:
    """Where a job stands, from its output alone; needs no cluster."""
    from batchgen.output.progress import read_status
    from batchgen.output.store import open_store

    found = read_status(open_store(out))
    if found is None:
        raise InputError(f"{out}: no batchgen output there")
    if as_json:
        return _print_json(found)
    print(f"{found['name']}: {found['state']}")
    print(f"rows:   {found['rows_ok']:,} ok, {found['rows_error']:,} error, {found['rows_planned']:,} planned")
    print(f"spans:  {found['spans_done']:,} of {found['spans_planned']:,}")
    print(
        f"tokens: {found['prompt_tokens']:,} read, {found['completion_tokens']:,} generated, {found['tokens_per_second']:,.0f}/s"
    )
    print(f"time:   {found['seconds_total']:,.1f} s, {found['seconds_generating']:,.1f} s of them generating")
    for code, number in found["errors"].items():
        print(f"errors: {code} {number:,}")


@app.command()
def verify(
    out: Output,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged parts into quarantine; the next run makes their spans again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove from the files alone that every planned row is there exactly once. Exit code 1 if not."""
    from batchgen.output import verify as proving
    from batchgen.output.lease import hold
    from batchgen.output.store import open_store

    store = open_store(out)
    verdict = proving.verify(store)
    if repair and verdict.damaged:
        with hold(store, lambda text: print(text, file=sys.stderr)):
            verdict = proving.verify(store)  # of an output at rest
            for name in proving.repair(store, verdict):
                print(f"moved to {name}", file=sys.stderr)
    if as_json:
        _print_json(asdict(verdict))
    else:
        for problem in verdict.problems:
            print(printable(problem))
        rows = verdict.rows_ok + verdict.rows_error
        words = "NOT proven" if verdict.problems else "every planned row is there exactly once"
        print(f"{words}: {rows:,} rows ({verdict.rows_ok:,} ok, {verdict.rows_error:,} error) in {verdict.spans:,} spans")
    if verdict.problems:
        sys.exit(RUN_ERROR)


@app.command()
def retry(
    out: Output,
    where: Annotated[
        str | None, typer.Option("--where", metavar="error_code=CODE,CODE", help="Only the rows that failed so.")
    ] = None,
    set_: Set = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Run the failed rows of a finished job again, and no others; exit codes as of run."""
    from batchgen.job.fields import override
    from batchgen.job.job import Job
    from batchgen.output.job_file import load_frozen
    from batchgen.output.retry import plan_retry
    from batchgen.output.store import open_store
    from batchgen.run import run as run_job

    codes = None
    if where is not None:
        column, _, values = where.partition("=")
        codes = [code for code in values.split(",") if code]
        if column != "error_code" or not codes:
            raise InputError(f"--where {where}: expected error_code=CODE,CODE")
    store = open_store(out)
    frozen = load_frozen(store)
    if frozen is None:
        raise InputError(f"{out}: no batchgen output there")
    fields = frozen.job.model_dump(mode="json", by_alias=True)
    for text in [*set_, f"output.path={json.dumps(out)}"]:
        override(fields, text)
    planned = plan_retry(store, frozen, codes)
    print(f"{planned:,} failed rows to run again", file=sys.stderr)
    with _stop_signals() as stopping:
        status = run_job(Job.parse(fields, out), stopping=stopping)
    if as_json:
        _print_json(status)


@app.command()
def export(
    out: Output,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Local directory for the files.", show_default=False)],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="jsonl: all rows. openai: OpenAI's batch output and error files.")
    ] = "jsonl",
) -> None:
    """Write an output as files of another format; of a row that was tried again, the last attempt."""
    from pathlib import Path
    from typing import get_args

    from batchgen.export import export as exporting
    from batchgen.output.store import open_store

    if form not in get_args(exporting.Format):
        raise InputError(f"--format {form}: expected one of {', '.join(get_args(exporting.Format))}")
    for name, lines in exporting.export(open_store(out), form, Path(to)).items():  # type: ignore[arg-type]
        print(f"{Path(to) / name}: {lines:,} lines")


@app.command()
def fidelity(out: Output, as_json: AsJson = False) -> None:
    """What was asked for against what came: by attribute and value, the length of the answers and their labels."""
    from batchgen.export import fidelity as comparing
    from batchgen.output.store import open_store

    found = comparing.fidelity(open_store(out))
    if as_json:
        return _print_json({name: asdict(one) for name, one in found.items()})
    print(f"{'attribute':<20} {'asked':>6} {'answers':>10} {'tokens':>8} {'label':>6}")
    for name, value, answers, tokens, label in comparing.table(found):
        print(f"{name:<20} {value:>6} {answers:>10,} {tokens:>8.1f} {'-' if label is None else format(label, '.2f'):>6}")
    for name, one in found.items():
        for what, r in (("tokens", one.correlation_with_tokens), ("labels", one.correlation_with_labels)):
            if r is not None:
                print(f"{name}: correlation with {what} {r:.2f}")
        if one.exact is not None:
            print(f"{name}: label as asked {one.exact:.0%}, {one.mean_error:+.2f} on average")


@app.command()
def schema() -> None:
    """The job file's JSON Schema, for editors."""
    from batchgen.job.job import Job

    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Job.model_json_schema(by_alias=True)})


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and the first Ctrl-C ask for a drain, the second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    except KeyboardInterrupt:
        raise Interrupted("stopped at once", "run again to resume") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def main() -> None:
    """The console script: errors become one line and their exit code."""
    # A thread of Ray Data that outlives a run must not start another cluster.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        app()
    except BatchgenError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
