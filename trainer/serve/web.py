"""The web server that ``serve`` starts: uvicorn runs :func:`create_app` in processes of their own.

``POST /invocations`` is answered here, so that whatever a client gets wrong is one sentence of ours; ``/ping``, ``/health`` and
``/version`` are MLflow's own. MLflow's answer to the same mistakes quotes the data, its schema and, for some, its own code.

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
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route

MODEL, FAILURE = "EEG_SERVE_MODEL", "EEG_SERVE_FAILURE"
"""Environment variables: the model's folder, and the file that is told in a sentence why it cannot be loaded."""
_STARTUP_FAILURE = 3
"""Status at which uvicorn does not try again."""
_FORM = '{"inputs": [[[...], ...], ...], "params": {"subject": "..."}}'


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

    async def invocations(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        return await asyncio.to_thread(_answer, model, kind, body)

    return Starlette(routes=[Route("/invocations", invocations, methods=["POST"]), Mount("/", scoring_server.init(loaded))])


def _answer(model: Any, kind: str, body: bytes) -> Response:
    from mlflow.exceptions import MlflowException

    try:
        inputs, params = _read(kind, body, getattr(model, "expects", ""))
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


def _read(kind: str, body: bytes, expects: str) -> tuple[Any, Any]:
    """EEG and ``params`` of a request's body; what they hold is the model's to check."""
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise _Refused(f"the content type is {kind or 'missing'}, expected application/json: {_FORM}", 415)
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
    return found[names[0]], found.get("params")


def _error(status: int, code: str, sentence: str) -> Response:
    return _json(status, {"error_code": code, "message": _one_line(sentence)})


def _json(status: int, value: Any) -> Response:
    # Numbers as JSON has them, and a caption's half of a surrogate pair as an escape.
    return Response(json.dumps(value, allow_nan=False), status, media_type="application/json")


def _one_line(text: str) -> str:
    return " ".join(text.split())
