"""vllm_options.py: which engine options a job may give vLLM, checked from its source or the kept list, without importing it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.engines import vllm_options
from batchgen.engines.base import ENGINES
from batchgen.engines.vllm_options import CANNOT_BE, LEAVE_OUT, check_options, installed_options, kept_options
from batchgen.errors import JobError
from batchgen.job.job import Job

SOURCE = """
class EngineArgs:
    max_num_seqs: int | None = None
    max_new_thing: bool = False
    gpu_memory_utilization: float = Cache.gpu_memory_utilization
    dtype: ModelDType = "auto"
    download_dir: str | None = None
    _private: int = 0
    unannotated = 1

    def method(self): ...


class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The source of another vLLM, 1.2.3, which no import may touch."""
    source = tmp_path / "vllm/engine/arg_utils.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    (tmp_path / "vllm/__init__.py").write_text("raise SystemExit('imported')")
    metadata = tmp_path / "vllm-1.2.3.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 1.2.3\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    vllm_options.known_options.cache_clear()
    yield source
    vllm_options.known_options.cache_clear()


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(vllm_options, "installed_options", lambda: None)
    vllm_options.known_options.cache_clear()
    yield
    vllm_options.known_options.cache_clear()


def refusal(**options: Any) -> str:
    with pytest.raises(JobError) as caught:
        check_options(options)
    return str(caught.value)


def test_the_options_of_the_installed_vllm_are_read_from_its_source(vllm: Path) -> None:
    found = installed_options()
    assert found is not None
    assert (found.version, found.installed) == ("1.2.3", True)
    assert found.types == {
        "max_num_seqs": "int",
        "max_new_thing": "bool",
        "gpu_memory_utilization": "float",
        "dtype": "",
        "download_dir": "str",
        "enable_log_requests": "bool",
    }
    check_options({"max_new_thing": True, "dtype": {"any": "thing"}, "gpu_memory_utilization": 1})
    assert refusal(enforce_eager=True) == "engine.options.enforce_eager: no such option of vLLM 1.2.3"


def test_a_source_that_looks_different_is_left_to_the_kept_list(vllm: Path) -> None:
    vllm.write_text("class EngineArgs: ...")
    assert installed_options() is None
    assert vllm_options.known_options() == kept_options()


def test_a_misspelt_option_is_refused_with_the_nearest_name(no_vllm: None) -> None:
    assert refusal(max_num_seqss=4) == (
        f"engine.options.max_num_seqss: no such option of vLLM {kept_options().version}, did you mean max_num_seqs?; "
        "no vLLM is installed here to ask for options of another version"
    )


@pytest.mark.parametrize(
    ("name", "field"),
    [("data_parallel_size", "data_parallel_size"), ("enable_expert_parallel", "expert_parallel")],
)
def test_a_parallel_option_is_refused_in_favour_of_the_jobs_field(no_vllm: None, name: str, field: str) -> None:
    assert refusal(**{name: 1}) == f"engine.options.{name}: leave it out; engine.{field} sets it"


def test_every_mistake_has_a_line(no_vllm: None) -> None:
    lines = refusal(max_num_seqss=4, runner="pooling", data_parallel_size=8, dtype="bfloat16").splitlines()
    assert [line.split(":")[0].removeprefix("engine.options.") for line in lines] == [
        "max_num_seqss",
        "runner",
        "data_parallel_size",
    ]


@pytest.mark.parametrize("name", [*LEAVE_OUT, "data_parallel_size", "data_parallel_backend"])
def test_what_a_job_sets_elsewhere_or_a_replica_cannot_serve_is_refused_whatever_it_is(no_vllm: None, name: str) -> None:
    assert name in kept_options().types, "vLLM has it"
    assert refusal(**{name: 1}).startswith(f"engine.options.{name}: leave it out; ")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in CANNOT_BE.items() for value in sorted(values)]
)
def test_a_value_that_a_replica_cannot_serve_is_refused_and_others_are_not(no_vllm: None, name: str, value: str) -> None:
    assert refusal(**{name: value}).startswith(f"engine.options.{name}: {value} is not possible: ")
    check_options({"runner": "generate", "convert": "none", "load_format": "runai_streamer"})


@pytest.mark.parametrize("value", [0, 1, True, "1k", -1, 2.5, None])
def test_a_context_is_a_number_of_tokens(no_vllm: None, value: Any) -> None:
    assert refusal(max_model_len=value) == f"engine.options.max_model_len: {value!r} is not a number of tokens, 2 or more"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_num_seqs": "many"}, "int"),
        ({"max_num_seqs": 4.5}, "int"),
        ({"max_num_seqs": True}, "int"),
        ({"enforce_eager": "false"}, "bool"),
        ({"gpu_memory_utilization": "0.9"}, "float"),
        ({"download_dir": ["a"]}, "str"),
    ],
)
def test_a_value_of_another_type_is_refused(no_vllm: None, options: dict[str, Any], kind: str) -> None:
    [value] = options.values()
    assert refusal(**options).endswith(f": {value!r} is not {kind}")


def test_values_that_vllm_takes_pass(no_vllm: None) -> None:
    taken = check_options(
        {
            "max_model_len": 1024,
            "max_num_seqs": None,
            "gpu_memory_utilization": 1,
            "enforce_eager": 1,
            "dtype": "bfloat16",
            "load_format": "dummy",
            "structured_outputs_config": {"backend": "xgrammar"},
            "logits_processors": ["package:Processor"],
        }
    )
    assert taken is None


def test_a_job_for_vllm_is_checked_with_them() -> None:
    fields = {"input": {"path": "x", "prompt": "p"}, "output": {"path": "o"}, "model": {"source": "m"}}
    kind = ENGINES.named("vllm")
    with pytest.raises(JobError, match=r"engine\.options\.max_num_seqss: no such option of vLLM .*, did you mean max_num_seqs\?"):
        kind.check(Job.parse({**fields, "engine": {"options": {"max_num_seqss": 4}}}))
    good = Job.parse({**fields, "engine": {"options": {"max_model_len": 512}}})
    kind.check(good)
    assert kind.context(good) == 512
