"""A web server on this machine that misbehaves as asked: it drops connections, forgets ranges, changes its mind, lies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What one path answers."""

    content: bytes = b""
    etag: str | None = '"1"'
    ranges: bool = True
    drop_after: list[int] = field(default_factory=list)
    """Bytes of content after which an answer breaks off, one an answer."""
    statuses: list[int] = field(default_factory=list)
    """Answers before the first good one."""
    said_length: int | None = None
    """Content-Length that is said instead of the true one."""
    says_length: bool = True
    redirect: str | None = None
    kind: str = "application/octet-stream"
    ignores_if_range: bool = False
    changes_to: bytes | None = None
    """Content from the second answer on, under another ETag."""
    encoding: str | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    """Headers of every question."""


@contextmanager
def web(pages: dict[str, Page]) -> Iterator[str]:
    """Address of a server of ``pages`` by path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            return

        def do_GET(self) -> None:
            page = pages.get(self.path)
            if page is None:
                return self.empty(404)
            page.asked.append({name.lower(): value for name, value in self.headers.items()})
            if page.redirect is not None:
                return self.empty(302, Location=page.redirect)
            if page.statuses:
                return self.empty(page.statuses.pop(0), **{"Retry-After": "0"})
            if page.changes_to is not None and len(page.asked) > 1:
                page.content, page.etag, page.changes_to = page.changes_to, '"2"', None
            self.serve(page)
            return None

        def empty(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def serve(self, page: Page) -> None:
            content, first = page.content, 0
            asked = self.headers.get("Range", "")
            same = page.ignores_if_range or self.headers.get("If-Range") in (None, page.etag)
            if asked and page.ranges and same:
                first = int(asked.removeprefix("bytes=").removesuffix("-"))
                if first >= len(content):
                    return self.empty(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            if page.etag:
                self.send_header("ETag", page.etag)
            if page.encoding:
                self.send_header("Content-Encoding", page.encoding)
            self.send_header("Content-Type", page.kind)
            if page.says_length:
                self.send_header("Content-Length", str(page.said_length if page.said_length is not None else len(content) - first))
            self.send_header("Connection", "close")
            self.end_headers()
            body = content[first:]
            if page.drop_after:
                body = body[: page.drop_after.pop(0)]
            self.wfile.write(body)
            self.wfile.flush()
            self.close_connection = True
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
