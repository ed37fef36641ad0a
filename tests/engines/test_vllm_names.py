"""The names of vLLM that the engine uses, asked of the installed vLLM: what a new release took away or renamed is named here."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchgen.engines import vllm_options
from batchgen.engines.vllm import NAMES
from batchgen.engines.vllm_options import installed_options, kept_options

ATTRIBUTES = {
    "AsyncLLM": (
        "from_engine_args",
        "generate",
        "encode",
        "get_supported_tasks",
        "is_paused",
        "shutdown",
        "renderer",
        "vllm_config",
    ),
    "PoolingParams": ("task", "use_activation", "dimensions", "extra_kwargs"),
    "RequestOutputKind": ("FINAL_ONLY",),
    "SamplingParams": ("output_kind", "skip_clone"),
    "vllm.config:VllmConfig": ("scheduler_config", "parallel_config"),
    "vllm.config:SchedulerConfig": ("max_num_seqs",),
    "vllm.config:ParallelConfig": ("world_size", "data_parallel_size"),
    "vllm.renderers:BaseRenderer": ("render_cmpl_async",),
    "vllm.outputs:RequestOutput": ("outputs", "num_cached_tokens"),
    "vllm.outputs:CompletionOutput": ("index", "text", "token_ids", "finish_reason", "cumulative_logprob", "logprobs"),
    "vllm.outputs:PoolingRequestOutput": ("outputs", "num_cached_tokens", "error"),
    "vllm.outputs:PoolingOutput": ("data",),
    "vllm.logprobs:Logprob": ("logprob", "rank", "decoded_token"),
}
"""Attributes that engines/vllm.py and vllm_replies/ use: of the names that they import, and of the classes of their values."""


def has(owner: Any, attribute: str) -> bool:
    """Whether a class has an attribute, a field, or one that its methods set."""
    known = {*dir(owner), *inspect.get_annotations(owner), *getattr(owner, "__struct_fields__", ())}
    fields = {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    return attribute in known | fields or f"self.{attribute} = " in inspect.getsource(owner)


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_vllm_has_every_name_that_the_engine_uses() -> None:
    lost = [f"{module}:{name}" for name, module in NAMES.items() if not hasattr(importlib.import_module(module), name)]
    for owner, attributes in ATTRIBUTES.items():
        module, _, name = owner.rpartition(":")
        found = getattr(importlib.import_module(module or NAMES[name]), name)
        lost += [f"{owner}.{attribute}" for attribute in attributes if not has(found, attribute)]
    assert lost == []


def test_the_test_would_notice() -> None:
    class Owner:
        here = 1

        def __init__(self) -> None:
            self.set = 2

    assert [has(Owner, name) for name in ("here", "set", "gone")] == [True, True, False]


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_the_options_read_from_the_source_are_the_fields_of_the_class() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    found = installed_options()
    assert found is not None
    assert found.types.keys() == {field.name for field in dataclasses.fields(AsyncEngineArgs) if not field.name.startswith("_")}


def test_the_kept_options_are_those_of_the_installed_vllm() -> None:
    """Else: python -m tests.engines.test_vllm_names"""
    found = installed_options()
    if found is None:
        pytest.skip("no vLLM is installed")
    assert dataclasses.replace(kept_options(), installed=True) == found


def write_kept_options() -> None:
    """The file of the kept options anew, from the installed vLLM."""
    found = installed_options()
    assert found is not None, "no vLLM is installed here"
    kept = {"version": found.version, "options": dict(sorted(found.types.items()))}
    Path(vllm_options.__file__).with_name("kept.json").write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    write_kept_options()
