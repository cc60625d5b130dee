"""A headless Chromium, driven over a pipe: pages as a reader sees them, on any width, in print, light or dark. No network, no driver."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOW_TO_GET_IT = "no chromium on this machine, which the tests of the report pages need: install it with `apt-get install chromium`"
_SECONDS = 60.0
_TOO_WIDE = """(() => {
  const page = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > page) found.push(`the page: ${document.documentElement.scrollWidth}`);
  for (const element of document.body.querySelectorAll('*')) {
    let box = element.parentElement;
    while (box && !['auto', 'scroll'].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
    const { left, right, width } = element.getBoundingClientRect();
    if (width && !box && (right > page + 0.5 || left < -0.5)) found.push(`${element.tagName} ${element.className}: ${left} to ${right}`);
  }
  return JSON.stringify({ page, found });
})()"""


class Chromium:
    """One browser with one page."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            raise AssertionError(HOW_TO_GET_IT)
        # The browser reads commands from descriptor 3 and answers on 4; numbers from 10 on leave these free for dup2.
        ends = [_high(end) for end in (*os.pipe(), *os.pipe())]
        child_reads, self._commands, self._answers, child_writes = ends

        def connect() -> None:
            os.dup2(child_reads, 3)
            os.dup2(child_writes, 4)

        self._process = subprocess.Popen(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
            ],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._ask("Page.enable")

    def show(self, page: Path, *, width: int, height: int = 900, dark: bool = False, media: str = "screen") -> None:
        """Open a file as a window of ``width`` CSS pixels shows it; ``media`` is screen or print."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._ask("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + _SECONDS
        while self.evaluate("document.readyState + ' ' + location.href") != f"complete {page.resolve().as_uri()}":
            assert time.monotonic() < end, f"{page} was not loaded in {_SECONDS:.0f} s"
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; the page's own policy does not reach it."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def too_wide(self) -> list[str]:
        """Elements that reach beyond the page, but for what lies in a box that scrolls."""
        found: list[str] = json.loads(self.evaluate(_TOO_WIDE))["found"]
        return found

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it prints."""
        path.write_bytes(base64.b64decode(self._ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"]))

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError):
            os.close(self._commands)
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": parameters} | session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                found: dict[str, Any] = answer["result"]
                return found
        raise AssertionError(f"{method}: chromium ended without an answer")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" in self._buffer:
                whole, self._buffer = self._buffer.split(b"\0", 1)
                yield json.loads(whole)
            ready, _, _ = select.select([self._answers], [], [], _SECONDS)
            assert ready, f"chromium did not answer in {_SECONDS:.0f} s"
            block = os.read(self._answers, 1 << 20)
            if not block:
                return
            self._buffer += block


def _high(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved
