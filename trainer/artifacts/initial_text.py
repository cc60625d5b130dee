"""``init_from`` of a text run: adapter and projector of an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import CommandError
from trainer.artifacts.text import ADAPTER, ADAPTER_WEIGHTS, PROJECTOR, load_projector
from trainer.artifacts.text_export import TextExport, read_text_export
from trainer.artifacts.weights import read_weights
from trainer.models.language.adapter import AdapterConfig
from trainer.models.language.eeg_language_model import EEGLanguageModel
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.quiet import quiet
from trainer.models.language.reference import BaseReference, check_base
from trainer.training.lineage import Origin


@dataclass(frozen=True, kw_only=True)
class InitialText:
    """Adapter and projector of an earlier text run, checked against a new one; make it with :func:`init_weights`."""

    path: Path
    export: TextExport
    taken: tuple[str, ...]
    """Of ``adapter`` and ``projector``, what begins with its weights."""
    new: tuple[str, ...]
    """What begins anew, since the earlier run has none."""
    other_encoder: str | None = None
    """SHA-256 of the encoder that the projector read, where this run's is another."""
    not_known: tuple[str, ...] = ()
    """Why it is not known whether it has learnt from trials which the run's split holds out; empty: it has not."""

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Trainings that the weights went through, oldest first."""
        return self.export.origins

    def facts(self) -> dict[str, Any]:
        """For ``events.jsonl``."""
        found: dict[str, Any] = {"path": str(self.path), "step": self.export.step, "stage": self.export.stage.name}
        found |= {"taken": list(self.taken), "new": list(self.new)}
        return found | ({"other_encoder": self.other_encoder} if self.other_encoder else {})

    def copy_into(self, model: EEGLanguageModel) -> None:
        """Put the weights into ``model``, before DeepSpeed wraps it."""
        if "adapter" in self.taken:
            from peft import set_peft_model_state_dict

            weights = read_weights(self.path / ADAPTER / ADAPTER_WEIGHTS)
            with quiet():
                result = set_peft_model_state_dict(model.llm, weights)
            lost = [name for name in result.missing_keys if "lora_" in name] + list(result.unexpected_keys)
            if lost:
                raise CommandError(f"init_from: {self.path / ADAPTER} and this run's adapter differ in {lost[0]}")
        if "projector" in self.taken:
            load_projector(model, self.path / PROJECTOR)


def init_weights(path: Path, *, base: BaseReference, adapter: AdapterConfig, prefix: PrefixConfig, reads: bool) -> InitialText:
    """Weights for a run that begins with those of the text export ``path``.

    Parameters
    ----------
    base
        The new run's base, by :func:`base_reference`.
    adapter, prefix
        The new run's.
    reads
        Whether the new run has a projector; a label-only one has none.

    Raises
    ------
    CommandError
        One sentence with both sides: another base, adapter or projector.
    """
    export = read_text_export(path)
    check_base(export.base, base, f"init_from: {path}")
    taken, new = [], []
    theirs = export.read_adapter()
    for name, part, before, now, there, wanted in (
        ("adapter", "adapter", theirs, adapter, theirs.kind != "none", adapter.kind != "none"),
        ("prefix", "projector", export.read_prefix(), prefix, bool(export.num_prefix), reads),
    ):
        if not wanted:
            continue
        if not there:
            new.append(part)
            continue
        saved = to_plain(before)
        for field, value in to_plain(now).items():
            if field != "dropout" and saved[field] != value:
                raise CommandError(f"init_from: {path} was trained with {name}.{field} {saved[field]}, this run has {value}")
        taken.append(part)
    if not taken:
        raise CommandError(f"init_from: {path} has neither an adapter nor a projector for this run")
    return InitialText(path=path, export=export, taken=tuple(taken), new=tuple(new))
