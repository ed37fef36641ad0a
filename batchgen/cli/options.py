"""The arguments and options of the verbs, and what verbs have in common: messages, JSON, signals."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

import batchgen
from batchgen.errors import Interrupted, printable, printable_json

FIRST_STOP = (
    "stopping: rows in the engine are finished first, and what is committed is kept; the same command goes on from there. "
    "Ctrl-C again stops at once, and the rows in the engine are made again"
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"batchgen {batchgen.__version__}")
        raise typer.Exit


JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file (YAML).", show_default=False)]
JobOrFile = Annotated[
    str, typer.Argument(metavar="JOB", help="Job file (.yaml, .yml), or the path of rows to try.", show_default=False)
]
File = Annotated[str, typer.Argument(metavar="FILE", help="File, folder or glob of rows.", show_default=False)]
ModelSource = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Model directory or Hugging Face Hub id.")]
PromptColumn = Annotated[str | None, typer.Option("--prompt", metavar="COLUMN", help="Column that makes the prompt.")]
OutDir = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Output directory or URL. Default: the job's.")]
Written = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="JOB", help="Job file to write. Default: FILE's stem, .yaml, here.")
]
Replace = Annotated[bool, typer.Option("--force", help="Replace a job file that is there.")]
EngineKind = Annotated[
    str | None,
    typer.Option("--engine", metavar="KIND", help="Run by another engine, without the options of the job's. echo: a rehearsal."),
]
Sample = Annotated[
    int | None, typer.Option("--rows", min=1, metavar="N", help="Look at N rows from all over the input.", show_default=False)
]
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


def tell(text: str) -> None:
    with suppress(OSError):
        print(printable(text), file=sys.stderr)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and the first Ctrl-C ask for a drain, the second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        with suppress(RuntimeError):  # it may come while a line is printed
            tell(FIRST_STOP)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    except KeyboardInterrupt:
        raise Interrupted("stopped at once", "run again to resume") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_json(value: object) -> None:
    print(printable_json(json.dumps(value, ensure_ascii=False, indent=2)), flush=True)
