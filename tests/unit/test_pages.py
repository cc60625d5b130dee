"""Report pages as a reader sees them: in a window, on a phone, on paper, light and dark.

Screenshots are kept in ``EEG_PAGES`` where that variable names a folder, else in the test's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.contract.page import SIMULATED
from data_prep.contract.ranking import cosine_similarity
from data_prep.inspection.page import page as study_page
from data_prep.shards.open import open_study
from tests.helpers import generations as made
from tests.helpers.chromium import Chromium
from tests.helpers.tiny_study import write_tiny_study
from trainer.evaluate.classes import command as classes_command
from trainer.evaluate.classes import report as classes_report
from trainer.evaluate.classes.results import ClassesResults
from trainer.evaluate.results import Score
from trainer.evaluate.retrieval import image_level
from trainer.evaluate.retrieval import report as retrieval_report
from trainer.evaluate.retrieval.arms import Queries, score_arms
from trainer.evaluate.retrieval.config import EvaluateRetrievalConfig
from trainer.evaluate.retrieval.results import RetrievalResults
from trainer.evaluate.study_facts import StudyFacts, Validation
from trainer.evaluate.text.command import run as evaluate_text
from trainer.evaluate.text.config import EvaluateTextConfig

FACTS = StudyFacts(
    study="a-study-with-a-rather-long-name-2026",
    simulated=True,
    part="test",
    split="zero-shot",
    split_hash="8" * 64,
    fingerprint="f" * 64,
    trained_on_split=True,
    embedding="efficientnet_lite0",
    step=120,
    git_revision="0" * 40,
    audit="caution",
    audit_claim="A score on this test part shows that a model tells images of concepts never trained on apart.",
    audit_reasons=("labels come in runs: slow drift may tell them", "12 test images are near copies of training images"),
    validation=Validation(name="validation_mrr", score=0.612, step=120, num_queries=96, num_stimuli=32),
    config={},
)


def retrieval(num_subjects: int = 2, num_images: int = 24) -> tuple[RetrievalResults, np.ndarray]:
    """Four arms on trials of made-up scores, all 11 columns."""
    rng = np.random.default_rng(0)
    stimulus_Q, subject_Q = np.tile(np.arange(num_images), num_subjects), np.repeat(np.arange(num_subjects), num_images)
    queries = Queries(
        stimulus_Q=stimulus_Q,
        concept_Q=stimulus_Q // 2,
        subject_Q=subject_Q,
        stimulus_G=np.arange(num_images),
        concept_G=np.arange(num_images) // 2,
    )
    image_GE = rng.standard_normal((num_images, 16))
    scores = {
        name: cosine_similarity(image_GE[stimulus_Q] + noise * rng.standard_normal((len(stimulus_Q), 16)), image_GE)
        for name, noise in (("model", 1.0), ("ridge", 1.5), ("centred ridge", 1.6), ("encoding model", 2.0))
    }
    config = EvaluateRetrievalConfig(output="x", embeds="x", num_resamples=50, num_permutations=9)
    scored = score_arms(config, queries, scores, one_way={"encoding model"})
    found = image_level._results(
        queries,
        scored,
        FACTS,
        ceiling={"top1": 0.9, "top5": 1.0},
        by_subject={f"sub-{s:02}": {"recall@1": 0.5, "recall@5": 0.75} for s in range(num_subjects)},
        repetitions=(4,),
        average="input",
    )
    return found, scored.model_Q["rank"]


def classes() -> ClassesResults:
    """Thirty concepts with long names, named by chance and sometimes rightly."""
    rng = np.random.default_rng(0)
    names = [f"concept with a name that goes on and on {k}" for k in range(29)] + ["x" * 90]
    true_N = np.repeat(np.arange(30), 4)
    named_N = np.where(rng.random(len(true_N)) < 0.4, true_N, rng.integers(0, 30, len(true_N)))
    score = Score(value=0.4, low=0.31, high=0.49)
    arms = {name: dict.fromkeys(("top1", "top5", "balanced_accuracy"), score) for name in ("model", "ridge")}
    return ClassesResults(
        **vars(FACTS),
        num_trials=len(true_N),
        num_candidates=30,
        num_shown=30,
        arms=arms,
        summary={"majority": {"top1": 0.03}, "chance": {"top1": 1 / 30, "top5": 5 / 30, "balanced_accuracy": 1 / 30}},
        model_minus={"ridge": {"top1": score}},
        by_subject={"01": {"top1": 0.4, "balanced_accuracy": 0.4}, "02": {"top1": 0.3, "balanced_accuracy": 0.3}},
        per_class=classes_command.per_class(true_N, named_N, names),
        confusion=classes_command.confusion(true_N, named_N, names),
        never_trained=(),
        trials_left_out=0,
        named_by="concept head",
        notes=classes_command.METHOD,
    )


def text(folder: Path) -> str:
    """All arms that there are, all metrics that need no model, pictures, and captions without a space."""
    arms = made.ARMS | {"label-only": 0.3, "nearest-caption": 0.3, "eeg+concept": 0.6, "noise+word": 0.3, "shuffled-within-concept": 0.3}
    rows = made.records(12, arms)
    for row in rows[:6]:
        row["generated"] = "averylongwordwithoutanyspace" * 12
    for row in rows:
        path = folder / "images" / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 240), "teal").save(path)
    config = EvaluateTextConfig(
        generations=[str(made.write(folder / "g", rows))],
        output=str(folder / "out"),
        metrics=["bleu", "chrf", "rouge", "concepts", "length"],
        images=str(folder / "images"),
        resamples=30,
        report_items=4,
        mlflow=False,
    )
    evaluate_text(config)
    return (folder / "out" / "text.html").read_text(encoding="utf-8")


def study(root: Path, **changes: object) -> str:
    """A study with a long name, electrodes all over the head, many subjects and recordings, and counted losses."""
    import mne

    names = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "C3", "Cz", "C4", "P7", "P3", "Pz", "P4", "P8", "O1", "O2"]
    places = mne.channels.make_standard_montage("standard_1005").get_positions()["ch_pos"]
    losses = {"marked": 900, "rejected": 300, "dead electrode in the raw signal": 12, "kept": 588}
    opened = open_study(
        write_tiny_study(
            root / ("a-study-with-a-rather-long-name-2026" * 2),
            n_chans=len(names),
            ch_names=tuple(names),
            positions=tuple(tuple(map(float, places[name])) for name in names),
            preprocessing={
                "simulated": {"seed": 1},
                "trials": losses,
                "trials_by_recording": [{"recording": f"sub-{n}", **losses} for n in range(60)],
            },
            **changes,  # type: ignore[arg-type]
        )
    )
    images = root / "images"
    for stimulus in opened.manifest.tables.stimuli:
        if stimulus.image:
            (images / stimulus.image).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (320, 240), "teal").save(images / stimulus.image)
    return study_page(opened, images=images if images.is_dir() else None, most_trials=4000)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of all evaluations, by name."""
    folder = tmp_path_factory.mktemp("pages")
    found, ranks_Q = retrieval()
    written = {
        "retrieval": retrieval_report.page(found, ranks_Q),
        "classes": classes_report.page(classes()),
        "text": text(folder / "text"),
        "study": study(folder / "study", n_subjects=12),
        "class study": study(folder / "class study", stimulus_level="class", n_concepts=8),
    }
    for name, page in written.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in written}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    found = Chromium(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


PAGES = ["retrieval", "classes", "text", "study", "class study"]
WINDOWS = {"1280": (1280, "screen"), "phone": (390, "screen"), "print": (1047, "print")}
"""Width in CSS pixels and media; paper is A4 on its side between margins of 10 mm."""


@pytest.mark.parametrize("window", ["1280", *(pytest.param(name, marks=pytest.mark.long) for name in ("phone", "print"))])
@pytest.mark.parametrize("name", PAGES)
def test_no_element_is_wider_than_the_page(pages: dict[str, Path], browser: Chromium, name: str, window: str, tmp_path: Path) -> None:
    width, media = WINDOWS[window]
    kept = Path(os.environ.get("EEG_PAGES") or tmp_path)
    kept.mkdir(parents=True, exist_ok=True)
    for dark in (False, True):
        browser.show(pages[name], width=width, media=media, dark=dark)
        browser.screenshot(kept / f"{name}-{window}-{'dark' if dark else 'light'}.png")
        assert browser.too_wide() == []
    if media == "print":
        browser.pdf(kept / f"{name}.pdf")


def test_the_measure_finds_what_is_too_wide_and_passes_what_scrolls(browser: Chromium, tmp_path: Path) -> None:
    wide = "<p style='width:900px'>wide</p>"
    for body, found in ((wide, True), (f"<div style='overflow-x:auto'>{wide}</div>", False)):
        (tmp_path / "page.html").write_text(f"<!doctype html><meta name=viewport content='width=device-width'>{body}")
        browser.show(tmp_path / "page.html", width=390)
        assert bool(browser.too_wide()) == found


@pytest.mark.parametrize("name", PAGES)
def test_no_column_hides_behind_a_scroll_bar_in_a_window_or_on_paper(pages: dict[str, Path], browser: Chromium, name: str) -> None:
    for window in ("1280", "print"):
        browser.show(pages[name], width=WINDOWS[window][0], media=WINDOWS[window][1])
        hidden = "[...document.querySelectorAll('.box')].filter(box => box.scrollWidth > box.clientWidth).length"
        assert browser.evaluate(hidden) == 0, f"{name} at {window}"


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_dark_pages_are_dark_and_paper_is_white(pages: dict[str, Path], browser: Chromium, name: str) -> None:
    def luminance(of: str) -> float:
        colour = browser.evaluate(f"getComputedStyle(document.body).{of}")
        return float(np.dot([float(v) for v in re.findall(r"[\d.]+", colour)[:3]], [0.2126, 0.7152, 0.0722]))

    for media, dark, night in (("screen", False, False), ("screen", True, True), ("print", True, False)):
        browser.show(pages[name], width=1280, media=media, dark=dark)
        paper, ink = luminance("backgroundColor"), luminance("color")
        assert (paper < 60 and ink > 200) if night else (paper > 240 and ink < 60)
        inverted = browser.evaluate("getComputedStyle(document.querySelector('img.figure')).filter")
        assert (inverted != "none") == night


def test_what_is_ranked_among_what_is_said(pages: dict[str, Path]) -> None:
    page = pages["retrieval"].read_text(encoding="utf-8")
    assert "Each of 48 EEG trials ranks 24 images, of which one is its own." in page
    assert "Each of 24 images ranks 48 EEG trials, of which 2 on average are its own: the first of them counts." in page
    found, ranks_Q = retrieval(num_subjects=1)
    assert "Each of 24 images ranks 24 EEG trials, of which one is its own." in retrieval_report.page(found, ranks_Q)


@pytest.mark.parametrize("name", PAGES)
def test_the_title_stands_once_and_the_context_beside_the_numbers(pages: dict[str, Path], browser: Chromium, name: str) -> None:
    browser.show(pages[name], width=1280)
    title, body = browser.evaluate("document.title"), browser.evaluate("document.body.innerText")
    assert body.count(title) == 1
    assert SIMULATED in body
    if name in ("retrieval", "classes"):
        assert "Audit of the split: caution. A score on this test part shows" in body
        assert "Audit: 12 test images are near copies of training images." in body
        assert "In training, validation mrr was 0.612 at step 120, on 96 validation trials of 32 stimuli: it chose the step" in body
        assert "It is no estimate of the test scores here" in body


def test_a_score_that_is_no_number_is_left_empty_and_named(tmp_path: Path) -> None:
    from trainer.evaluate.results import write_report
    from trainer.evaluate.retrieval.results import read_retrieval

    found, ranks_Q = retrieval()
    bad = {"eeg_to_image": found.arms["ridge"].eeg_to_image | {"mrr": Score(value=float("nan"), low=float("-inf"), high=0.5)}}
    found = replace(found, arms=found.arms | {"ridge": replace(found.arms["ridge"], **bad)})
    written = write_report(tmp_path, "retrieval", found, lambda results: retrieval_report.page(results, ranks_Q))
    said = "Left empty, since they are not finite numbers: arms.ridge.eeg_to_image.mrr (nan), arms.ridge.eeg_to_image.mrr.low (-inf)."
    assert written.notes[-1] == said
    assert said in (tmp_path / "retrieval.html").read_text(encoding="utf-8")
    again = read_retrieval(tmp_path / "retrieval.json")
    assert isinstance(again, RetrievalResults)
    assert again.arms["ridge"].eeg_to_image["mrr"].value is None
    assert again.arms["model"] == written.arms["model"]
