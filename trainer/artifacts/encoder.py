"""An encoder as a folder that anyone can load: weights, and everything needed to apply them to a trial.

::

    EXPORT/  model.safetensors  config.json  [transform.npz]

``load_encoder(path).embed(eeg)`` needs neither a launcher nor the study. The EEG goes in as it is in the study (unit, rate,
window and channels of ``config.json``'s ``signal``); what was done to it on the way to the model in training is done here,
by the same functions: the split's transform, the average over repetitions, the normalisation.

B: trials or averages, R: repetitions, C: channels, T: time points, E: image embedding dimension, P: common space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.seal import say_edited
from data_prep.contract.terminal import Terminal
from data_prep.contract.trust import allow_classes
from data_prep.contract.words import as_given, listed, short
from trainer.artifacts.export import CONFIG, Export, read_export
from trainer.artifacts.fitted_transform import FittedTransform
from trainer.artifacts.given import read_eeg
from trainer.artifacts.level import check_trials
from trainer.artifacts.weights import check_shapes, load_weights
from trainer.data.batch import Batch, normalise_trials
from trainer.models.contrastive import ContrastiveModel
from trainer.models.encoding.likelihood import LikelihoodModel

WEIGHTS, TRANSFORM = "model.safetensors", "transform.npz"


class Encoder(ABC):
    """A trained encoder in eval mode; make it with :func:`load_encoder`. Trials are compared with images by ``export.metric``: a cosine
    (:class:`NetworkEncoder`) or a likelihood (:class:`LikelihoodEncoder`).

    Attributes
    ----------
    export : Export
        ``config.json``.
    signal : ExportSignal
        What :meth:`embed` expects: ``unit``, ``sfreq`` (Hz), ``tmin`` (seconds), ``n_times``, ``ch_names``, ``positions``.
    embedding_dim : int
        P.
    device : torch.device
    """

    model: ContrastiveModel | LikelihoodModel

    def __init__(
        self, export: Export, model: ContrastiveModel | LikelihoodModel, transform: FittedTransform | None, device: torch.device
    ) -> None:
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
        n_reps: int = 1,
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
        n_reps
            Of how many repetitions each trial (or repetition) that is given is the average already: a likelihood depends on it.
        batch_size
            Rows a forward.

        Returns
        -------
        np.ndarray
            float32 (B, P), to be compared with :meth:`embed_image`: for a cosine of unit norm, for a likelihood by squared distance.

        Raises
        ------
        ValueError
            Shape, labels or values do not fit, both sides in the message: values that are constant, not finite, or of a level that
            lies orders from that of training (``export.level``), as volts for microvolts do.
        """
        found = [np.empty((0, self.embedding_dim), np.float32)]
        for z_BP, ids_B, averaged in self._embedded(eeg, subject, session, n_reps, batch_size):
            found.append(self.to_compare(z_BP, ids_B, averaged).cpu().numpy())
        return np.concatenate(found)

    def scores(
        self,
        eeg: np.ndarray | Sequence[Any],
        gallery_GK: np.ndarray,
        subject: str | Sequence[str | None] | None = None,
        session: str | Sequence[str | None] | None = None,
        *,
        n_reps: int = 1,
        batch_size: int = 256,
    ) -> np.ndarray:
        """Score every image of a gallery for every trial, higher is better: cosine, or log-likelihood up to a constant of the trial.

        Parameters
        ----------
        eeg, subject, session, n_reps, batch_size
            As :meth:`embed` has them.
        gallery_GK
            As :meth:`gallery_rows` gives them.

        Returns
        -------
        np.ndarray
            (B, G).
        """
        found = [np.empty((0, len(gallery_GK)))]
        for z_BP, ids_B, averaged in self._embedded(eeg, subject, session, n_reps, batch_size):
            found.append(self._scores(z_BP, ids_B, averaged, gallery_GK))
        return np.concatenate(found)

    def _embedded(
        self,
        eeg: np.ndarray | Sequence[Any],
        subject: str | Sequence[str | None] | None,
        session: str | Sequence[str | None] | None,
        n_reps: int,
        batch_size: int,
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Embeddings as :meth:`embed_prepared` gives them, subject rows, and how many repetitions are averaged in each."""
        if type(n_reps) is not int or n_reps < 1:
            raise UserError(f"n_reps is {short(n_reps)}, expected at least 1")
        for first, eeg_BCT, ids_B, repetitions in self.prepared(eeg, subject, session, batch_size=batch_size):
            z_BP = self.embed_prepared(eeg_BCT, ids_B)
            check_finite(z_BP, first)
            yield z_BP, ids_B, n_reps * repetitions

    @torch.no_grad()
    def embed_prepared(self, eeg_BCT: Tensor, subject_B: Tensor) -> Tensor:
        """Embed EEG that is prepared already (:meth:`Loader.prepare`), on :attr:`device`: float32 (B, P), for a cosine of unit norm, for a
        likelihood where the noise of one repetition is white.

        ``subject_B`` are rows of the study's table; subjects not seen in training are treated as unknown.
        """
        return self.model.embed_eeg(eeg_BCT, self.known(subject_B))

    @abstractmethod
    def embed_image(self, embedding_BE: np.ndarray, subject: str | None = None, n_reps: int = 1) -> np.ndarray:
        """Image embeddings of the model named in ``export.embedding`` in the common space, as :meth:`embed` gives trials of ``subject``
        that average ``n_reps`` repetitions, of which a cosine does not depend: float32 (B, P)."""

    @abstractmethod
    def gallery_rows(self, embedding_GE: np.ndarray) -> np.ndarray:
        """What a gallery keeps of images, whoever will be compared with them: float32 (G, :attr:`gallery_width`)."""

    @property
    @abstractmethod
    def gallery_width(self) -> int:
        """Columns of :meth:`gallery_rows`."""

    @abstractmethod
    def to_compare(self, z_BP: Tensor, subject_B: Tensor, n_reps: int) -> Tensor:
        """Embeddings of :meth:`embed_prepared` as :meth:`embed` gives them."""

    @abstractmethod
    def _scores(self, z_BP: Tensor, subject_B: Tensor, n_reps: int, gallery_GK: np.ndarray) -> np.ndarray:
        """Of embeddings of :meth:`embed_prepared`."""

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
    ) -> Iterator[tuple[int, Tensor, Tensor, int]]:
        """Trials as :meth:`embed` takes them, as the model wants them: (first row, float32 (B, C, T), subject rows, repetitions that each
        trial had), in batches."""
        if type(batch_size) is not int or batch_size < 1:
            raise UserError(f"batch_size is {short(batch_size)!r}, expected at least 1")
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
            ids_B = torch.tensor([-1 if label is None else numbers[label] for label in subjects[rows]], device=self.device)
            yield first, eeg_BCT, ids_B, repeated.shape[1]

    def known(self, subject_B: Tensor) -> Tensor:
        """Rows of the table of subjects with -1 for those that training has not seen."""
        return known_subjects(subject_B, self._trained_S)

    def embed_batch(self, batch: Batch) -> Tensor:
        """:meth:`embed_prepared` of a loader's batch."""
        return self.embed_prepared(batch.eeg_BCT, batch.subject_B)

    def check_images(self, embedding_BE: np.ndarray) -> np.ndarray:
        """Image embeddings, float32, of the size that was trained on; others are refused."""
        expected = self.export.build.embedding_dim
        if embedding_BE.ndim != 2 or embedding_BE.shape[1] != expected:
            raise UserError(f"image embeddings have shape {embedding_BE.shape}, expected (images, {expected})")
        return np.ascontiguousarray(embedding_BE, np.float32)

    @property
    def expects(self) -> str:
        """What :meth:`embed` takes, for sentences: shape, channels, rate, begin and unit."""
        sizes = f"{len(self.signal.ch_names)}, {self.signal.n_times}"
        return f"(trials, {sizes}) or (trials, repetitions, {sizes}): {self.signal}"


class NetworkEncoder(Encoder):
    """An encoder that a contrastive training has left: unit vectors, compared by cosine."""

    model: ContrastiveModel

    @property
    def has_concept_head(self) -> bool:
        """Whether it was trained to name concepts (``loss.cross_entropy_weight``)."""
        return self.model.concept_head is not None

    @torch.no_grad()
    def concept_logits(self, batch: Batch) -> Tensor:
        """Scores of the concept head for a loader's batch: float32 (B, K), columns as ``export.concepts``."""
        return self.model.name_concepts(batch.eeg_BCT, self.known(batch.subject_B))

    @torch.no_grad()
    def embed_image(self, embedding_BE: np.ndarray, subject: str | None = None, n_reps: int = 1) -> np.ndarray:
        images_BE = torch.from_numpy(self.check_images(embedding_BE)).to(self.device)
        return self.model.embed_image(images_BE).cpu().numpy()

    def gallery_rows(self, embedding_GE: np.ndarray) -> np.ndarray:
        return self.embed_image(embedding_GE)

    @property
    def gallery_width(self) -> int:
        return self.embedding_dim

    def to_compare(self, z_BP: Tensor, subject_B: Tensor, n_reps: int) -> Tensor:
        return z_BP

    def _scores(self, z_BP: Tensor, subject_B: Tensor, n_reps: int, gallery_GK: np.ndarray) -> np.ndarray:
        cosine_BG: np.ndarray = z_BP.cpu().numpy() @ gallery_GK.T
        return cosine_BG


class LikelihoodEncoder(Encoder):
    """Encoding models: a trial is compared with the EEG that an image leads one to expect, by squared distance, which is a likelihood."""

    model: LikelihoodModel

    def rows(self, subject_B: Tensor) -> np.ndarray:
        """Of which model each subject is; rows of the study's table, -1 unknown."""
        found: np.ndarray = self.model.rows(self.known(subject_B)).cpu().numpy()
        return found

    def embed_image(self, embedding_BE: np.ndarray, subject: str | None = None, n_reps: int = 1) -> np.ndarray:
        number = -1 if subject is None else self.export.subjects.index(subject) if subject in self.export.subjects else None
        if number is None:
            check_known([subject], self.export.subjects)
        row = int(self.rows(torch.tensor([number], device=self.device))[0])
        found_BP: np.ndarray = self.model.predictions(row, self.check_images(embedding_BE)) * self.model.scale(row, n_reps)
        return found_BP.astype(np.float32)

    def gallery_rows(self, embedding_GE: np.ndarray) -> np.ndarray:
        return self.check_images(embedding_GE)

    @property
    def gallery_width(self) -> int:
        return self.export.build.embedding_dim

    def to_compare(self, z_BP: Tensor, subject_B: Tensor, n_reps: int) -> Tensor:
        scale_BP = np.stack([self.model.scale(int(row), n_reps) for row in self.rows(subject_B)])
        return z_BP * torch.from_numpy(scale_BP.astype(np.float32)).to(z_BP.device)

    def _scores(self, z_BP: Tensor, subject_B: Tensor, n_reps: int, gallery_GK: np.ndarray) -> np.ndarray:
        row_B, z = self.rows(subject_B), z_BP.cpu().numpy().astype(np.float64)
        scores_BG = np.empty((len(z), len(gallery_GK)))
        for row in np.unique(row_B).tolist():
            own, scale_P = row_B == row, self.model.scale(row, n_reps)
            left, right = z[own] * scale_P, self.model.predictions(row, gallery_GK) * scale_P
            scores_BG[own] = left @ right.T - 0.5 * np.square(right).sum(axis=1) - 0.5 * np.square(left).sum(axis=1)[:, None]
        return scores_BG


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
    if not trust:  # classes of a user's own may need numbers to be built
        with torch.device("meta"):
            check_shapes(_built(export, folder).state_dict(), folder / WEIGHTS, CONFIG)
    model = _built(export, folder)
    load_weights(model, folder / WEIGHTS, CONFIG)
    say_edited(folder)  # last: what is wrong with a file by itself is the better sentence
    if export.level is None:
        note = f"{folder} does not say the level of the EEG it was trained on (an earlier version wrote it): units are not checked"
        Terminal(stderr=True, soft_wrap=True).print(f"note: {note}")
    transform = FittedTransform.read(folder / TRANSFORM, device) if export.transform else None
    if isinstance(model, LikelihoodModel):
        return LikelihoodEncoder(export, model, transform, device)
    return NetworkEncoder(export, model, transform, device)


def load_network(path: str | Path, device: str | torch.device = "cpu", *, trust: Sequence[str] = ()) -> NetworkEncoder:
    """:func:`load_encoder`, where layers of a network are needed.

    Raises
    ------
    CommandError
        The export is of an encoding model.
    """
    encoder = load_encoder(path, device, trust=trust)
    if not isinstance(encoder, NetworkEncoder):
        raise CommandError(
            f"{Path(path) / CONFIG}: metric is {encoder.export.metric}, expected cosine: an encoder of a contrastive training"
        )
    return encoder


def _built(export: Export, folder: Path) -> ContrastiveModel | LikelihoodModel:
    try:
        return export.build_model()
    except UserError as error:
        raise CommandError(f"{folder / CONFIG}: {error}") from error
    except RuntimeError as error:  # torch: sizes of which there is no tensor here
        raise CommandError(f"{folder / CONFIG}: its model cannot be built: {short(error, 200)}") from error


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
                f"subject is {as_given(label)}, expected one of {listed(known)}, or None for a person whom the encoder was not trained on"
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
