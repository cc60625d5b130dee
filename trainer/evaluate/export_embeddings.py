"""``python -m trainer export-embeddings``: EEG and image embeddings of a part as one ``.npz``."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import write_atomically
from data_prep.contract.terminal import Terminal
from trainer.artifacts.encoder import Encoder, LikelihoodEncoder, load_encoder
from trainer.artifacts.guards import part_of
from trainer.artifacts.part import embed, open_part
from trainer.data.loader import Loader
from trainer.evaluate.embeddings import facts_array
from trainer.evaluate.provenance import study_facts
from trainer.evaluate.results import check_output
from trainer.evaluate.study_facts import context_notes


@dataclass(frozen=True, kw_only=True)
class ExportEmbeddingsConfig:
    """Embed a part of a study and write the embeddings down."""

    export: str
    """Folder of an exported encoder, such as ``runs/ID/export``."""
    output: str
    """The ``.npz`` to write: arrays ``eeg, image, ids, subjects, concepts``, ``metric`` by which eeg and image are compared (cosine, or
    likelihood: squared distance), ``split`` (the part's name) and ``facts`` (JSON: study, split, part, unit, whether simulated, the audit's
    verdict, on how many of the trials the encoder was trained)."""
    study: str | None = None
    """Study folder; null: the one the encoder was trained on."""
    split: str | None = None
    """Split; null: the one the encoder was trained on."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the split."""
    device: str = "cpu"
    """Where the encoder computes."""

    def __post_init__(self) -> None:
        if not self.output.endswith(".npz"):
            raise ValueError(f"output: {self.output!r}, expected a name that ends with .npz")


def run(config: ExportEmbeddingsConfig) -> None:
    """Write the file."""
    check_output(Path(config.output).parent)
    encoder = load_encoder(config.export, config.device)
    loader = open_part(encoder, config.study, config.split, config.part)
    tables = loader.index.manifest.tables
    facts = study_facts(encoder, loader, export=Path(config.export), config=to_plain(config))
    sample = loader.index.samples[[s for host in loader.sequential(4096) for s in host.sample_B.tolist()]]
    arrays = {
        **_compared(encoder, loader, sample["subject"], sample["stimulus"]),
        "ids": np.array([tables.stimuli[i].id for i in sample["stimulus"]]),
        "subjects": np.array([tables.subjects[i] for i in sample["subject"]]),
        "concepts": np.array([tables.concepts[i] for i in sample["concept"]]),
        "metric": np.array(encoder.export.metric),
        "split": np.array(config.part),
    }
    arrays["facts"] = facts_array(facts, arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(Path(config.output), buffer.getvalue())
    sizes = (
        f"{len(arrays['eeg'])} rows of {facts.study}, split {facts.split} ({config.part}, {facts.eeg}), {arrays['eeg'].shape[1]} dimensions"
    )
    console = Terminal(soft_wrap=True)
    console.print(f"{config.output}: {sizes}")
    for note in context_notes(facts, trained_elsewhere="concepts or recordings"):
        console.print(f"- {note}")


def _compared(encoder: Encoder, loader: Loader, subject_N: np.ndarray, stimulus_N: np.ndarray) -> dict[str, np.ndarray]:
    """Both sides of every sample's pair, as they are compared with each other."""
    z_NP = torch.from_numpy(embed(loader, encoder.embed_batch, encoder.device))
    if not isinstance(encoder, LikelihoodEncoder):
        return {"eeg": z_NP.numpy(), "image": encoder.embed_image(loader.gallery[stimulus_N])}
    counts = np.unique(loader.sample_counts)
    if len(counts) > 1:
        raise CommandError(
            f"{part_of(loader)}: averages hold {counts[0]} to {counts[-1]} repetitions, on which the coordinates of a likelihood depend: "
            "expected one number for all, or evaluate-retrieval --export, which takes each as it is"
        )
    eeg_NP, image_NP = np.empty_like(z_NP.numpy()), np.empty_like(z_NP.numpy())
    for subject in np.unique(subject_N).tolist():
        own, label = subject_N == subject, encoder.export.subjects[subject]
        eeg_NP[own] = encoder.to_compare(z_NP[torch.from_numpy(own)], torch.from_numpy(subject_N[own].astype(np.int64)), int(counts[0]))
        image_NP[own] = encoder.embed_image(loader.gallery[stimulus_N[own]], label, int(counts[0]))
    return {"eeg": eeg_NP, "image": image_NP}
