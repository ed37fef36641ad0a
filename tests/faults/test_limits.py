"""Limits that stop a run: what is running is finished, and the next run goes on from there. In a World (world.py)."""

from __future__ import annotations

import datetime
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import INTERRUPTED, BatchgenError
from batchgen.output import parts
from batchgen.output.store import open_store
from batchgen.run import run
from tests.faults.invariants import Reader, check
from tests.faults.stage import Stage, inhabit
from tests.faults.world import World

ROWS = 60
OUTPUT = "sim://bucket/out"


def driven(stage: Stage, job: dict[str, Any]) -> tuple[str, int]:
    """What a run of the job ended with, and its exit code."""
    ended = ("", 0)

    def drive() -> None:
        nonlocal ended
        try:
            run(job, out=io.StringIO(), quiet=True)
        except BatchgenError as error:
            ended = (str(error), error.exit_code)

    stage.world.spawn(stage.world.process("driver"), drive)
    stage.world.run()
    return ended


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"hours": 0.02}, "limits.hours 0.02 reached"),
        ({"tokens": 60}, "limits.tokens 60 reached"),
        ({"deadline": (datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)).isoformat()}, "limits.deadline "),
    ],
    ids=["hours", "tokens", "deadline"],
)
def test_a_run_that_reaches_a_limit_drains_and_the_next_one_ends_it(limits: dict[str, Any], reason: str) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        stage = inhabit(patch, World(1))
        path = Path(name) / "in.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(ROWS)))
        job = {
            "input": {"path": str(path), "prompt": "prompt"},
            "engine": {"kind": "echo"},
            "spans": {"rows": 4},
            "replicas": {"max": 1},
            "output": {"path": OUTPUT},
        }
        message, code = driven(stage, {**job, "limits": limits})
        assert message.startswith(reason)
        assert (message.partition("; ")[2], code) == ("run again to resume", INTERRUPTED)
        first = stage.generated

        found: list[int] = []
        stage.world.spawn(stage.world.process("look"), lambda: found.append(len(parts.committed(open_store(OUTPUT)))))
        stage.world.run()
        assert found[0] < ROWS / 4, "it stopped early"
        assert found[0] > 0 or "deadline" in limits
        assert driven(stage, job) == ("", 0)
        assert stage.generated - first <= ROWS - 4 * found[0], "no committed row is generated again"
        reader = Reader(open_store(OUTPUT))
        expected: dict[tuple[int, int], str | None] = {(row, 0): None for row in range(ROWS)}
        stage.world.spawn(stage.world.process("judge"), lambda: check(reader, expected, fired=1))
        stage.world.run()
