"""No secret of the environment reaches a part, a report, a log or a terminal, whatever another library says."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from batchgen import errors, logs
from batchgen.engines import echo
from batchgen.engines.base import Engine
from batchgen.errors import BadRow, RowError, StoreError, printable, printable_json, safe_message, scrubbed
from batchgen.render.model_files import load_model
from batchgen.replica import engines, replica
from tests.support.commands import in_process
from tests.support.committed import Committed
from tests.support.finished import Finished
from tests.support.planning import make_job

CANARY = 'canary/+ 47 "q"\nend'


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ApiKey_2", CANARY)
    monkeypatch.setenv("HF_TOKEN", "hf_canary47")
    monkeypatch.setenv("SHORT_TOKEN", "the")
    monkeypatch.setenv("HARMLESS", "in plain sight")


@pytest.mark.parametrize(
    "form",
    [CANARY, json.dumps(CANARY), "canary%2F%2B%2047%20%22q%22%0Aend", " ".join(CANARY.split()), "hf_canary47", "xhf_canary47x"],
)
def test_a_secret_is_scrubbed_by_value_in_every_form(form: str) -> None:
    for said in (
        scrubbed(f"401: bad key {form}!"),
        safe_message(Exception(f"401: bad key {form}!")),
        str(StoreError(form, form)),
    ):
        assert "canary" not in said
    assert scrubbed(f"key {form}") != f"key {form}"


def test_short_values_and_other_variables_are_words_of_a_text() -> None:
    assert scrubbed("the row in plain sight") == "the row in plain sight"
    assert scrubbed("key hf_canary47.") == "key [HF_TOKEN]."


def test_a_variable_that_the_job_names_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_AUTH", "canary/auth")
    monkeypatch.setattr(errors, "SECRET_NAMES", set[str]())
    monkeypatch.setattr(replica, "SECRET_NAMES", errors.SECRET_NAMES)
    monkeypatch.setattr(engines, "SECRET_NAMES", errors.SECRET_NAMES)
    assert scrubbed("canary/auth") == "canary/auth"
    options = {"base_url": "http://127.0.0.1:1/v1", "api_key_env": "MY_AUTH"}
    job = make_job("in.jsonl", engine={"kind": "openai", "options": options}, model={"source": "m"})
    renderer = SimpleNamespace(job=job, model=load_model(job.model, hosted=True), judge=None)
    replica.Replica(renderer, "memory://secrets", [], engine=cast(Engine, SimpleNamespace()))  # type: ignore[arg-type]
    assert scrubbed("401: canary/auth") == "401: [MY_AUTH]"


def test_a_secret_is_scrubbed_before_a_message_is_cut() -> None:
    assert "hf_can" not in safe_message(Exception("x" * 8 + "hf_canary47"), 15)


def test_a_row_error_holds_no_secret() -> None:
    assert RowError("engine_rejected", "401: hf_canary47").detail == "401: [HF_TOKEN]"


def test_records_and_their_tracebacks_hold_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    log = logs.logger("test_secrets")
    try:
        raise ValueError("no hf_canary47")
    except ValueError:
        log.exception("failed with %s", "hf_canary47")
    logs.internal_error(log, "in.jsonl:1", ValueError("hf_canary47"))
    handler, out = logging.StreamHandler(stream := io.StringIO()), caplog.text
    for record in caplog.records:
        handler.emit(record)
    assert "canary" not in out + stream.getvalue()
    assert "ValueError: no [HF_TOKEN]" in stream.getvalue()


def test_nothing_that_an_output_keeps_or_shows_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise BadRow("engine_rejected", "the endpoint said: Bearer hf_canary47 is no key")

    monkeypatch.setattr(echo.EchoEngine, "generate", refuse)
    output = Finished(tmp_path, limits={"errors": 1})
    details = {row["error_detail"] for row in output.rows(error_code="engine_rejected")}
    assert [detail.partition(": ")[2] for detail in sorted(details)][:1] == ["the endpoint said: Bearer [HF_TOKEN] is no key"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"hf_canary47" not in kept


def test_a_traceback_of_a_fault_of_ours_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise ZeroDivisionError("hf_canary47")

    monkeypatch.setattr("batchgen.Output.open", fails)
    done = in_process(tmp_path, "status", "out")
    assert (done.returncode, "ZeroDivisionError: [HF_TOKEN]" in done.stderr, "canary" in done.stderr) == (1, True, False)


def test_messages_hold_no_secret_and_command_no_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    Committed(tmp_path).monitor(out).message("died: hf_canary47 \x1b[31m")
    assert out.getvalue()[9:] == "died: [HF_TOKEN] \\x1b[31m\n"


@pytest.mark.parametrize("mark", ["\x9b", "\x7f", "\u2028", "\u202e", "\u2066", "\u200f", "\ud800"])
def test_what_turns_or_breaks_a_terminal_is_escaped(mark: str) -> None:
    assert printable(f"a{mark}b").isascii()
    assert json.loads(printable_json(json.dumps(f"a{mark}b", ensure_ascii=False))) == f"a{mark}b"
    assert printable_json(json.dumps(f"a{mark}b", ensure_ascii=False)).isascii()
