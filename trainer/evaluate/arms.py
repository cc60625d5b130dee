"""What each arm of a text evaluation shows the model: pure functions of arrays, so that every control is what its name says.

========================  ==========================================================================================
``eeg``                   the item's own EEG, no words
``eeg+concept``           and the words of the concepts predicted from it
``noise``                 Gaussian noise with the mean and covariance of the encoder's inputs, no words
``noise+word``            and the words predicted from that noise
``shuffled``              the EEG of another stimulus of the same subject
``shuffled-within-concept``  ... of the same concept
``concept-mean``          the mean image embedding of the concept predicted from EEG
``label-only``            a model trained for as many steps without any EEG, given the predicted words
``keywords``              the untuned base, given nothing but the predicted words
``nearest-caption``       no model: the caption of the training image nearest to the EEG
``caption-prior``         no input: the training caption that agrees best with the others
``image``                 the image itself: the upper bound
========================  ==========================================================================================

N: items, C: channels, T: time points, P: common space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from trainer.data import random

ARMS = (
    "eeg", "eeg+concept", "noise", "noise+word", "shuffled", "shuffled-within-concept", "concept-mean", "label-only", "keywords",
    "nearest-caption", "caption-prior", "image",
)  # fmt: skip
WITH_WORDS = ("eeg+concept", "noise+word", "label-only", "keywords")
"""Arms whose prompt has predicted words."""
_NOISE, _SHUFFLE, _SAMPLE = (random.word(f"arm {name}") for name in ("noise", "shuffled", "caption sample"))
PRIOR_SAMPLE = 1000


def matched_noise(eeg_NCT: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """Gaussian draws whose mean and covariance (over channels and time points together) are exactly those of ``eeg_NCT``.

    Each draw is the mean plus a random combination of all centred trials, with weights of variance ``1 / (N - 1)``: its covariance
    is the empirical one, of any size, without a matrix ever being formed. A function of seed and item number only.
    """
    flat_ND = eeg_NCT.reshape(len(eeg_NCT), -1).astype(np.float64)
    mean_D = flat_ND.mean(axis=0)
    keys = random.hash_torch(seed, _NOISE, torch.from_numpy(np.asarray(items, np.int64)))
    weights_NN = random.normal_torch(keys, len(flat_ND)).numpy().astype(np.float64) / np.sqrt(max(1, len(flat_ND) - 1))
    return (mean_D + weights_NN @ (flat_ND - mean_D)).reshape(eeg_NCT.shape).astype(np.float32)


def deranged(group_N: np.ndarray, stimulus_N: np.ndarray, seed: int) -> np.ndarray:
    """For each item the number of another of its group with another stimulus, every one used once: a permutation.

    Items of a group are put in an order of stimuli drawn by ``seed`` and shifted by the size of its largest stimulus.

    Raises
    ------
    ValueError
        More than half of a group's items share one stimulus, so that there is no such permutation.
    """
    result = np.arange(len(group_N))
    for group in np.unique(group_N):
        members = np.flatnonzero(group_N == group)
        stimuli, counts = np.unique(stimulus_N[members], return_counts=True)
        if 2 * counts.max() > len(members):
            raise ValueError(
                f"{counts.max()} of {len(members)} trials that may be exchanged show the same stimulus, expected at most half of them"
            )
        drawn = random.hash_numpy(seed, _SHUFFLE, stimuli.astype(np.int64))
        place = dict(zip(stimuli.tolist(), np.argsort(np.argsort(drawn)).tolist(), strict=True))
        order = members[np.argsort([place[s] for s in stimulus_N[members].tolist()], kind="stable")]
        result[order] = np.roll(order, -int(counts.max()))
    return result


def nearest(z_NP: np.ndarray, train_MP: np.ndarray) -> np.ndarray:
    """Row of ``train_MP`` nearest to each of ``z_NP`` by cosine, both centred on the training mean: int64 (N,)."""
    mean_P = train_MP.mean(axis=0)
    return (_unit(z_NP - mean_P) @ _unit(train_MP - mean_P).T).argmax(axis=1)


def typical_caption(captions: Sequence[str]) -> str:
    """The caption that agrees best with the others: highest mean token F1, over at most a fixed sample of them."""
    if len(captions) > PRIOR_SAMPLE:
        drawn = random.hash_numpy(_SAMPLE, np.arange(len(captions)))
        captions = [captions[i] for i in np.sort(np.argsort(drawn, kind="stable")[:PRIOR_SAMPLE])]
    bags = [Counter(caption.lower().split()) for caption in captions]
    words = {word: number for number, word in enumerate(sorted({w for bag in bags for w in bag}))}
    counts = np.zeros((len(bags), len(words)), np.float32)
    for row, bag in enumerate(bags):
        for word, count in bag.items():
            counts[row, words[word]] = count
    length = np.maximum(counts.sum(axis=1), 1)
    agreement = np.zeros(len(bags))
    for row in range(len(bags)):
        overlap = np.minimum(counts[row], counts).sum(axis=1)
        agreement[row] = (2 * overlap / (length[row] + length)).mean()
    return captions[int(agreement.argmax())]


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
