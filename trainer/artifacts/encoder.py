"""An encoder as a folder that anyone can load: weights, and everything needed to apply them to a trial.

::

    EXPORT/  model.safetensors  config.json  [transform.npz]

``load_encoder(path).embed(eeg)`` needs neither a launcher nor the study. The EEG goes in as it is in the study (unit, rate,
window and channels of ``config.json``'s ``signal``); what was done to it on the way to the model in training is done here,
by the same functions: the split's transform, the average over repetitions, the normalisation.

B: trials or averages, R: repetitions, C: channels, T: time points, E: image embedding dimension, P: common space.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.contract.arrays import read_archive
from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.manifest import Tables
from data_prep.contract.seal import seal_all
from data_prep.contract.terminal import Terminal
from data_prep.contract.trust import allow_classes
from data_prep.contract.words import listed, short
from trainer.artifacts.export import CONFIG, Export, ExportEmbedding, ExportSignal, ModelSizes, read_export, write_config
from trainer.artifacts.given import read_eeg
from trainer.artifacts.level import check_trials, measure_level
from trainer.artifacts.weights import load_weights, say_edited
from trainer.data.batch import Batch, Transform, normalise_trials
from trainer.data.loader import Loader
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModel, ContrastiveModelConfig
from trainer.training.lineage import Lineage

WEIGHTS, TRANSFORM = "model.safetensors", "transform.npz"


# ----------------------------------------------------------------------------------------------------------- writing


def write_export(
    output: Path,
    *,
    weights: dict[str, Tensor],
    model: ContrastiveModelConfig,
    loss: LossConfig,
    loader: Loader,
    lineage: Lineage,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write an encoder into the new folder ``output``.

    Parameters
    ----------
    weights
        State dict of :class:`ContrastiveModel`, on the CPU.
    model, loss
        Configs it was built with.
    loader
        The training part: gives signal, selection, transform, embedding and the subjects that were seen.
    lineage
        The training, and those before it; what it does not say of its data is taken from ``loader``.
    facts
        What else is to be kept of it, such as hashes of what it read.
    """
    export = _described(model, loss, loader, lineage, facts or {})
    output.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, output / WEIGHTS)
    if loader.transform is not None:
        _write_transform(output / TRANSFORM, loader.transform, loader.index.manifest.tables)
    write_config(output, export)
    seal_all(output)


def _described(model: ContrastiveModelConfig, loss: LossConfig, loader: Loader, lineage: Lineage, facts: Mapping[str, Any]) -> Export:
    manifest, tables = loader.index.manifest, loader.index.manifest.tables
    signal, transformed = loader.index.signal, loader.transform is not None
    embedding = manifest.embedding(loader.config.embedding)
    return Export(
        **vars(lineage.completed_by(loader)),
        model=to_plain(model),
        loss=to_plain(loss),
        build=ModelSizes(
            n_chans=loader.n_chans,
            n_times=loader.n_times,
            sfreq=loader.sfreq,
            num_subjects=len(tables.subjects),
            embedding_dim=loader.embedding_dim,
            num_concepts=len(tables.concepts),
            positions=_rows(loader.positions),
        ),
        signal=ExportSignal(
            unit=signal.unit,
            sfreq=loader.sfreq,
            tmin=loader.tmin,
            n_times=loader.n_times,
            ch_names=tuple(signal.ch_names if transformed else loader.ch_names),
            positions=_rows(signal.positions if transformed else loader.positions),
        ),
        data=to_plain(loader.config),
        preprocessing=manifest.preprocessing,
        transform=TRANSFORM if transformed else None,
        normalise=loader.config.normalise,
        embedding=ExportEmbedding(name=loader.config.embedding, **vars(embedding)),
        embedding_dim=model.proj_dim or loader.embedding_dim,
        stimulus_level=manifest.stimulus_level,
        concepts=tuple(tables.concepts),
        subjects=tuple(tables.subjects),
        trained_subjects=tuple(tables.subjects[i] for i in loader.subjects),
        trained_concepts=tuple(tables.concepts[i] for i in loader.concepts),
        level=measure_level(loader),
        facts=facts,
    )


def _write_transform(path: Path, fitted: Transform, tables: Tables) -> None:
    """By labels, as :meth:`FittedTransform.read` reads it."""
    with path.open("wb") as file:
        np.savez(
            file,
            subject=np.array([tables.subjects[i] for i in fitted.subject_K]),
            session=np.array([tables.sessions[i] for i in fitted.session_K]),
            matrix=fitted.matrix_KOI.numpy(),
            mean=fitted.mean_KI.numpy(),
            kind=np.array(fitted.kind),
        )


def _rows(positions: Sequence[Sequence[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if positions is None else tuple(tuple(map(float, row)) for row in positions)


# ----------------------------------------------------------------------------------------------------------- reading


class Encoder:
    """A trained encoder in eval mode; make it with :func:`load_encoder`.

    Attributes
    ----------
    export : Export
        ``config.json``.
    signal : ExportSignal
        What :meth:`embed` expects: ``unit``, ``sfreq`` (Hz), ``tmin`` (seconds), ``n_times``, ``ch_names``, ``positions``.
    embedding_dim : int
        P.
    model : ContrastiveModel
    device : torch.device
    """

    def __init__(self, export: Export, model: ContrastiveModel, transform: FittedTransform | None, device: torch.device) -> None:
        self.export, self.model, self.transform, self.device = export, model.to(device).eval(), transform, device
        self.signal = export.signal
        self.embedding_dim = export.embedding_dim
        # A subject that training has not seen has no weights of its own, even where the study's table has a row for it.
        trained = [label in export.trained_subjects for label in export.subjects]
        self._trained_S = torch.tensor(trained, device=device)

    def embed(
        self,
        eeg: np.ndarray | Sequence[Any],
        subject: str | Sequence[str | None] | None = None,
        session: str | Sequence[str | None] | None = None,
        *,
        batch_size: int = 256,
    ) -> np.ndarray:
        """Embed trials in the common space.

        Parameters
        ----------
        eeg
            (B, C, T) trials, or (B, R, C, T) repeated trials, which are averaged as in training; unit, rate, window and
            channel order of :attr:`signal`. An array of any type of numbers, or nested lists of numbers.
        subject, session
            Labels as in the study, one for all or one for each B. None is a person whom the study does not know: for them, and for
            subjects of the study that were not trained on, the encoder uses what it knows of subjects on average. Needed where
            :attr:`transform` is fitted by subject and session.
        batch_size
            Rows a forward.

        Returns
        -------
        np.ndarray
            float32 (B, P), unit norm.

        Raises
        ------
        ValueError
            Shape, labels or values do not fit, both sides in the message: values that are constant, not finite, or of a level that
            lies orders from that of training (``export.level``), as volts for microvolts do.
        """
        found = [np.empty((0, self.embedding_dim), np.float32)]
        for first, eeg_BCT, ids_B in self.prepared(eeg, subject, session, batch_size=batch_size):
            z_BP = self.embed_prepared(eeg_BCT, ids_B)
            check_finite(z_BP, first)
            found.append(z_BP.cpu().numpy())
        return np.concatenate(found)

    def check_embeds(self, where: Path, eeg: np.ndarray | None = None, subject: str = "", session: str = "") -> None:
        """Refuse an encoder that makes no numbers of a trial: of ``eeg`` (1, C, T) with its labels, or of noise of a usual level.

        Raises
        ------
        CommandError
            Names ``where``, the export.
        """
        if eeg is None:
            level = 10.0 if self.signal.unit == "microvolts" else 1.0
            shape = (1, len(self.signal.ch_names), self.signal.n_times)
            eeg = level * np.random.default_rng(0).standard_normal(shape, np.float32)
            subject, session = self.transform.labels[0] if self.transform is not None else ("", "")
        images = np.ones((1, self.export.build.embedding_dim), np.float32)
        try:
            z_EEG, z_image = self.embed(eeg, subject or None, session or None), self.embed_image(images)
        except UserError as error:
            raise CommandError(f"{where}: not to be used, {error}") from error
        for what, z_BP in (("trial", z_EEG), ("image", z_image)):
            if not (np.isfinite(z_BP).all() and z_BP.any()):
                raise CommandError(
                    f"{where}: not to be used, its embedding of a plain {what} is zero or not finite: the training had failed"
                )

    @torch.no_grad()
    def prepared(
        self,
        given: np.ndarray | Sequence[Any],
        subject: str | Sequence[str | None] | None,
        session: str | Sequence[str | None] | None,
        *,
        batch_size: int,
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Trials as :meth:`embed` takes them, as the model wants them: (first row, float32 (B, C, T), subject rows), in batches."""
        eeg = read_eeg(given, (len(self.signal.ch_names), self.signal.n_times), self.expects)
        repeated = eeg if eeg.ndim == 4 else eeg[:, None]
        subjects, sessions = _labels("subject", subject, len(eeg)), _labels("session", session, len(eeg))
        numbers = {label: number for number, label in enumerate(self.export.subjects)}
        check_known(subjects, numbers)
        check_trials(repeated, self.export.level, self.signal.ch_names)
        for first in range(0, len(eeg), batch_size):
            rows = slice(first, first + batch_size)
            eeg_BRCT = torch.from_numpy(np.ascontiguousarray(repeated[rows], np.float32)).to(self.device)
            if self.transform is not None:
                eeg_BRCT = self.transform(eeg_BRCT, subjects[rows], sessions[rows])
            eeg_BCT = normalise_trials(eeg_BRCT.mean(dim=1), self.export.normalise)
            yield first, eeg_BCT, torch.tensor([-1 if label is None else numbers[label] for label in subjects[rows]], device=self.device)

    def known(self, subject_B: Tensor) -> Tensor:
        """Rows of the table of subjects with -1 for those that training has not seen."""
        return known_subjects(subject_B, self._trained_S)

    @torch.no_grad()
    def embed_prepared(self, eeg_BCT: Tensor, subject_B: Tensor) -> Tensor:
        """Embed EEG that is prepared already (:meth:`Loader.prepare`), on :attr:`device`: float32 (B, P), unit norm.

        ``subject_B`` are rows of the study's table; subjects not seen in training are treated as unknown.
        """
        return self.model.embed_eeg(eeg_BCT, self.known(subject_B))

    def embed_batch(self, batch: Batch) -> Tensor:
        """:meth:`embed_prepared` of a loader's batch."""
        return self.embed_prepared(batch.eeg_BCT, batch.subject_B)

    @property
    def has_concept_head(self) -> bool:
        """Whether it was trained to name concepts (``loss.cross_entropy_weight``)."""
        return self.model.concept_head is not None

    @torch.no_grad()
    def concept_logits(self, batch: Batch) -> Tensor:
        """Scores of the concept head for a loader's batch: float32 (B, K), columns as ``export.concepts``."""
        return self.model.name_concepts(batch.eeg_BCT, known_subjects(batch.subject_B, self._trained_S))

    @torch.no_grad()
    def embed_image(self, embedding_BE: np.ndarray) -> np.ndarray:
        """Image embeddings of the model named in ``export.embedding`` in the common space: float32 (B, P), unit norm."""
        expected = self.export.build.embedding_dim
        if embedding_BE.ndim != 2 or embedding_BE.shape[1] != expected:
            raise UserError(f"image embeddings have shape {embedding_BE.shape}, expected (images, {expected})")
        return self.model.embed_image(torch.from_numpy(np.ascontiguousarray(embedding_BE, np.float32)).to(self.device)).cpu().numpy()

    @property
    def expects(self) -> str:
        """What :meth:`embed` takes, for sentences: shape, channels, rate, begin and unit."""
        sizes = f"{len(self.signal.ch_names)}, {self.signal.n_times}"
        return f"(trials, {sizes}) or (trials, repetitions, {sizes}): {self.signal}"


@dataclass(frozen=True, kw_only=True)
class FittedTransform:
    """A split's transform by labels, so that it needs no study: see :class:`trainer.data.batch.Transform`."""

    transform: Transform
    labels: list[tuple[str, str]]
    """(subject, session) of each row of the transform's table."""

    @classmethod
    def read(cls, path: Path, device: torch.device) -> FittedTransform:
        """Read an export's ``transform.npz``."""
        arrays = read_archive(path, ("subject", "session", "matrix", "mean", "kind"))
        rows = np.arange(len(arrays["subject"]))
        table = Transform(
            kind=str(arrays["kind"]),
            subject_K=rows,
            session_K=rows,
            matrix_KOI=torch.from_numpy(arrays["matrix"].astype(np.float32)),
            mean_KI=torch.from_numpy(arrays["mean"].astype(np.float32)),
        )
        labels = list(zip(arrays["subject"].tolist(), arrays["session"].tolist(), strict=True))
        return cls(transform=table.to(device), labels=labels)

    def __call__(self, eeg_BRCT: Tensor, subjects: Sequence[str | None], sessions: Sequence[str | None]) -> Tensor:
        """Transform all repetitions of each trial by the row of its labels."""
        group_B = torch.tensor([self._row(*pair) for pair in zip(subjects, sessions, strict=True)], device=eeg_BRCT.device)
        repetitions = eeg_BRCT.shape[1]
        eeg_RCT = self.transform(eeg_BRCT.flatten(0, 1), group_B.repeat_interleave(repetitions))
        return eeg_RCT.reshape(-1, repetitions, *eeg_RCT.shape[1:])

    def _row(self, subject: str | None, session: str | None) -> int:
        rows = [n for n, (u, s) in enumerate(self.labels) if subject in (None, u) and session in (None, s)]
        if len(rows) != 1:
            have = ", ".join(f"{u}/{s}" for u, s in self.labels[:8]) + (", …" if len(self.labels) > 8 else "")
            raise UserError(f"subject {subject!r}, session {session!r}: expected one that the transform was fitted on, of {have}")
        return rows[0]


def load_encoder(path: str | Path, device: str | torch.device = "cpu", *, trust: Sequence[str] = ()) -> Encoder:
    """Load an export folder. Nothing in it is executed.

    Parameters
    ----------
    path
        A folder with ``config.json`` and ``model.safetensors``, such as ``runs/ID/export``.
    device
        Where it computes.
    trust
        Import paths such as ``my_lab``: an encoder class of a user's own is imported where it lies below one of them, from then on.

    Raises
    ------
    CommandError, StudyError
        One sentence naming the file.
    """
    allow_classes(trust)
    folder, device = Path(path), torch.device(device)
    export = read_export(folder)
    try:
        model = export.build_model()
    except UserError as error:
        raise CommandError(f"{folder / CONFIG}: {error}") from error
    load_weights(model, folder / WEIGHTS, CONFIG)
    say_edited(folder)  # last: what is wrong with a file by itself is the better sentence
    if export.level is None:
        note = f"{folder} does not say the level of the EEG it was trained on (an earlier version wrote it): units are not checked"
        Terminal(stderr=True, soft_wrap=True).print(f"note: {note}")
    return Encoder(export, model, FittedTransform.read(folder / TRANSFORM, device) if export.transform else None, device)


def subject_table(labels: Sequence[str], encoder: Encoder, device: torch.device) -> Tensor:
    """For each subject of a study the row of the encoder's own table, -1 for those it has not been trained on; int64."""
    rows = {label: row for row, label in enumerate(encoder.export.subjects)}
    found_S = torch.tensor([rows.get(label, -1) for label in labels], device=device)
    return encoder.known(found_S)


def known_subjects(subject_B: Tensor, trained_S: Tensor) -> Tensor:
    """Subject ids with -1 for those that training has not seen; ``trained_S`` is a bool table over all subjects."""
    return torch.where((subject_B >= 0) & trained_S[subject_B.clamp(min=0)], subject_B, -1)


def check_finite(embedding_B: Tensor, first: int) -> None:
    """Refuse trials (the first one's number is ``first``) of which an encoder makes no numbers."""
    if not torch.isfinite(embedding_B).all():
        trial = first + int((~torch.isfinite(embedding_B)).flatten(1).any(dim=1).nonzero()[0])
        raise UserError(f"EEG of trial {trial} has no finite embedding: its values are too large, or the encoder's weights are damaged")


def check_known(subjects: Iterable[str | None], known: Collection[str]) -> None:
    """Refuse labels that are none of a study's subjects: a typing error would be answered as for an unknown person."""
    for label in dict.fromkeys(subjects):
        if label is not None and label not in known:
            raise UserError(
                f"subject is {short(label)!r}, expected one of {listed(known)}, or None for a person whom the encoder was not trained on"
            )


def _labels(name: str, value: str | Sequence[str | None] | None, count: int) -> list[str | None]:
    if value is None or isinstance(value, str):
        return [value] * count
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise UserError(f"{name} is {short(value)}, expected text, None, or one of these for each of {count} trials")
    labels: list[str | None] = list(value)
    if len(labels) != count:
        raise UserError(f"{name}: {len(labels)} labels for {count} trials, expected one for all or one for each")
    for label in labels:
        if label is not None and not isinstance(label, str):
            raise UserError(f"{name} is {short(label)}, expected text as in the study, or None")
    return labels


# ----------------------------------------------------------------------------------------------------------- command


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Copy a run's exported encoder to where it is wanted, after loading it once."""

    run: str
    """Run folder."""
    output: str
    """Folder to make; it must not be there."""


def run(config: ExportConfig) -> None:
    """``python -m trainer export``."""
    source, output = Path(config.run) / "export", Path(config.output)
    if not (source / CONFIG).is_file():
        raise CommandError(f"run: {config.run} has no export: training has not validated or finished yet")
    if output.exists():
        raise CommandError(f"output: {output} is there already; choose another folder")
    encoder = load_encoder(source)
    encoder.check_embeds(source)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    os.replace(partial, output)
    signal = encoder.signal
    Terminal(soft_wrap=True).print(
        f"{output}: encoder of step {encoder.export.step}, {len(signal.ch_names)} channels x {signal.n_times} time points at "
        f"{signal.sfreq:g} Hz ({signal.unit}) -> {encoder.embedding_dim} dimensions"
    )
