"""What ``serve`` and a served model's ``params`` refuse before anything is loaded."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.files import write_json
from tests.unit.test_light_starts import imported
from trainer.serve.command import ServeConfig, run
from trainer.serve.params import LABELS, TEXT, read_params


def test_a_taken_port_is_said_before_the_model_is_looked_at() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=rf"^port: cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)$"):
            run(ServeConfig(model_uri="models:/nowhere@candidate", port=port))


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports_that_cannot_be_are_refused_in_the_config(port: int) -> None:
    ServeConfig(run="runs/one", port=0)
    with pytest.raises(ValueError, match=f"port: {port}, expected 1 to 65535, or 0 for any free one"):
        ServeConfig(run="runs/one", port=port)


@pytest.mark.parametrize("content", [[], {}, {"model_uri": "models:/a@candidate"}, {"model_uri": 5, "tracking_uri": ""}])
def test_a_damaged_registration_is_a_sentence(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "registered.json", content)
    with pytest.raises(CommandError, match=r"registered\.json: .*, expected what register of this version writes"):
        run(ServeConfig(run=str(tmp_path), port=0))


def test_params_are_defaults_with_what_is_given() -> None:
    assert read_params(None, LABELS, ["01"]) == {"subject": "", "session": ""}
    assert read_params({"subject": "01", "seed": 3}, TEXT, ["01"]) == {"subject": "01", "session": "", "seed": 3, "max_new_tokens": 48}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "params is 5, expected an object with some of subject, session, seed, max_new_tokens"),
        ([], "params is , expected an object"),
        ({"Subject": "01"}, "params.Subject: no such parameter, expected some of"),
        ({"subject": 1}, "params.subject is 1, expected text"),
        ({"subject": None}, "params.subject is None, expected text"),
        ({"subject": ["01"]}, "params.subject is 01, expected text"),
        ({"session": True}, "params.session is True, expected text"),
        ({"seed": "1"}, "params.seed is 1, expected a whole number"),
        ({"seed": 1.0}, r"params.seed is 1\.0, expected a whole number"),
        ({"seed": True}, "params.seed is True, expected a whole number"),
        ({"subject": "1"}, "params.subject is '1', expected one of 01, 02, or none for a person"),
    ],
)
def test_params_that_are_not_what_they_should_be_are_a_sentence(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_params(given, TEXT, ["01", "02"])


def test_serve_says_its_first_line_before_torch_and_mlflow_are_there() -> None:
    said_by = ("trainer.serve.command", "trainer.serve.config")
    assert imported(f"import {', '.join(said_by)}", *said_by, "torch", "mlflow") == [*said_by]
