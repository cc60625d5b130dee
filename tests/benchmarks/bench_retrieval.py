"""Retrieval metrics beside an independent implementation: real CLIP vectors, and random scores with ties and duplicates.

Then the whole evaluation of a gallery as large as THINGS-EEG2's training images, through the command: both directions, all metrics,
intervals and null.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.contract.ranking import cosine_similarity
from tests.benchmarks.report import main, row
from trainer import metrics


def run(folder: Path) -> list[dict[str, Any]]:
    """Largest difference from scikit-learn, and the known answer of the 200 CLIP vectors where they are."""
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, roc_auc_score

    rng = np.random.default_rng(0)
    worst = 0.0
    for trial in range(50):
        queries, candidates = rng.integers(1, 30, 2)
        tied = trial % 2 == 0
        scores = rng.integers(0, 4, (queries, candidates)).astype(float) if tied else rng.random((queries, candidates))
        relevance = rng.integers(0, 3, (queries, candidates))
        relevance[:, 0] = 2
        gains = np.exp2(relevance) - 1
        if candidates > 1:
            for k in metrics.CUTOFFS:
                worst = max(worst, abs(metrics.ndcg(scores, relevance, k).mean() - ndcg_score(gains, scores, k=k)))
        if not tied:
            precision = metrics.average_precision(scores, relevance == 2).mean()
            worst = max(worst, abs(precision - label_ranking_average_precision_score(relevance == 2, scores)))
        labels = rng.integers(0, 2, 40)
        labels[:2] = 0, 1
        values = rng.integers(0, 6, 40).astype(float)
        worst = max(worst, abs(metrics.auc(values, labels == 1) - roc_auc_score(labels, values)))
    rows = [row("retrieval: largest difference from scikit-learn", worst, "absolute", 1e-12, worst < 1e-12, "scikit-learn", 0.0)]
    data = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "things_clip"
    if data.is_dir():
        image = np.load(data / "clip_feature_maps_test.npy", allow_pickle=False)[:, 0]
        centre = np.load(data / "center_clip.npy", allow_pickle=False)
        found = metrics.retrieval_metrics(cosine_similarity(image, centre), 2 * np.eye(len(image), dtype=int))
        top1, top5 = found["recall@1"].mean(), found["recall@5"].mean()
        rows.append(row("retrieval: top-1 of the 200 CLIP vectors", float(top1), "share", 0.98, round(float(top1), 6) == 0.98))
        rows.append(row("retrieval: top-5 of the 200 CLIP vectors", float(top5), "share", 1.0, float(top5) == 1.0))
    return rows + large_gallery(folder)


def large_gallery(folder: Path, num_images: int = 16_540, dim: int = 1024) -> list[dict[str, Any]]:
    """Seconds and peak memory of ``evaluate-retrieval --embeds``, as many trials as images, ten images a concept."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((num_images, dim), np.float32)
    eeg = image + 12 * rng.standard_normal((num_images, dim), np.float32)
    numbers = np.arange(num_images)
    np.savez(folder / "large.npz", eeg=eeg, image=image, ids=numbers, concepts=numbers // 10)
    command = [sys.executable, "-m", "trainer", "evaluate-retrieval", "--embeds", folder / "large.npz", "--output", folder / "large"]
    start = time.monotonic()
    with (folder / "large.log").open("wb") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds, peak_bytes = time.monotonic() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError((folder / "large.log").read_text(errors="replace"))
    what = f"retrieval: {num_images:,} trials among {num_images:,} images, the whole evaluation"
    return [
        row(what, seconds, "s", 180, seconds < 180),
        row(f"{what}: peak memory", peak_bytes / 1e9, "GB", 2.0, peak_bytes < 2e9),
    ]


if __name__ == "__main__":
    sys.exit(main(run))
