"""Write a trained encoder as the folder that :func:`trainer.artifacts.encoder.load_encoder` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from data_prep.contract.cli import to_plain
from data_prep.contract.seal import seal_all
from trainer.artifacts.encoder import TRANSFORM, WEIGHTS
from trainer.artifacts.export import Export, ExportEmbedding, ExportSignal, ModelSizes, write_config
from trainer.artifacts.fitted_transform import write_transform
from trainer.artifacts.level import measure_level
from trainer.data.loader import Loader
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoding.likelihood import joined_models
from trainer.training.lineage import Lineage

if TYPE_CHECKING:
    from data_prep.contract.closed_form import EncodingModel


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
    export = _described(
        loader,
        lineage,
        facts or {},
        metric="cosine",
        model=to_plain(model),
        loss=to_plain(loss),
        embedding_dim=model.proj_dim or loader.embedding_dim,
    )
    _write(output, weights, loader, export)


def write_likelihood_export(
    output: Path, *, fitted: Mapping[int, EncodingModel], loader: Loader, lineage: Lineage, facts: Mapping[str, Any]
) -> None:
    """Write encoding models, by subject and for all others (:func:`joined_models`), into the new folder ``output``; the rest as
    :func:`write_export`."""
    joined = joined_models(fitted, range(len(loader.index.manifest.tables.subjects)))
    export = _described(
        loader,
        lineage,
        facts,
        metric="likelihood",
        model={},
        loss={},
        encoding=joined.sizes,
        embedding_dim=joined.sizes.num_directions,
    )
    _write(output, joined.state_dict(), loader, export)


def _write(output: Path, weights: Mapping[str, Tensor], loader: Loader, export: Export) -> None:
    output.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, output / WEIGHTS)
    if loader.transform is not None:
        write_transform(output / TRANSFORM, loader.transform, loader.index.manifest.tables)
    write_config(output, export)
    seal_all(output)


def _described(loader: Loader, lineage: Lineage, facts: Mapping[str, Any], **model: Any) -> Export:
    """``model``: the fields that say what it is."""
    manifest, tables = loader.index.manifest, loader.index.manifest.tables
    signal, transformed = loader.index.signal, loader.transform is not None
    embedding = manifest.embedding(loader.config.embedding)
    return Export(
        **vars(lineage.completed_by(loader)),
        **model,
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
        stimulus_level=manifest.stimulus_level,
        concepts=tuple(tables.concepts),
        subjects=tuple(tables.subjects),
        trained_subjects=tuple(tables.subjects[i] for i in loader.subjects),
        trained_concepts=tuple(tables.concepts[i] for i in loader.concepts),
        level=measure_level(loader),
        facts=facts,
    )


def _rows(positions: Sequence[Sequence[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if positions is None else tuple(tuple(map(float, row)) for row in positions)
