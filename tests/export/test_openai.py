"""OpenAI's batch files: every request under its own custom_id, errors in OpenAI's own shape, no path in an id."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines import echo
from batchgen.errors import VerifyError
from batchgen.export import files
from batchgen.export.files import EXPORTS
from batchgen.output.output import Output
from tests.support.finished import Finished


def exported(output: Finished, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    files.export(output.output, EXPORTS.named("openai"), folder)
    answers, errors = ((folder / name).read_text().splitlines() for name in ("output.jsonl", "errors.jsonl"))
    return [json.loads(line) for line in answers], [json.loads(line) for line in errors]


def made(folder: Path, lines: list[dict[str, Any]], **fields: Any) -> Finished:
    spec = {"path": str(folder / "in.jsonl"), "prompt": "prompt", "id": "id"}
    texts = [json.dumps(line) for line in lines]
    return Finished(folder, texts, **{"input": spec, "sampling": {}, "limits": {"errors": 1}, **fields})


def test_every_line_has_its_own_custom_id_and_one_without_has_none_of_the_others(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "prompt": "forbidden"},
        {"id": None, "prompt": "forbidden"},
        {"prompt": "forbidden"},
        {"id": "0", "prompt": "x"},
    ]
    answers, errors = exported(made(tmp_path, rows), tmp_path / "to")
    assert [line["custom_id"] for line in answers] == ["0"]
    first, *nameless = [line["custom_id"] for line in errors]
    assert first == "1"
    assert [name.startswith("no-custom-id-") for name in nameless] == [True, True]
    assert len({first, *nameless, "0", "1", "2", "3"}) == 6


def test_a_line_cannot_take_the_name_of_one_without(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rows = [{"prompt": "x"}, {"id": "later", "prompt": "y"}]
    answers, _ = exported(made(tmp_path / "a", rows), tmp_path / "a/to")
    [name] = [line["custom_id"] for line in answers if line["custom_id"] != "later"]
    answers, _ = exported(made(tmp_path / "b", [rows[0], {"id": name, "prompt": "y"}]), tmp_path / "b/to")
    assert len({line["custom_id"] for line in answers}) == 2


def test_variants_of_a_row_and_other_rows_are_never_called_the_same(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": "x"} for name in ("a", "a-0", "a-1")]
    sweep = {"schema": "karakuri", "sweep": {"verbosity": [0, 4]}}
    answers, _ = exported(made(tmp_path, rows, attributes=sweep), tmp_path / "to")
    assert sorted(line["custom_id"] for line in answers) == ["a-0", "a-0-0", "a-0-1", "a-1", "a-1-0", "a-1-1"]


def test_rows_of_a_job_without_ids_are_called_by_file_and_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shard in range(2):
        (tmp_path / f"in/{shard}.jsonl").write_text('{"prompt": "x"}\n{"prompt": "y"}\n')
    output = Finished(tmp_path, input={"path": str(tmp_path / "in"), "prompt": "prompt"}, sampling={})
    answers, _ = exported(output, tmp_path / "to")
    assert [line["custom_id"] for line in answers] == ["0", "1", "1-0", "1-1"]


def test_no_path_is_in_any_id(tmp_path: Path) -> None:
    rows = [{"id": "1", "prompt": "x"}, {"id": "2", "prompt": "forbidden"}]
    answers, errors = exported(made(tmp_path, rows), tmp_path / "to")
    ids = [value for line in (*answers, *errors) for value in (line["id"], line["custom_id"], line["response"]["request_id"])]
    ids += [line["response"]["body"]["id"] for line in answers]
    assert not [one for one in ids if "/" in one]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("code", "refused"), [("engine_rejected", True), ("timeout", False), ("engine_crash", False), ("internal", False)]
)
def test_errors_are_in_openais_own_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, refused: bool) -> None:
    from batchgen.errors import BadRow

    async def fail(*_: object) -> None:
        if code == "internal":
            raise ZeroDivisionError("no")
        raise BadRow(code, "no")  # type: ignore[arg-type]

    monkeypatch.setattr(echo.EchoEngine, "generate", fail)
    _, [error] = exported(made(tmp_path, [{"id": "1", "prompt": "x"}]), tmp_path / "to")
    assert error["custom_id"] == "1"
    if not refused:
        assert error["response"] is None
        assert set(error["error"]) == {"code", "message"}
        assert error["error"]["code"] == code
        return
    assert (error["error"], error["response"]["status_code"]) == (None, 400)
    inner = error["response"]["body"]["error"]
    assert (inner["type"], inner["code"], inner["param"]) == ("invalid_request_error", code, None)
    assert inner["message"].endswith("no")


def test_a_row_of_a_shard_that_the_plan_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = made(tmp_path, [{"id": "1", "prompt": "x"}])
    kept: Callable[[Output], Any] = Output.tables
    monkeypatch.setattr(Output, "tables", lambda self: (t.set_column(1, "shard", [["other"] * len(t)]) for t in kept(self)))
    with pytest.raises(VerifyError, match="row 0 is of shard other, which the plan does not have; run batchgen verify"):
        files.export(output.output, EXPORTS.named("openai"), tmp_path / "to")
