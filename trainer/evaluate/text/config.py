"""What ``evaluate-text`` is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data_prep.contract.seed import check_seed
from trainer.evaluate.text.judge import JudgeConfig
from trainer.evaluate.text.models import MINILM
from trainer.training.tracking import check_tracking_uri

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
        check_seed(self.seed)
        if not self.generations:
            raise ValueError("generations: empty, expected at least one folder that generate wrote")
        if len({str(Path(folder)) for folder in self.generations}) < len(self.generations):
            raise ValueError("generations: a folder is named twice, expected one a training seed")
        unknown = [name for name in self.metrics if name not in FAMILIES]
        if unknown or not self.metrics:
            raise ValueError(f"metrics: {unknown[0] if unknown else 'empty'}, expected some of {', '.join(FAMILIES)}")
        if self.bertscore_model and self.bertscore_model != MINILM and self.bertscore_layers < 1:
            raise ValueError(f"bertscore_layers: {self.bertscore_layers}, expected the layer (from 1) of {self.bertscore_model} to compare")
        check_tracking_uri(self.tracking_uri)
        for name, least in (("resamples", 10), ("report_items", 0), ("bertscore_layers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least {least}")
