"""EEG to text once, with the commands a user would type: from a simulated study's shards to a registered model and a page of captions.

simulate -> shard -> split -> train an encoder -> tune the embedded language model -> generate by arm -> evaluate -> register.
Nothing is fetched: the image encoder and the language model come with the installation. Killed and started again, it goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from data_prep.contract.files import write_json
from data_prep.contract.terminal import Terminal
from launch.configs import configs
from launch.quickstart.steps import Step, python, run_steps
from trainer.evaluate.text.results import read_text
from trainer.serve.registered import read_registered

ARMS = ("eeg", "noise", "shuffled", "image", "nearest-caption", "caption-prior")
STUDY, SOURCE = Path("studies/simulated-text"), Path("studies/simulated-text-source")


@dataclass(frozen=True, kw_only=True)
class QuickstartTextConfig:
    """Where the path is run."""

    runs: str = "runs/quickstart"
    """Folder of the run folders ``text-encoder`` and ``text``, and of ``summary_text.json``."""
    num_processes: int = 2
    """Ranks of both trainings and of the generation."""


def steps(config: QuickstartTextConfig) -> list[Step]:
    """The commands, in order (pure but for the ``done`` predicates, which look at the disk)."""
    encoder, run = Path(config.runs) / "text-encoder", Path(config.runs) / "text"
    ranks = ("--num_processes", str(config.num_processes))
    launcher = (*python("launch", "run", "launch/local_2_ranks.yaml", *ranks), "--")
    resume = ("--train.world_size", str(config.num_processes), "--resume", "auto")
    generations, reports = run / "generations", run / "reports"
    evaluated = ("--images", str(SOURCE / "images"), "--attributes", str(SOURCE / "attributes.json"))
    return [
        Step(
            title="simulate images and EEG",
            argv=python("data_prep", "simulate", "data_prep/simulate_text.yaml"),
            done=(SOURCE / "ceiling.json").is_file,
        ),
        Step(title="shard", argv=python("data_prep", "shard", "data_prep/shard_text.yaml"), done=(STUDY / "manifest.sha256").is_file),
        Step(
            title="split",
            argv=python("data_prep", "split", "data_prep/split_quickstart_simulated.yaml", "--study", str(STUDY)),
            done=(STUDY / "splits" / "zero-shot.audit.json").is_file,
        ),
        Step(
            title=f"train the encoder on {config.num_processes} ranks",
            argv=(
                *(*launcher, "contrastive", "--config", str(configs() / "contrastive/quickstart_text.yaml")),
                *("--run", str(encoder), *resume),
            ),
            done=(encoder / "completed.json").is_file,
        ),
        Step(
            title=f"tune the language model on {config.num_processes} ranks",
            argv=(
                *(*launcher, "text", "--config", str(configs() / "text/quickstart.yaml"), "--run", str(run)),
                *("--encoder", str(encoder / "export"), *resume),
            ),
            done=(run / "completed.json").is_file,
        ),
        Step(
            title=f"generate: {', '.join(ARMS)}",
            argv=(
                *(*launcher, "generate", "--config", str(configs() / "evaluate/generate.yaml"), "--export", str(run / "export")),
                *("--output", str(generations), "--arms", f"[{', '.join(ARMS)}]"),
            ),
            done=(generations / "generate.json").is_file,
        ),
        Step(
            title="evaluate",
            argv=python(
                *("trainer", "evaluate-text", "evaluate/text.yaml", "--generations", f"[{generations}]"),
                *("--output", str(reports), *evaluated),
            ),
            done=(reports / "text.json").is_file,
        ),
        Step(
            title="register",
            argv=python("trainer", "register", "evaluate/register_text.yaml", "--run", str(run)),
            done=(run / "registered.json").is_file,
        ),
    ]


def run(config: QuickstartTextConfig) -> int:
    """Run what is missing, then print the table and write ``summary_text.json``."""
    console = Terminal()
    started = time.monotonic()
    run_steps(steps(config), console)
    summary = summarise(Path(config.runs) / "text", seconds=time.monotonic() - started)
    write_json(Path(config.runs) / "summary_text.json", summary)
    console.print(f"simulated study, EEG to text, {summary['seconds']:.0f} s")
    console.print(summary_table(summary))
    for line in summary["verdicts"]:
        console.print(f"- {line}")
    console.print(f"report  {summary['report']}\nmodel   {summary['model_uri']}")
    return 0


def summarise(run: Path, *, seconds: float) -> dict[str, Any]:
    """The result for a machine to read: attribute accuracy and BLEU-1 by arm, and the sentences of the evaluation."""
    results = read_text(run / "reports" / "text.json")
    registered = read_registered(run)
    scores = {
        arm: {metric: row.scores[metric].value for metric in ("attribute_accuracy", "bleu_1") if metric in row.scores}
        for arm, row in results.arms.items()
    }
    share = results.share_of_image.get("eeg", {}).get("attribute_accuracy")
    return {
        "study": "simulated-text",
        "simulated": True,
        "arms": scores,
        "share_of_image": share.value if share else None,
        "verdicts": [verdict.sentence for verdict in results.verdicts if verdict.metric in ("attribute_accuracy", "bleu_1")],
        "model_uri": registered.model_uri,
        "report": str(run / "reports" / "text.html"),
        "seconds": round(seconds, 1),
    }


def summary_table(summary: dict[str, Any]) -> Table:
    """What a person sees at the end."""
    table = Table("arm", "attribute accuracy", "BLEU-1")
    for arm, scores in summary["arms"].items():
        table.add_row(arm, *(f"{scores[metric]:.3f}" if metric in scores else "" for metric in ("attribute_accuracy", "bleu_1")))
    return table
