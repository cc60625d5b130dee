"""``init_from``: a text run that begins with the adapter and the projector of an earlier one."""

from __future__ import annotations

from dataclasses import replace

from data_prep.contract.errors import CommandError
from trainer.artifacts.guards import check_held_out
from trainer.artifacts.initial_text import InitialText, init_weights
from trainer.artifacts.text_export import find_text_export
from trainer.data.index import StudyIndex
from trainer.models.language.reference import BaseReference
from trainer.tasks.text.config import TextConfig


def initial_weights(config: TextConfig, index: StudyIndex, *, base: BaseReference, encoder_sha256: str, reads: bool) -> InitialText:
    """The weights of ``config.init_from``, checked against the new run.

    Parameters
    ----------
    base
        The run's base, by :func:`trainer.models.language.reference.base_reference`.
    encoder_sha256
        Hash of its encoder's weights: another encoder than the projector has learnt to read is written down.
    reads
        Whether the run has a projector.

    Raises
    ------
    CommandError
        One sentence with both sides: another base, adapter or projector, weights that have learnt from trials which the run's split
        holds out, or a projector that goes with an encoder tuned there.
    """
    path = find_text_export(config.init_from)
    initial = init_weights(path, base=base, adapter=config.adapter, prefix=config.prefix, reads=reads)
    not_known = check_held_out(initial.export, index, config.data, f"init_from: {path}", "weights that have")
    initial = replace(initial, not_known=tuple(not_known))
    theirs = initial.export.encoder.sha256
    if "projector" not in initial.taken or theirs == encoder_sha256:
        return initial
    if initial.export.tune_encoder:
        raise CommandError(f"init_from: {path} tuned its encoder, expected it as this run's: --encoder {config.init_from}")
    return replace(initial, other_encoder=theirs)
