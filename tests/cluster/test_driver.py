"""What the driver tells, and what it says that it waits for, without a pool."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchgen.cluster import driver as drivers
from batchgen.cluster.driver import Run
from batchgen.cluster.policy.dispatch import Died, Dispatcher, Event, Finished, Ready, Said
from tests.support.committed import Committed

WHERE = "node 0123456789ab (10.0.0.7)"


@pytest.fixture
def output(tmp_path: Path) -> Committed:
    return Committed(tmp_path)


def made(output: Committed, out: io.StringIO | None = None) -> Any:
    """A driver with a replica that has joined."""
    nothing: Any = None
    monitor = output.monitor(out, quiet=True)
    driver: Any = Run(output.job, nothing, nothing, output.store, output.plan, monitor, nothing, lambda: False)
    driver._pool = SimpleNamespace(alive=set(), where=lambda _: WHERE, waits_for="")
    driver._dispatcher, driver._first_wait = Dispatcher(), "a GPU"
    driver._dispatcher.join(1)
    return driver


def told(output: Committed, *events: Event) -> list[str]:
    """The lines of these events, without their times."""
    out = io.StringIO()
    driver = made(output, out)
    for event in events:
        driver._handle(event)
    return [line[9:] for line in out.getvalue().splitlines()]


def test_a_death_is_told_with_the_node_and_the_end_of_the_log(output: Committed) -> None:
    log = "the end of its log:\n  engine log: Killed"
    assert told(output, Died(1, "it was killed", WHERE), Said(1, log)) == [
        f"replica 1 on {WHERE} died: it was killed",
        "replica 1: the end of its log:",
        "  engine log: Killed",
    ]
    assert told(output, Died(1, "it was killed")) == ["replica 1 died: it was killed"]


def test_an_engine_that_was_started_again_is_told_with_what_it_died_of(output: Committed) -> None:
    receipt = replace(output.commit(output.spans[0]), died=["vLLM died\n  engine log: CUDA error"])
    assert told(output, Finished(1, "block", receipt)) == [
        f"replica 1 on {WHERE}: its engine died and was started again: vLLM died",
        "  engine log: CUDA error",
    ]


def test_a_version_other_than_the_drivers_is_told_once(output: Committed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "version_here", lambda _: "0.32.0")
    versions = ["0.32.0", "0.31.0", "", "0.31.0", "0.30.0"]
    assert told(output, *(Ready(number, {}, version) for number, version in enumerate(versions, 2))) == [
        f"replica 3 on {WHERE} runs echo 0.31.0; the driver has 0.32.0",
        f"replica 6 on {WHERE} runs echo 0.30.0; the driver has 0.32.0",
    ]
    monkeypatch.setattr(drivers, "version_here", lambda _: None)
    assert told(output, Ready(2, {}, "0.31.0")) == [], "a driver without the engine's package"


def test_a_run_waits_for_a_replica_then_for_prompts_and_at_last_for_what_runs(output: Committed) -> None:
    driver = made(output)
    assert driver._waits_for() == "a GPU"
    driver._pool.alive = {1}
    assert driver._waits_for() == "prompts to be read and rendered"
    driver._dispatcher.has_capacity(1)
    driver._dispatcher.enqueue("block")
    driver._dispatcher.take(0.0)
    assert driver._waits_for() is None
    driver._reason_to_stop = "interrupted"
    assert driver._waits_for() == "what is running to finish: interrupted"
