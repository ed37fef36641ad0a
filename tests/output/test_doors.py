"""What of a stored job opens a door is not taken from an output without the caller's word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import InputError
from batchgen.job.job import Job
from batchgen.output.trust.doors import refuse_doors
from tests.support.commands import in_process as batchgen
from tests.support.finished import Finished

INPUT = {"path": "in.jsonl", "prompt": "prompt"}
SHA = "0" * 40
NONE = "0 failed rows to run again; the failed rows are engine_rejected 60, input 2"


def job(**fields: Any) -> Job:
    return Job.parse({"input": INPUT, "output": {"path": "out"}, **fields})


def judge(**fields: Any) -> dict[str, Any]:
    return {"judge": {"template": "good?", "regex": "yes", **fields}}


DOORS: dict[str, dict[str, Any]] = {
    "engine.options.base_url": {"engine": {"kind": "openai", "options": {"base_url": "http://evil"}}},
    "engine.options.api_key_env": {"engine": {"kind": "openai", "options": {"api_key_env": "AWS_SECRET_ACCESS_KEY"}}},
    "engine.options.worker_cls": {"engine": {"options": {"worker_cls": "evil.Worker"}}},
    "engine.options.hf_overrides.auto_map": {"engine": {"options": {"hf_overrides": {"auto_map": "evil"}}}},
    "engine.options.allowed_media_domains": {"engine": {"options": {"allowed_media_domains": ["evil"]}}},
    "engine.options.trust_remote_code": {"engine": {"options": {"trust_remote_code": True}}},
    "engine.options.meter": {"engine": {"kind": "echo", "options": {"meter": "/home/user/.bashrc"}}},
    "engine.env.LD_PRELOAD": {"engine": {"env": {"LD_PRELOAD": "evil.so"}}},
    "replicas.env_from": {"replicas": {"env_from": ["AWS_SECRET_ACCESS_KEY"]}},
    "replicas.groups.1.engine.options.worker_cls": {"replicas": [{}, {"engine": {"options": {"worker_cls": "evil.Worker"}}}]},
    "input.before": {"input": {**INPUT, "before": "evil:rows"}},
    "parse.after": {"parse": {"after": "evil:answers", "columns": {"a": "json"}}},
    "accept.function": {"accept": {"function": "evil:accepts"}},
    "accept.judge.engine.options.base_url": {"accept": judge(engine={"kind": "openai", "options": {"base_url": "http://evil"}})},
    "accept.judge.engine.env.LD_PRELOAD": {"accept": judge(engine={"env": {"LD_PRELOAD": "evil.so"}})},
    "accept.judge.model.adapters.a": {"accept": judge(model={"source": "m", "adapters": {"a": "/evil"}})},
    "accept.judge.model.chat_template": {"accept": judge(model={"source": "m", "chat_template": "/etc/passwd"})},
    "model.adapters.a": {"model": {"source": "m", "adapters": {"a": "/evil"}}},
    "model.source": {"model": {"source": "evil/code", "revision": SHA, "trust_remote_code": True}},
    "model.chat_template": {"model": {"source": "m", "chat_template": "/etc/passwd"}},
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_of_a_stored_job_is_named(door: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)out: its stored job .*\n  {door}: .*--job; .*--trust-stored") as refused:
        refuse_doors(job(**DOORS[door]), (), "out")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("door", DOORS)
def test_what_the_caller_sets_is_the_callers(door: str) -> None:
    refuse_doors(job(**DOORS[door]), [door], "out")
    refuse_doors(job(**DOORS[door]), [door.rpartition(".")[0]], "out")
    with pytest.raises(InputError):
        refuse_doors(job(**DOORS[door]), [f"{door}s", door[:-1]], "out")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "engine": {
                "options": {"max_model_len": 1024, "enforce_eager": True, "dtype": "bfloat16", "gpu_memory_utilization": 0.9}
            }
        },
        {"engine": {"kind": "echo", "options": {"length": {"mean": 2, "distribution": "constant"}, "reject_on": "no"}}},
        {"model": {"source": "org/model", "chat_template": "none", "adapters": {}}},
    ],
)
def test_numbers_switches_and_words_open_nothing(fields: dict[str, Any]) -> None:
    refuse_doors(job(**fields), (), "out")
    assert job(**fields).engine is not None


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    """An output whose stored job appends to a file, and of which every row is refused."""
    options = {"reject_on": "row", "meter": str(tmp_path / "meter")}
    return Finished(tmp_path, engine={"kind": "echo", "options": options}, limits={"errors": 1})


def test_retry_plans_nothing_where_the_stored_job_opens_a_door(output: Finished, tmp_path: Path) -> None:
    before = sorted(output.store.list(""))
    done = batchgen(tmp_path, "retry", "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "engine.options.meter: " in done.stderr
    assert sorted(output.store.list("")) == before


@pytest.mark.parametrize("word", [["--trust-stored"], ["--job", "job.yaml"], ["--set", "engine={kind: echo}"]])
def test_retry_goes_on_with_the_callers_word(output: Finished, tmp_path: Path, word: list[str]) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps(output.fields))
    done = batchgen(tmp_path, "retry", "out", "--where", "error_code=timeout", *word)
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, NONE)


def test_retry_with_a_job_of_another_meaning_plans_nothing(output: Finished, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps(output.fields | {"sampling": {"n": 3}}))
    done = batchgen(tmp_path, "retry", "out", "--job", "job.yaml")
    assert done.returncode == 2
    assert "sampling.n: 2 there, 3 in this job" in done.stderr
    assert len(list(output.store.list("_batchgen/plan"))) == 1
