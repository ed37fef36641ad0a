"""The tokens of an answer, or of its prompt, with their log-probabilities: the output's columns `token_logprobs` and
`prompt_logprobs` (of the prompt).

An answer's tokens are Arrow from the engine to the part, so that a span that is still open does not hold Python objects for them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

Token = tuple[int | None, str | None, float]
"""Id, text, log-probability. An endpoint tells no ids; a token that is a piece of a character may have no text."""

_TOKEN = pa.struct([("token_id", pa.int32()), ("token", pa.string()), ("logprob", pa.float32())])
_OF_ANSWER = pa.struct([*_TOKEN, ("top", pa.list_(_TOKEN))])
TYPE = pa.list_(_OF_ANSWER)


def of_answer(tokens: Iterable[tuple[int | None, str | None, float | None, Sequence[Token]]]) -> pa.StructArray:
    """The tokens of one answer, or prompt, in order, each with the likeliest ones in its place, likeliest first. A prompt's first
    token has no log-probability."""
    return pa.array(list(tokens), _OF_ANSWER)


def column(answers: Sequence[pa.StructArray | None]) -> pa.ListArray:
    """A column of TYPE with a list per answer of `of_answer`, null where there is none."""
    ends = np.cumsum([0, *(0 if answer is None else len(answer) for answer in answers)])
    tokens = pa.concat_arrays([pa.array([], _OF_ANSWER), *(answer for answer in answers if answer is not None)])
    missing = pa.array([answer is None for answer in answers], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), tokens, TYPE, mask=missing)
