"""What was asked for against what came."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from batchgen.cli import app
from batchgen.errors import InputError
from batchgen.export.fidelity import _correlation, fidelity
from tests.support.finished import Finished

KARAKURI = {"schema": "karakuri", "sweep": {"verbosity": [0, 2, 4]}}
ROWS = [json.dumps({"prompt": f"row {n}", "helpfulness": n % 2 * 4}) for n in range(10)]
HELPFUL = "helpfulness: {} correctness: 4 coherence: 4 complexity: 1 verbosity: {}"


def folder(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


@pytest.fixture
def steered(tmp_path: Path) -> Finished:
    return Finished(folder(tmp_path, "steered"), ROWS, attributes=KARAKURI, engine={"kind": "echo"}, sampling={"n": 2})


def labelled(steered: Finished, tmp_path: Path, labels: str, **fields: Any) -> Finished:
    made = {
        "input": {"path": steered.store.url, "messages": "messages"},
        "attributes": {"schema": "karakuri-apm", "predict": "helpsteer"},
        "sampling": {"structured_outputs": {"choice": [labels]}},
        "engine": {"kind": "echo"},
    }
    return Finished(folder(tmp_path, "labels"), **(made | fields))


def test_the_lengths_of_answers_by_value(steered: Finished) -> None:
    found = fidelity(steered.output)
    rows = steered.rows()
    verbosity = found["verbosity"]
    assert (verbosity.rows, verbosity.asked) == (60, {0: 20, 2: 20, 4: 20})
    for value, mean in verbosity.mean_tokens.items():
        tokens = [row["completion_tokens"] for row in rows if row["attributes"]["verbosity"] == value]
        assert mean == pytest.approx(sum(tokens) / len(tokens))
    assert found["helpfulness"].asked == {0: 30, 4: 30}
    assert found["humor"].asked == {0: 60}
    assert found["humor"].correlation_with_tokens is None
    assert verbosity.labels == {}


def test_labels_of_a_chained_job_against_what_was_asked_for(steered: Finished, tmp_path: Path) -> None:
    found = fidelity(labelled(steered, tmp_path, HELPFUL.format(4, 2)).output)
    assert found["verbosity"].asked == {0: 20, 2: 20, 4: 20}
    assert found["verbosity"].mean_tokens == fidelity(steered.output)["verbosity"].mean_tokens, (
        "of the answers, not of the labels"
    )
    assert found["verbosity"].labels == {0: {2: 20}, 2: {2: 20}, 4: {2: 20}}
    assert (found["verbosity"].exact, found["verbosity"].mean_error) == (pytest.approx(1 / 3), 0)
    assert found["verbosity"].correlation_with_labels is None, "the labels do not vary"
    assert (found["helpfulness"].exact, found["helpfulness"].mean_error) == (0.5, 2)
    assert (found["humor"].labels, found["humor"].exact) == ({}, None)


def test_correlations_are_pearsons(steered: Finished, tmp_path: Path) -> None:
    import numpy as np

    labels = {"structured_outputs": {"choice": [HELPFUL.format(4, n) for n in range(5)]}}
    output = labelled(steered, tmp_path, "", sampling=labels | {"temperature": 1.0})
    rows = output.rows()
    pairs = [(row["input_attributes"]["verbosity"], row["parsed"]["verbosity"]) for row in rows]
    assert len({label for _, label in pairs}) == 5
    wanted = np.corrcoef(np.array(pairs).T)[0, 1]
    assert fidelity(output.output)["verbosity"].correlation_with_labels == pytest.approx(wanted)


def test_failed_rows_are_not_counted(tmp_path: Path) -> None:
    output = Finished(tmp_path, attributes=KARAKURI)
    assert fidelity(output.output)["verbosity"].rows == len(output.rows(status="ok"))


def test_an_output_that_is_not_steered_has_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its rows do not say what was asked for; steer the job, or label the output"):
        fidelity(Finished(tmp_path).output)


def test_the_command_prints_a_line_for_every_value(steered: Finished, tmp_path: Path) -> None:
    output = labelled(steered, tmp_path, HELPFUL.format(4, 2))
    printed = CliRunner().invoke(app, ["fidelity", output.store.url]).stdout.splitlines()
    lines = [line.split() for line in printed]
    assert lines[0] == ["attribute", "asked", "answers", "tokens", "label"]
    assert ["verbosity", "0", "20"] in [line[:3] for line in lines]
    assert [line[4] for line in lines if line[:1] == ["helpfulness"]] == ["4.00", "4.00"]
    assert "verbosity: label as asked 33%, +0.00 on average" in printed
    assert not any(line.startswith("humor") for line in printed), "it neither varies nor is labelled"
    found = json.loads(CliRunner().invoke(app, ["fidelity", output.store.url, "--json"]).stdout)
    assert found["verbosity"]["labels"] == {"0": {"2": 20}, "2": {"2": 20}, "4": {"2": 20}}


@pytest.mark.parametrize("label", [0.1, 0.7, 2 / 3])
def test_labels_that_do_not_vary_have_no_correlation_even_where_sums_of_them_are_rounded(label: float) -> None:
    assert _correlation(Counter({(value, label): 1000 + 7 * value for value in range(5)})) is None
