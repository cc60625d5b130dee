"""What each arm of a text evaluation shows the model: pure functions of arrays, so that every control is what its name says.

========================  ==========================================================================================
``eeg``                   the item's own EEG, no words
``eeg+concept``           and the words of the concepts predicted from it
``noise``                 Gaussian noise with the mean and covariance of the encoder's inputs for the subject, no words
``noise+word``            and the words predicted from that noise
``shuffled``              the EEG of another stimulus of the same subject
``shuffled-within-concept``  ... of the same concept
``concept-mean``          the mean image embedding of the concept predicted from EEG
``label-only``            a model trained for as many steps without any EEG, given the predicted words
``keywords``              the untuned base, given nothing but the predicted words; its first line
``nearest-caption``       no model: the caption of the training image nearest to the EEG
``caption-prior``         no input: the training caption that agrees best with the others
``image``                 the image itself: the upper bound
========================  ==========================================================================================

No arm sees whether another was right, and none leaves out an item.

N: items of the part, I: those to be captioned, C: channels, T: time points, P: common space, M: training stimuli.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from trainer.data import random

WITH_WORDS = ("eeg+concept", "noise+word", "label-only", "keywords")
"""Arms whose prompt has predicted words."""
AS_TRAINED = ("shuffled", "shuffled-within-concept", "concept-mean", "image")
"""Arms that have words predicted from what they show where the model has never seen a prompt without: bare they would be foreign to it,
and so weaker than they need be."""
_NOISE, _SHUFFLE, _SAMPLE = (random.word(f"arm {name}") for name in ("noise", "shuffled", "caption sample"))
PRIOR_SAMPLE = 1000
"""Most captions among which the typical one is looked for."""
_NOISE_ROWS = 256

Embed = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Prepared EEG (I, C, T) and subjects (I,) to the common space (I, P)."""


class ArmError(ValueError):
    """The part or the model cannot make an arm; one sentence."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What arms are made from; the whole part, so that noise and exchanges do not depend on how few items are captioned."""

    items: np.ndarray
    """Numbers, in the part, of the items to be captioned: (I,)."""
    eeg_NCT: np.ndarray
    """As the encoder is given it, float32."""
    image_NP: np.ndarray
    """Images of the items in the common space."""
    subject_N: np.ndarray
    stimulus_N: np.ndarray
    concept_N: np.ndarray
    train_MP: np.ndarray
    """Images of training stimuli in the common space."""
    train_captions: list[list[str]]
    """Their captions; the first one is a stimulus' own in nearest-caption."""
    train_concepts: list[str]
    """Their concepts."""
    prior: Sequence[str]
    """Captions that the model learnt to say, among which caption-prior looks for the typical one."""
    embed: Embed
    """The encoder."""
    seed: int
    """Of noise and exchanges."""

    @cached_property
    def z_IP(self) -> np.ndarray:
        """The items' own EEG in the common space."""
        return self.embed(self.eeg_NCT[self.items], self.subject_N[self.items])


@dataclass(frozen=True, kw_only=True)
class ArmInput:
    """What an arm shows, one row an item to be captioned; exactly one of ``eeg_ICT``, ``point_IP``, ``texts`` is there, or none."""

    eeg_ICT: np.ndarray | None = None
    """For the encoder."""
    point_IP: np.ndarray | None = None
    """A point of the common space, in place of the encoder's embedding."""
    texts: list[str] | None = None
    """Captions that need no model."""
    z_IP: np.ndarray | None = None
    """Where concepts are predicted from; None: nothing is predicted."""
    concepts: list[str] | None = None
    """Predicted concepts, where they are not the nearest ones to ``z_IP``."""


def arm_input(name: str, material: Material, concept_points: Callable[[np.ndarray], np.ndarray]) -> ArmInput:
    """What the arm ``name`` shows.

    Parameters
    ----------
    concept_points
        Mean image embedding (I, P) of the concept nearest to each point (I, P), for the arm concept-mean.

    Raises
    ------
    ArmError
        The part has nothing to exchange trials with.
    """
    items, eeg_NCT, subject_N = material.items, material.eeg_NCT, material.subject_N
    if name in ("eeg", "eeg+concept"):
        return ArmInput(eeg_ICT=eeg_NCT[items], z_IP=material.z_IP)
    if name in ("noise", "noise+word"):
        noise_ICT = matched_noise(eeg_NCT, subject_N, items, subject_N[items], material.seed)
        return ArmInput(eeg_ICT=noise_ICT, z_IP=material.embed(noise_ICT, subject_N[items]))
    if name in ("shuffled", "shuffled-within-concept"):
        within = name == "shuffled-within-concept"
        group_N = np.unique(np.stack([subject_N, material.concept_N]), axis=1, return_inverse=True)[1].reshape(-1) if within else subject_N
        other = deranged(group_N, material.stimulus_N, material.seed, "a concept" if within else "a subject")[items]
        return ArmInput(eeg_ICT=eeg_NCT[other], z_IP=material.embed(eeg_NCT[other], subject_N[other]))
    if name in ("label-only", "keywords"):
        return ArmInput(z_IP=material.z_IP)
    if name == "concept-mean":
        return ArmInput(point_IP=concept_points(material.z_IP), z_IP=material.z_IP)
    if name == "image":
        return ArmInput(point_IP=material.image_NP[items], z_IP=material.image_NP[items])
    if name == "nearest-caption":
        rows = nearest(material.z_IP, material.train_MP).tolist()
        return ArmInput(texts=[material.train_captions[r][0] for r in rows], concepts=[material.train_concepts[r] for r in rows])
    assert name == "caption-prior", name
    return ArmInput(texts=[typical_caption(material.prior)] * len(items))


def matched_noise(eeg_NCT: np.ndarray, subject_N: np.ndarray, items: np.ndarray, subject_I: np.ndarray, seed: int) -> np.ndarray:
    """Gaussian draws whose mean and covariance (over channels and time points together) are exactly those of the item's subject.

    A draw is the mean plus a random combination of all centred trials of the subject, with weights of variance ``1 / (trials - 1)``:
    its covariance is the empirical one, of any size, without a matrix ever being formed. One draw for each number in ``items`` (of
    subject ``subject_I``), a function of seed, number and the subject's trials.

    Raises
    ------
    ArmError
        A subject with a single trial, which has no covariance.
    """
    flat_ND = eeg_NCT.reshape(len(eeg_NCT), -1)
    noise_ID = np.empty((len(items), flat_ND.shape[1]), np.float32)
    for subject in np.unique(subject_I):
        own_ND = flat_ND[subject_N == subject]
        if len(own_ND) < 2:
            raise ArmError("a subject has a single trial in this part, expected at least two to know their covariance")
        mean_D = own_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred_ND = own_ND - mean_D
        mine = np.flatnonzero(subject_I == subject)
        keys = random.hash_torch(seed, _NOISE, torch.from_numpy(np.asarray(items, np.int64)[mine]))
        for first in range(0, len(mine), _NOISE_ROWS):
            rows = slice(first, first + _NOISE_ROWS)
            weights = random.normal_torch(keys[rows], len(own_ND)).numpy() / np.float32(np.sqrt(len(own_ND) - 1))
            noise_ID[mine[rows]] = mean_D + weights @ centred_ND
    return noise_ID.reshape(-1, *eeg_NCT.shape[1:])


def deranged(group_N: np.ndarray, stimulus_N: np.ndarray, seed: int, of: str = "a group") -> np.ndarray:
    """For each item the number of another of its group with another stimulus, every one used once: a permutation.

    Items of a group are put in an order of stimuli drawn by ``seed`` and shifted by the size of its largest stimulus.

    Raises
    ------
    ArmError
        A group (``of`` says of what) has one stimulus only, or one that is shown in more than half of its trials.
    """
    result = np.arange(len(group_N))
    for group in np.unique(group_N):
        members = np.flatnonzero(group_N == group)
        stimuli, counts = np.unique(stimulus_N[members], return_counts=True)
        if len(stimuli) == 1:
            raise ArmError(f"{of} has a single stimulus in this part, expected at least two to exchange")
        if 2 * counts.max() > len(members):
            raise ArmError(
                f"{of} shows the same stimulus in {counts.max()} of its {len(members)} trials, expected at most half of them to be alike"
            )
        drawn = random.hash_numpy(seed, _SHUFFLE, stimuli.astype(np.int64))
        place = dict(zip(stimuli.tolist(), np.argsort(np.argsort(drawn, kind="stable")).tolist(), strict=True))
        order = members[np.argsort([place[s] for s in stimulus_N[members].tolist()], kind="stable")]
        result[order] = np.roll(order, -int(counts.max()))
    return result


def nearest(z_IP: np.ndarray, train_MP: np.ndarray) -> np.ndarray:
    """Row of ``train_MP`` nearest to each of ``z_IP`` by cosine, both centred on the training mean: int64 (I,)."""
    mean_P = train_MP.mean(axis=0) if len(train_MP) > 1 else np.zeros_like(train_MP[0])
    return (_unit(z_IP - mean_P) @ _unit(train_MP - mean_P).T).argmax(axis=1)


def typical_caption(captions: Sequence[str]) -> str:
    """The caption that agrees best with the others: highest mean token F1, over at most a fixed sample of them."""
    if len(captions) > PRIOR_SAMPLE:
        drawn = random.hash_numpy(_SAMPLE, np.arange(len(captions)))
        captions = [captions[i] for i in np.sort(np.argsort(drawn, kind="stable")[:PRIOR_SAMPLE])]
    shares = Counter(captions)
    unique, weight_U = list(shares), np.array(list(shares.values()), np.float64)
    bags = [Counter(caption.lower().split()) for caption in unique]
    column = {word: number for number, word in enumerate(sorted({word for bag in bags for word in bag}))}
    counts_UV = np.zeros((len(unique), len(column)), np.float32)
    for row, bag in enumerate(bags):
        for word, count in bag.items():
            counts_UV[row, column[word]] = count
    length_U = np.maximum(counts_UV.sum(axis=1), 1)
    agreement_U = np.zeros(len(unique))
    for row, bag in enumerate(bags):
        own = [column[word] for word in bag]
        overlap_U = np.minimum(counts_UV[row, own], counts_UV[:, own]).sum(axis=1)
        agreement_U[row] = (weight_U * 2 * overlap_U / (length_U[row] + length_U)).sum()
    return unique[int(agreement_U.argmax())]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
