"""A driver that stood still, and deletes the _SUCCESS of another that has finished the output, puts it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batchgen.errors import LeaseError
from batchgen.output import lease, plan_file, success
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import Store
from batchgen.plan import plan
from tests.support.finished import ROWS, Finished


class Still:
    """A store whose next deletion of _SUCCESS comes after something else has happened."""

    def __init__(self, output: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
        self.meanwhile: list[object] = []
        kind, delete = type(output.store), type(output.store).delete

        def late(store: Store, name: str) -> None:
            while name == SUCCESS and self.meanwhile:
                self.meanwhile.pop()()  # type: ignore[operator]
            delete(store, name)

        monkeypatch.setattr(kind, "delete", late)


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    return Finished(tmp_path)


def grow(output: Finished) -> None:
    with open(output.fields["input"]["path"], "a") as file:
        file.write(json.dumps({"prompt": "one more"}) + "\n")


def is_whole(output: Finished) -> bool:
    return output.store.get(SUCCESS) is not None and Output.open(output.store).verify().problems == []


def test_the_file_of_a_driver_that_has_finished_meanwhile_comes_back(output: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    still = Still(output, monkeypatch)
    with lease.hold(output.store, print) as held:

        def other() -> None:
            grow(output)
            with lease.hold(output.store, print, force=True):
                pass  # it ends, and its lease with it
            output.run()

        still.meanwhile = [other]
        with pytest.raises(LeaseError):
            success.reopen(output.store, held)
    assert is_whole(output)


def test_that_of_a_driver_that_is_still_at_work_does_not(output: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    still = Still(output, monkeypatch)
    with lease.hold(output.store, print) as held:

        def other() -> None:
            grow(output)
            made = output.prepared
            with lease.hold(output.store, print, force=True):
                plan.freeze_plan(made.job, output.store, made.found, made.columns)

        still.meanwhile = [other]
        with pytest.raises(LeaseError):
            success.reopen(output.store, held)
    assert output.store.get(SUCCESS) is None


def test_a_plan_that_comes_too_late_leaves_a_finished_output_finished(output: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    still = Still(output, monkeypatch)
    grow(output)
    made = output.prepared
    still.meanwhile = [output.run]
    planned = plan.freeze_plan(made.job, output.store, made.found, made.columns)
    assert sum(span.rows for span in planned.spans) == ROWS + 2
    assert is_whole(output)
    assert plan_file.load_plan(output.store, 2)[1] == 2


def test_without_one_nothing_is_deleted(output: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    output.store.delete(SUCCESS)
    still = Still(output, monkeypatch)
    still.meanwhile = [lambda: pytest.fail("it deletes what is not there")]
    with lease.hold(output.store, print) as held:
        success.reopen(output.store, held)
