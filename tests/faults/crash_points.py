"""The n-th operation on the output's files fails, for n after n: `python crash_points.py FOLDER FIRST STEP` prints JSON.

Every run is a process of its own, forked, so that SIGKILL is SIGKILL. It runs the page of run.py with one replica in a World
without dice (stage.py), over a real directory. After the fault a second run goes on to the end, and the promises are checked.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import BatchgenError
from batchgen.output import parts
from batchgen.output.store import open_store
from batchgen.run import run
from tests.faults.invariants import Reader, check
from tests.faults.stage import inhabit
from tests.faults.world import World

FAULTS = ("raises before", "raises after", "killed before", "killed after", "disk full")
ROWS = {"row": None, "refused": "engine_rejected", "no json": "input"}
LINES = ["row", "refused", "row", "row", "no json", "row", "row"]
DONE, RUN_ERROR, BROKEN = 0, 1, 99
os_open = os.open


class Traps:
    """Counts the operations under a directory that change or list it, and makes the `at`-th one go wrong."""

    def __init__(self, root: Path, at: int = 0, fault: str = "") -> None:
        self.root, self.at, self.fault = str(root), at, fault
        self.operations: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("link", "replace", "mkdir", "unlink", "scandir", "open", "fsync"):
            patch.setattr(os, name, self._trap(name, getattr(os, name)))
        opener = self._trap("open", builtins.open)
        for module in (builtins, io):
            patch.setattr(module, "open", lambda *a, **k: self._watched(opener(*a, **k), *a))

    def _trap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*arguments: Any, **options: Any) -> Any:
            ours = name == "fsync" or _path(arguments[0], **options).startswith(self.root)
            if call is os_open and not arguments[1] & os.O_CREAT:
                ours = False  # changes nothing
            return self._operation(name, call, *arguments, **options) if ours else call(*arguments, **options)

        return trapped

    def _watched(self, file: Any, path: Any, *_: Any) -> Any:
        return _File(file, self) if _path(path).startswith(self.root) and file.writable() else file

    def _operation(self, name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.operations.append(name)
        number, at, fault = len(self.operations), self.at, self.fault
        if fault == "disk full" and 0 < at <= number and name in ("link", "mkdir", "write", "open"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if number != at:
            return call(*arguments, **options)
        if fault == "raises before":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if fault == "killed before":
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call(*arguments, **options)
        finally:
            if fault == "killed after":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "raises after":
                raise OSError(errno.EIO, os.strerror(errno.EIO))


def _path(place: Any, dir_fd: int | None = None, src_dir_fd: int | None = None, **_: Any) -> str:
    """The path of a name in an open folder, or of an open file."""
    folder = dir_fd if dir_fd is not None else src_dir_fd
    if isinstance(place, int):
        return os.readlink(f"/proc/self/fd/{place}")
    return str(place) if folder is None else f"{os.readlink(f'/proc/self/fd/{folder}')}/{place}"


class _File:
    """A file whose writes are operations; one that is cut short has written its first half."""

    def __init__(self, file: Any, traps: Traps) -> None:
        self._file, self._traps = file, traps

    def write(self, data: bytes) -> None:
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._traps._operation("write", self._file.write, data[half:])

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def driver(folder: Path, traps: Traps | None = None) -> tuple[int, int]:
    """Run the job once; its exit code, and how many rows were generated. Without traps it must end well."""
    job = {
        "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo"},
        "spans": {"rows": 2, "journal_seconds": 3.0},
        "replicas": {"max": 1},
        "limits": {"errors": 1.0},
        "output": {"path": str(folder / "out")},
    }
    world, code = World(8 if traps is None else 7), [DONE]  # random names must differ

    def drive() -> None:
        try:
            run(job, out=io.StringIO(), quiet=True)
        except BatchgenError as error:
            code[0] = error.exit_code
            if traps is None:
                raise

    with pytest.MonkeyPatch.context() as patch:
        stage = inhabit(patch, world)
        if traps is not None:
            traps.install(patch)
        world.spawn(world.process("driver"), drive)
        world.run()
    return code[0], stage.generated


def faulty(folder: Path, traps: Traps) -> int:
    code, _ = driver(folder, traps)
    assert len(traps.operations) >= traps.at, "the fault never came"
    return code


def resumed(folder: Path) -> int:
    """The run after the fault, and the promises. That the fault has come is known by now (`faulty`, or the signal)."""
    reader = Reader(open_store(str(folder / "out")))
    reader.poll()
    committed = parts.committed(reader.store)
    _, generated = driver(folder)
    codes = [ROWS[line] for line in LINES]
    check(reader, {(row, 0): code for row, code in enumerate(codes)}, fired=1)
    pending = [span for span in reader.plan().spans if span.name not in committed]
    rows = [row for span in pending for row in range(span.start, span.end)]
    assert generated <= sum(codes[row] is None for row in rows), "a committed row was generated again"
    assert not list(reader.store.list("_batchgen/tmp")), "scratch files are left"
    return DONE


def forked(call: Callable[[], int]) -> int:
    """The exit code of `call` in a process of its own; minus the signal that killed it."""
    child = os.fork()
    if not child:
        try:
            code = call()
        except BaseException:
            traceback.print_exc()
            code = BROKEN
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def operations(folder: Path) -> list[str]:
    """What a run without a fault does, operation by operation."""

    def count() -> int:
        traps = Traps(folder / "out")
        driver(folder, traps)
        (folder / "operations.json").write_text(json.dumps(traps.operations))
        return DONE

    assert forked(count) == DONE
    found: list[str] = json.loads((folder / "operations.json").read_text())
    return found


def scenario(folder: Path, at: int, fault: str) -> str:
    """What came of the fault: `done`, `run error`, `killed`, or the reason why a promise is broken."""
    write_input(folder)
    code = forked(lambda: faulty(folder, Traps(folder / "out", at, fault)))
    known = {DONE: "done", RUN_ERROR: "run error", -signal.SIGKILL: "killed"}
    if code not in known or (code == -signal.SIGKILL) != fault.startswith("killed"):
        return f"operation {at} {fault}: the run ended with {code}"
    if forked(lambda: resumed(folder)) != DONE:
        return f"operation {at} {fault}: the run after it broke a promise"
    return known[code]


def write_input(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    lines = [line if line == "no json" else json.dumps({"prompt": f"{line} {number}"}) for number, line in enumerate(LINES)]
    (folder / "in.jsonl").write_text("\n".join(lines))


def main() -> None:
    folder, first, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    write_input(folder / "whole")
    names = operations(folder / "whole")
    outcomes: Counter[str] = Counter()
    broken, trapped = [], Counter[str]()
    chosen = [(at, fault) for at in range(1, len(names) + 1) for fault in FAULTS][first::step]
    for at, fault in chosen:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            came = scenario(Path(scratch) / "job", at, fault)
        if came.startswith("operation"):
            broken.append(f"{came} ({names[at - 1]})")
        else:
            outcomes[f"{fault}: {came}"] += 1
            trapped[names[at - 1]] += 1
    print(json.dumps({"operations": Counter(names), "trapped": trapped, "outcomes": outcomes, "broken": broken}))


if __name__ == "__main__":
    main()
