"""openai: any endpoint that speaks OpenAI's chat completions: hosted models, a judge, a vLLM server.

Nothing is rendered here: the endpoint applies its own template. The conversation travels through the pipeline as its JSON
(model.HOSTED_TEMPLATE, a token a byte), and token counts are the endpoint's. Retries, backoff and Retry-After are the openai
client's. A row's adapter is a model of that name at the endpoint. The key comes from the environment variable that
`engine.options.api_key_env` names, and from nowhere else.

A request that the endpoint refuses is an error row; an endpoint that is not there or refuses the key is a dead engine.
"""

from __future__ import annotations

import os
from typing import Any

import orjson
import pyarrow as pa
from pydantic import Field

from batchgen import logprobs
from batchgen.engines.base import Request
from batchgen.engines.options import parse_options
from batchgen.errors import BadRow, EngineError, words
from batchgen.job.fields import Spec
from batchgen.job.job import Job
from batchgen.job.sampling import Sampling
from batchgen.records import Answer
from batchgen.render.model_files import ModelFiles

_OPENAI = ("temperature", "top_p", "n", "seed", "stop", "presence_penalty", "frequency_penalty")
_VLLM = (
    *("top_k", "min_p", "min_tokens", "repetition_penalty", "stop_token_ids", "bad_words", "ignore_eos"),
    *("include_stop_str_in_output", "skip_special_tokens"),
)
_DEFAULTS = Sampling()


class OpenAIOptions(Spec):
    base_url: str = Field("https://api.openai.com/v1", description="The endpoint; http://HOST:8000/v1 for a vLLM server.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable with the key.")
    concurrency: int = Field(64, ge=1, description="Requests at once, of each replica.")
    timeout: float = Field(600.0, gt=0, description="Seconds for one request.")
    max_retries: int = Field(8, ge=0, description="Of a request that met 408, 409, 429, 5xx or no answer.")
    max_tokens_field: str = Field("max_tokens", description="max_completion_tokens for models that want that.")


class OpenAIEngine:
    workers = 1

    def __init__(self, job: Job, model: ModelFiles) -> None:
        self.options = parse_options(job, OpenAIOptions)
        self.capacity = self.options.concurrency
        self._model = model.source
        self._token_logprobs = job.output.token_logprobs
        self._client: Any = None

    async def start(self) -> None:
        try:
            import openai
        except ImportError as error:
            raise EngineError(
                f"the openai client cannot be imported: {error}", "install batchgen[openai] on every node"
            ) from error
        options = self.options
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=options.base_url,
            api_key=os.environ.get(options.api_key_env) or "none",  # a server of one's own wants none
            timeout=options.timeout,
            max_retries=options.max_retries,
        )
        try:
            await self._client.models.list()
        except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            await self.stop()
            raise EngineError(
                f"{options.base_url}: {words(error)}", f"check engine.options.base_url and the key in {options.api_key_env}"
            ) from None
        except openai.APIStatusError:
            pass  # it answers; not every endpoint lists its models

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def probe(self) -> None:
        return None  # requests have time limits of their own

    async def generate(self, request: Request) -> list[Answer]:
        sampling = request.sampling
        messages = orjson.loads(bytes(request.token_ids))
        try:
            done = await self._client.chat.completions.create(
                model=sampling.adapter or self._model, messages=messages, **self._parameters(sampling)
            )
        except (self._openai.APITimeoutError, self._openai.APIStatusError) as error:
            if isinstance(error, self._openai.AuthenticationError | self._openai.PermissionDeniedError):
                raise EngineError(f"{self.options.base_url}: {words(error)}") from None
            slow = isinstance(error, self._openai.APITimeoutError)
            raise BadRow("timeout" if slow else "engine_rejected", words(error)) from None
        except self._openai.APIConnectionError as error:
            raise EngineError(f"{self.options.base_url}: {words(error)}") from None
        cached = getattr(getattr(done.usage, "prompt_tokens_details", None), "cached_tokens", None) or 0
        choices = sorted(done.choices, key=lambda choice: choice.index)
        tokens = _counts(choices, done.usage.completion_tokens if done.usage else 0)
        return [
            Answer(
                choice.message.content or "",
                tokens[number],
                choice.finish_reason or "stop",
                _logprob(choice),
                cached,
                done.usage.prompt_tokens if done.usage else None,
                _tokens(choice) if self._token_logprobs else None,
            )
            for number, choice in enumerate(choices)
        ]

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        """What differs from the defaults, under OpenAI's names; the rest as vLLM's server takes it."""
        given = {name: value for name, value in sampling if value != getattr(_DEFAULTS, name) and value is not None}
        made: dict[str, Any] = {name: given[name] for name in _OPENAI if name in given}
        if "max_tokens" in given:
            made[self.options.max_tokens_field] = given["max_tokens"]
        if sampling.logprobs is not None:
            made["logprobs"] = True
            made |= {"top_logprobs": sampling.logprobs} if sampling.logprobs else {}
        more = {name: given[name] for name in _VLLM if name in given}
        constraint = orjson.loads(given.get("structured_outputs", "null"))
        if constraint and "json" in constraint:
            # OpenAI refuses strict schemas that leave properties open.
            strict = constraint["json"].get("additionalProperties") is False
            schema = {"name": "answer", "schema": constraint["json"], "strict": strict}
            made["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif constraint:
            more["structured_outputs"] = constraint
        return made | ({"extra_body": more} if more else {})


def _content(choice: Any) -> list[Any] | None:
    """The tokens of an answer where the endpoint tells them."""
    return getattr(choice.logprobs, "content", None) if choice.logprobs else None


def _counts(choices: list[Any], total: int) -> list[int]:
    """The tokens of each choice. The endpoint counts those of all together; where it tells them one by one, each has its own."""
    told = [len(_content(choice) or ()) for choice in choices]
    if sum(told) == total:
        return told
    return [total // len(choices) + (number < total % len(choices)) for number in range(len(choices))]


def _logprob(choice: Any) -> float | None:
    content = _content(choice)
    return None if content is None else sum(token.logprob for token in content)


def _tokens(choice: Any) -> pa.StructArray | None:
    """The tokens of an answer; a vLLM server puts the chosen one before likelier ones."""
    content = _content(choice)
    if content is None:
        return None
    tokens = []
    for token in content:
        likeliest = sorted(token.top_logprobs or (), key=lambda other: -other.logprob)
        tokens.append((None, token.token, token.logprob, [(None, other.token, other.logprob) for other in likeliest]))
    return logprobs.of_answer(tokens)
