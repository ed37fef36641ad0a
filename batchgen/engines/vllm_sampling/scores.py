"""Log-probabilities as vLLM gives them -> columns."""

from typing import Any

import pyarrow as pa

from batchgen import logprobs

Output = Any
"""An object of vLLM's."""


def token_logprobs(output: Output, most: int | None) -> pa.StructArray | None:
    """The tokens of a CompletionOutput, whose positions list the chosen token and the `most` likeliest ones."""
    if output.logprobs is None or most is None:
        return None
    positions = zip(output.token_ids, output.logprobs, strict=False)
    return logprobs.of_answer([_scored(chosen, position, most) for chosen, position in positions])


def prompt_logprobs(output: Output, most: int | None) -> pa.StructArray | None:
    """The tokens of a RequestOutput's prompt, of whose positions the first has none."""
    if output.prompt_logprobs is None or most is None:
        return None
    tokens = []
    for token, position in zip(output.prompt_token_ids, output.prompt_logprobs, strict=False):
        tokens.append(_scored(token, position, most) if position else (token, None, None, []))
    return logprobs.of_answer(tokens)


def _scored(chosen: int, position: Output, most: int) -> tuple[int, str | None, float, list[logprobs.Token]]:
    likeliest = sorted((found for found in position.items() if found[1].rank <= most), key=lambda found: found[1].rank)
    top = [(token, found.decoded_token, found.logprob) for token, found in likeliest]
    return chosen, position[chosen].decoded_token, position[chosen].logprob, top
