"""What a registered version says of the trials behind it, as tags: those it was trained on, and those of its gallery or example."""

from __future__ import annotations

from data_prep.contract.terminal import Terminal
from data_prep.contract.words import short
from trainer.artifacts.seen import Seen, trained_not_known
from trainer.data.loader import Loader
from trainer.training.lineage import Lineage

UNKNOWN = "unknown"
_LONGEST = 1000


def about(export: Lineage, loader: Loader, seen: Seen) -> dict[str, str]:
    """Tags of a version, of the part that was opened for it and of the export's trainings.

    ``study, split, split_hash, part, unit, simulated, rows_hash``; ``trained_on`` (study and split), ``trained_on_simulated``, and
    ``trained_trials``, on how many of the part's trials it was trained. What is not known is ``unknown``, there with the reason.
    """
    manifest, simulated = loader.index.manifest, export.learnt_from_simulated
    count = f"{seen.count} of {seen.asked}"
    found = {
        "study": loader.index.root.absolute().name,
        "split": loader.config.split,
        "split_hash": loader.split_hash,
        "part": loader.part,
        "unit": manifest.signal.unit,
        "simulated": manifest.simulated,
        "rows_hash": manifest.rows_hash,
        "trained_on": f"study {export.study or UNKNOWN}, split {export.split or UNKNOWN}",
        "trained_on_simulated": UNKNOWN if simulated is None else simulated,
        "trained_trials": short(f"{UNKNOWN}: {'; '.join(seen.not_known)}", _LONGEST) if seen.not_known else count,
    }
    return {name: str(value) for name, value in found.items()}


def say_not_known(who: str, seen: Seen) -> None:
    """A line to people where it is not known whether ``who`` was trained on the part's trials."""
    if seen.not_known:
        Terminal(soft_wrap=True).print(trained_not_known(who, seen.not_known))
