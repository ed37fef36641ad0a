"""The command line. Heavy modules are imported inside the verbs, after the arguments are parsed."""
# ruff: noqa: B006 - typer reads the defaults, nobody changes them

import json
import logging
import os
import shlex
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import typer

import batchgen
from batchgen import help as topics
from batchgen import logs
from batchgen.cli.options import (
    AsJson,
    Codes,
    EngineKind,
    File,
    Force,
    Format,
    JobFile,
    JobOrFile,
    ModelSource,
    OutDir,
    Own,
    Partial,
    PromptColumn,
    Prompts,
    Quiet,
    Repair,
    Replace,
    Sample,
    Set,
    To,
    Topic,
    Trust,
    Verbose,
    Version,
    Where,
    Written,
    print_json,
    stop_signals,
    tell,
)
from batchgen.errors import OVER_LIMIT, RUN_ERROR, UNFINISHED, BatchgenError, ErrorCode, InputError, printable, scrubbed

app = typer.Typer(
    name="batchgen",
    help="Prompts in, one Parquet dataset out: every planned row exactly once, whatever dies on the way.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(version: Version = False) -> None: ...


@app.command()
def init(file: File, model: ModelSource = None, prompt: PromptColumn = None, to: Written = None, force: Replace = False) -> None:
    """Look at a file's columns and write a job file for it, with comments. Without --model it rehearses, by the echo engine."""
    from batchgen import init as begin

    found = begin.look(file, prompt)
    path = to or Path(f"{begin.name_of(file)}.yaml")
    begin.write(path, begin.text_of(file, found, model), force)
    print(printable(f"{path}: {found.title}, {', '.join(map(str, found.fields.values()))}"))
    if found.rivals:
        print(printable(f"         the prompt may also be {' or '.join(found.rivals)}: see the file"))
    if model is None:
        print(f"         no --model: it rehearses with the echo engine until you name a model in {shlex.quote(str(path))}")
    print(f"Next:    batchgen run {shlex.quote(str(path))}")


@app.command()
def check(
    job: JobFile, set_: Set = [], engine: EngineKind = None, prompts: Prompts = 0, rows: Sample = None, as_json: AsJson = False
) -> None:
    """Read and render the whole input on this machine. Reports bad rows, prompt lengths and spans; starts nothing."""
    from batchgen import check as checking
    from batchgen.init import job_of
    from batchgen.prepare import prepare

    prepared = prepare(job_of(job, set_, engine)[0])
    if prompts:
        shown = checking.prompts(prepared, prompts)
        return print_json(shown) if as_json else checking.print_prompts(shown)
    found = checking.check(prepared, rows, checking.shown_on(sys.stderr))
    print_json(asdict(found)) if as_json else checking.print_findings(found, prepared.job)
    if found.bad > prepared.job.limits.errors * found.rows:
        sys.exit(OVER_LIMIT)


@app.command()
def run(
    job: JobOrFile,
    set_: Set = [],
    engine: EngineKind = None,
    model: ModelSource = None,
    prompt: PromptColumn = None,
    out: OutDir = None,
    force: Force = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run a job to its end; run it again to resume. Or try a file of rows: FILE --model MODEL. Exit codes: 0 done, 1 run error, 2 bad job, 3 too many failed rows, 75 interrupted."""
    from batchgen.init import job_of, shown

    made, keeps = job_of(job, set_, engine, model, prompt, out)
    if keeps is not None and not quiet:
        tell(f"{shown(made)}\nthis job as a file: {keeps}")
    _run(made, as_json, verbose, quiet, force)


@app.command()
def status(out: Where, as_json: AsJson = False) -> None:
    """Show the progress of a job. Reads its output alone; needs no cluster."""
    from batchgen import terminal

    logs.configure(logging.ERROR)
    found = batchgen.Output.open(out).status()
    print_json(found) if as_json else terminal.print_status(found)


@app.command()
def verify(out: Where, repair: Repair = False, as_json: AsJson = False) -> None:
    """Prove that every planned row is there exactly once, as it was committed. Reads the files alone. Exit code 1 if not, 4 if only unfinished."""
    from batchgen import terminal
    from batchgen.output.lease import hold

    output = batchgen.Output.open(out)
    verdict = output.verify()
    if repair and verdict.damaged:
        with hold(output.store, tell):
            verdict = output.verify()  # at rest
            terminal.print_some([f"moved to {name}" for name in output.repair(verdict)], sys.stderr)
    if repair and verdict.problems and verdict.doubt:
        tell(f"nothing is repaired: {verdict.doubt}")
    print_json(asdict(verdict)) if as_json else terminal.print_verdict(verdict)
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
    failed = ", ".join(f"{code} {number:,}" for code, number in output.status()["errors"].items()) or "none"
    if unknown := [code for code in codes if code not in get_args(ErrorCode)]:
        raise InputError(f"--where: no error code is called {unknown[0]}", f"the codes of the failed rows are {failed}")
    if own is None and not trust:
        refuse_doors(output.job.job, (text.partition("=")[0] for text in set_), out)
    fields = read_yaml(own) if own else output.job.job.model_dump(mode="json", by_alias=True)
    for text in [*set_, f"output.path={json.dumps(out)}"]:
        override(fields, text)
    job = batchgen.Job.parse(fields, own or out)
    if own:
        prepare(job, output.store, planned_only=True)  # refuses another meaning before anything is planned
    planned = output.retry(codes or None, tell)
    if not quiet:
        tell(f"{planned:,} failed rows to run again" + (f"; the failed rows are {failed}" if codes and not planned else ""))
    _run(job, as_json, verbose, quiet, planned_only=True)


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
    print_json({name: asdict(one) for name, one in found.items()}) if as_json else comparing.print_fidelity(found)


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, for editors."""
    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **batchgen.Job.model_json_schema(by_alias=True)})


@app.command("help")
def show_help(topic: Topic = None) -> None:
    """Show a help topic, or list the topics."""
    print(topics.index() if topic is None else topics.topic(topic), end="\n" if topic is None else "")


def _run(job: "batchgen.Job", as_json: bool, verbose: bool, quiet: bool, force: bool = False, planned_only: bool = False) -> None:
    logs.configure(logging.DEBUG if verbose else logging.ERROR)
    with stop_signals() as stopping:
        status = batchgen.run(job, stopping=stopping, force=force, quiet=quiet, planned_only=planned_only)
    if as_json:
        with suppress(OSError):  # the job is done, whether or not anybody reads this
            print_json(status)


def main() -> None:
    """The console script: errors become one line and their exit code, which nobody's closed terminal changes."""
    # A thread of Ray Data that outlives a run must not start another cluster.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        app()
    except BatchgenError as error:
        tell(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # nobody reads what a verb finds
        sys.exit(RUN_ERROR)
    except Exception:
        tell(scrubbed(traceback.format_exc()))
        sys.exit(RUN_ERROR)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # at exit Python would flush again, and exit with 120
                with suppress(OSError, ValueError, AttributeError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
