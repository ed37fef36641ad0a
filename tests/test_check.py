"""check: what a run will count, without running it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from batchgen import check
from batchgen.check import Findings
from batchgen.job.job import Job
from batchgen.prepare import prepare

TINY = Path(__file__).parents[1] / "jobs/models/tiny-karakuri"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_job(**fields: Any) -> Job:
    given = {"input": {"path": "in.jsonl", "prompt": "prompt"}, "engine": {"kind": "echo"}, "output": {"path": "out"}}
    return Job.parse(given | fields)


def findings(rows: list[Any], **fields: Any) -> Findings:
    """What check finds in in.jsonl with `rows`; a str is a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path("in.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return check.check(prepare(make_job(**fields)))


def test_rows_shards_and_spans_are_counted(folder: Path) -> None:
    (folder / "more").mkdir()
    for name in "ab":
        (folder / f"more/{name}.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n{"prompt": "c"}\n')
    found = check.check(prepare(make_job(input={"path": "more", "prompt": "prompt"}, spans={"rows": 2})))
    assert (found.shards, found.spans, found.rows, found.prompts, found.planned_rows, found.bad) == (2, 4, 6, 6, 6, 0)


def test_a_sweep_and_n_multiply_the_planned_rows(folder: Path) -> None:
    attributes = {"schema": "karakuri", "sweep": {"verbosity": [0, 2, 4], "humor": [0, 1]}}
    found = findings([{"prompt": "a"}, {"prompt": "b"}], attributes=attributes, sampling={"n": 5})
    assert (found.rows, found.prompts, found.planned_rows) == (2, 12, 60)


def test_a_rows_own_n_counts_and_a_bad_row_counts_as_the_job_says(folder: Path) -> None:
    found = findings([{"prompt": "a", "sampling": {"n": 7}}, {"prompt": "b"}, {"prompt": None}], sampling={"n": 2})
    assert (found.rows, found.bad, found.planned_rows) == (3, 1, 7 + 2 + 2)


def test_bad_rows_are_named_with_shard_and_line(folder: Path) -> None:
    found = findings([{"prompt": "a"}, "{not json", "", {"prompt": None}, {"prompt": "a", "sampling": {"top_p": 2}}])
    assert (found.rows, found.bad, found.errors) == (4, 3, {"input": 3})
    assert [line[: line.index(": ", 8)] for line in found.first_errors] == [
        "input: in.jsonl:2",
        "input: in.jsonl:4",
        "input: in.jsonl:5",
    ]


def test_a_row_counts_as_bad_once_whatever_its_variants(folder: Path) -> None:
    attributes = {"schema": "karakuri", "sweep": {"verbosity": [0, 4]}}
    found = findings([{"prompt": "a", "humor": 9}], attributes=attributes)
    assert (found.bad, found.prompts, found.errors) == (1, 2, {"input": 1})
    assert found.first_errors == ["input: in.jsonl:1: attribute humor: 9 is not an integer 0..4"]


def test_rows_of_one_cause_are_one_line_and_no_more_than_twenty_are_shown(folder: Path) -> None:
    found = findings(["{"] * 25)
    assert (found.bad, len(found.first_errors), found.rows_of_cause) == (25, 1, [25])
    found = findings([{"prompt": None, "id": 1}, *({"prompt": "a", "sampling": {f"no_{number}": 1}} for number in range(1, 25))])
    assert (found.bad, len(found.first_errors), sum(found.rows_of_cause)) == (25, 20, 20)
    assert found.first_errors[-1].startswith("input: in.jsonl:20: ")


def test_token_statistics_are_those_of_the_prompts(folder: Path) -> None:
    found = findings([{"prompt": "a" * length} for length in [*range(1, 101), 300]])
    extra = len("user: \n")
    assert found.tokens == {
        "min": 1 + extra,
        "p50": 51 + extra,
        "p90": 91 + extra,
        "p99": 100 + extra,
        "max": 300 + extra,
        "total": 5350 + 101 * extra,
    }


def test_an_empty_prompt_is_named(folder: Path) -> None:
    found = findings([{"prompt": "a"}, {"prompt": " \n"}, {"prompt": ""}, {"prompt": None}])
    assert found.warnings == ["2 rows have an empty prompt, which is sent to the model as it is; the first is in.jsonl:2"]
    assert found.bad == 1


def test_a_sample_is_from_all_over_the_input(folder: Path) -> None:
    rows = [{"prompt": f"row {n}"} for n in range(990)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *[{"prompt": None}] * 10]))
    told: list[int] = []
    found = check.check(prepare(make_job(spans={"rows": 10})), 32, told.append)
    assert (found.rows, found.sampled_of, found.spans) == (32, 1000, 100)
    assert told[:3] == [0, 1, 2]
    assert told[-2:] == [32, -1]
    assert check.check(prepare(make_job(spans={"rows": 10})), 999).bad >= 9


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rows_so_far_are_shown_on_a_terminal_alone(folder: Path) -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        Path("in.jsonl").write_text('{"prompt": "a"}\n')
        check.check(prepare(make_job()), None, check.shown_on(stream))
    assert "looking for rows" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert file.getvalue() == ""


def test_without_a_good_row_there_are_no_token_statistics(folder: Path) -> None:
    assert findings(["{"]).tokens == {}


def test_prompts_that_are_too_long_are_found_with_the_models_context(folder: Path) -> None:
    found = findings([{"prompt": "long " * 3000}, {"prompt": "short"}], model={"source": str(TINY)})
    assert (found.context, found.errors) == (2048, {"too_long": 1})


def test_it_says_how_values_reach_the_prompt(folder: Path) -> None:
    steered = findings([{"prompt": "a"}], model={"source": str(TINY)}, attributes={"schema": "karakuri"})
    plain = findings([{"prompt": "a"}], attributes={"schema": "karakuri"})
    assert [steered.layout, plain.layout, findings([{"prompt": "a"}]).layout] == ["model template", "schema template", "none"]


def test_prompts_are_shown_as_the_model_will_see_them(folder: Path) -> None:
    findings([{"prompt": "a"}, {"prompt": None}, {"prompt": "b"}])
    attributes = {"schema": "karakuri", "sweep": {"verbosity": [0, 4]}}
    made = prepare(make_job(attributes=attributes, model={"source": str(TINY)}))
    first, second, bad = check.prompts(made, 3)
    assert list(first) == ["row", "variant", "text", "token_ids", "attributes", "sampling", "error"]
    assert [(p["row"], p["variant"]) for p in (first, second, bad)] == [(0, 0), (0, 1), (1, 0)]
    assert [made.renderer.model.special["bos_token"] in p["text"] for p in (first, second, bad)] == [True, True, False]
    assert "verbosity: 0 quality" in first["text"]
    assert (second["attributes"]["verbosity"], second["error"], len(second["token_ids"]) > 0) == (4, None, True)
    assert (bad["error"], bad["text"], bad["token_ids"]) == ("input: in.jsonl:2: prompt is null", "", [])


@pytest.mark.parametrize(("most", "shown"), [(1, 1), (3, 3), (9, 3)])
def test_no_more_prompts_are_shown_than_asked_for(folder: Path, most: int, shown: int) -> None:
    findings([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}])
    assert len(check.prompts(prepare(make_job()), most)) == shown


def test_check_writes_nothing(folder: Path) -> None:
    findings([{"prompt": "a"}])
    assert [path.name for path in folder.iterdir()] == ["in.jsonl"]


def request(name: Any, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "body": {"model": "m", "messages": [{"role": "user", "content": "a"}], **body}}


BATCH = {"path": "in.jsonl", "format": "openai-batch"}


def test_custom_ids_that_a_file_has_twice_are_named_even_of_refused_lines(folder: Path, capsys: Any) -> None:
    names = ["b", "a", "c", None, "d", None, "a", "d", "a", "c"]
    found = findings([*(request(name) for name in names), request("b", n=0)], input=BATCH)
    assert found.warnings == ["shard in.jsonl: custom_id 'a' stands on lines 2 and 7 (and 3 more are repeated)"]
    check.print_findings(found, make_job())
    assert f"warning:  {found.warnings[0]}\n" in capsys.readouterr().out
    assert findings([request("a"), request("b"), request("a")], input=BATCH).warnings == [
        "shard in.jsonl: custom_id 'a' stands on lines 1 and 3"
    ]
    assert findings([{"id": "a", "prompt": "x"}] * 2, input={"path": "in.jsonl", "prompt": "prompt", "id": "id"}).warnings == []


def test_the_same_custom_id_in_two_files_is_no_mistake(folder: Path) -> None:
    (folder / "more").mkdir()
    for name, ids in (("a", "xy"), ("b", "xyy"), ("c", "zz")):
        (folder / f"more/{name}.jsonl").write_text("".join(json.dumps(request(one)) + "\n" for one in ids))
    found = check.check(prepare(make_job(input={"path": "more", "format": "openai-batch"}, spans={"rows": 1})))
    assert found.warnings == [
        "shard more/b.jsonl: custom_id 'y' stands on lines 2 and 3",
        "shard more/c.jsonl: custom_id 'z' stands on lines 1 and 2",
    ]


def test_logprobs_that_the_output_will_not_have_are_told_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [request("a", best_of=2), request("b", logprobs=True), request("c", logprobs=True, top_logprobs=2)]
    told = "in.jsonl:2 asks for logprobs, but the result has none; set output.token_logprobs: true"
    assert findings(rows, input=BATCH).warnings == [told]
    assert findings(rows, input=BATCH, output={"path": "out", "token_logprobs": True}).warnings == []
    assert findings(rows[:1], input=BATCH).warnings == []
    monkeypatch.setattr(check, "ASKING_ROWS", 1)
    assert findings(rows, input=BATCH).warnings == []
