"""An engine of tests: echo, on nodes where a start goes as a file of that node says. Packages.install adds it to batchgen."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import ray
from pydantic import Field

from batchgen.engines.base import parse_options
from batchgen.engines.echo import EchoEngine, EchoKind, EchoOptions
from batchgen.errors import EngineError
from batchgen.job.job import Job
from batchgen.render.model_files import ModelFiles

HANG, SILENT = "hang", "be silent"
ENTRY = {"batchgen.engines": {"faulty": f"{__name__}:KIND"}}


class Options(EchoOptions):
    nodes: str = Field(
        description="A folder. NODE.fault: error of starts on that node, HANG or SILENT; NODE.began, NODE.ready: their processes."
    )


class FaultyEngine(EchoEngine):
    def __init__(self, options: Options, tokenizer: str | None = None) -> None:
        super().__init__(options, tokenizer)
        self._notes = Path(options.nodes, ray.get_runtime_context().get_node_id())
        self._note("began")
        while self._fault_here() == SILENT:  # before the process answers any call
            time.sleep(0.1)

    async def start(self) -> None:
        while (fault := self._fault_here()) == HANG:
            await asyncio.sleep(0.1)
        if fault:
            raise EngineError(fault)
        await super().start()
        self._note("ready")

    def _fault_here(self) -> str:
        try:
            return self._notes.with_suffix(".fault").read_text()
        except FileNotFoundError:
            return ""

    def _note(self, what: str) -> None:
        with open(self._notes.with_suffix(f".{what}"), "a") as notes:
            notes.write(f"{os.getpid()}\n")


class FaultyKind(EchoKind):
    def check(self, job: Job) -> None:
        parse_options(job, Options)

    def context(self, job: Job) -> int | None:
        return parse_options(job, Options).max_model_len

    def make(self, job: Job, model: ModelFiles) -> FaultyEngine:
        return FaultyEngine(parse_options(job, Options), model.tokenizer)


KIND = FaultyKind()


def noted(folder: Path, node: str, what: str) -> list[int]:
    """The processes of starts on a node that have begun, or are ready."""
    path = (folder / node).with_suffix(f".{what}")
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []
