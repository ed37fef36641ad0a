"""A server of images on loopback that does as its paths say, and small images."""

from __future__ import annotations

import base64
import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PNG = base64.b64decode(DOT.partition(",")[2])


class Server:
    """Serves the bytes in `files`, redirects to those texts that are there instead, answers with those numbers. `asked` are the
    paths of its requests, with their headers."""

    def __init__(self, files: dict[str, bytes | str | int], context: ssl.SSLContext | None = None) -> None:
        self.files, self.asked = files, list[tuple[str, dict[str, str]]]()
        self._stop = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append((self.path, {**self.headers}))
                found = server.files[self.path]
                if isinstance(found, bytes):
                    self._reply(200, found)
                elif isinstance(found, int):
                    self._reply(found, b"")
                else:
                    self._reply(302, b"", Location=found.replace("PORT", str(server.port)))

            def _reply(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if self.path.startswith("/endless"):  # a byte now and then, of a body without a length
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        while not server._stop.wait(0.05):
                            self.wfile.write(body[:1])
                            self.wfile.flush()
                    return
                cut = self.path.startswith("/cut")
                self.send_header("Content-Length", str(len(body) + cut))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("localhost", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str, scheme: str = "http") -> str:
        return f"{scheme}://localhost:{self.port}{path}"

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None, **files: bytes | str | int) -> Iterator[Server]:
    """A server whose paths are the names with a slash before them."""
    server = Server({f"/{name}": content for name, content in files.items()}, context)
    try:
        yield server
    finally:
        server.close()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}
