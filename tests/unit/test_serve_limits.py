"""What a request may cost is bounded, by limits that the answer names; the server stays alive and small."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from data_prep.contract.memory import peak_memory_bytes
from trainer.serve.web import Limits, invocations

SMALL = Limits(max_body_bytes=4_000, max_values=500, max_trials=5, max_new_tokens=20, max_requests=3, body_seconds=2)


class Model:
    """Says how many trials it was given, after a while if asked."""

    expects = "(trials, 4, 20)"

    def predict(self, context: Any, inputs: Any, params: Any) -> list[dict[str, int]]:
        time.sleep((params or {}).get("wait", 0))
        return [{"trials": len(inputs)}]


@contextlib.contextmanager
def server(limits: Limits) -> Iterator[int]:
    """A server of the model in a thread; its port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(lambda: Starlette(routes=[invocations(Model(), limits)]), factory=True, log_level="error"))
    thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(10)
        listener.close()


@pytest.fixture(scope="module")
def small() -> Iterator[int]:
    with server(SMALL) as port:
        yield port


def post(port: int, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        given = body if isinstance(body, bytes) or hasattr(body, "__next__") else json.dumps(body).encode()
        connection.request("POST", "/invocations", given, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def answers(port: int) -> bool:
    return post(port, {"inputs": [[[1.0]]]}) == (200, {"predictions": [{"trials": 1}]})


def test_each_limit_is_named_and_the_next_request_is_answered(small: int) -> None:
    for body, status, says in (
        ({"inputs": [[[1.5] * 1200]]}, 413, r"the body has 6,016 bytes, expected at most 4000 (limits.max_body_bytes of this server)"),
        (b" " * 4001, 413, "the body has 4,001 bytes, expected at most 4000"),
        ({"inputs": [[[1] * 600]]}, 413, "the body has 603 values, expected at most 500 (limits.max_values of this server)"),
        (b"[" * 501, 413, "the body has 501 values, expected at most 500 (limits.max_values"),
        (b'[{"":0},' * 300, 413, "values, expected at most 500 (limits.max_values"),
        ({"inputs": [[[0]]] * 6}, 413, "inputs has 6 trials, expected at most 5 (limits.max_trials of this server)"),
        ({"instances": [None] * 6}, 413, "instances has 6 trials, expected at most 5 (limits.max_trials"),
        ({"inputs": [[[0]]], "params": {"max_new_tokens": 21}}, 400, "max_new_tokens is 21, expected at most 20 (limits.max_new_tokens"),
        ({"inputs": [[[0]]], "params": {"max_new_tokens": 10**300}}, 400, "expected at most 20 (limits.max_new_tokens"),
        (b"[" * 400, 400, "not JSON"),
    ):  # fmt: skip
        found, answer = post(small, body)
        assert found == status, answer
        assert says in answer["message"]
        assert len(json.dumps(answer)) < 400
        assert answers(small)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_is_answered_and_the_server_lives(small: int, seed: int) -> None:
    drawn = random.Random(seed)
    pieces = [
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b"1",
        b"-",
        b"1e999",
        b"NaN",
        b"null",
        b"\xff",
        b'"inputs"',
        b'"params"',
        b"\\ud800",
    ]
    for _ in range(40):
        body = b"".join(drawn.choices(pieces, k=drawn.randrange(1, 900)))
        if drawn.random() < 0.5:
            body = b'{"inputs": ' + body + b"}"
        status, answer = post(small, body)
        assert status in (400, 413), (body, answer)
        assert "\n" not in answer["message"]
        assert len(answer["message"]) < 400
    assert answers(small)


def test_a_body_without_end_is_not_kept() -> None:
    limits = Limits()
    with server(limits) as port:
        answers(port)
        before = peak_memory_bytes()
        block = b"[]," * 350_000
        for headers in ({}, {"Content-Length": str(130 * len(block))}):
            status, answer = post(port, iter([block] * 130), **headers)  # 136 MB, which were 4 GB of lists
            assert status == 413
            assert "limits.max_body_bytes" in answer["message"]
        many = b'{"inputs": [' + b"{}," * 5_000_000 + b"{}]}"  # within the length
        status, answer = post(port, many)
        assert (status, "limits.max_values" in answer["message"]) == (413, True)
        assert answers(port)
        grown = peak_memory_bytes() - before
        assert grown < 200 * 2**20, f"{grown} bytes"


@pytest.mark.long
def test_a_busy_server_says_so_and_a_body_that_does_not_come_is_not_waited_for(small: int) -> None:
    found: list[tuple[int, dict[str, Any]]] = []
    threads = [threading.Thread(target=lambda: found.append(post(small, {"inputs": [[[0]]], "params": {"wait": 0.5}}))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.25)
    status, answer = post(small, {"inputs": [[[0]]]})
    assert status == 503
    assert "limits.max_requests" in answer["message"]
    for thread in threads:
        thread.join()
    assert [status for status, _ in found] == [200, 200, 200]
    with socket.create_connection(("127.0.0.1", small), timeout=10) as slow:
        slow.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        said = b""
        while b"}" not in said:
            said += slow.recv(4096)
    assert b"408" in said
    assert b"within 2 s (limits.body_seconds)" in said
    assert answers(small)


def test_limits_are_checked() -> None:
    for name in vars(SMALL):
        with pytest.raises(ValueError, match=f"limits.{name}: 0, expected at least 1"):
            Limits(**{name: 0})
