"""``python -m trainer export``: a run's encoder where it is wanted."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from data_prep.contract.errors import CommandError
from data_prep.contract.files import refuse_links_out
from data_prep.contract.terminal import Terminal
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.export import CONFIG


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
    refuse_links_out(source)
    shutil.copytree(source, partial)
    os.replace(partial, output)
    signal = encoder.signal
    Terminal(soft_wrap=True).print(
        f"{output}: encoder of step {encoder.export.step}, {len(signal.ch_names)} channels x {signal.n_times} time points at "
        f"{signal.sfreq:g} Hz ({signal.unit}) -> {encoder.embedding_dim} dimensions"
    )
