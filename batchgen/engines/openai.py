"""openai: an endpoint that speaks OpenAI's chat completions: hosted models, a judge, a vLLM server.

The endpoint applies its own chat template, so a prompt is the conversation's JSON (render/templates; a token is a byte),
and the endpoint counts the tokens. The openai client retries, backs off and honours Retry-After. A row's adapter names a model of
the endpoint. The key comes from the environment variable that `engine.options.api_key_env` names, and from nowhere else.
A refused request, and a response that is no answer (openai_replies/chat.py), is an error row. An endpoint that cannot be
reached, or that refuses the key, is a dead engine."""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from batchgen import jsontext
from batchgen.engines.base import EngineKind, PoolingRequest, Request, parse_options
from batchgen.engines.openai_replies.chat import BusyError, Object, answers_in
from batchgen.engines.openai_replies.pooling import body_of, pooled_in, url_of
from batchgen.errors import BadRow, EngineError, JobError, safe_message
from batchgen.job.fields import Spec
from batchgen.job.job import Job
from batchgen.job.pooling import POOLED
from batchgen.job.sampling import Sampling
from batchgen.records import REASONINGS, Answer, Pooled
from batchgen.render.capabilities import Capabilities
from batchgen.render.messages import with_images
from batchgen.render.model_files import ModelFiles

if TYPE_CHECKING:
    from openai import AsyncAPIResponse, AsyncOpenAI

    Response = AsyncAPIResponse[Any]
T = TypeVar("T")

MOST_BYTES = 2**26  # of a response
MOST_WAIT = 8.0  # seconds between two tries, as the client has it
STREAMED = {"X-Stainless-Raw-Response": "stream"}  # as the client's with_streaming_response asks for it
_OPENAI = (
    *("temperature", "top_p", "n", "seed", "stop", "presence_penalty", "frequency_penalty"),
    *("reasoning_effort", "parallel_tool_calls"),
)
_ELSEWHERE = {"best_of", "adapter", "logprobs", "chat_template_kwargs", "tools", "tool_choice"}
"""The task's, the name of the model, a flag and a number, and JSON texts."""


class OpenAIOptions(Spec):
    base_url: str = Field("https://api.openai.com/v1", description="URL of the endpoint; http://HOST:8000/v1 for a vLLM server.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    concurrency: int = Field(64, ge=1, description="Concurrent requests of each replica.")
    timeout: float = Field(600.0, gt=0, description="Seconds before a request without a response fails.")
    max_retries: int = Field(8, ge=0, description="Retries of a request that met 408, 409, 429, 5xx or no response.")
    send_reasoning: bool = Field(
        False, description="Send the reasoning of earlier answers with the history; not every endpoint takes it."
    )
    max_tokens_field: str = Field("max_tokens", description="Name of the length limit; some models want max_completion_tokens.")


class OpenAIEngine:
    workers = 1

    def __init__(self, options: OpenAIOptions, model: str, token_logprobs: bool = False) -> None:
        self.options, self.capacity = options, options.concurrency
        self._model, self._token_logprobs = model, token_logprobs
        self._client: AsyncOpenAI | None = None

    async def start(self) -> None:
        try:
            import openai
        except ImportError as error:
            raise EngineError(
                f"the openai client cannot be imported: {error}", "install batchgen[openai] on every node"
            ) from error
        options = self.options
        key = os.environ.get(options.api_key_env) or "none"  # a private server may want none
        self._client = openai.AsyncOpenAI(
            base_url=options.base_url, api_key=key, timeout=options.timeout, max_retries=options.max_retries
        )
        try:
            await self._client.models.list()
        except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            await self.stop()
            remedy = f"check engine.options.base_url and the key in {options.api_key_env}"
            raise EngineError(f"{options.base_url}: {safe_message(error)}", remedy) from None
        except openai.APIStatusError:
            pass  # it responds; not every endpoint lists its models

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def probe(self) -> None:
        return None  # requests have time limits of their own

    async def generate(self, request: Request) -> list[Answer]:
        assert self._client is not None
        sampling, create = request.sampling, self._client.chat.completions.with_streaming_response.create
        messages = with_images(jsontext.loads(bytes(request.token_ids)), request.images)
        if not self.options.send_reasoning:
            messages = [{key: value for key, value in one.items() if key not in REASONINGS} for one in messages]
        parameters = {"messages": messages, **self._parameters(sampling)}
        asked = sampling.n, sampling.logprobs is not None, self._token_logprobs, sampling.prompt_logprobs
        return await self._tried(lambda: create(**parameters), lambda body: answers_in(body, *asked))

    async def pool(self, request: PoolingRequest) -> Pooled:
        url, body = url_of(self.options.base_url, request.task), body_of(request, self._model)
        return await self._tried(lambda: self._post(url, body), pooled_in(request))

    @contextlib.asynccontextmanager
    async def _post(self, url: str, body: Object) -> AsyncIterator["Response"]:
        """A request of another kind than the client has a method for, whose response is read as it comes."""
        assert self._client is not None
        response: Any = await self._client.post(url, cast_to=object, body=body, options={"headers": STREAMED})
        try:
            yield response
        finally:
            await response.close()

    async def _tried(self, send: Callable[[], AbstractAsyncContextManager["Response"]], read: Callable[[bytes], T]) -> T:
        """What `read` finds in the body of the response to a request, which is sent again while the endpoint is busy."""
        import httpx
        import openai

        cause = ""
        for attempt in range(self.options.max_retries + 1):
            if attempt:
                await asyncio.sleep(min(MOST_WAIT, 0.5 * 2**attempt) * random.uniform(0.75, 1.0))
            try:
                return read(await self._body(send()))
            except (openai.APITimeoutError, TimeoutError) as error:
                what = safe_message(error) or f"the response took longer than {self.options.timeout:g} s"
                raise BadRow("timeout", what) from None
            except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise EngineError(f"{self.options.base_url}: {safe_message(error)}") from None
            except openai.APIStatusError as error:
                raise BadRow("engine_rejected", safe_message(error)) from None
            except (BusyError, httpx.HTTPError) as error:  # in the body of a response that began well
                cause = safe_message(error) or type(error).__name__
        raise BadRow("engine_rejected", f"the endpoint did not answer in {self.options.max_retries + 1} tries: {cause}")

    async def _body(self, sending: AbstractAsyncContextManager["Response"]) -> bytes:
        """The body of a response of any kind, within the limits of time and size. Raises TimeoutError, BadRow (engine_rejected),
        the client's errors."""
        async with sending as response, asyncio.timeout(self.options.timeout):  # the client's limit is of each read
            body = bytearray()
            async for piece in response.iter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    raise BadRow("engine_rejected", f"the endpoint's response is over {MOST_BYTES} bytes")
            return bytes(body)

    def _parameters(self, sampling: Sampling) -> dict[str, Any]:
        """What a request sets besides its messages. Fields that OpenAI lacks go in `extra_body`, which vLLM's server reads."""
        more = sampling.model_dump(exclude_defaults=True, exclude_none=True, exclude=_ELSEWHERE)
        made = {"model": sampling.adapter or self._model} | {name: more.pop(name) for name in _OPENAI if name in more}
        if "max_tokens" in more:
            made[self.options.max_tokens_field] = more.pop("max_tokens")
        if sampling.logprobs is not None:
            made |= {"logprobs": True} | ({"top_logprobs": sampling.logprobs} if sampling.logprobs else {})
        if sampling.logit_bias is not None:
            made["logit_bias"] = jsontext.loads(more.pop("logit_bias"))
        for name in ("tools", "tool_choice"):
            if (given := getattr(sampling, name)) is not None:
                made[name] = jsontext.loads(given) if given[0] in "[{" else given
        if sampling.chat_template_kwargs is not None:
            more["chat_template_kwargs"] = jsontext.loads(sampling.chat_template_kwargs)
        constraint = jsontext.loads(more.pop("structured_outputs", "null"))
        if constraint and "json" in constraint:
            # OpenAI refuses strict schemas that leave properties open.
            strict = constraint["json"].get("additionalProperties") is False
            schema = {"name": "answer", "schema": constraint["json"], "strict": strict}
            made["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif constraint:
            more["structured_outputs"] = constraint
        return made | ({"extra_body": more} if more else {})


class OpenAIKind:
    capabilities = Capabilities(
        prompts="messages",
        reads_model=False,
        counts_tokens=True,
        reads_answers=True,
        tasks=frozenset(("generate", *POOLED)),
        packages=("openai",),
    )

    def check(self, job: Job) -> None:
        assert job.model is not None
        ours = {
            "attributes.predict": job.attributes.predict if job.attributes else None,
            "model.chat_template": job.model.chat_template,
            "model.chat_template_kwargs": job.model.chat_template_kwargs,
            "input.continue_final_message": job.input.continue_final_message,
        }
        for field, value in ours.items():
            if value:
                raise JobError(f"{field}: an endpoint applies a template of its own; leave it out")
        parse_options(job, OpenAIOptions)

    def context(self, job: Job) -> int | None:
        return None

    def make(self, job: Job, model: ModelFiles) -> OpenAIEngine:
        return OpenAIEngine(parse_options(job, OpenAIOptions), model.label, job.output.token_logprobs)


KIND: EngineKind = OpenAIKind()
