"""The command line. Heavy modules are imported inside the verbs, after the arguments are parsed."""
# ruff: noqa: B006 - typer reads the defaults, nobody changes them

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import batchgen
from batchgen import help as topics
from batchgen import logs
from batchgen.errors import (
    OVER_LIMIT,
    RUN_ERROR,
    UNFINISHED,
    BatchgenError,
    InputError,
    Interrupted,
    printable,
    printable_json,
    scrubbed,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"batchgen {batchgen.__version__}")
        raise typer.Exit


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
Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")]
Prompts = Annotated[int, typer.Option(min=0, metavar="N", help="Only show the first N prompts as the model will see them.")]
To = Annotated[Path, typer.Option("--to", metavar="DIR", help="Local directory for the files.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Take over an output that another driver works on.")]
Repair = Annotated[bool, typer.Option("--repair", help="Move damaged parts to quarantine; the next run makes their spans again.")]
Topic = Annotated[str | None, typer.Argument(metavar="TOPIC", help="Topic to show.", show_default=False)]
Codes = Annotated[str | None, typer.Option("--where", metavar="error_code=CODE,CODE", help="Only rows with these error codes.")]
Own = Annotated[str | None, typer.Option("--job", metavar="JOB", help="Run by this job file, in place of the stored one.")]
Trust = Annotated[
    bool, typer.Option("--trust-stored", help="Take addresses, paths and environment from the output's stored job.")
]
Partial = Annotated[bool, typer.Option("--partial", help="Export an unfinished output, as far as it is.")]
Format = Annotated[
    str, typer.Option("--format", metavar="FORMAT", help="jsonl: all rows. openai: batch output and error files. Or a package's.")
]


@app.callback()
def _options(version: Version = False) -> None: ...


@app.command()
def check(job: JobFile, set_: Set = [], prompts: Prompts = 0, as_json: AsJson = False) -> None:
    """Read and render the whole input on this machine. Reports bad rows, prompt lengths and spans; starts nothing."""
    from batchgen import check as checking
    from batchgen.prepare import prepare

    prepared = prepare(batchgen.Job.load(job, set_))
    if prompts:
        shown = checking.prompts(prepared, prompts)
        return _print_json(shown) if as_json else checking.print_prompts(shown)
    found = checking.check(prepared)
    _print_json(asdict(found)) if as_json else checking.print_findings(found, prepared.job)
    if found.bad > prepared.job.limits.errors * found.rows:
        sys.exit(OVER_LIMIT)


@app.command()
def run(
    job: JobFile, set_: Set = [], force: Force = False, as_json: AsJson = False, verbose: Verbose = False, quiet: Quiet = False
) -> None:
    """Run a job to its end; run it again to resume. Exit codes: 0 done, 1 run error, 2 bad job, 3 too many failed rows, 75 interrupted."""
    _run(batchgen.Job.load(job, set_), as_json, verbose, quiet, force)


@app.command()
def status(out: Where, as_json: AsJson = False) -> None:
    """Show the progress of a job. Reads its output alone; needs no cluster."""
    from batchgen import terminal

    logs.configure(logging.ERROR)
    found = batchgen.Output.open(out).status()
    _print_json(found) if as_json else terminal.print_status(found)


@app.command()
def verify(out: Where, repair: Repair = False, as_json: AsJson = False) -> None:
    """Prove that every planned row is there exactly once, as it was committed. Reads the files alone. Exit code 1 if not, 4 if only unfinished."""
    from batchgen import terminal
    from batchgen.output.lease import hold

    output = batchgen.Output.open(out)
    verdict = output.verify()
    if repair and verdict.damaged:
        with hold(output.store, _tell):
            verdict = output.verify()  # at rest
            terminal.print_some([f"moved to {name}" for name in output.repair(verdict)], sys.stderr)
    if repair and verdict.problems and verdict.doubt:
        _tell(f"nothing is repaired: {verdict.doubt}")
    _print_json(asdict(verdict)) if as_json else terminal.print_verdict(verdict)
    if verdict.problems:
        sys.exit(UNFINISHED if verdict.unfinished else RUN_ERROR)


@app.command()
def retry(
    out: Where,
    where: Codes = None,
    set_: Set = [],
    own: Own = None,
    trust: Trust = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run the failed rows of a finished job again, and no others. Exit codes: as of run."""
    from batchgen.job.fields import override, read_yaml
    from batchgen.output.trust.doors import refuse_doors
    from batchgen.prepare import prepare

    codes = [code for code in (where or "").removeprefix("error_code=").split(",") if code]
    if where is not None and not (codes and where.startswith("error_code=")):
        raise InputError(f"--where {where}: expected error_code=CODE,CODE")
    output = batchgen.Output.open(out)
    if own is None and not trust:
        refuse_doors(output.job.job, (text.partition("=")[0] for text in set_), out)
    fields = read_yaml(own) if own else output.job.job.model_dump(mode="json", by_alias=True)
    for text in [*set_, f"output.path={json.dumps(out)}"]:
        override(fields, text)
    job = batchgen.Job.parse(fields, own or out)
    if own:
        prepare(job, output.store)  # refuses another meaning before anything is planned
    planned = output.retry(codes or None, _tell)
    if not quiet:
        _tell(f"{planned:,} failed rows to run again")
    _run(job, as_json, verbose, quiet)


@app.command()
def export(out: Where, to: To, form: Format = "jsonl", partial: Partial = False) -> None:
    """Write an output as files of another format. A retried row is written once, as its last attempt."""
    from batchgen.export import files

    for name, lines in files.export(batchgen.Output.open(out), files.EXPORTS.named(form), to, partial).items():
        print(printable(f"{to / name}: {lines:,} lines"))


@app.command()
def fidelity(out: Where, as_json: AsJson = False) -> None:
    """Compare requested attributes with the answers. Shows their mean length and mean label by attribute and value."""
    from batchgen.export import fidelity as comparing

    found = comparing.fidelity(batchgen.Output.open(out))
    _print_json({name: asdict(one) for name, one in found.items()}) if as_json else comparing.print_fidelity(found)


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **batchgen.Job.model_json_schema(by_alias=True)})


@app.command("help")
def show_help(topic: Topic = None) -> None:
    """Show a help topic, or list the topics."""
    print(topics.index() if topic is None else topics.topic(topic), end="\n" if topic is None else "")


def _run(job: "batchgen.Job", as_json: bool, verbose: bool, quiet: bool, force: bool = False) -> None:
    logs.configure(logging.DEBUG if verbose else logging.ERROR)
    with _stop_signals() as stopping:
        status = batchgen.run(job, stopping=stopping, force=force, quiet=quiet)
    if as_json:
        with suppress(OSError):  # the job is done, whether or not anybody reads this
            _print_json(status)


def _tell(text: str) -> None:
    with suppress(OSError):
        print(printable(text), file=sys.stderr)


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


def _print_json(value: object) -> None:
    print(printable_json(json.dumps(value, ensure_ascii=False, indent=2)), flush=True)


def main() -> None:
    """The console script: errors become one line and their exit code, which nobody's closed terminal changes."""
    # A thread of Ray Data that outlives a run must not start another cluster.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        app()
    except BatchgenError as error:
        _tell(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # nobody reads what a verb finds
        sys.exit(RUN_ERROR)
    except Exception:
        _tell(scrubbed(traceback.format_exc()))
        sys.exit(RUN_ERROR)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # at exit Python would flush again, and exit with 120
                with suppress(OSError, ValueError, AttributeError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
