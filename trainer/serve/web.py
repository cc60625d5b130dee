"""The web server that ``serve`` starts: uvicorn runs :func:`create_app` in processes of their own.

``POST /invocations`` is answered here, so that whatever a client gets wrong is one sentence of ours; ``/ping``, ``/health`` and
``/version`` are MLflow's own. MLflow's answer to the same mistakes quotes the data, its schema and, for some, its own code.

What a request may cost is bounded by :class:`Limits`: a body that is too long is not kept, one with too many values not parsed, and few are
held or answered at a time.

The registered model brings the ``trainer`` and ``data_prep`` that it was registered with: of this program's, nothing may be left when
it is loaded, so this file imports none of them at its top.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route

MODEL, FAILURE, LIMITS = "EEG_SERVE_MODEL", "EEG_SERVE_FAILURE", "EEG_SERVE_LIMITS"
"""Environment variables: the model's folder, the file that is told in a sentence why it cannot be loaded, and the limits as JSON."""
_AT_ONCE = 2
"""Requests parsed and answered at a time; a small one need not wait for a long one."""
_STARTUP_FAILURE = 3
"""Status at which uvicorn does not try again."""
_FORM = '{"inputs": [[[...], ...], ...], "params": {"subject": "..."}}'


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask of a server process; more is refused in a sentence that names the limit."""

    max_body_bytes: int = 16 * 2**20
    """Length of a request's body."""
    max_values: int = 2_000_000
    """Numbers, texts and lists in a body: parsed, they take up to a hundred times their length."""
    max_trials: int = 256
    """Trials answered by one request; repetitions that are averaged count once."""
    max_new_tokens: int = 256
    """Length of a caption that a client may ask a text model for, in tokens."""
    max_requests: int = 16
    """Requests that are read, wait or are answered at a time; more get status 503."""
    body_seconds: int = 60
    """Longest wait for a whole body."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"limits.{name}: {value}, expected at least 1")


class _Refused(Exception):
    """What a client got wrong, in a sentence."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


def create_app() -> Starlette:
    """The application, once the model is loaded; ends the process where it cannot be."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    from data_prep.contract.errors import sentence_of

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("trainer", "data_prep")]:
        del sys.modules[name]
    sys.dont_write_bytecode = True  # nothing comes to lie among the registered files
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own encoders lie
    try:
        loaded = mlflow.pyfunc.load_model(os.environ[MODEL])
        model = loaded.unwrap_python_model()
    except Exception as error:
        sentence = error.message if isinstance(error, MlflowException) else sentence_of(error)
        if sentence is None:
            raise
        Path(os.environ[FAILURE]).write_text(_one_line(sentence), encoding="utf-8")
        sys.exit(_STARTUP_FAILURE)

    limits = Limits(**json.loads(os.environ.get(LIMITS, "{}")))
    return Starlette(routes=[invocations(model, limits), Mount("/", scoring_server.init(loaded))])


def invocations(model: Any, limits: Limits) -> Route:
    """``POST /invocations`` of a model that has ``predict(context, inputs, params)``."""
    held = 0
    answering = asyncio.Semaphore(_AT_ONCE)

    async def answer(request: Request) -> Response:
        nonlocal held
        if held >= limits.max_requests:
            return _error(503, "REQUEST_LIMIT_EXCEEDED", f"the server is busy with {held} requests (limits.max_requests): try again later")
        held += 1
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await _body(request, limits)
            async with answering:
                return await asyncio.to_thread(_answer, model, limits, request.headers.get("content-type", ""), body)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except TimeoutError:
            return _error(408, "BAD_REQUEST", f"the body did not come within {limits.body_seconds} s (limits.body_seconds)")
        except _Refused as refused:
            return _error(refused.status, "BAD_REQUEST", str(refused))
        finally:
            held -= 1

    return Route("/invocations", answer, methods=["POST"])


async def _body(request: Request, limits: Limits) -> bytes:
    """The body, if it is not too long. What is too long is read to its end, so that the client hears of it, and kept no further."""
    kept, length = bytearray(), 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limits.max_body_bytes:
            kept.clear()
        else:
            kept += chunk
    if length > limits.max_body_bytes:
        raise _Refused(
            f"the body has {length:,} bytes, expected at most {_limit('max_body_bytes', limits)}: send fewer trials at once", 413
        )
    return bytes(kept)


def _answer(model: Any, limits: Limits, kind: str, body: bytes) -> Response:
    from mlflow.exceptions import MlflowException

    try:
        inputs, params = _read(kind, body, getattr(model, "expects", ""), limits)
        # Not through MLflow, whose own check of the schema would come first.
        return _json(200, {"predictions": model.predict(None, inputs, params)})
    except _Refused as refused:
        return _error(refused.status, "BAD_REQUEST", str(refused))
    except MlflowException as error:
        return _error(error.get_http_status_code(), error.error_code, error.message)
    except Exception as error:
        traceback.print_exc()
        return _error(
            500, "INTERNAL_ERROR", f"the model could not answer ({type(error).__name__}): what happened is in the server's output"
        )


def _read(kind: str, body: bytes, expects: str, limits: Limits) -> tuple[Any, Any]:
    """EEG and ``params`` of a request's body; but for the limits, what they hold is the model's to check."""
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise _Refused(f"the content type is {kind or 'missing'}, expected application/json: {_FORM}", 415)
    # Every value but the first of a list or an object comes after a comma.
    if (values := sum(body.count(mark) for mark in (b",", b"[", b"{"))) > limits.max_values:
        raise _Refused(f"the body has {values:,} values, expected at most {_limit('max_values', limits)}: send fewer trials at once", 413)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"the body is not JSON ({error}), expected {_FORM}") from error
    if not isinstance(found, dict):
        raise _Refused(f"the body is JSON, but no object, expected {_FORM}")
    names = [name for name in ("inputs", "instances") if name in found]
    if unknown := found.keys() - {*names, "params"}:
        raise _Refused(f"the body has the field {sorted(unknown)[0][:60]!r}, expected {_FORM} with inputs {expects}")
    if len(names) != 1:
        raise _Refused(f"the body has {' and '.join(names) or 'no inputs'}, expected {_FORM} with inputs {expects}")
    inputs, params = found[names[0]], found.get("params")
    if isinstance(inputs, list) and len(inputs) > limits.max_trials:
        raise _Refused(f"{names[0]} has {len(inputs):,} trials, expected at most {_limit('max_trials', limits)}", 413)
    tokens = params.get("max_new_tokens") if isinstance(params, dict) else None
    if isinstance(tokens, int) and tokens > limits.max_new_tokens:
        raise _Refused(f"params.max_new_tokens is {str(tokens)[:40]}, expected at most {_limit('max_new_tokens', limits)}")
    return inputs, params


def _limit(name: str, limits: Limits) -> str:
    return f"{getattr(limits, name)} (limits.{name} of this server)"


def _error(status: int, code: str, sentence: str) -> Response:
    return _json(status, {"error_code": code, "message": _one_line(sentence)})


def _json(status: int, value: Any) -> Response:
    # Numbers as JSON has them, and a caption's half of a surrogate pair as an escape.
    return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")


def _one_line(text: str) -> str:
    return " ".join(text.split())
