"""The command line. Heavy modules are imported inside the verbs, after the arguments are parsed."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from batchgen.errors import RUN_ERROR, BatchgenError, InputError, Interrupted, printable

app = typer.Typer(
    name="batchgen",
    help="Prompts in, one Parquet dataset out: every planned row exactly once, whatever dies on the way.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file (YAML).", show_default=False)]
Where = Annotated[str, typer.Argument(metavar="OUT", help="Output directory or URL.", show_default=False)]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field of the job; repeatable.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print log records, with their time, on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only: no progress, no summary.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_version(asked: bool) -> None:
    if asked:
        from batchgen import __version__

        print(f"batchgen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command()
def check(
    job: JobFile,
    set_: Set = [],  # noqa: B006 - typer reads the default, nobody changes it
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, metavar="N", help="Only show the first N prompts as the model will see them.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Read and render the whole input on this machine. Reports bad rows, prompt lengths and spans; starts nothing."""
    from batchgen import check as checking
    from batchgen import terminal
    from batchgen.job.job import Job
    from batchgen.prepare import prepare

    prepared = prepare(Job.load(job, set_))
    if prompts:
        shown = checking.prompts(prepared, prompts)
        return _print_json(shown) if as_json else terminal.print_prompts(shown)
    found = checking.check(prepared)
    if as_json:
        _print_json(asdict(found))
    else:
        terminal.print_findings(found, prepared.job.attributes.predict if prepared.job.attributes else None)
    if found.bad > prepared.job.limits.errors * found.rows:
        sys.exit(3)
    return None


@app.command()
def run(
    job: JobFile,
    set_: Set = [],  # noqa: B006
    force: Annotated[bool, typer.Option("--force", help="Take over an output that another driver works on.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run a job to its end; run it again to resume. Exit codes: 0 done, 1 run error, 2 bad job, 3 too many failed rows, 75 interrupted."""
    from batchgen.job.job import Job
    from batchgen.run import run as run_job

    parsed = Job.load(job, set_)
    _print_log(verbose)
    with _stop_signals() as stopping:
        status = run_job(parsed, stopping=stopping, force=force, quiet=quiet)
    if as_json:
        _print_json(status)


@app.command()
def status(out: Where, as_json: AsJson = False) -> None:
    """Show the progress of a job. Reads its output alone; needs no cluster."""
    from batchgen import terminal
    from batchgen.output.output import Output

    found = Output.open(out).status()
    _print_json(found) if as_json else terminal.print_status(found)


@app.command()
def verify(
    out: Where,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged parts to quarantine; the next run makes their spans again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that every planned row is there exactly once. Reads the files alone. Exit code 1 if not."""
    from batchgen import terminal
    from batchgen.output.lease import hold
    from batchgen.output.output import Output

    output = Output.open(out)
    verdict = output.verify()
    if repair and verdict.damaged:
        with hold(output.store, lambda text: print(text, file=sys.stderr)):
            verdict = output.verify()  # at rest
            for name in output.repair(verdict):
                print(f"moved to {name}", file=sys.stderr)
    if repair and verdict.problems and verdict.doubt:
        print(f"nothing is repaired: {printable(verdict.doubt)}", file=sys.stderr)
    _print_json(asdict(verdict)) if as_json else terminal.print_verdict(verdict)
    if verdict.problems:
        sys.exit(RUN_ERROR)


@app.command()
def retry(
    out: Where,
    where: Annotated[
        str | None, typer.Option("--where", metavar="error_code=CODE,CODE", help="Only rows with these error codes.")
    ] = None,
    set_: Set = [],  # noqa: B006
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run the failed rows of a finished job again, and no others. Exit codes: as of run."""
    from batchgen.job.fields import override
    from batchgen.job.job import Job
    from batchgen.output.output import Output
    from batchgen.run import run as run_job

    codes = None
    if where is not None:
        column, _, values = where.partition("=")
        codes = [code for code in values.split(",") if code]
        if column != "error_code" or not codes:
            raise InputError(f"--where {where}: expected error_code=CODE,CODE")
    output = Output.open(out)
    fields = output.job.job.model_dump(mode="json", by_alias=True)
    for text in [*set_, f"output.path={json.dumps(out)}"]:
        override(fields, text)
    planned = output.retry(codes)
    if not quiet:
        print(f"{planned:,} failed rows to run again", file=sys.stderr)
    _print_log(verbose)
    with _stop_signals() as stopping:
        status = run_job(Job.parse(fields, out), stopping=stopping, quiet=quiet)
    if as_json:
        _print_json(status)


@app.command()
def export(
    out: Where,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Local directory for the files.", show_default=False)],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="jsonl: all rows. openai: OpenAI batch output and error files. Or one that another package adds.",
        ),
    ] = "jsonl",
) -> None:
    """Write an output as files of another format. A retried row is written once, as its last attempt."""
    from pathlib import Path

    from batchgen.export import files
    from batchgen.output.output import Output

    for name, lines in files.export(Output.open(out), files.EXPORTS.named(form), Path(to)).items():
        print(f"{Path(to) / name}: {lines:,} lines")


@app.command()
def fidelity(out: Where, as_json: AsJson = False) -> None:
    """Compare requested attributes with the answers. Shows their mean length and mean label by attribute and value."""
    from batchgen import terminal
    from batchgen.export import fidelity as comparing
    from batchgen.output.output import Output

    found = comparing.fidelity(Output.open(out))
    if as_json:
        _print_json({name: asdict(one) for name, one in found.items()})
    else:
        terminal.print_fidelity(found, comparing.table(found))


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    from batchgen.job.job import Job

    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Job.model_json_schema(by_alias=True)})


@app.command("help")
def show_help(
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="Topic to show.", show_default=False)] = None,
) -> None:
    """Show a help topic, or list the topics."""
    from batchgen import help as topics

    print(topics.index() if topic is None else topics.topic(topic), end="\n" if topic is None else "")


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


def _print_log(verbose: bool) -> None:
    from batchgen import logs

    logs.configure(logging.DEBUG if verbose else logging.ERROR)


def _print_json(value: object) -> None:
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
