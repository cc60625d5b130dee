"""A study with captions, an encoder trained on it for a moment, a tiny language model, and a config that tunes it: seconds to make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from tests.distributed.training import write_split
from tests.helpers.tiny_llm import write_tiny_llm
from tests.helpers.tiny_study import write_tiny_study
from trainer.artifacts.encoder_export import write_export
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import CnnTransformer
from trainer.training.lineage import Lineage

SPLIT = "tiny"
DATA = {"split": SPLIT, "embedding": "tiny", "repetitions": "each"}


def write_tiny_text(home: Path, **llm: Any) -> Path:
    """Make ``home/study``, ``home/encoder``, ``home/base`` and ``home/config.yaml``, which it returns."""
    root = write_tiny_study(home / "study", n_subjects=2, n_stimuli=24, n_test=4, samples_per_shard=5, n_reps=2)
    write_split(root, SPLIT, train={"stimulus": list(range(14))}, validation={"stimulus": [14, 15, 16, 17, 18]})
    write_tiny_encoder(home / "encoder", root)
    write_tiny_llm(home / "base", **llm)
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(tiny_config(home)))
    return path


def tiny_config(home: Path) -> dict[str, Any]:
    """Plain fields of a ``TextConfig``: float32, so that runs of different topologies can be compared, dropout included."""
    return {
        "run": str(home / "run"),
        "data": {"study": str(home / "study"), **DATA},
        "encoder": str(home / "encoder"),
        "base": {"name": str(home / "base"), "dtype": "fp32"},
        "adapter": {"r": 4, "alpha": 8, "dropout": 0.1},
        "prefix": {"num_tokens": 2, "hidden": 32, "dropout": 0.1},
        "stage": {"image_noise": 0.3, "image_share_start": 0.7, "image_share_end": 0.3},
        "train": {"steps": 12, "global_batch_size": 8, "validate_every_steps": 6, "log_every_steps": 1, "log_items": True}
        | {"timeout_seconds": 60, "device": "cpu"},
        "optimizer": {"lr": 0.003},
        "checkpoint": {"every_steps": 2},
        "mlflow": {"enabled": False},
    }


def write_tiny_encoder(folder: Path, study: Path, *, seed: int = 1, **data: Any) -> Path:
    """An export of an encoder with random weights: an image head and a token sequence, so that everything that text reads is there."""
    config = DataConfig(**({"study": str(study), **DATA} | data))
    loader = Loader(StudyIndex.open(study), config, "train", seed=0)
    encoder = CnnTransformer(
        dropout=0.1,
        d_model=16,
        num_layers=1,
        num_heads=2,
        feedforward=32,
        embedding_dim=16,
        conv_widths=[8, 16],
        pooling="mean",
        kernel_samples=[5, 3],
        dilations=[1, 1],
    )
    model = ContrastiveModelConfig(encoder=encoder, eeg_head="linear", eeg_head_dropout=0.0, image_head="linear", proj_dim=12)
    torch.manual_seed(seed)
    sizes = {"n_chans": loader.n_chans, "n_times": loader.n_times, "sfreq": loader.sfreq, "num_subjects": loader.num_subjects}
    built = model.build(**sizes, embedding_dim=loader.embedding_dim, num_concepts=len(loader.index.manifest.tables.concepts))
    lineage = Lineage(fingerprint=loader.fingerprint, split=config.split, split_hash=loader.split_hash, step=1)
    write_export(folder, weights=built.state_dict(), model=model, loss=LossConfig(), loader=loader, lineage=lineage)
    return folder
