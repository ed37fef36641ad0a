"""An HTTP server on loopback that stands for an OpenAI-compatible endpoint: a test says what it replies."""

from __future__ import annotations

import contextlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pytest

Reply = tuple[int, dict[str, str], Any]
"""Status, headers, and a body: bytes as they are, or what becomes JSON."""


class Endpoint(ABC):
    """Replies to GET with an empty list, to POST as a subclass says."""

    def __init__(self) -> None:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(*endpoint.listed(self.headers))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._reply(*endpoint.reply(self.path, body, self.headers))

            def _reply(self, status: int, headers: dict[str, str], body: Any) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def listed(self, headers: Message) -> Reply:
        return 200, {}, {"object": "list", "data": []}

    @abstractmethod
    def reply(self, path: str, body: dict[str, Any], headers: Message) -> Reply: ...


Some = TypeVar("Some", bound=Endpoint)


@contextlib.contextmanager
def serving(endpoint: Some) -> Iterator[Some]:
    """The endpoint, which no proxy is asked for, until the test ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        try:
            yield endpoint
        finally:
            endpoint.server.shutdown()
            endpoint.server.server_close()


def said(*texts: str, tokens: int = 5, **more: Any) -> Reply:
    """A chat completion with these answers."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
        for index, text in enumerate(texts)
    ]
    usage: dict[str, Any] = {"prompt_tokens": 11, "completion_tokens": tokens, "total_tokens": 11 + tokens}
    usage["prompt_tokens_details"] = {"cached_tokens": 4}
    return 200, {}, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}
