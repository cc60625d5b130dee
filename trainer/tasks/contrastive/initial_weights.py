"""``init_from``: a run that begins with the weights of an earlier one.

The encoder is taken whole or not at all: another montage or architecture is refused. Heads are taken where their shapes fit
and their outputs still mean the same; what is not taken begins anew, and both are listed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from torch import Tensor, nn

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from data_prep.contract.words import short
from trainer.artifacts.encoder import load_network
from trainer.artifacts.export import find_export
from trainer.artifacts.guards import check_held_out
from trainer.artifacts.level import check_part
from trainer.data.loader import Loader
from trainer.losses import MAX_LOGIT
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import EncoderConfig
from trainer.training.lineage import Origin


class InitialWeights:
    """Weights of an earlier run or export, checked against a new run's data.

    Parameters
    ----------
    path
        Export, run folder, or text export (whose encoder is taken).
    loader
        The new run's training part.
    config
        The new run's model.

    Attributes
    ----------
    not_known : list of str
        Why it is not known whether they have learnt from trials which the new run's split holds out; empty: they have not.

    Raises
    ------
    CommandError
        One sentence naming both sides: another montage, rate, window, unit or architecture, or an encoder that has learnt
        from trials which the new run's split holds out.
    """

    def __init__(self, path: str, loader: Loader, config: ContrastiveModelConfig) -> None:
        self.path = find_export(path)
        self.loader, self.model_config = loader, config
        self.encoder = load_network(self.path)
        self.weights = self.encoder.model.state_dict()
        self._check_signal()
        self._check_architecture()
        self.not_known = check_held_out(self.encoder.export, loader.index, loader.config, f"init_from: {self.path}", "weights that have")

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Trainings that the weights went through, oldest first."""
        return self.encoder.export.origins

    def compare(self, model: nn.Module) -> dict[str, Any]:
        """What ``model`` takes (parts, with their number of weights) and what begins anew (parts, with the reason)."""
        taken, new = {}, {}
        for part, weights in _by_part(model.state_dict()).items():
            reason = self._differs(part, weights) or _fixed(model, part)
            if part == "encoder" and reason:
                raise CommandError(f"init_from: {self.path} and this run's model.encoder differ in their layers: {reason}")
            if reason:
                new[part] = reason
            else:
                taken[part] = sum(value.numel() for value in weights.values())
        return {"path": str(self.path), "step": self.encoder.export.step, "taken": taken, "new": new}

    def copy_into(self, model: nn.Module) -> None:
        """Put the weights into ``model``, which keeps its own where :meth:`compare` says new."""
        taken = self.compare(model)["taken"]
        model.load_state_dict({name: value for name, value in self.weights.items() if _part(name) in taken}, strict=False)

    def _check_signal(self) -> None:
        theirs, loader = self.encoder.signal, self.loader
        names = loader.index.signal.ch_names if loader.transform is not None else loader.ch_names
        here = {"channels": list(names), "n_times": loader.n_times, "sfreq": loader.sfreq, "unit": loader.index.signal.unit}
        there = {"channels": list(theirs.ch_names), "n_times": theirs.n_times, "sfreq": theirs.sfreq, "unit": theirs.unit}
        here["n_chans"], there["n_chans"] = loader.n_chans, self.encoder.export.build.n_chans
        for name, value in here.items():
            if there[name] != value:
                found = f"{self.path} was trained on {name} {short(there[name])}"
                raise CommandError(f"init_from: {found}, this run's data have {short(value)}: expected the same")
        check_part(loader, self.encoder.export.level, f"init_from: {self.path}")

    def _check_architecture(self) -> None:
        configs = (self.encoder.export.model_config(), self.model_config)
        theirs, ours = (to_plain(config.encoder, EncoderConfig) for config in configs)
        fields: list[str] = []
        if theirs["class_path"] == ours["class_path"]:
            fields = [f for f, value in theirs["init_args"].items() if f != "dropout" and value != ours["init_args"][f]]
            if not fields:
                return
        raise CommandError(
            f"init_from: {self.path} is a {_describe(theirs, fields)}, this run's model.encoder a {_describe(ours, fields)}: "
            "expected the same architecture"
        )

    def _differs(self, part: str, weights: dict[str, Tensor]) -> str | None:
        """Why a part of the new model cannot begin with these weights; None: it can."""
        there = {name: value for name, value in self.weights.items() if _part(name) == part}
        if not there:
            return "not there"
        for name in sorted(there.keys() | weights.keys()):
            shapes = [tuple(side[name].shape) if name in side else None for side in (there, weights)]
            if shapes[0] != shapes[1]:
                return f"{name} is {shapes[0] or 'absent'} there and {shapes[1] or 'absent'} here"
        # A scale above the limit is brought back to it; from what lies beyond these no gradient leads back.
        if part == "log_logit_scale" and float(there[part]) < -math.log(MAX_LOGIT):
            return f"a logit scale of {math.exp(float(there[part])):g} there, expected at least {1 / MAX_LOGIT:g}"
        if part == "logit_bias" and abs(float(there[part])) > MAX_LOGIT:
            return f"a logit bias of {float(there[part]):g} there, expected -{MAX_LOGIT:g} to {MAX_LOGIT:g}"
        export, manifest = self.encoder.export, self.loader.index.manifest
        ours = manifest.embedding(self.loader.config.embedding)
        if part == "concept_head" and export.concepts != tuple(manifest.tables.concepts):
            return "other concepts"
        if part == "subjects" and export.subjects != tuple(manifest.tables.subjects):
            return "other subjects"
        if part == "image_head" and ours.differs_from(export.embedding):
            return f"other image embeddings: {export.embedding.model} there, {ours.model} here"
        return None


def sentence(facts: dict[str, Any]) -> str:
    """What :meth:`InitialWeights.compare` found, for people."""
    taken = ", ".join(f"{part} ({count:,} weights)" for part, count in sorted(facts["taken"].items(), key=lambda item: -item[1]))
    new = ", ".join(f"{part} ({reason})" for part, reason in facts["new"].items())
    return f"init_from {facts['path']}: takes {taken}; new: {new or 'nothing'}"


def _by_part(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in weights.items():
        parts[_part(name)][name] = value
    return dict(parts)


def _fixed(model: nn.Module, part: str) -> str | None:
    own = getattr(model, part, None)
    return "fixed by this run's config" if isinstance(own, nn.Parameter) and not own.requires_grad else None


def _part(name: str) -> str:
    return name.partition(".")[0]


def _describe(plain: dict[str, Any], fields: list[str]) -> str:
    values = ", ".join(f"{field} {plain['init_args'][field]}" for field in fields)
    return str(plain["class_path"]).rpartition(".")[2] + (f" with {values}" if values else "")
