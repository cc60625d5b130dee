"""``python -m launch compare-bases``: which language model reads EEG best? Same split, budget and seeds, one table.

::

    text config x bases x training seeds -> runs (deepspeed --module trainer text) -> generate -> evaluate-text, a base each
    -> paired differences between bases -> OUTPUT/compare.json, compare.html

What is completed is not repeated: killed and started again, the comparison goes on; a changed config is refused. Bases differ in
size, tokenizer and what they were trained on; steps, global batch, split, captions and decoding are the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import trainer.callbacks  # noqa: F401 - its names may stand in the config
from data_prep.contract.cli import parse, to_plain
from data_prep.contract.files import write_atomically, write_json
from data_prep.contract.terminal import Terminal
from launch.compare_bases.plan import METRICS, CompareBasesConfig, plan
from launch.compare_bases.report import notes, page, show
from launch.compare_bases.stages import evaluate, generate, train
from trainer.evaluate.results import plain
from trainer.evaluate.text import base_differences
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.generate.config import GenerateConfig
from trainer.models.language.reference import count_parameters
from trainer.tasks.text.config import TextConfig


def run(config: CompareBasesConfig) -> None:
    """Do what is missing, then compare."""
    output, console = Path(config.output), Terminal(stderr=True)
    text: TextConfig = parse(TextConfig, ["--config", config.text, *config.overrides])
    generation: GenerateConfig = parse(GenerateConfig, ["--config", config.generate])
    scoring: EvaluateTextConfig = parse(EvaluateTextConfig, ["--config", config.evaluate])
    scoring = replace(scoring, attributes=config.attributes or scoring.attributes, mlflow=False)
    bases = plan(config, text, generation, scoring)
    found: dict[str, dict[str, Any]] = {}
    for base in bases:
        for one in base.runs:
            console.rule(one.title, align="left")
            train(config, one.text)
            generate(config, one.generation)
        found[base.name] = evaluate(base.scoring) | {"parameters": count_parameters(base.base)}
    captions = {base.name: [one.captions for one in base.runs] for base in bases}
    results = {
        "config": to_plain(config),
        "metrics": [metric for metric in METRICS if any(base["eeg"][metric] for base in found.values())],
        "bases": found,
        "differences": base_differences.differences(captions, replace(scoring, resamples=config.resamples), list(METRICS)),
        "notes": notes(config, found),
    }
    write_json(output / "compare.json", {**results, "differences": [plain(d) for d in results["differences"]]})
    write_atomically(output / "compare.html", page(results).encode())
    show(results)
