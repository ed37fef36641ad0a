"""Whole jobs in a world that a seed makes go wrong (world.py, stage.py). A seed that fails says so: run it again with
BATCHGEN_SEED=<seed>. `make chaos` runs thousands."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from batchgen import Output, run
from batchgen.errors import EngineError, InputError, LeaseError, OutputConflict, StoreError
from batchgen.output import job_file
from batchgen.output.store import open_store
from tests.faults.cluster import Pool
from tests.faults.invariants import Reader, check
from tests.faults.stage import Stage, inhabit
from tests.faults.world import Process, World

pytestmark = pytest.mark.timeout(4 * 3600)
SEEDS = int(os.environ.get("BATCHGEN_SEEDS", "1" if "BATCHGEN_SEED" in os.environ else "60"))
FAULTS = {
    *("driver killed", "replica killed", "replica lost", "process stopped for a while", "engine dies", "engine hangs"),
    *("store fails", "applied, reported as failed", "conflict", "block lost", "drain notice"),
}
SURE = 20.0
"""Faults to be expected of a world in which one must come about: of 10^8 such worlds none is spared."""
OUTPUT = "sim://bucket/out"
T = TypeVar("T")
FORGIVEN = (StoreError, LeaseError, EngineError)
"""What may end a run of a driver under faults; the next run goes on."""


class Scenario:
    """One job, the users who run it, and what happens to them."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.world, self.dice = stage, stage.world, stage.world.dice
        self.path = folder / "in.jsonl"
        self.lines: list[str] = []
        self.grow(self.dice.randint(5, 30))
        self.samples = self.dice.choice((1, 1, 2))
        self.users = self.dice.choice((1, 1, 2, 3))
        self.drivers: list[Process] = []
        self.busy = self.users
        self.job = {
            "input": {"path": str(self.path), "prompt": "prompt"},
            "engine": {"kind": "echo"},
            "sampling": {"n": self.samples},
            "replicas": {"max": self.dice.randint(1, 3)},
            "limits": {"errors": 1.0},
            "output": {"path": OUTPUT},
        }
        self.reader = Reader(open_store(OUTPUT), one_driver=self.users == 1)

    def grow(self, rows: int) -> None:
        kinds = ["", "", "", "", "", "", "", "", " refused", "bad"] + (["poison"] if self.dice.random() < 0.1 else [])
        for number in range(len(self.lines), len(self.lines) + rows):
            kind = self.dice.choice(kinds)
            self.lines.append("no json" if kind == "bad" else json.dumps({"prompt": f"row {number}{kind}"}))
        self.path.write_text("".join(f"{line}\n" for line in self.lines))

    @property
    def expected(self) -> dict[tuple[int, int], str | None]:
        codes = {"no json": "input", "refused": "engine_rejected", "poison": "engine_crash"}
        of_row = [next((code for mark, code in codes.items() if mark in line), None) for line in self.lines]
        return {(row, sample): code for row, code in enumerate(of_row) for sample in range(self.samples)}

    def play(self) -> None:
        world = self.world
        world.failures = self.dice.choice((0.0, 0.005, 0.02, 0.05))
        for number in range(self.users):
            world.spawn(world.process(f"user {number}"), functools.partial(self.use, number))
        world.spawn(world.process("reader"), self.read)
        world.spawn(world.process("trouble"), self.trouble)
        world.run()
        world.failures = 0.0
        world.spawn(world.process("last"), lambda: run(self.job, out=io.StringIO(), quiet=True))
        world.run()
        world.spawn(world.process("judge"), self.judge)
        world.run()

    def use(self, number: int) -> None:
        """Somebody who runs the job until it is done, or they have had enough."""
        for _ in range(self.dice.randint(1, 5)):
            self.world.sleep(self.dice.choice((0.0, 1.0, 100.0)))
            ended: list[bool] = []
            force, again = self.dice.random() < 0.2, self.dice.random() < 0.3
            if self.dice.random() < 0.3:
                self.grow(self.dice.randint(1, 9))
            driver = self.world.process(f"driver {len(self.drivers)} of user {number}")
            self.drivers.append(driver)
            self.world.spawn(driver, functools.partial(self.drive, ended, force, again))
            self.until_over(ended, driver)
        self.busy -= 1

    def until_over(self, ended: list[bool], driver: Process) -> None:
        self.world.wait(lambda: bool(ended) or driver.dead)

    def drive(self, ended: list[bool], force: bool, again: bool) -> None:
        with suppress(*FORGIVEN):
            store = open_store(OUTPUT)
            if again and store.get(job_file.NAME):
                with suppress(InputError, OutputConflict):  # unfinished; another retry at the same time
                    Output.open(store).retry()
            # How a job is run may change from run to run.
            spans = {"rows": self.dice.randint(2, 8), "journal_seconds": self.dice.choice((1.0, 10.0, 100.0))}
            run({**self.job, "spans": spans}, out=io.StringIO(), quiet=True, force=force)
        ended.append(True)

    def read(self) -> None:
        while self.busy:
            with suppress(StoreError):
                self.reader.poll()
            self.world.sleep(self.dice.choice((0.1, 5.0, 50.0)))

    def trouble(self) -> None:
        acts: list[Callable[[], None]] = [
            self.kill_driver,
            self.kill_replica,
            self.lose_replica,
            self.stop_somebody,
            lambda: None,
        ]
        while self.busy:
            self.world.sleep(self.dice.choice((0.01, 0.3, 3.0, 30.0)))
            if self.dice.random() < 0.5:
                self.dice.choice(acts)()

    def kill_driver(self) -> None:
        driver = self._any(process for process in self.drivers if self.world.lives(process.number))
        if driver is not None:
            self.world.fired["driver killed"] += 1
            driver.dead = True
            for pool in self.stage.pools:
                if pool.driver is driver:
                    for held in pool.held.values():
                        self.end_later(held.process)

    def kill_replica(self) -> None:
        if (found := self._replica()) is not None:
            pool, replica = found
            self.world.fired["replica killed"] += 1
            pool.held[replica].process.dead = True
            pool.lose(replica, "killed", "outside")

    def lose_replica(self) -> None:
        """The driver takes for dead a replica that works on."""
        if (found := self._replica()) is not None:
            pool, replica = found
            self.world.fired["replica lost"] += 1
            self.end_later(pool.held[replica].process)
            pool.lose(replica, "lost", "node")

    def stop_somebody(self) -> None:
        processes = [*self.drivers, *(held.process for pool in self.stage.pools for held in pool.held.values())]
        process = self._any(process for process in processes if self.world.lives(process.number))
        if process is not None:
            self.world.fired["process stopped for a while"] += 1
            process.stopped_until = self.world.now + self.dice.choice((1.0, 20.0, 200.0))

    def end_later(self, process: Process) -> None:
        def end() -> None:
            self.world.sleep(self.dice.choice((0.0, 1.0, 100.0)))
            process.dead = True

        self.world.spawn(self.world.process("raylet"), end)

    def _replica(self) -> tuple[Pool, int] | None:
        return self._any((pool, number) for pool in self.stage.pools for number in pool.alive if number in pool.held)

    def _any(self, found: Iterator[T]) -> T | None:
        known = list(found)
        return self.dice.choice(known) if known else None

    def judge(self) -> None:
        check(self.reader, self.expected, self.world.fired.total() if self.world.risk > SURE else None)


def play(seed: int) -> Counter[str]:
    world = World(seed)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(inhabit(patch, world), Path(folder))
        try:
            scenario.play()
        except BaseException as error:
            error.add_note(f"seed {seed}; {dict(world.fired)}")
            raise
    return world.fired


def test_whatever_happens_every_row_is_there_once() -> None:
    first = int(os.environ.get("BATCHGEN_SEED", random.SystemRandom().randrange(2**32)))
    fired: Counter[str] = Counter()
    for seed in range(first, first + SEEDS):
        fired += play(seed)
    print(f"{SEEDS} seeds from {first}: {dict(fired)}")
    assert FAULTS - fired.keys() == set() or SEEDS < 60, "a fault that never came about"
