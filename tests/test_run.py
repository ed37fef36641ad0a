"""run: what an output that is finished already says of a job."""

from __future__ import annotations

import io
import json
from pathlib import Path

import batchgen
from batchgen.output import parts
from tests.support.finished import Finished


def test_a_run_of_a_finished_output_makes_nothing_and_says_how_it_stands(tmp_path: Path) -> None:
    output, said = Finished(tmp_path), io.StringIO()
    before = {name: output.store.get(name) for name in output.store.list(parts.DATA)}
    status = batchgen.run({**output.fields, "limits": {"errors": 1}}, out=said)
    assert (status["state"], status["rows_ok"], status["rows_error"]) == ("done", 48, 14)
    assert {name: output.store.get(name) for name in output.store.list(parts.DATA)} == before
    assert said.getvalue().endswith(f"Next:    batchgen verify {output.store.url}\n")


def test_combinations_from_a_file_mean_the_same_in_every_run(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_text(json.dumps({"verbosity": 1}) + "\n" + json.dumps({"verbosity": 3}) + "\n")
    drawn = {"schema": "karakuri", "sample": {"from": str(tmp_path / "points.jsonl"), "k": 2}}
    output = Finished(tmp_path, attributes=drawn, limits={"errors": 1})
    for _ in range(2):
        assert batchgen.run(output.fields, quiet=True)["state"] == "done"
    assert output.output.verify().problems == []
