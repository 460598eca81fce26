"""A local HTTP server that breaks connections, knows no ranges, and lies about sizes and contents, as it is told."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """How the server answers requests for one file."""

    content: bytes
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # bytes after which it hangs up, an entry for each answer
    codes: list[int] = field(default_factory=list)  # answered first
    headers: dict[str, str] = field(default_factory=dict)  # of any answer
    no_length: bool = False
    shift: int = 0  # starts ranges too late by this
    stalls: bool = False  # goes silent where it breaks, instead of hanging up


class LocalServer(ThreadingHTTPServer):
    """Files by their path; ``seen`` are the requests: path and ``Range`` header."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Served] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.done = threading.Event()

    def __enter__(self) -> LocalServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_) -> None:
        pass  # the client has hung up

    def add(self, name: str, served: Served | bytes) -> str:
        """Serve a file; its URL."""
        self.files[f"/{name}"] = served if isinstance(served, Served) else Served(served)
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def ranges(self) -> list[str | None]:
        return [header for _, header in self.seen]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        wanted, served = self.headers["Range"], self.server.files.get(self.path)
        self.server.seen.append((self.path, wanted))
        if served is None or served.codes:
            return self._head(served.codes.pop(0) if served else 404, served.headers if served else {})
        start, total = 0, len(served.content)
        if wanted and served.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) + served.shift
            if start >= total:
                return self._head(416, {"Content-Range": f"bytes */{total}"})
        body = served.content[start:]
        headers = {} if served.no_length else {"Content-Length": str(len(body))}
        partial = {"Content-Range": f"bytes {start}-{total - 1}/{total}"} if wanted and served.ranges else {}
        self._head(206 if partial else 200, headers | partial | served.headers)
        broken = served.breaks.pop(0) if served.breaks else None
        self.wfile.write(body[:broken])
        if broken is not None and served.stalls:
            self.server.done.wait(5)

    def _head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
