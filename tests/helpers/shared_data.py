"""Where the real recordings for tests are, and the skip that says so where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data() -> Path:
    """Folder of real test data: ``$SHARED_DATA``, or ``../shared/data`` beside the repository; skips the test where absent."""
    folder = Path(os.environ.get("SHARED_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set SHARED_DATA")
    return folder
