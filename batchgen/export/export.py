"""The rows of an output as they stand after its retries, and as other formats.

`jsonl` has a line per row with the output's columns; `openai` the files of OpenAI's batch API (openai_batch.py).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from batchgen.errors import InputError, StoreError
from batchgen.output import parts
from batchgen.output.job_file import load_frozen
from batchgen.output.plan_file import load_plan
from batchgen.output.store import Store, open_store
from batchgen.read.formats import openai_batch
from batchgen.records import Span

Format = Literal["jsonl", "openai"]


def rows(output: Store | str) -> Iterator[dict[str, Any]]:
    """The rows of an output (a store, a directory or a URL) in plan order, one for each (row, variant, sample): the last
    attempt. Raises InputError where there is no output, VerifyError for a damaged part."""
    store = open_store(output) if isinstance(output, str) else output
    frozen = load_frozen(store)
    if frozen is None:
        raise InputError(f"{store.url}: no batchgen output there")
    plan, _ = load_plan(store, frozen.job.variants * frozen.job.samples)
    committed = parts.committed(store)
    places: dict[str, list[Span]] = {}
    for span in plan.spans:
        if span.name in committed:
            places.setdefault(span.place, []).append(span)
    for spans in places.values():
        latest: dict[tuple[int, int, int], dict[str, Any]] = {}
        for span in spans:
            found = parts.read_part(store, span.name).to_pylist()
            latest |= {(row["row"], row["variant"], row["sample"]): row for row in found}
        yield from latest.values()


def export(store: Store, form: Format, folder: Path) -> dict[str, int]:
    """Write the output into files in `folder`; their names, and how many lines each has. Raises StoreError."""
    write = {"jsonl": _jsonl, "openai": _openai}[form]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _Files(folder) as files:
            write(store, files.line)
            return dict(files.counts)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}") from error


class _Files:
    """Files that are there under their names when all of them are whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}
        self.counts: dict[str, int] = {}

    def __enter__(self) -> _Files:
        return self

    def line(self, name: str, fields: dict[str, Any] | None) -> None:
        """Add a line to a file; None makes the file and adds none."""
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


Line = Callable[[str, dict[str, Any] | None], None]


def _jsonl(store: Store, line: Line) -> None:
    line("rows.jsonl", None)
    for row in rows(store):
        line("rows.jsonl", row)


def _openai(store: Store, line: Line) -> None:
    line("output.jsonl", None)
    line("errors.jsonl", None)
    created = int(time.time())
    for (_, row, variant), samples in itertools.groupby(rows(store), lambda row: (row["shard"], row["row"], row["variant"])):
        answers = list(samples)
        name = answers[0]["id"] or str(row)
        answered, fields = openai_batch.response(f"{name}-{variant}" if variant else name, answers, created)
        line("output.jsonl" if answered else "errors.jsonl", fields)
