"""An encoder from outside the project is told where the electrodes are, in training and from its export."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from data_prep.contract.cli import main
from data_prep.contract.errors import UserError
from data_prep.contract.files import read_json, write_json
from tests.distributed.training import CONFIG, events, write_split
from tests.helpers.tiny_study import write_tiny_study
from trainer.__main__ import COMMANDS
from trainer.artifacts.encoder import load_encoder
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.training.own_draws import SENTENCE

MY_ENCODER = '''
from dataclasses import dataclass

from torch import nn

from trainer.models.encoders.base import Encoder, EncoderConfig, EncoderOutput

SEEN = []


@dataclass(frozen=True, kw_only=True)
class Recorder(EncoderConfig):
    """Notes the positions that it is given; its dropout is torch's."""

    def build(self, *, n_chans, n_times, sfreq, num_subjects, norm="batch"):
        return RecorderModule(n_chans * n_times)


class RecorderModule(Encoder):
    embedding_dim = token_dim = 8

    def __init__(self, width):
        super().__init__()
        self.linear, self.dropout = nn.Linear(width, 8), nn.Dropout(0.2)

    def forward(self, eeg_BCT, subject_B, positions_C3=None):
        SEEN.append(positions_C3)
        embedding_BE = self.dropout(self.linear(eeg_BCT.flatten(1)))
        return EncoderOutput(embedding_BE[:, None], embedding_BE)
'''


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """What the encoder ``my_lab_recorder.Recorder`` was given, call by call."""
    (tmp_path / "my_lab_recorder.py").write_text(MY_ENCODER)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = importlib.import_module("my_lab_recorder").SEEN
    found.clear()
    return found


EEG = np.random.default_rng(0).standard_normal((3, 2, 20))


def train(home: Path, *, placed: bool) -> Path:
    """Train on channels TP10 and AF7 of four for two steps; returns the export."""
    study = write_tiny_study(home / "study", n_subjects=1, n_stimuli=24, n_test=4, n_reps=2, placed=placed)
    write_split(study, "tiny", train={"stimulus": list(range(14))}, validation={"stimulus": [14, 15, 16, 17, 18]})
    config = yaml.safe_load(CONFIG.replace("STUDY", str(study)))
    config["model"]["encoder"] = {"class_path": "my_lab_recorder.Recorder"}
    config["train"] |= {"steps": 2, "validate_every_steps": 2, "device": "cpu"}
    config["data"]["select"] = {"channels": ["TP10", "AF7"]}
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    assert main("trainer", "", COMMANDS, ["contrastive", "--config", str(home / "config.yaml"), "--run", str(home / "run")]) == 0
    return home / "run" / "export"


def test_positions_are_those_of_the_channels_that_are_used_in_training_and_from_the_export(
    tmp_path: Path, seen: list[Tensor | None]
) -> None:
    export = train(tmp_path, placed=True)
    places = torch.tensor([[0.03, 0.0, 0.01], [0.01, 0.0, 0.01]])  # TP10 is the fourth channel, AF7 the second
    assert len(seen) >= 3, "two steps and a validation"
    assert all(found is not None and torch.equal(found, places) for found in seen)
    seen.clear()
    encoder = load_encoder(export)
    encoder.embed(EEG)
    (found,) = seen
    assert found is not None
    assert found.dtype == torch.float32
    assert torch.equal(found, places)


def test_a_study_without_positions_has_none_to_give(tmp_path: Path, seen: list[Tensor | None]) -> None:
    load_encoder(train(tmp_path, placed=False)).embed(EEG)
    assert len(seen) >= 4
    assert set(seen) == {None}


def test_that_its_dropout_draws_from_torchs_own_stream_is_said_once(
    tmp_path: Path, seen: list[Tensor | None], capfd: pytest.CaptureFixture
) -> None:
    run = train(tmp_path, placed=False).parent
    assert capfd.readouterr().err.count(SENTENCE) == 1
    assert [event["message"] for event in events(run, "note")] == [SENTENCE]


def test_an_export_from_before_positions_were_given_goes_on_without(tmp_path: Path, seen: list[Tensor | None]) -> None:
    export = train(tmp_path, placed=True)
    config = read_json(export / "config.json")
    assert config["build"].pop("positions") == [[0.03, 0.0, 0.01], [0.01, 0.0, 0.01]]
    write_json(export / "config.json", config)
    seen.clear()
    load_encoder(export).embed(EEG)
    assert seen == [None]


def test_positions_that_do_not_fit_the_channels_are_refused() -> None:
    sizes = {"n_chans": 4, "n_times": 100, "sfreq": 100.0, "num_subjects": 1, "embedding_dim": 8}
    with pytest.raises(UserError, match=r"positions: 1 rows of \[2\] numbers, expected 4 of \[x, y, z\]"):
        ContrastiveModelConfig().build(**sizes, positions=[[0.0, 0.1]])  # type: ignore[arg-type]
