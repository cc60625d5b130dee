"""Where scored EEG comes from travels with it: through files of embeddings, captions and tables; what is unknown is called unknown."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.contract.audit import Audit, write_audit_file
from data_prep.contract.errors import CommandError
from data_prep.contract.files import read_json
from data_prep.contract.page import SIMULATED, SIMULATED_NOT_KNOWN
from tests.distributed.training import write_split
from tests.helpers import generations as made_up
from tests.helpers import tiny_study
from tests.unit.test_seen_trials import export
from trainer.__main__ import COMMANDS, main
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.guards import check_unseen
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.evaluate.embeddings import read_embeddings
from trainer.evaluate.retrieval.results import read_retrieval
from trainer.evaluate.text.results import read_text
from trainer.serve.about import about
from trainer.training.lineage import Origin

CARRIED = (
    "study", "simulated", "split", "split_hash", "part", "unit", "fingerprint", "rows_hash", "audit", "audit_claim", "step", "embedding",
    "trained_trials", "trained_on_split", "trained_not_known", "trained_on_simulated",
)  # fmt: skip


def make_study(folder: Path, monkeypatch: pytest.MonkeyPatch, *, simulated: Any = None, **reader: Any) -> Path:
    """A study that is simulated where there are facts of a simulation, with an audited split ``a``."""
    made = tiny_study.TinySource.__init__

    def source(self: Any, config: Any) -> None:
        made(self, config)
        self.facts.preprocessing.update({} if simulated is None else {"simulated": simulated})

    with monkeypatch.context() as patched:
        patched.setattr(tiny_study.TinySource, "__init__", source)
        study = tiny_study.write_tiny_study(folder, n_stimuli=16, n_test=6, n_reps=2, **reader)
    write_split(study, "a", train={"stimulus": list(range(8))}, validation={"stimulus": [8, 9]}, test={"stimulus": list(range(10, 16))})
    audit = {"split_hash": StudyIndex.open(study).split("a").hash, "findings": (), "parts": {}}
    write_audit_file(study, Audit(name="a", verdict="caution", claim="A claim.", **audit))
    return study


def evaluate(*arguments: str | Path) -> int:
    few = ("--num_resamples", "50", "--num_permutations", "20", "--baselines", "[]")
    return main("python -m trainer", "", COMMANDS, ["evaluate-retrieval", *map(str, arguments), *few])


@pytest.mark.parametrize(("simulated", "part"), [(None, "test"), ({"seed": 3}, "validation"), (True, "train")])
def test_a_file_of_embeddings_gives_the_facts_of_its_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], simulated: Any, part: str
) -> None:
    study = make_study(tmp_path / "my-study", monkeypatch, simulated=simulated)
    ancestor = Origin(split="first", split_hash="0" * 64, fingerprint="1" * 64) if part == "validation" else None
    folder = export(study, "a", tmp_path / "export", started_from=(ancestor,) if ancestor else ())
    file = tmp_path / "embeddings.npz"
    argv = ["export-embeddings", "--export", str(folder), "--output", str(file), "--part", part]
    assert main("python -m trainer", "", COMMANDS, argv) == 0
    assert ("simulated EEG" in capsys.readouterr().out) == bool(simulated)
    assert evaluate("--export", folder, "--part", part, "--output", tmp_path / "direct") == 0
    assert evaluate("--embeds", file, "--output", tmp_path / "embeds") == 0
    direct, found = (read_json(tmp_path / name / "retrieval.json") for name in ("direct", "embeds"))
    assert {name: found.get(name) for name in CARRIED} == {name: direct.get(name) for name in CARRIED}
    assert (found["study"], found["split"], found["part"], found["unit"]) == ("my-study", "a", part, "microvolts")
    assert found["simulated"] is bool(simulated)
    assert found["config"]["embeds"] == str(file)
    printed, page = capsys.readouterr().out, (tmp_path / "embeds" / "retrieval.html").read_text()
    for text in (" ".join(printed.split()), page):
        assert (SIMULATED in text) == bool(simulated)
        assert "Audit of the split: caution." in text
        assert ("is not known: the training trials of split 'first' are not written" in text.replace("&#39;", "'")) == (
            ancestor is not None
        )
    assert read_retrieval(tmp_path / "embeds" / "retrieval.json").simulated is bool(simulated)


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "merged": lambda a, b: {name: np.concatenate([a[name], b[name]]) if a[name].ndim else a[name] for name in a},
    "facts of another file": lambda a, b: {**b, "facts": a["facts"]},
    "embeddings of another file": lambda a, b: {**a, "eeg": b["eeg"][: len(a["eeg"])]},
    "cut": lambda a, _: {name: value[1:] if value.ndim else value for name, value in a.items()},
    "other order": lambda a, _: {name: value[::-1] if value.ndim else value for name, value in a.items()},
    "other ids": lambda a, _: {**a, "ids": np.array([f"{label}x" for label in a["ids"]])},
    "ids gone": lambda a, _: {name: value for name, value in a.items() if name != "ids"},
}


@pytest.mark.parametrize("change", [None, *CHANGES])
@pytest.mark.parametrize("simulated", [None, {"seed": 3}])
def test_facts_are_of_the_arrays_they_came_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str | None, simulated: Any
) -> None:
    study = make_study(tmp_path / "study", monkeypatch, simulated=simulated)
    folder, files = export(study, "a", tmp_path / "export"), []
    for part in ("test", "train"):
        argv = ["export-embeddings", "--export", str(folder), "--output", str(tmp_path / f"{part}.npz"), "--part", part]
        assert main("python -m trainer", "", COMMANDS, argv) == 0
        files.append(dict(np.load(tmp_path / f"{part}.npz")))
    found = CHANGES[change](*files) if change else files[0]
    np.savez_compressed(tmp_path / "e.npz", **found)
    assert evaluate("--embeds", tmp_path / "e.npz", "--output", tmp_path / "r") == 0
    results, page = read_json(tmp_path / "r" / "retrieval.json"), (tmp_path / "r" / "retrieval.html").read_text()
    told = [results[name] for name in ("simulated", "split", "trained_trials")]
    assert told == ([True if simulated else None, None, None] if change else [bool(simulated), "a", 0])
    assert ("arrays were changed after export-embeddings wrote what they are" in page) == (change is not None)


def test_an_audit_of_another_split_of_the_name_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path / "study", monkeypatch)
    folder = export(study, "a", tmp_path / "export")
    write_split(study, "a", train={"stimulus": list(range(8))}, test={"stimulus": [10, 11, 12]})
    assert evaluate("--export", folder, "--output", tmp_path / "r") == 0
    assert "Audit of the split: out of date. It is of another split that had this name" in " ".join(capsys.readouterr().out.split())
    assert read_json(tmp_path / "r" / "retrieval.json")["audit"] == "out of date"


@pytest.mark.parametrize("names", [("image",), ("img",), ("image", "ids"), ("image", "ids", "subjects", "concepts", "split")])
def test_a_file_that_does_not_tell_is_called_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]) -> None:
    rows = np.eye(6)
    of = {"image": rows, "img": rows, "split": np.array("test")}
    np.savez(tmp_path / "e.npz", eeg=rows, **{name: of.get(name, np.arange(6).astype(str)) for name in names})
    assert evaluate("--embeds", tmp_path / "e.npz", "--output", tmp_path / "r") == 0
    found = read_json(tmp_path / "r" / "retrieval.json")
    assert [found[name] for name in ("simulated", "unit", "split", "trained_trials")] == [None] * 4
    said = (" ".join(capsys.readouterr().out.split()), (tmp_path / "r" / "retrieval.html").read_text())
    for text in said:
        assert "(test, EEG, not known whether simulated)" in text
        assert SIMULATED_NOT_KNOWN in text
        assert "Whether the encoder was trained on any of these trials is not known: the file does not tell which model" in text
        assert "none of these trials" not in text


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("{", "facts: not valid JSON"),
        ("[" * 100_000, "facts: not valid JSON"),
        ('{"study": 3}', "facts: "),
        ("[]", "facts: "),
        (
            '{"study": "s", "simulated": "yes", "part": "test"}',
            r"facts: simulated: .* expected what export-embeddings of this version writes",
        ),
    ],
)
def test_facts_that_are_none_are_refused_in_a_sentence(tmp_path: Path, facts: str, message: str) -> None:
    np.savez(tmp_path / "e.npz", eeg=np.eye(2), image=np.eye(2), facts=np.array(facts))
    with pytest.raises(CommandError, match=message) as caught:
        read_embeddings(tmp_path / "e.npz")
    assert "\n" not in str(caught.value)


def test_results_of_an_older_version_are_read_and_say_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(tmp_path / "study", monkeypatch)
    assert evaluate("--export", export(study, "a", tmp_path / "export"), "--output", tmp_path / "r") == 0
    path = tmp_path / "r" / "retrieval.json"
    newer = {"unit", "rows_hash", "trained_trials", "trained_not_known", "trained_on_simulated"}
    path.write_text(json.dumps({name: value for name, value in read_json(path).items() if name not in newer}))
    found = read_retrieval(path)
    assert (found.unit, found.trained_trials, found.simulated) == (None, None, False)


def test_an_encoder_of_simulated_eeg_is_called_so_on_real_eeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, real = (make_study(tmp_path / name, monkeypatch, simulated=facts) for name, facts in (("made", {"seed": 1}), ("real", None)))
    folder = export(made, "a", tmp_path / "export")
    assert evaluate("--export", folder, "--study", real, "--output", tmp_path / "r") == 0
    assert "The encoder was trained on simulated EEG, too." in capsys.readouterr().out
    assert read_json(tmp_path / "r" / "retrieval.json")["trained_on_simulated"] is True
    exported = load_encoder(folder).export
    loader = Loader(StudyIndex.open(real), exported.data_config(study=str(real)), "test", seed=0)
    tags = about(exported, loader, check_unseen(exported, loader))
    assert (tags["study"], tags["simulated"], tags["trained_on_simulated"], tags["unit"]) == ("real", "False", "True", "microvolts")
    assert tags["trained_on"] == "study made, split a"
    assert tags["trained_trials"].startswith("unknown: the training trials of split 'a' of study 'made' are of another study")


@pytest.mark.parametrize(("told", "name"), [(True, "simulated EEG"), (False, "EEG"), (None, "EEG, not known whether simulated")])
def test_captions_and_their_tables_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str], told: bool | None, name: str) -> None:
    facts = {"simulated": told, "study": "/data/my-study", "unit": None if told is None else "microvolts", "trained_trials": 0}
    folder = made_up.write(tmp_path / "g", made_up.records(12), **facts | ({"trained_trials": None} if told is None else {}))
    argv = ["evaluate-text", "--generations", f"[{folder}]", "--output", str(tmp_path / "r"), "--mlflow", "false"]
    assert main("python -m trainer", "", COMMANDS, [*argv, "--metrics", "[bleu]", "--resamples", "100"]) == 0
    results, printed = read_text(tmp_path / "r" / "text.json"), " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "r" / "text.html").read_text()
    assert results.simulated is told
    for text in (printed, page):
        assert f"test, {name}: captions of" in text
        assert (SIMULATED in text, SIMULATED_NOT_KNOWN in text) == (told is True, told is None)
        assert ("Whether the text model was trained on any of these trials is not known" in text) == (told is None)
    with (tmp_path / "r" / "sentences.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["study"] for row in rows} == {"my-study"}
    assert {row["simulated"] for row in rows} == {"unknown" if told is None else str(told)}
    assert {row["unit"] for row in rows} == {"unknown" if told is None else "microvolts"}
