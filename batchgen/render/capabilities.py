"""What a prompt is to be made for: the capabilities of a kind of engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from batchgen.job.sampling import Sampling


@dataclass(frozen=True)
class Capabilities:
    """What a kind of engine can do and needs. `messages`: the engine applies the chat template itself. `device` (gpu, cpu, or one
    that a package places) is what a replica reserves per rank."""

    prompts: Literal["tokens", "messages"] = "tokens"
    needs_model: bool = True
    """The job must name a model."""
    reads_model: bool = True
    """The model's tokenizer and chat template are read here; False for a model behind an endpoint."""
    counts_tokens: bool = False
    """The engine counts a prompt's tokens itself."""
    reads_answers: bool = False
    """The engine tells reasoning and calls of tools from the text of an answer, whatever the job says of the model."""
    device: str = "cpu"
    spreads_copies: bool = True
    """Data parallel ranks of a replica may be on several nodes."""
    mistake: Callable[[Sampling], str | None] | None = None
    """What the engine would refuse of a row's sampling, or choke on, in words that begin with the field's name."""
    tasks: frozenset[str] = frozenset({"generate"})
    version: str | None = ""
    """Of the package that the engine needs beside batchgen, as it is installed here; None where it is not, empty where the engine
    needs none."""
    packages: tuple[str, ...] = ()
    """What its replicas import and batchgen alone does not bring."""
