"""The fields `model` of a job: what to load or call, and how it writes."""

import re
from typing import Self

from pydantic import Field, model_validator

from batchgen.job.fields import Fields, Place, Spec


class Marks(Spec):
    start: str = Field("<think>", min_length=1, description="Text before the reasoning; the prompt may end in it.")
    end: str = Field("</think>", min_length=1, description="Text between the reasoning and the answer.")


class Model(Spec):
    source: Place = Field(description="Model directory, Hugging Face Hub id, or the model's name at an endpoint.")
    revision: str | None = Field(None, description="Branch, tag or commit of the Hub id. The output records the commit.")
    chat_template: Place | None = Field(None, description="Jinja file, or `none` for plain completion. Default: the model's own.")
    chat_template_kwargs: Fields = Field({}, description="Variables for the chat template (enable_thinking, label).")
    reasoning_parser: str | Marks | None = Field(
        None,
        description="How the model marks its reasoning, which goes to the column `reasoning`: the name of a reasoning parser of vLLM (qwen3, deepseek_r1, ...), {start: <think>, end: </think>}, or auto: by the model. null: the answer is kept as it is.",
    )
    tool_call_parser: str | None = Field(
        None,
        description="How the model writes calls of tools, which go to the column `tool_calls`: the name of a tool parser of vLLM (hermes, llama3_json, ...). null: sampling.tools needs an endpoint that parses them.",
    )
    adapters: dict[str, Place] = Field({}, description="LoRA adapters (PEFT, safetensors): name to a directory on every node.")
    trust_remote_code: bool = Field(False, description="Run the model repository's code. `revision` must be a full commit hash.")

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.trust_remote_code and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("trust_remote_code runs the model's own code: pin revision to a full commit hash")
        return self
