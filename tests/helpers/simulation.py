"""One small simulated study, made once for all tests that read it."""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path

from data_prep.embed.efficientnet_lite0 import EfficientNetLite0Config
from data_prep.simulate.study import SimulateConfig, run

_folder = tempfile.TemporaryDirectory(prefix="simulated-")
atexit.register(_folder.cleanup)


def small_config(output: Path, **changes: object) -> SimulateConfig:
    """12 x 3 training images, 8 test images, one subject: seconds to make."""
    fields: dict[str, object] = {
        "num_train_concepts": 12, "images_per_concept": 3, "num_test_concepts": 8, "test_repetitions": 6, "num_drives": 8,
        "image_size": 64, "embedding": EfficientNetLite0Config(), "ceiling_draws": 5, "baselines": False,
    }  # fmt: skip
    return SimulateConfig(output=str(output), **(fields | changes))  # type: ignore[arg-type]


@cache
def small_study() -> Path:
    """Folder of the study; tests must not write into it."""
    root = Path(_folder.name) / "study"
    run(small_config(root))
    return root
