"""``from trainer import load_encoder, load_text``, and how little an import brings in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trainer


def test_loading_is_one_import_away() -> None:
    from trainer import load_encoder, load_text
    from trainer.artifacts import encoder, text

    assert load_encoder is encoder.load_encoder
    assert load_text is text.load_text
    with pytest.raises(AttributeError, match="load_encoder, load_text"):
        trainer.load_encodr  # noqa: B018


@pytest.mark.parametrize("program", ["import trainer", "from launch.console import commands; commands()"])
def test_importing_brings_in_no_heavy_library(program: str) -> None:
    heavy = "torch", "transformers", "mlflow", "deepspeed", "sklearn", "scipy"
    check = f"import sys; {program}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
