"""What a user reads in a text evaluation: verdicts, intervals, refusals, and a page that hostile captions cannot break."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sacrebleu.metrics import BLEU

from data_prep.contract import cli
from data_prep.contract.cli import parse
from data_prep.contract.errors import CommandError
from tests.helpers import generations as made
from tests.helpers.intervals import bootstrap_mean
from trainer.__main__ import COMMANDS
from trainer.artifacts.generations import read_generations
from trainer.evaluate.intervals import resample_weights
from trainer.evaluate.results import plain
from trainer.evaluate.text import comparison
from trainer.evaluate.text import metrics as text_metrics
from trainer.evaluate.text import report as text_report
from trainer.evaluate.text.command import evaluate, run
from trainer.evaluate.text.config import EvaluateTextConfig
from trainer.evaluate.text.results import read_text
from trainer.evaluate.text.verdicts import verdict

CHEAP = ["bleu", "attributes", "concepts", "length"]
CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "text.yaml"


def settings(folders: list[Path], output: Path, **changes: Any) -> EvaluateTextConfig:
    attributes = output.parent / "attributes.json"
    attributes.write_text(json.dumps(made.ATTRIBUTES))
    common: dict[str, Any] = {"metrics": CHEAP, "attributes": str(attributes), "resamples": 300, "mlflow": False}
    return EvaluateTextConfig(generations=[str(f) for f in folders], output=str(output), **(common | changes))


def results_of(tmp_path: Path, rows: list[dict[str, Any]], name: str = "g", **changes: Any) -> dict[str, Any]:
    folder = made.write(tmp_path / name, rows)
    return plain(evaluate(settings([folder], tmp_path / f"out-{name}", **changes))[0])


def sentence(results: dict[str, Any], metric: str, arm: str, other: str) -> str:
    wanted = (metric, arm, other)
    (found,) = [
        v["sentence"] for v in results["verdicts"] if (v["metric"], v["arm"], v["other"]) == wanted and v["excludes_zero"] is not None
    ]
    return found


# ----------------------------------------------------------------------------------------------------------- verdicts


def test_eeg_that_helps_is_said_to_and_noise_that_does_not_is_not(tmp_path: Path) -> None:
    arms = made.ARMS | {"noise+word": 0.2, "eeg+concept": 0.2}
    results = results_of(tmp_path, made.records(150, arms))
    said = sentence(results, "bleu_1", "eeg", "noise")
    number = r"0\.\d\d"
    span = rf"\(95 % interval {number} to {number}, excludes 0; 150 images, one training seed\)\."
    pattern = rf"Simulated EEG adds {number} ± {number} BLEU-1 over matched noise {span}"
    assert re.fullmatch(pattern, said)
    assert "EEG adds" in sentence(results, "attribute_accuracy", "eeg", "caption-prior")
    assert "stays" in sentence(results, "attribute_accuracy", "eeg", "image")
    assert "below the image itself" in sentence(results, "attribute_accuracy", "eeg", "image")
    assert "is not told apart from matched noise with its predicted word" in sentence(
        results, "attribute_accuracy", "eeg+concept", "noise+word"
    )
    estimate = results["differences"]["eeg"]["noise"]["bleu_1"]
    assert estimate["excludes_zero"]
    assert f"{estimate['value']:.2f} ± {estimate['se']:.2f}" in said


def test_the_numbers_are_the_reference_packages(tmp_path: Path) -> None:
    rows = made.records(50)
    results = results_of(tmp_path, rows)
    eeg = [row for row in rows if row["arm"] == "eeg"]
    references = [[row["expected"][r] for row in eeg] for r in range(2)]
    whole = BLEU(max_ngram_order=2).corpus_score([row["generated"] for row in eeg], references).score / 100
    assert results["arms"]["eeg"]["bleu_2"]["value"] == pytest.approx(whole, abs=1e-12)
    assert results["arms"]["caption-prior"]["distinct"]["value"] == 1 / 50
    assert results["arms"]["eeg"]["distinct"]["value"] == len({row["generated"] for row in eeg}) / 50
    assert results["metrics"]["bleu_2"]["how"].startswith("sacrebleu")


def test_share_of_the_image_arm_s_distance(tmp_path: Path) -> None:
    results = results_of(tmp_path, made.records(200))
    arms, share = results["arms"], results["share_of_image"]["eeg"]["attribute_accuracy"]
    eeg, prior, image = (arms[a]["attribute_accuracy"]["value"] for a in ("eeg", "caption-prior", "image"))
    assert share["value"] == pytest.approx((eeg - prior) / (image - prior))
    assert share["low"] < share["value"] < share["high"]
    said = [v["sentence"] for v in results["verdicts"] if v["sentence"].startswith("Simulated EEG reaches ")]
    assert any("above the caption prior in attribute accuracy" in line for line in said)


@pytest.mark.parametrize("missing", comparison.CONTROLS)
def test_without_a_control_there_is_no_verdict(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made.write(tmp_path / "g", made.records(20, {a: p for a, p in made.ARMS.items() if a != missing}))
    run(settings([folder], tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "text.json").read_text())
    assert results["verdicts"] == []
    assert results["missing_controls"] == [missing]
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "text.html").read_text()
    for shown in (printed, page):
        assert f"No verdict: without the controls {missing} these scores do not say what EEG adds" in shown
        assert "EEG adds 0" not in shown


def test_a_predicted_word_needs_a_control_with_a_word(tmp_path: Path) -> None:
    results = results_of(tmp_path, made.records(40, made.ARMS | {"eeg+concept": 0.9}))
    assert {v["arm"] for v in results["verdicts"]} == {"eeg"}
    assert any("its control noise+word is missing" in note for note in results["notes"])
    results = results_of(tmp_path, made.records(40, made.ARMS | {"eeg+concept": 0.9, "noise+word": 0.3}), "both")
    assert "over matched noise with its predicted word (" in sentence(results, "bleu_1", "eeg+concept", "noise+word")
    assert "over matched noise (without a word) (" in sentence(results, "bleu_1", "eeg+concept", "noise")
    assert "over EEG of another image (without a word) (" in sentence(results, "bleu_1", "eeg+concept", "shuffled")
    rows = made.records(40, made.ARMS | {"eeg+concept": 0.9, "noise+word": 0.3})
    folder = made.write(tmp_path / "words", rows, with_words=["eeg+concept", "noise+word", "shuffled"])
    results = plain(evaluate(settings([folder], tmp_path / "words-out"))[0])
    assert "over EEG of another image (9" in sentence(results, "bleu_1", "eeg+concept", "shuffled")


def test_the_rivals_that_could_embarrass_the_model_are_printed(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "g", made.records(40, made.ARMS | {"label-only": 0.7, "nearest-caption": 0.7}))
    printed = "\n".join(text_report.headline_verdicts(evaluate(settings([folder], tmp_path / "out"))[0]))
    for rival in ("the model trained on predicted labels only", "the nearest training caption", "matched noise"):
        assert rival in printed


def test_an_interval_that_ends_near_zero_is_told_with_three_digits() -> None:
    metric = text_metrics.Metric(name="bleu_1", title="BLEU-1", how="")
    for low, end in ((-0.0004, "0.000"), (0.0034, "0.003"), (-0.0034, "−0.003")):
        estimate = comparison.Estimate(value=0.03, se=0.012, low=low, high=0.06, by_seed=(0.03,))
        said = verdict(metric, "eeg", "noise", estimate, "9 images")
        assert f"interval {end} to 0.060, {'excludes' if low > 0 else 'includes'} 0" in said


def test_trials_that_were_trained_on_are_called_so(tmp_path: Path) -> None:
    for part, note in (("train", "nothing about new images"), ("validation", "for development only")):
        folder = made.write(tmp_path / part, made.records(20), part=part)
        results = plain(evaluate(settings([folder], tmp_path / f"out-{part}"))[0])
        images = {"train": "training", "validation": "validation"}[part]
        assert f"20 {images} images" in sentence(results, "bleu_1", "eeg", "noise")
        assert any(note in line for line in results["notes"])


def test_what_generate_had_to_say_is_in_the_report(tmp_path: Path) -> None:
    note = "The model never saw a prompt without words in training: arms without words are foreign to it."
    folder = made.write(tmp_path / "g", made.records(20), notes=[note], trained_on=["eeg"])
    results = plain(evaluate(settings([folder], tmp_path / "out"))[0])
    assert note in results["notes"]
    # Without an upper bound nobody has a share of its distance.
    assert results["share_of_image"] == {}
    assert any("that arm is no upper bound" in line for line in results["notes"])


def test_a_verdict_counts_the_images_that_were_scored(tmp_path: Path) -> None:
    rows = made.records(30)
    for row in rows:
        if row["item"] >= 12:  # references that do not name an attribute
            row["expected"] = ["something"]
    results = results_of(tmp_path, rows)
    assert "; 12 images, " in sentence(results, "attribute_accuracy", "eeg", "noise")
    assert "; 30 images, " in sentence(results, "bleu_1", "eeg", "noise")


def test_a_tracking_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracking_uri: holds a password or token, expected none") as error:
        settings([tmp_path], tmp_path / "out", tracking_uri="https://me:hunter2@host")
    assert "hunter2" not in str(error.value)


def test_an_arm_equal_to_eeg_differs_by_exactly_nothing(tmp_path: Path) -> None:
    rows = made.records(40)
    rows = [row for row in rows if row["arm"] != "noise"] + [row | {"arm": "noise"} for row in rows if row["arm"] == "eeg"]
    found = results_of(tmp_path, rows)["differences"]["eeg"]["noise"]["bleu_4"]
    assert (found["value"], found["se"], found["low"], found["high"], found["excludes_zero"]) == (0.0, 0.0, 0.0, 0.0, False)


def test_only_simulated_eeg_is_called_simulated(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "g", made.records(20), simulated=False)
    found = evaluate(settings([folder], tmp_path / "out"))[0]
    results = plain(found)
    assert sentence(results, "bleu_1", "eeg", "noise").startswith("EEG ")
    assert "simulated" not in text_report.headline(found) + "".join(results["notes"]).lower()


def other_values() -> dict[str, Any]:
    """A value other than its default for each option that says neither where things lie nor which metrics are computed."""
    elsewhere = {"generations", "output", "metrics", "attributes", "wordnet", "bertscore_model", "embedding_model", "judge", "images"}
    elsewhere |= {"device", "tracking_uri"}
    found = {}
    for option in dataclasses.fields(EvaluateTextConfig):
        if option.name not in elsewhere:
            assert isinstance(option.default, bool | int | float), f"{option.name}: say here whether it may change which items count"
            found[option.name] = not option.default if isinstance(option.default, bool) else option.default + 1
    return found


@pytest.mark.parametrize("option", ["", *other_values()])
def test_every_item_counts_right_or_wrong_whatever_the_options(tmp_path: Path, option: str) -> None:
    """A third of the captions is right, a third wrong, a third empty, and so are the predicted concepts: each is in the mean."""
    rows = made.records(30)
    wrong = [row for row in rows if row["arm"] == "eeg" and row["item"] % 3]
    for row in wrong:
        row["generated"] = "" if row["item"] % 3 == 2 else "nothing that is there"
        row["concept_predicted"] = "none_such"
    for row in rows:
        if row["arm"] == "eeg" and not row["item"] % 3:
            row["generated"], row["concept_predicted"] = row["expected"][0], row["concept_true"]
    changed = {option: other_values()[option]} if option else {}
    folder = made.write(tmp_path / "g", rows)
    found, generations = evaluate(settings([folder], tmp_path / "out", **changed))
    results = plain(found)
    assert len(generations.stimulus_Q) == results["num_images"] == 30
    scores = results["arms"]["eeg"]
    for metric in ("attribute_accuracy", "concept_accuracy", "predicted_concept"):
        assert scores[metric]["value"] == pytest.approx(1 / 3), metric
    listed = (tmp_path / "out" / "sentences.csv").read_text().splitlines()
    assert len(listed) == 1 + len(rows)


# ---------------------------------------------------------------------------------------------------------- intervals


def test_bleu_is_bootstrapped_as_a_corpus_score(tmp_path: Path) -> None:
    rows = [row for row in made.records(25) if row["arm"] in ("eeg", "noise")]
    folder = made.write(tmp_path / "g", rows)
    found, generations = evaluate(settings([folder], tmp_path / "out", resamples=40, seed=7, metrics=["bleu"]))
    results = plain(found)
    draws = []
    (weights_NQ,) = resample_weights(25, stimulus_Q=generations.stimulus_Q, num_resamples=40, seed=7)
    for weights_Q in weights_NQ.astype(int):
        drawn = np.repeat(np.arange(25), weights_Q)
        pair = []
        for arm in ("eeg", "noise"):
            chosen = [generations.records[0, arm, q] for q in drawn.tolist()]
            references = [[r.expected[k] for r in chosen] for k in range(2)]
            pair.append(BLEU().corpus_score([r.generated for r in chosen], references).score / 100)
        draws.append(pair[0] - pair[1])
    found = results["differences"]["eeg"]["noise"]["bleu_4"]
    assert found["se"] == pytest.approx(np.std(draws, ddof=1), abs=1e-12)
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist(), abs=1e-12)


@pytest.mark.parametrize("subjects", [1, 2])
@pytest.mark.parametrize(("shared", "more"), [(1, 1), (1, 12), (2, 2), (2, 12)])
def test_nothing_is_concluded_from_one_image(tmp_path: Path, shared: int, more: int, subjects: int) -> None:
    """``shared`` images were captioned by all arms; of one alone there is nothing to resample, and an interval of no width excluded 0."""
    rows = [row for row in made.records(12) if row["item"] < (more if row["arm"] == "eeg" else shared)]
    if subjects == 2:
        rows = [row | {"item": 2 * row["item"] + s, "subject": f"{s:02d}"} for row in rows for s in (0, 1)]
    found, _ = evaluate(settings([made.write(tmp_path / "g", rows)], tmp_path / "out"))
    results = plain(found)
    differences = [score for other in results["differences"]["eeg"].values() for score in other.values()]
    assert any(score["low"] is not None for score in differences) == (shared > 1)
    assert shared > 1 or not any(score["excludes_zero"] for score in differences)
    assert bool(results["verdicts"]) == (shared > 1)


def test_a_mean_s_interval_is_that_of_the_other_evaluations(tmp_path: Path) -> None:
    rows = made.records(30)
    for row in rows:  # two subjects saw every image
        row["item"] *= 2
    rows += [row | {"item": row["item"] + 1, "subject": "02"} for row in rows]
    folder = made.write(tmp_path / "g", rows)
    found, generations = evaluate(settings([folder], tmp_path / "out", seed=3))
    results = plain(found)
    value_Q = text_metrics.score_attributes([generations.records[0, "eeg", q].caption() for q in range(60)], made.ATTRIBUTES)[0].sentence_N
    theirs = bootstrap_mean(value_Q, stimulus_Q=generations.stimulus_Q, subject_Q=generations.subject_Q, num_resamples=300, seed=3)
    found = results["arms"]["eeg"]["attribute_accuracy"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-12)
    assert results["num_images"] == 30
    assert results["num_subjects"] == 2


def test_images_that_are_repeated_are_no_further_evidence(tmp_path: Path) -> None:
    rows = made.records(30)
    once = results_of(tmp_path, rows, "once")["differences"]["eeg"]["noise"]["attribute_accuracy"]
    repeated = [row | {"item": 5 * row["item"] + k} for row in rows for k in range(5)]
    five = results_of(tmp_path, repeated, "five")["differences"]["eeg"]["noise"]["attribute_accuracy"]
    assert five["se"] == pytest.approx(once["se"], rel=0.15)


def test_differences_are_paired(tmp_path: Path) -> None:
    rows = made.records(80)
    noise = {row["item"]: row["generated"] for row in rows if row["arm"] == "eeg"}
    for row in rows:
        if row["arm"] == "noise":  # as eeg, but for every tenth picture
            row["generated"] = made.PRIOR if row["item"] % 10 == 0 else noise[row["item"]]
    results = results_of(tmp_path, rows)
    found = results["differences"]["eeg"]["noise"]["attribute_accuracy"]
    apart = np.hypot(*(results["arms"][a]["attribute_accuracy"]["se"] for a in ("eeg", "noise")))
    assert found["se"] < 0.6 * apart


def test_training_seeds_are_averaged_and_their_spread_is_told(tmp_path: Path) -> None:
    folders = [made.write(tmp_path / f"seed{s}", made.records(60, seed=s)) for s in range(3)]
    results = plain(evaluate(settings(folders, tmp_path / "out"))[0])
    alone = [plain(evaluate(settings([folder], tmp_path / "out"))[0]) for folder in folders]
    values = [a["differences"]["eeg"]["noise"]["bleu_1"]["value"] for a in alone]
    found = results["differences"]["eeg"]["noise"]["bleu_1"]
    assert found["by_seed"] == pytest.approx(values)
    assert found["value"] == pytest.approx(np.mean(values))
    assert found["seeds_sd"] == pytest.approx(np.std(values, ddof=1))
    assert found["se"] < alone[0]["differences"]["eeg"]["noise"]["bleu_1"]["se"]
    assert "3 training seeds" in sentence(results, "bleu_1", "eeg", "noise")
    assert alone[0]["differences"]["eeg"]["noise"]["bleu_1"]["seeds_sd"] is None
    assert any(note.startswith("One training seed") for note in alone[0]["notes"])


def test_the_seed_fixes_every_byte(tmp_path: Path) -> None:
    folder = made.write(tmp_path / "g", made.records(20))
    written = []
    for _ in range(2):
        run(settings([folder], tmp_path / "out"))
        written.append({p.name: p.read_bytes() for p in sorted((tmp_path / "out").iterdir())})
    assert written[0] == written[1]
    assert plain(read_text(tmp_path / "out" / "text.json")) == json.loads(written[0]["text.json"])
    assert sorted(written[0]) == ["files.sha256", "sentences.csv", "text.html", "text.json"]


def test_an_arm_without_all_items_is_compared_on_its_own(tmp_path: Path) -> None:
    rows = [row for row in made.records(40) if row["arm"] != "shuffled" or row["item"] < 30]
    results = results_of(tmp_path, rows)
    assert results["arms"]["shuffled"]["num_items"] == 30
    assert "eeg and shuffled are compared on the 30 items that both captioned." in results["notes"]
    short = results_of(tmp_path, [row for row in rows if row["item"] < 30], "short")
    alone = short["differences"]["eeg"]["shuffled"]["bleu_1"]["value"]
    assert results["differences"]["eeg"]["shuffled"]["bleu_1"]["value"] == pytest.approx(alone)


# -------------------------------------------------------------------------------------------------- hostile captions

HOSTILE = [
    '<script>alert("x")</script>',
    "😺 'quoted' \"twice\"",
    "two\nlines\r\nand\u2028more",
    "",
    "=1+1",
    "\x00\x1b[31mred\x7f",
    "\ud83d half a pair",
    "</td></table>",
]


def hostile_rows() -> list[dict[str, Any]]:
    rows = made.records(len(HOSTILE), dict.fromkeys(made.ARMS, 0.5))
    for row in rows:
        row["generated"] = HOSTILE[row["item"]]
        row["expected"] = [HOSTILE[(row["item"] + 1) % len(HOSTILE)] or "x"]
        row["concept_true"] = "<img src=x onerror=alert(1)>"
    return rows


def write_ascii(folder: Path, rows: list[dict[str, Any]]) -> Path:
    made.write(folder, [])
    (folder / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))  # ascii: holds the half pair
    return folder


def test_hostile_captions_survive_scoring_and_do_not_break_the_page(tmp_path: Path) -> None:
    folder = write_ascii(tmp_path / "g", hostile_rows())
    run(settings([folder], tmp_path / "out", metrics=["bleu", "chrf", "rouge", "attributes", "concepts", "length"]))
    page = (tmp_path / "out" / "text.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "onerror=alert(1)>" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page
    assert "😺" in page
    assert "(empty)" in page
    assert page.count("<table>") == page.count("</table>")
    assert "\x1b" not in page
    assert "\x00" not in page
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!data:image/)', page)
    lines = (tmp_path / "out" / "sentences.csv").read_text().splitlines()
    assert len(lines) == 1 + len(HOSTILE) * len(made.ARMS)


def test_pictures_come_from_their_folder_only(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (640, 480), "red").save(images / "inside.png")
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "outside.png")
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    inside = text_report.thumbnail(images, "inside.png")
    assert inside is not None
    assert inside.startswith("data:image/jpeg;base64,")
    assert len(inside) < 5000
    for name in ("../outside.png", str(tmp_path / "outside.png"), "link.png", "broken.png", "none.png", "", ".", "a\0b"):
        assert text_report.thumbnail(images, name) is None, name


def test_the_page_shows_pictures_and_every_arm_s_caption(tmp_path: Path) -> None:
    rows = made.records(6)
    folder = made.write(tmp_path / "g", rows)
    for row in rows[:5]:
        path = tmp_path / "source" / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(path)
    run(settings([folder], tmp_path / "out", images=str(tmp_path / "source"), report_items=6))
    page = (tmp_path / "out" / "text.html").read_text()
    assert page.count("data:image/jpeg") == 5
    assert "1 of 6 pictures to show are not readable images" in page
    for row in rows:
        assert row["generated"] in page
    assert "simulated" in page


# ------------------------------------------------------------------------------------------------------- bad input


def test_what_is_wrong_with_the_records_is_one_sentence(tmp_path: Path) -> None:
    good = made.records(4)
    cases: dict[str, tuple[list[Any], str]] = {
        "json": (["{"], r"generations\.jsonl: line 1 is not a record of generate"),
        "field": ([{k: v for k, v in good[0].items() if k != "generated"}], r"line 1 is not a record of generate \(no field 'generated'\)"),
        "references": ([good[0] | {"expected": []}], "no list of expected captions"),
        "twice": ([good[0], good[0]], "line 2 captions item 0 in arm eeg a second time"),
        "other": ([good[0], good[4] | {"stimulus": "z"}], "item 0 is stimulus 'z' .* not the same items"),
        "none": ([], "holds no generated caption"),
    }
    for name, (rows, message) in cases.items():
        folder = made.write(tmp_path / name, [])
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / "generations.jsonl").write_text("\n".join(lines) + "\n")
        with pytest.raises(CommandError, match=message) as caught:
            read_generations([folder])
        assert "\n" not in str(caught.value)
    with pytest.raises(CommandError, match=r"holds no generations\.jsonl: is `generate` done there\?"):
        read_generations([tmp_path])
    stopped = made.write(tmp_path / "stopped", good)
    (stopped / "generate.json").unlink()
    with pytest.raises(CommandError, match=r"holds no generate\.json: is `generate` done there\?"):
        read_generations([stopped])


def test_folders_of_different_experiments_are_refused(tmp_path: Path) -> None:
    first = made.write(tmp_path / "a", made.records(5), model="abc")
    for name, rows, facts, message in (
        ("split", made.records(5), {"split": "other"}, "differ in split"),
        ("decoding", made.records(5), {"config": {"decoding": {"method": "beam"}}}, "differ in decoding"),
        ("gallery", made.records(5), {"candidates": "part"}, "differ in candidates"),
        ("twice", made.records(5), {"model": "abc"}, "captions of one and the same model"),
        ("items", made.records(4), {}, "do not hold the same items of arm"),
        ("pictures", made.records(5, pictures=1), {}, "with other references: these are not the same items"),
    ):
        with pytest.raises(CommandError, match=message):
            read_generations([first, made.write(tmp_path / name, rows, **facts)])


def test_the_command_line_says_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate-text", "--config", str(CONFIG), "--generations", f"[{tmp_path / 'none'}]", "--output", str(tmp_path / "out")]
    assert cli.main("python -m trainer", "", COMMANDS, arguments) == 1
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 1
    assert lines[0].startswith("error: generations: ")


def test_the_shipped_config_is_valid_and_fields_are_checked() -> None:
    config = parse(EvaluateTextConfig, ["--config", str(CONFIG)])
    assert config.judge.endpoint == ""
    for changes, message in (
        (["--metrics", "[bleurt]"], "metrics: bleurt, expected some of"),
        (["--generations", "[]"], "generations: empty"),
        (["--generations", "[a, a]"], "named twice"),
        (["--bertscore_model", "some/model"], "bertscore_layers: 0"),
        (["--resamples", "1"], "resamples: 1"),
        (["--judge.endpoint", "ftp://x"], "judge.endpoint"),
    ):
        with pytest.raises(CommandError, match=message):
            parse(EvaluateTextConfig, ["--config", str(CONFIG), *changes])


def test_meteor_is_left_out_with_advice_where_there_is_no_wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.evaluate.text.wordnet._places", lambda environment: iter(()))
    results = results_of(tmp_path, made.records(5), metrics=["bleu", "meteor"])
    assert "meteor" not in results["metrics"]
    (note,) = [n for n in results["notes"] if "METEOR" in n]
    assert "install the Debian package wordnet-base" in note
