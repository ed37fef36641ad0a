"""The formats of `batchgen export`, and their files of lines, which get their names when all of them are whole."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa

from batchgen.errors import InputError, StoreError
from batchgen.output.format import Fields
from batchgen.output.output import Output
from batchgen.read import values
from batchgen.registry import Registry

Line = Callable[[str, Fields | None], None]  # adds a line of JSON to the file of a name; None makes the file and adds none
Export = Callable[[Output, Line], None]  # writes the rows of an output, line by line
_BUILT_IN = {name: f"batchgen.export.{name}:export" for name in ("jsonl", "openai")}
EXPORTS: Registry[Export] = Registry("--format", "batchgen.exports", _BUILT_IN)


def _plain(value: object) -> object:
    """A value that JSON lacks, of an export that takes rows as Python has them."""
    return values.values(pa.array([value]))[0]


def export(output: Output, write: Export, folder: Path, partial: bool = False) -> dict[str, int]:
    """Write the output into files in `folder`; their names, and how many lines each has. `partial`: an unfinished one too, as far
    as it is. Raises InputError for an unfinished output, StoreError, VerifyError."""
    if not partial and (lacks := output.unfinished()):
        remedy = "run the job to its end, or export the rows that are there with --partial"
        raise InputError(f"{output.url}: the job is unfinished, {lacks}", remedy)
    counts: dict[str, int] = {}
    files: dict[str, BinaryIO] = {}

    def line(name: str, fields: Fields | None) -> None:
        if name not in files:
            part = folder / f".{name}.part"
            unfinished.callback(part.unlink, missing_ok=True)
            files[name] = unfinished.enter_context(open(part, "wb"))  # noqa: SIM115 - the stack closes it
            counts[name] = 0
        if fields is not None:
            files[name].write(orjson.dumps(fields, _plain, orjson.OPT_APPEND_NEWLINE))
            counts[name] += 1

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as unfinished:
            write(output, line)
            for name, file in files.items():
                file.close()
                (folder / f".{name}.part").replace(folder / name)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}") from error
    return counts
