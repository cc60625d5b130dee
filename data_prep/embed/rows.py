"""From image files to rows of an embedding table, by any encoder.

    StudyFacts.stimuli -> image files -> the encoder's own inference transform -> batches -> float32 (n_stimuli, dim)

A class-level study has no image a trial: the row of a class is the mean of its images' unit-normalised embeddings.

Shapes in names: N stimuli or images, E embedding dimension, BCHW image batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.errors import StudyError
from data_prep.contract.images import open_image
from data_prep.contract.progress import tracked
from data_prep.embed.table import check_table
from data_prep.studies.base import StudyFacts
from data_prep.studies.image_names import inside


def embed_stimuli(
    facts: StudyFacts, encode: Callable[[Any], Any], transform: Callable[[Any], Any], batch_size: int, workers: int, name: str
) -> np.ndarray:
    """Embed every stimulus of a study: float32 (n_stimuli, dim).

    Parameters
    ----------
    encode
        float32 (B, C, H, W) to (B, dim), in inference mode.
    transform
        The encoder's inference transform: PIL image to float32 (C, H, W).
    name
        Of the encoder, for messages.

    Raises
    ------
    StudyError
        A stimulus without an image, an image that is missing or cannot be read.
    """
    if facts.class_images is not None:
        files = [(concept, Path(file)) for concept in range(len(facts.concepts)) for file in facts.class_images.get(concept, ())]
        have = {concept for concept, _ in files}
        lacking = sorted({stimulus.concept for stimulus in facts.stimuli} - have)
        if lacking:
            raise StudyError(f"class {facts.concepts[lacking[0]]!r} has no images: expected at least one image file a class")
        rows_NE = _encode_files([file for _, file in files], encode, transform, batch_size, workers, name)
        rows_NE /= np.linalg.norm(rows_NE, axis=1, keepdims=True)
        concepts_N = np.array([concept for concept, _ in files])
        return np.stack([rows_NE[concepts_N == stimulus.concept].mean(0) for stimulus in facts.stimuli]).astype(np.float32)
    if facts.image_root is None:
        raise StudyError("the study has no images: give image_root, or import an embedding from a file")
    without = [stimulus.id for stimulus in facts.stimuli if not stimulus.image]
    if without:
        raise StudyError(f"stimulus {without[0]!r} has no image ({len(without)} of {len(facts.stimuli)}): import an embedding from a file")
    paths = [inside(facts.image_root, stimulus.image or "") for stimulus in facts.stimuli]
    return _encode_files(paths, encode, transform, batch_size, workers, name)


def _encode_files(
    files: Sequence[Path], encode: Callable[[Any], Any], transform: Callable[[Any], Any], batch_size: int, workers: int, name: str
) -> np.ndarray:
    """float32 (len(files), dim); decoding runs in threads ahead of the network."""
    import torch

    missing = [file for file in files if not file.is_file()]
    if missing:
        raise StudyError(f"{missing[0]}: no such image ({len(missing)} of {len(files)} are missing)")

    def read(file: Path) -> Any:
        return transform(open_image(file))

    starts = range(0, len(files), batch_size)

    def batches(pool: ThreadPoolExecutor) -> Iterator[Any]:
        ahead = [pool.map(read, files[start : start + batch_size]) for start in starts[:2]]
        for number, _ in enumerate(starts):
            yield torch.stack(list(ahead.pop(0)))
            later = starts[number + 2 : number + 3]
            ahead += [pool.map(read, files[start : start + batch_size]) for start in later]

    rows: list[np.ndarray] = []
    with ThreadPoolExecutor(workers) as pool, torch.inference_mode():
        for images_BCHW in tracked(batches(pool), f"batches of images embedded by {name}", len(starts)):
            rows.append(encode(images_BCHW).numpy())
    return check_table(np.concatenate(rows), name, len(files))


def check_positive(**fields: int) -> None:
    """Refuse fields below 1, as a config's ``__post_init__`` does."""
    for name, value in fields.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
