"""The formats of `batchgen export`, and their files of lines, which are there under their names when all of them are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import orjson

from batchgen.errors import StoreError
from batchgen.output.format import Fields
from batchgen.output.output import Output
from batchgen.registry import Registry

Line = Callable[[str, Fields | None], None]
"""Adds a line of JSON to the file of a name; None makes the file and adds none."""
Export = Callable[[Output, Line], None]
"""Writes the rows of an output, line by line."""
EXPORTS: Registry[Export] = Registry(
    "--format", "batchgen.exports", {name: f"batchgen.export.{name}:export" for name in ("jsonl", "openai")}
)


def export(output: Output, write: Export, folder: Path) -> dict[str, int]:
    """Write the output into files in `folder`; their names, and how many lines each has. Raises StoreError, VerifyError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _Files(folder) as files:
            write(output, files.line)
            return dict(files.counts)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}") from error


class _Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}
        self.counts: dict[str, int] = {}

    def __enter__(self) -> _Files:
        return self

    def line(self, name: str, fields: Fields | None) -> None:
        if name not in self._open:
            self._open[name] = open(self._folder / f".{name}.part", "wb")  # noqa: SIM115 - closed at the end
            self.counts[name] = 0
        if fields is not None:
            self._open[name].write(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))
            self.counts[name] += 1

    def __exit__(self, kind: object, *_: object) -> None:
        for name, file in self._open.items():
            file.close()
            unfinished = self._folder / f".{name}.part"
            if kind is None:
                unfinished.replace(self._folder / name)
            else:
                unfinished.unlink()
