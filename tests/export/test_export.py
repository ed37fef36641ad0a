"""The formats of `export`: what is in their files, and that a file is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import InputError, StoreError, VerifyError
from batchgen.export import files
from batchgen.export.files import EXPORTS, Line
from batchgen.output import parts
from batchgen.output.output import Output
from tests.support.finished import Finished
from tests.support.packages import install

HELLO = [{"role": "user", "content": "Hello"}]


def line(name: str, **body: Any) -> str:
    whole = {"model": "m", "messages": HELLO, **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": whole})


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    lines = [
        line("one", n=2, max_tokens=5),
        line("two", messages=[{"role": "user", "content": "forbidden"}]),
        line("three", tools=[{"type": "function"}]),
        "no json",
        line("five", messages="?"),
    ]
    return Finished(
        tmp_path,
        lines,
        input={"path": str(tmp_path / "in.jsonl"), "format": "openai-batch"},
        sampling={"temperature": 0},
        limits={"errors": 1},
    )


def exported(output: Finished, folder: Path, form: str) -> dict[str, list[dict[str, Any]]]:
    counts = files.export(output.output, EXPORTS.named(form), folder)
    found = {name: [json.loads(text) for text in (folder / name).read_text().splitlines()] for name in counts}
    assert {name: len(lines) for name, lines in found.items()} == counts
    assert sorted(path.name for path in folder.iterdir()) == sorted(counts), "nothing else is left there"
    return found


def test_responses_and_errors_go_into_their_files(output: Finished, tmp_path: Path) -> None:
    found = exported(output, tmp_path / "to", "openai")
    [one] = found["output.jsonl"]
    assert (one["custom_id"], one["error"], one["response"]["status_code"]) == ("one", None, 200)
    body = one["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "echo")
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    assert body["usage"]["completion_tokens"] == sum(len(c["message"]["content"].split()) for c in body["choices"])
    errors = {error["custom_id"]: error["response"]["body"]["error"]["code"] for error in found["errors.jsonl"]}
    assert (errors["two"], errors["five"]) == ("engine_rejected", "input")
    assert sorted(errors.values()) == ["engine_rejected", *["input"] * 3]
    assert {error["response"]["status_code"] for error in found["errors.jsonl"]} == {400}
    assert {error["error"] for error in found["errors.jsonl"]} == {None}


def test_of_a_row_that_was_tried_again_the_last_attempt_is_exported(output: Finished, tmp_path: Path) -> None:
    output.mend()
    assert output.retry("engine_rejected") == 1
    assert output.run() == 1
    found = exported(output, tmp_path / "to", "openai")
    assert [answer["custom_id"] for answer in found["output.jsonl"]] == ["one", "two"]
    rows = exported(output, tmp_path / "all", "jsonl")["rows.jsonl"]
    assert [(row["id"], row["sample"], row["attempt"]) for row in rows][:3] == [("one", 0, 1), ("one", 1, 1), ("two", 0, 2)]
    assert len(rows) == 6


@pytest.mark.parametrize("form", ["jsonl", "openai"])
def test_a_failed_export_leaves_no_file(output: Finished, tmp_path: Path, form: str) -> None:
    output.store.put(parts.part_name(output.plan.spans[-1].name), b"PAR1")
    with pytest.raises(VerifyError, match="damaged"):
        files.export(output.output, EXPORTS.named(form), tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_place_that_is_no_folder_is_named(output: Finished, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file: (File exists|Not a directory)"):
        files.export(output.output, EXPORTS.named("openai"), tmp_path / "file")


def test_there_is_nothing_to_export_where_there_is_no_output(output: Finished) -> None:
    output.store.delete("_batchgen/job.json")
    with pytest.raises(InputError, match="no batchgen output there"):
        _ = output.output


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is installed beside batchgen and adds the formats `count` and, in vain, `jsonl`."""
    install(tmp_path / "site", monkeypatch, {"batchgen.exports": dict.fromkeys(("count", "jsonl"), f"{__name__}:count")})


def count(output: Output, line: Line) -> None:
    line("count.jsonl", {"rows": sum(1 for _ in output.rows())})


@pytest.mark.usefixtures("toy")
def test_a_package_adds_a_format_and_replaces_none(output: Finished, tmp_path: Path) -> None:
    assert EXPORTS.names() == ["jsonl", "openai", "count"]
    assert exported(output, tmp_path / "to", "count") == {"count.jsonl": [{"rows": 6}]}
    assert "rows.jsonl" in exported(output, tmp_path / "all", "jsonl")
