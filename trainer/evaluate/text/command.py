"""``python -m trainer evaluate-text``: generated captions scored, arms compared, and what EEG adds said in sentences.

::

    folders of generate (one a training seed) -> captions of all arms -> metrics by sentence -> paired bootstrap
    -> verdicts -> text.json, text.html, sentences.csv -> the training's MLflow run

Nothing is filtered: every item that was captioned counts, right or wrong. Without the control arms (matched noise, shuffled
EEG, caption prior) no verdict is given, since most of a caption's score is what any caption of such pictures would get.

N: captions of all arms and seeds, Q: items, S: training seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data_prep.contract.cli import to_plain
from data_prep.contract.errors import UserError
from data_prep.contract.files import write_atomically
from trainer.artifacts.generations import Generations, read_generations
from trainer.callbacks.mlflow import check_tracking_uri
from trainer.evaluate.text import comparison, wordnet
from trainer.evaluate.text import metrics as text_metrics
from trainer.evaluate.text import models as text_models
from trainer.evaluate.text import report as text_report
from trainer.evaluate.text.judge import JudgeConfig, score_judge
from trainer.evaluate.text.metrics import Metric, Scored

FAMILIES = ("bleu", "chrf", "rouge", "meteor", "bertscore", "embedding", "attributes", "concepts", "length", "judge")


@dataclass(frozen=True, kw_only=True)
class EvaluateTextConfig:
    """Which captions to score, by what, and where the report goes."""

    generations: list[str]
    """Folders that ``generate`` wrote, one a training seed of the same experiment."""
    output: str
    """Folder for ``text.json``, ``text.html`` and ``sentences.csv``."""
    metrics: list[str] = field(default_factory=lambda: list(FAMILIES))
    """Families of metrics: bleu, chrf, rouge, meteor, bertscore, embedding, attributes, concepts, length, judge. Those that need a
    model or file which is not named below are left out."""
    lowercase: bool = False
    """Fold case before BLEU and chrF (sacrebleu's default is not to; ROUGE, METEOR and the rest never see case)."""
    rouge_stemmer: bool = False
    """Porter stemmer in ROUGE (rouge-score's default is none)."""
    attributes: str | None = None
    """JSON of phrases by attribute, ``{"colour": ["red", ...], ...}``, as the simulator writes it; null: no attribute accuracy."""
    wordnet: str | None = None
    """Folder or zip of WordNet for METEOR; null: look in the usual places; ``fetch``: let nltk download it if it is in none."""
    bertscore_model: str | None = None
    """Model for BERTScore: a folder, a name in the local hub cache, or ``minilm``; null: no BERTScore."""
    bertscore_layers: int = 0
    """Layer whose states BERTScore compares, counted from 1; 0: the last of ``minilm``; any other model needs it said."""
    embedding_model: str | None = None
    """Sentence encoder for embedding similarity: a folder, a name in the local hub cache, or ``minilm``; null: none."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """A language model as judge; off while its endpoint is empty."""
    images: str | None = None
    """Folder that the records' image paths are relative to, for the pictures in the report; null: no pictures."""
    report_items: int = 40
    """Items shown in the report, drawn by seed, never chosen by score."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    seed: int = 0
    """Seed of the bootstrap, of the items shown and of those judged."""
    device: str = "cpu"
    """Where the models of BERTScore and embedding similarity compute."""
    mlflow: bool = True
    """Log the scores, verdicts, captions and report into the training's MLflow run, where its store has that run."""
    tracking_uri: str = ""
    """Tracking URI of that store; empty: the one in the training's config."""

    def __post_init__(self) -> None:
        if not self.generations:
            raise ValueError("generations: empty, expected at least one folder that generate wrote")
        if len({str(Path(folder)) for folder in self.generations}) < len(self.generations):
            raise ValueError("generations: a folder is named twice, expected one a training seed")
        unknown = [name for name in self.metrics if name not in FAMILIES]
        if unknown or not self.metrics:
            raise ValueError(f"metrics: {unknown[0] if unknown else 'empty'}, expected some of {', '.join(FAMILIES)}")
        if self.bertscore_model and self.bertscore_model != text_models.MINILM and self.bertscore_layers < 1:
            raise ValueError(f"bertscore_layers: {self.bertscore_layers}, expected the layer (from 1) of {self.bertscore_model} to compare")
        check_tracking_uri(self.tracking_uri)
        for name, least in (("resamples", 10), ("report_items", 0), ("bertscore_layers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least {least}")


def run(config: EvaluateTextConfig) -> None:
    """Score, compare, write, print, log."""
    output = Path(config.output)
    results, generations = evaluate(config)
    text_report.write(output, results, generations, images=Path(config.images) if config.images else None, num_items=config.report_items)
    if config.mlflow:
        results["notes"] += _track(config, results, generations, output)
    text_report.print_results(results)


def evaluate(config: EvaluateTextConfig) -> tuple[dict[str, Any], Generations]:
    """Everything in ``text.json``, and the captions; writes ``sentences.csv`` (and answers of a judge) into the output folder.

    Raises
    ------
    CommandError
        Folders that do not belong together; a model, file or endpoint that is named and cannot be used.
    """
    generations = read_generations([Path(folder) for folder in config.generations])
    keys = list(generations.records)
    scored, notes = score(config, generations)
    with Console(stderr=True).status("bootstrap"):
        compared = comparison.compare(
            arm_scores(generations, scored),
            stimulus_Q=generations.stimulus_Q,
            subject_Q=generations.subject_Q,
            num_resamples=config.resamples,
            seed=config.seed,
            shares=_reads_images(generations),
        )
    write_atomically(Path(config.output) / "sentences.csv", _sentences(keys, generations, scored).encode())
    metrics = [found.metric for found in scored]
    return _results(config, generations, compared, metrics, notes), generations


def score(config: EvaluateTextConfig, generations: Generations) -> tuple[list[Scored], list[str]]:
    """Every metric asked for, on the captions in the order of ``generations.records``, and notes on what is left out."""
    captions = [record.caption() for record in generations.records.values()]
    notes: list[str] = []
    # First, though it stands late in the table: an endpoint that does not answer is known before minutes of scoring.
    judged = _judge(config, generations, captions, notes) if config.judge.endpoint and "judge" in config.metrics else []

    def meteor() -> list[Scored]:
        found = wordnet.find_wordnet(config.wordnet)
        if found is None:
            notes.append(wordnet.HOW_TO_GET_IT + ".")
            return []
        return text_metrics.score_meteor(captions, wordnet.open_wordnet(found))

    def bertscore() -> list[Scored]:
        layers = config.bertscore_layers or text_models.MINILM_LAYERS
        return text_models.score_bertscore(captions, model=str(config.bertscore_model), layers=layers, device=config.device)

    def attributes() -> list[Scored]:
        return text_metrics.score_attributes(captions, text_metrics.read_attributes(Path(str(config.attributes))))

    def embedding() -> list[Scored]:
        return text_models.score_embedding(captions, model=str(config.embedding_model), device=config.device)

    families: dict[str, tuple[Any, Callable[[], list[Scored]]]] = {
        "bleu": (True, lambda: text_metrics.score_bleu(captions, lowercase=config.lowercase)),
        "attributes": (config.attributes, attributes),
        "concepts": (True, lambda: text_metrics.score_concepts(captions)),
        "chrf": (True, lambda: text_metrics.score_chrf(captions, lowercase=config.lowercase)),
        "rouge": (True, lambda: text_metrics.score_rouge(captions, stemmer=config.rouge_stemmer)),
        "meteor": (True, meteor),
        "bertscore": (config.bertscore_model, bertscore),
        "embedding": (config.embedding_model, embedding),
        "judge": (True, lambda: judged),
        "length": (True, lambda: text_metrics.score_length(captions)),
    }
    scored = [found for name, (source, make) in families.items() if name in config.metrics and source for found in make()]
    if not scored:
        raise UserError("metrics: none of those asked for can be computed; name the model or file that they need")
    return scored, notes


def _judge(config: EvaluateTextConfig, generations: Generations, captions: list[text_metrics.Caption], notes: list[str]) -> list[Scored]:
    items = [generations.items[q] for _, _, q in generations.records]
    found, said = score_judge(captions, items, config.judge, folder=Path(config.output), seed=config.seed)
    notes.extend(said)
    return found


def arm_scores(generations: Generations, scored: Sequence[Scored]) -> list[comparison.ArmScores]:
    """Metrics of the captions, in the order of ``generations.records``, arranged by arm, training seed and item."""
    row = {key: n for n, key in enumerate(generations.records)}
    seeds, num_items = range(len(generations.folders)), len(generations.items)
    found = []
    for own in scored:
        statistics = {}
        for arm in generations.arms:
            statistics[arm] = np.zeros((len(seeds), num_items, own.statistics_NF.shape[1]))
            for s in seeds:
                rows = [(q, row[s, arm, q]) for q in range(num_items) if (s, arm, q) in row]
                where_Q, from_Q = np.array(rows).T
                statistics[arm][s, where_Q] = own.statistics_NF[from_Q]
        present = {arm: generations.present(arm) for arm in generations.arms}
        found.append(comparison.ArmScores(metric=own.metric, statistics=statistics, present=present))
    return found


def _results(
    config: EvaluateTextConfig,
    generations: Generations,
    compared: comparison.Comparison,
    metrics: list[Metric],
    notes: list[str],
) -> dict[str, Any]:
    seeds = range(len(generations.folders))

    def distinct(arm: str) -> float:
        generated = [[r.generated for (s, a, _), r in generations.records.items() if (s, a) == (seed, arm)] for seed in seeds]
        return float(np.mean([text_metrics.distinct_share(texts) for texts in generated]))

    missing = comparison.missing_controls(generations.arms)
    simulated = generations.simulated
    images = {"train": "training images", "validation": "validation images"}.get(str(generations.fact("part")), "images")
    verdicts = comparison.verdicts(compared, metrics, simulated=simulated, images=images, with_words=generations.fact("with_words") or ())
    incomplete = {
        (a, b): count for a, others in compared.num_items.items() for b, count in others.items() if count < len(generations.items)
    }
    found_notes = [
        *(["The EEG is simulated: these numbers say what the method can learn, not what brains tell."] if simulated else []),
        f"± is the standard error over {config.resamples} bootstrap resamples of images"
        + (" and subjects" if len(np.unique(generations.subject_Q)) > 1 else "")
        + ", the same for all arms; intervals are the 95 % percentiles. They are not corrected for the number of comparisons.",
        "Corpus scores (BLEU, chrF) are recomputed in each resample from matches, totals and lengths. All metrics go from 0 to 1 "
        "except words and the judge's grade.",
        *(
            [f"Values are averaged over {len(seeds)} training seeds, image by image; text.json has each seed's and their spread."]
            if len(seeds) > 1
            else ["One training seed: nothing here says how much another training would differ; three are the least to tell."]
        ),
        "Every captioned item counts; none is dropped for being wrong.",
        *_part_note(generations.fact("part")),
        *(
            ["No verdict on eeg+concept: its control noise+word is missing, and a word helps whatever it comes with."]
            if any(comparison.lacks_word_control(arm, generations.arms) for arm in generations.arms)
            else []
        ),
        *(
            ["No share of the image arm's distance: the model was never trained on images, so that arm is no upper bound."]
            if comparison.UPPER in generations.arms and not _reads_images(generations)
            else []
        ),
        *(
            ["Concepts were predicted among those of the evaluated part alone (candidates: part), a closed gallery that a user has not."]
            if generations.fact("candidates") == "part"
            else []
        ),
        *(f"{a} and {b} are compared on the {count} items that both captioned." for (a, b), count in incomplete.items()),
        *_left_out(generations),
        *dict.fromkeys(str(note) for facts in generations.facts for note in facts.get("notes") or []),
        *notes,
    ]
    return {
        "format_version": 1,
        "kind": "text",
        "study": Path(str(generations.fact("study") or "")).name,
        "simulated": simulated,
        "split": generations.fact("split"),
        "part": generations.fact("part"),
        "fingerprint": generations.fact("fingerprint"),
        "candidates": generations.fact("candidates"),
        "generations": [str(folder) for folder in generations.folders],
        "num_seeds": len(seeds),
        "num_items": len(generations.items),
        "num_images": generations.num_images,
        "num_subjects": len(np.unique(generations.subject_Q)),
        "metrics": {m.name: {"title": m.title, "how": m.how, "compared": m.compared} for m in metrics},
        "arms": {
            arm: {name: estimate.plain() for name, estimate in found.items()}
            | {"distinct": {"value": distinct(arm)}, "num_items": int(generations.present(arm).sum())}
            for arm, found in compared.arms.items()
        },
        "differences": {
            arm: {
                other: {name: e.plain() | {"excludes_zero": bool(e.low > 0 or e.high < 0)} for name, e in found.items()}
                for other, found in others.items()
            }
            for arm, others in compared.differences.items()
        },
        "controls_minus_prior": {arm: {name: e.plain() for name, e in found.items()} for arm, found in compared.controls.items()},
        "share_of_image": {arm: {name: estimate.plain() for name, estimate in found.items()} for arm, found in compared.shares.items()},
        "missing_controls": missing,
        "verdicts": verdicts,
        "notes": found_notes,
        "config": to_plain(config),
    }


def _reads_images(generations: Generations) -> bool:
    """Whether the models were trained on images, too, so that the image arm is an upper bound; True where nothing is known."""
    return all("image" in facts["trained_on"] for facts in generations.facts if facts.get("trained_on"))


def _part_note(part: Any) -> list[str]:
    if part == "train":
        return [
            "These are trials that the model was trained on: the scores say how well it learnt them by heart, nothing about new images."
        ]
    if part == "validation":
        return ["Which step's weights are kept was decided on this part: its scores flatter a little, and are for development only."]
    return []


def _left_out(generations: Generations) -> list[str]:
    found: list[str] = []
    for facts in generations.facts:
        left = facts.get("left_out") or facts.get("left_out_arms") or {}
        lines = [f"{arm}: {why}" for arm, why in left.items()] if isinstance(left, dict) else [str(line) for line in left]
        found += [f"Left out by generate: {line}" for line in lines if f"Left out by generate: {line}" not in found]
    return found


def _sentences(keys: list[tuple[int, str, int]], generations: Generations, scored: list[Scored]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["training_seed", "arm", "item", "stimulus", "subject", *(found.metric.name for found in scored)])
    for n, (s, arm, q) in enumerate(keys):
        record = generations.records[s, arm, q]
        values = [f"{found.sentence_N[n]:.6g}" if np.isfinite(found.sentence_N[n]) else "" for found in scored]
        writer.writerow([s, arm, record.item, record.stimulus, record.subject, *values])
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------ MLflow


def _track(config: EvaluateTextConfig, results: dict[str, Any], generations: Generations, output: Path) -> list[str]:
    """Log each training seed into its run; returns what could not be logged, in words."""
    from trainer.callbacks.mlflow import TextEvaluation, log_text_evaluation

    found: list[str] = []
    prefix = f"text/{results['part']}" if results["part"] else "text"
    for s, facts in enumerate(generations.facts):
        exported = facts.get("export") or (facts.get("config") or {}).get("export")
        table: dict[str, list[Any]] = {
            name: [getattr(r, name) for (seed, _, _), r in generations.records.items() if seed == s]
            for name in ("arm", "item", "subject", "stimulus", "generated", "concept_true", "concept_predicted")
        }
        table["expected"] = ["\n".join(r.expected) for (seed, _, _), r in generations.records.items() if seed == s]
        values = {
            f"{prefix}/{arm}/{name}": value["by_seed"][s]
            for arm, by_name in results["arms"].items()
            for name, value in by_name.items()
            if isinstance(value, dict) and "by_seed" in value and value["by_seed"][s] is not None
        }
        values |= {
            f"{prefix}/{arm}_minus_{other}/{name}": value["by_seed"][s]
            for arm, others in results["differences"].items()
            for other, by_name in others.items()
            for name, value in by_name.items()
            if value["by_seed"][s] is not None
        }
        lines = text_report.headline_verdicts(results)
        files = [output / "text.json", output / "text.html"]
        evaluation = TextEvaluation(folder=prefix, metrics=values, verdicts=lines, table=table, files=files)
        said = log_text_evaluation(exported, evaluation, tracking_uri=config.tracking_uri)
        if said and said not in found:
            found.append(said)
    return found
