"""What a reader of the captions must know of how the model was trained."""

from __future__ import annotations

from collections.abc import Collection

from trainer.artifacts.text_export import TextExport
from trainer.generate.arms import AS_TRAINED


def training_notes(export: TextExport, arms: Collection[str], *, num_words: int, always_words: bool) -> list[str]:
    """Sentences on arms that show a model what it was not trained on.

    Parameters
    ----------
    num_words
        Most predicted words that a prompt had in training; 0: none ever.
    always_words
        Every prompt had words in training.
    """
    notes, arms = [], set(arms)
    if {"eeg+concept", "noise+word"} & arms and not num_words:
        notes.append("The model never saw words in training: arms with words (eeg+concept, noise+word) are foreign to it.")
    if always_words:
        if {"eeg", "noise"} & arms:
            notes.append("The model never saw a prompt without words in training: the arms eeg and noise are foreign to it.")
        if more := [name for name in AS_TRAINED if name in arms]:
            notes.append(f"Prompts of {', '.join(more)} have words, too, as in training: those predicted from what the arm shows.")
    if "image" not in export.trained_on and {"image", "concept-mean"} & arms:
        notes.append("The model was never trained on images: the arms image and concept-mean are foreign to it.")
    elif export.stage.name == "eeg" and "image" in arms:
        notes.append("The model was trained on images first and on EEG last: what it forgot of images lowers the image arm.")
    if "eeg" not in export.trained_on:
        notes.append("The model was trained on images only: EEG is foreign to it.")
    if export.tune_encoder:
        notes.append(
            "The encoder was tuned with the language model: nearest-caption, concept-mean and predicted words come from the tuned one."
        )
    return notes
