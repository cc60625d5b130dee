"""What makes two runs the same experiment: a checkpoint continues only under the identity it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from data_prep.contract.words import short

IDENTITY_FIELDS = ("data", "augment", "model", "loss", "optimizer")
"""Parts of a training config that belong to its identity whole; of ``train``, only the batch size and the seed do.

World size, micro-batch, precision, number of steps, ZeRO, logging, tracking and paths may change between resumes.
"""
TRAIN_FIELDS = ("global_batch_size", "seed")
_LATER = {"data.base_tokenizer"}
"""What earlier versions did not write: it is compared where both sides know it."""
_FINGERPRINT, _TRIALS = "data.fingerprint", "data.trials_hash"


def make_identity(config: Any, study: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a run.

    Parameters
    ----------
    config
        A task's config with the fields of :data:`IDENTITY_FIELDS` and ``train``.
    study
        Facts of the opened study: ``fingerprint``, ``trials_hash``, ``split_hash``, ``embedding_sha256``. The study's path is not part of
        it, and neither are embeddings that the run does not use: :func:`check_identity` goes by the fingerprint only where one side knows
        no more.
    """
    plain = to_plain(config)
    identity = {name: plain[name] for name in getattr(config, "identity_fields", IDENTITY_FIELDS)}
    # When hashes are checked changes no result.
    identity["data"] = {k: v for k, v in identity["data"].items() if k not in ("study", "verify")} | dict(study)
    # Which trials an encoder kept is among the study's facts; where its folder lies is no part of the experiment.
    if select := plain["data"].get("select"):
        unnamed = {"keep", "keep_encoder"} if select["keep"] == "all" else {"keep_encoder"}
        identity["data"]["select"] = {k: v for k, v in select.items() if k not in unnamed}
    identity["train"] = {name: plain["train"][name] for name in getattr(config, "train_identity_fields", TRAIN_FIELDS)}
    return identity


def check_identity(path: Path, found: Mapping[str, Any]) -> None:
    """Compare with a saved ``identity.json``.

    Raises
    ------
    CommandError
        One sentence naming the first field that differs and both values.
    """
    saved, current = flat(read_json(path)), flat(found)
    passed_over = _FINGERPRINT if _TRIALS in saved.keys() & current.keys() else _TRIALS
    for side in (saved, current):
        side.pop(passed_over, None)
    for field in _LATER - saved.keys():
        current.pop(field, None)
    for field in sorted(saved.keys() | current.keys()):
        before, after = saved.get(field, "nothing"), current.get(field, "nothing")
        if before != after:
            raise CommandError(f"{path}: {field} was {short(before)} when this run began and is {short(after)} now: not the same run")


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    joined: dict[str, Any] = {}
    for key, item in value.items():
        joined |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return joined
