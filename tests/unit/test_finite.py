"""What is not finite is found where it enters, named, and never kept, exported, registered or turned into a 0."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from data_prep.contract.cli import main
from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.files import sha256_file
from data_prep.contract.seal import seal_all
from tests.distributed.training import write_split
from tests.helpers.tiny_study import write_tiny_study
from tests.helpers.tiny_text import write_tiny_encoder
from trainer.__main__ import COMMANDS
from trainer.artifacts.encoder import load_encoder
from trainer.data.batch import Transform, normalise_trials
from trainer.data.config import DataConfig
from trainer.data.finite import all_finite, first_not_finite
from trainer.data.hashes import Verify
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.training.completed import Completed, write_completed
from trainer.training.finite import Buffers

BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_one_bad_value_is_found_wherever_it_stands(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        shape = torch.randint(1, 9, (3,), generator=generator).tolist()
        x = (torch.randn(shape, generator=generator) * 50).to(dtype)
        assert all_finite(x)
        place = tuple(int(torch.randint(0, n, (1,), generator=generator)) for n in shape)
        x[place] = math.nan if dtype is torch.float8_e4m3fn else BAD[int(torch.randint(0, 3, (1,), generator=generator))]
        assert first_not_finite(x) == place
    assert all_finite(torch.empty(0, 3))
    assert all_finite(torch.full((70_000,), 60_000.0, dtype=torch.float16)), "large values are none the worse for their sum"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tiny_study(tmp_path_factory.mktemp("finite") / "study", n_subjects=1, n_stimuli=12, n_test=4, n_reps=3)
    write_split(root, "tiny", train={"stimulus": list(range(8))}, validation={"stimulus": [8, 9]}, test={"stimulus": [10, 11]})
    return root


def spoil(root: Path, sample: int, repetition: int, channel: int, time: int, value: float) -> None:
    """Put a value into a stored trial."""
    index = StudyIndex.open(root)
    row, signal = index.samples[sample], index.signal
    place = int(row["eeg_offset"]) + repetition * signal.repetition_bytes + 2 * (channel * signal.n_times + time)
    with index.tar_path(int(row["shard"])).open("r+b") as tar:
        tar.seek(place)
        tar.write(np.array(value, "<f2").tobytes())


@pytest.mark.parametrize("seed", range(6))
def test_a_trial_that_is_no_numbers_is_named_by_every_way_to_read_it(study: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = Path(shutil.copytree(study, tmp_path / "study"))
    stimulus, repetition, channel, time = (int(rng.integers(n)) for n in (8, 3, 4, 20))
    spoil(root, stimulus, repetition, channel, time, BAD[seed % 3])
    mode, normalise = ("mean", "each", "mean")[seed % 3], ("none", "channel_demean", "channel_zscore", "trial_zscore")[seed % 4]
    config = DataConfig(study=str(root), split="tiny", embedding="tiny", repetitions=mode, normalise=normalise)
    loader = Loader(StudyIndex.open(root, verify="sizes"), config, "train", 0)
    name = loader.index.signal.ch_names[channel]
    says = rf"/00000\d\.tar: sub-01_stim-{stimulus:06d} .*repetition {repetition}: EEG is not finite .*channel {name}, time point {time}\)"
    with pytest.raises(StudyError, match=says):
        list(loader.sequential(3))
    with pytest.raises(StudyError, match=says):
        list(loader.sequential(4, single_trials=True))
    with pytest.raises(StudyError, match=says):
        loader.samples_batch(np.arange(loader.num_samples))
    with pytest.raises(StudyError, match=says):
        loader.batch(0, loader.num_items)
    with loader.batches(0, global_batch_size=loader.num_items) as batches:
        assert "EEG is not finite" in next(batches).fault, "ranks that have good numbers must learn of it: training is told, not ended"
    others = [n for n in loader.index.signal.ch_names if n != name]
    narrow = replace(config, select=replace(config.select, channels=others))
    assert len(list(Loader(loader.index, narrow, "train", 0).sequential(64))) == 1, "a channel that is left out is not asked"


@pytest.mark.parametrize("verify", ["sizes", "all", "first_touch"])
def test_what_becomes_no_number_after_it_was_read_once_is_found_too(study: Path, tmp_path: Path, verify: Verify) -> None:
    root = Path(shutil.copytree(study, tmp_path / "study"))
    loader = Loader(StudyIndex.open(root, verify=verify), DataConfig(study=str(root), split="tiny", embedding="tiny"), "train", 0)
    for _ in range(2):
        assert not loader.batch(0, loader.num_items).fault
    loader.index.settle()
    time.sleep(0.01)  # the clock of files is a coarse one
    spoil(root, 3, 1, 2, 7, math.nan)
    with pytest.raises(StudyError, match="SHA-256" if verify == "first_touch" else "EEG is not finite"):
        list(loader.sequential(64))  # which waits for the hashes at its end


@pytest.mark.parametrize("how", ["channel_demean", "channel_zscore", "trial_zscore"])
@pytest.mark.parametrize("value", BAD)
def test_normalisation_makes_no_zero_of_what_is_no_number(how: str, value: float) -> None:
    eeg_BCT = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(1))
    eeg_BCT[1, 2, 5] = value
    found = normalise_trials(eeg_BCT, how)  # type: ignore[arg-type]
    assert not found[1].isfinite().all()
    assert found[[0, 2]].isfinite().all()
    assert (normalise_trials(torch.full((1, 2, 20), 3.0), how) == 0).all()  # type: ignore[arg-type]


def test_an_embedding_that_is_no_number_is_named_by_its_stimulus(study: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(study, tmp_path / "study"))
    file = root / "embeddings" / "tiny.npy"
    table = np.load(file)
    table[5, 3] = np.nan
    np.save(file, table)
    index = StudyIndex.open(root)
    index.manifest.embeddings["tiny"] = replace(index.manifest.embeddings["tiny"], sha256=sha256_file(file))
    with pytest.raises(StudyError, match=r"tiny\.npy: the embedding of stimulus train/0005 is not finite"):
        index.embedding("tiny")


@pytest.mark.parametrize("array", ["matrix", "mean"])
@pytest.mark.parametrize("value", [*BAD, 1e300])
def test_a_transform_that_is_no_numbers_is_refused(tmp_path: Path, array: str, value: float) -> None:
    arrays = {"matrix": np.tile(np.eye(4), (2, 1, 1)), "mean": np.zeros((2, 4))}
    arrays[array][1].flat[3] = value
    np.savez(tmp_path / "mvnn.npz", subject=[0, 0], session=[0, 1], split_hash=np.array("h"), kind=np.array("mvnn"), **arrays)
    with pytest.raises(StudyError, match=rf"mvnn\.npz: {array} of row 1 is not finite, expected numbers"):
        Transform.read(tmp_path / "mvnn.npz", split_hash="h", channels=[0, 1, 2, 3], n_chans=4)


@pytest.mark.parametrize("scale", [0.0, 1e-44])
def test_a_transform_that_makes_nothing_of_a_channel_is_refused(tmp_path: Path, scale: float) -> None:
    matrix = np.tile(np.eye(4), (2, 1, 1))
    matrix[1, 2] *= scale
    arrays = {"matrix": matrix, "mean": np.zeros((2, 4)), "subject": [0, 0], "session": [0, 1]}
    np.savez(tmp_path / "mvnn.npz", split_hash=np.array("h"), kind=np.array("mvnn"), **arrays)
    with pytest.raises(StudyError, match=r"mvnn\.npz: matrix of row 1 makes channel 2 0"):
        Transform.read(tmp_path / "mvnn.npz", split_hash="h", channels=[0, 1, 2, 3], n_chans=4)


class Counting(nn.Module):
    """Puts a new tensor in a buffer's place, as some modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + x.mean()
        return x


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), Counting()])
def test_running_statistics_come_back_as_they_were(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Identity(), norm)
    model(torch.randn(8, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = Buffers(model)
    buffers.keep()
    model(torch.full((8, 4), math.nan))
    assert any(not value.isfinite().all() for value in model.state_dict().values())
    buffers.restore()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# ------------------------------------------------------------------------------------------------ exports


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, study: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_tiny_encoder(folder / "export", study)
    return folder


def damaged(run: Path, folder: Path, part: str, value: float) -> Path:
    """The run with some of its encoder's values replaced, the others as they were."""
    copy = Path(shutil.copytree(run, folder / "run"))
    weights = load_file(copy / "export" / "model.safetensors")
    name = next(name for name in weights if part in name)
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, copy / "export" / "model.safetensors")
    return copy


@pytest.mark.parametrize("part", ["encoder.", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_or_statistics_that_are_no_numbers_are_loaded_by_nobody(run: Path, tmp_path: Path, part: str, value: float) -> None:
    if not any(part in name for name in load_file(run / "export" / "model.safetensors")):
        pytest.skip("this encoder has none")
    copy = damaged(run, tmp_path, part, value)
    with pytest.raises(CommandError, match=r"model\.safetensors: .*is not finite, expected numbers"):
        load_encoder(copy / "export")


@pytest.mark.parametrize("value", [3e38, 1e30, 0.0])
def test_an_encoder_that_embeds_nothing_is_not_exported(
    run: Path, tmp_path: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    file = copy / "export" / "model.safetensors"
    save_file({name: torch.full_like(w, value) if w.is_floating_point() else w for name, w in load_file(file).items()}, file)
    seal_all(file.parent)  # as if training had written it so
    assert main("trainer", "", COMMANDS, ["export", "--run", str(copy), "--output", str(tmp_path / "out")]) == 1
    assert "export: not to be used, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main("trainer", "", COMMANDS, ["export", "--run", str(run), "--output", str(tmp_path / "good")]) == 0


def test_a_run_that_embeds_nothing_is_not_registered(run: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    file = copy / "export" / "model.safetensors"
    save_file({name: w * 1e30 if w.is_floating_point() else w for name, w in load_file(file).items()}, file)
    seal_all(file.parent)  # as if training had written it so
    write_completed(copy, Completed(step=1, best_score=None, best_step=0, score_name=None))
    argv = ["register", "--name", "m", "--run", str(copy), "--study", str(study), "--split", "tiny", "--part", "train"]
    assert main("trainer", "", COMMANDS, [*argv, "--tracking_uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 1
    assert "not to be used, EEG of trial 0 has no finite embedding" in capsys.readouterr().err
    assert not (copy / "registered.json").exists()
    assert not (tmp_path / "mlflow.db").exists()
