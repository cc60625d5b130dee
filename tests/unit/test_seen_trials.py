"""What an export was trained on, row by row: whatever becomes of embeddings, splits and folders, trained trials are never called unseen.

The truth is taken from the EEG itself: what a training part and a scored part hold in common, repetition by repetition, as bytes.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.files import read_json, write_json
from data_prep.contract.manifest import Manifest
from data_prep.embed.command import EmbedConfig
from data_prep.embed.command import run as embed
from tests.distributed.training import write_split
from tests.helpers.tiny_study import TinyEmbedding, write_tiny_study
from trainer.__main__ import COMMANDS, main
from trainer.artifacts.encoder import load_encoder
from trainer.artifacts.encoder_export import write_export
from trainer.artifacts.guards import check_held_out, seen_trials
from trainer.data.config import DataConfig
from trainer.data.index import StudyIndex
from trainer.data.loader import Loader
from trainer.data.select import SelectConfig
from trainer.data.trials import TrialSet, trials_of
from trainer.distributed.world import World
from trainer.losses import LossConfig
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.encoders import FlatLinear
from trainer.serve.config import RegisterConfig
from trainer.serve.register import check_study
from trainer.serve.register import run as register
from trainer.tasks.contrastive.config import ContrastiveConfig
from trainer.tasks.contrastive.task import ContrastiveTask
from trainer.training.completed import Completed, write_completed
from trainer.training.config import TrainConfig
from trainer.training.identity import check_identity, make_identity
from trainer.training.lineage import Lineage, Origin

STIMULI, TEST = list(range(24)), [18, 19, 20, 21, 22, 23]
MODEL = ContrastiveModelConfig(encoder=FlatLinear(embedding_dim=8, normalize_features=False), eeg_head="none")


def export(study: Path, split: str, output: Path, *, started_from: tuple[Origin, ...] = (), kept: bool = False, **data: Any) -> Path:
    """An untrained encoder as a training on the training part of ``split`` exports it."""
    loader = loader_of(study, split, "train", **data)
    if kept:
        loader = loader.narrowed(np.arange(loader.num_items) % 3 != 0, "kept")
    sizes = {"n_chans": loader.n_chans, "n_times": loader.n_times, "sfreq": loader.sfreq, "embedding_dim": loader.embedding_dim}
    model = MODEL.build(**sizes, num_subjects=loader.num_subjects)
    validated = loader.index.split(split).has("validation")
    chosen_by = trials_of(loader_of(study, split, "validation", **data)) if validated else None
    lineage = Lineage(step=1, started_from=started_from, chosen_by=chosen_by)
    write_export(output, weights=model.state_dict(), model=MODEL, loss=LossConfig(), loader=loader, lineage=lineage)
    return output


def loader_of(study: Path, split: str, part: str, **data: Any) -> Loader:
    return Loader(StudyIndex.open(study), DataConfig(study=str(study), split=split, embedding="tiny", **data), part, seed=0)


def shown(loader: Loader) -> set[bytes]:
    """The repetitions of a part, each as its bytes: noise makes every one unique."""
    hosts = [loader.batch(0, loader.num_items)] if loader.part == "train" else list(loader.sequential(512))
    return {trial.tobytes() for host in hosts for trial in host.repetitions_RCT.numpy()}


def embed_another(study: Path, name: str = "another") -> None:
    embed(EmbedConfig(study=str(study), name=name, embedding=TinyEmbedding(seed=3)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seen") / "study"
    return write_tiny_study(root, n_stimuli=24, n_test=6, n_reps=3, vary_reps=True, samples_per_shard=10)


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A fresh copy with the split ``a``, whose test stimuli are the last six."""
    shutil.copytree(made, tmp_path / "study")
    write_split(tmp_path / "study", "a", train={"stimulus": STIMULI[:16]}, validation={"stimulus": [16, 17]}, test={"stimulus": TEST})
    return tmp_path / "study"


# ------------------------------------------------------------------------------------------------------- the property


def random_data(rng: np.random.Generator) -> dict[str, Any]:
    """Any selection: items, repetitions, subjects, concepts, fractions."""
    select: dict[str, Any] = {}
    if rng.random() < 0.4:
        select["fraction"] = float(rng.choice([0.3, 0.6, 0.9]))
    if rng.random() < 0.3:
        select["repetitions"] = int(rng.integers(1, 3))
    if rng.random() < 0.3:
        select["subjects"] = [str(rng.choice(["01", "02"]))]
    if rng.random() < 0.3:
        select["concepts"] = [f"concept{c}" for c in sorted(rng.choice(15, 9, replace=False).tolist())]
    return {"select": SelectConfig(**select), "repetitions": str(rng.choice(["mean", "each"]))}


def disturb(study: Path, rng: np.random.Generator, names: list[str]) -> Path:
    """Whatever a user may do to a study between training and scoring; returns where it is then."""
    for name in names:
        what, path = rng.integers(4), study / "splits" / f"{name}.json"
        if what == 0:
            path.unlink()
        elif what == 1:
            path.rename(path.with_name(f"{name}-renamed.json"))
        elif what == 2:
            write_split(study, name, train={"row": sorted(rng.choice(100, 9, replace=False).tolist())})
    if rng.random() < 0.5:
        embed_another(study)
    if rng.random() < 0.5:
        moved = study.with_name(f"moved-{rng.integers(1 << 30)}")
        study.rename(moved)
        return moved
    return study


@pytest.mark.parametrize("seed", range(16))
def test_the_guard_is_the_intersection_of_what_was_shown(made: Path, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    study = Path(shutil.copytree(made, tmp_path / "study"))
    num_rows = len(StudyIndex.open(study).table)
    origins: tuple[Origin, ...] = ()
    trained: set[bytes] = set()
    chosen_by: set[bytes] = set()
    names = [f"t{n}" for n in range(rng.integers(1, 4))]
    for name in names:
        drawn = rng.permutation(num_rows)[: rng.integers(50, 110)].tolist()
        write_split(study, name, train={"row": drawn[20:]}, validation={"row": drawn[:20]})
        data, kept = random_data(rng), bool(rng.random() < 0.3)
        try:
            folder = export(study, name, tmp_path / name, started_from=origins, kept=kept, **data)
        except CommandError:  # a selection that leaves nothing
            continue
        loader = loader_of(study, name, "train", **data)
        trained |= shown(loader.narrowed(np.arange(loader.num_items) % 3 != 0, "kept") if kept else loader)
        chosen_by |= shown(loader_of(study, name, "validation", **data))
        origins = load_encoder(folder).export.origins
    study = disturb(study, rng, names)
    for part in ("test", "validation"):
        write_split(study, "scored", **{part: {"row": sorted(rng.choice(num_rows, rng.integers(5, 60), replace=False).tolist())}})
        loader = loader_of(study, "scored", part)
        found = seen_trials(origins, loader.index, loader.rows)
        assert found.not_known == ()
        assert (found.asked, found.known_count) == (len(shown(loader)), len(trained & shown(loader)))
        assert found.chosen == len(chosen_by & shown(loader))


# --------------------------------------------------------------------------------------------------- what users meet


def run(*arguments: str | Path) -> int:
    few = ("--num_resamples", "50", "--num_permutations", "20", "--baselines", "[]")
    return main("python -m trainer", "", COMMANDS, ["evaluate-retrieval", *map(str, arguments), *few])


def remade(study: Path) -> None:
    """Split ``a`` again, its test stimuli among those that were trained on."""
    write_split(study, "a", train={"stimulus": STIMULI[6:]}, test={"stimulus": [0, 1, 2]})


def deleted(study: Path) -> None:
    write_split(study, "b", train={"stimulus": STIMULI[6:]}, test={"stimulus": [0, 1, 2]})
    (study / "splits" / "a.json").unlink()


def renamed(study: Path) -> None:
    (study / "splits" / "a.json").rename(study / "splits" / "old.json")
    write_split(study, "b", train={"stimulus": STIMULI[6:]}, test={"stimulus": [0, 1, 2]})


NUM_SEEN = 2 * (3 + 3 + 2)
"""Repetitions of stimuli 0, 1, 2: two subjects, every third sample has one fewer."""


@pytest.mark.parametrize(("change", "split", "embedded"), [(remade, "a", False), (deleted, "b", True), (renamed, "b", False)])
def test_every_command_refuses_trained_trials_with_their_number(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, split: str, embedded: bool
) -> None:
    folder = export(study, "a", tmp_path / "run" / "export")
    if embedded:
        embed_another(study)
    change(study)
    moved = study.rename(tmp_path / "elsewhere")
    common = ["--export", str(folder), "--study", str(moved), "--split", split]
    wanted = rf"the encoder was trained on {NUM_SEEN} of the trials that split '{split}' calls test \(they are training trials of 'a'"
    for command, name in (("evaluate-retrieval", "r"), ("evaluate-classes", "c"), ("export-embeddings", "e.npz")):
        assert main("python -m trainer", "", COMMANDS, [command, *common, "--output", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert re.search(wanted, error), error
        assert not (tmp_path / name).exists()
    write_completed(tmp_path / "run", Completed(step=1, best_score=None, best_step=1, score_name=None))
    with pytest.raises(CommandError, match=wanted):
        register(RegisterConfig(run=str(tmp_path / "run"), name="m", study=str(moved), split=split))
    data = DataConfig(study=str(moved), split=split, embedding="tiny")
    with pytest.raises(
        CommandError, match=rf"x was trained on {NUM_SEEN} validation or test trials of split '{split}' \(training trials of 'a'"
    ):
        check_held_out(load_encoder(folder).export, StudyIndex.open(moved), data, "x", "weights that have")


def test_a_split_remade_under_its_name_is_told_from_what_it_was(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(study, "a", tmp_path / "export")
    remade(study)
    assert run("--export", folder, "--study", study, "--output", tmp_path / "r") == 1
    assert "(they are training trials of 'a' as it was then)" in capsys.readouterr().err


def test_trials_left_out_of_training_are_unseen(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"select": SelectConfig(fraction=0.5), "repetitions": "each"}
    folder = export(study, "a", tmp_path / "export", **data)
    index, used = StudyIndex.open(study), loader_of(study, "a", "train", **data).rows
    unused = np.setdiff1d(index.rows("a", "train"), used)
    write_split(study, "rest", train={"row": used.tolist()}, test={"row": unused.tolist()})
    write_split(study, "rest1", train={"row": used[1:].tolist()}, test={"row": [*unused.tolist(), int(used[0])]})
    assert run("--export", folder, "--study", study, "--split", "rest", "--output", tmp_path / "r") == 0
    found = read_json(tmp_path / "r" / "retrieval.json")
    assert (found["trained_trials"], found["trained_not_known"]) == (0, [])
    assert "on none of these trials" in capsys.readouterr().out.replace("\n", " ")
    assert run("--export", folder, "--study", study, "--split", "rest1", "--output", tmp_path / "r1") == 1
    assert "was trained on 1 of the trials that split 'rest1' calls test" in capsys.readouterr().err
    assert run("--export", folder, "--study", study, "--split", "rest1", "--part", "train", "--output", tmp_path / "r2") == 0
    scored = loader_of(study, "rest1", "train", select=data["select"]).rows  # whole samples
    assert f"on {len(np.intersect1d(scored, used))} of these trials" in (tmp_path / "r2" / "retrieval.html").read_text()


def test_trials_that_chose_the_step_are_said_to_have_done_so(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(study, "a", tmp_path / "export")
    write_split(study, "b", train={"stimulus": STIMULI[:10]}, test={"stimulus": [17, *TEST]})
    assert run("--export", folder, "--study", study, "--split", "b", "--output", tmp_path / "r") == 0
    said = "4 of these trials are validation trials of a training of the encoder: its best step was chosen by them"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "r" / "retrieval.html").read_text()
    assert run("--export", folder, "--study", study, "--output", tmp_path / "own") == 0
    assert "its best step was chosen by them" not in capsys.readouterr().out


def test_what_a_transform_was_fitted_on_counts_as_trained(tmp_path: Path) -> None:
    from data_prep.shards.open import open_study
    from data_prep.splits import transforms

    study = write_tiny_study(tmp_path / "study", n_stimuli=12, n_test=3)
    write_split(study, "a", train={"stimulus": list(range(9))}, test={"stimulus": [9, 10, 11]})
    opened = open_study(study)
    split = StudyIndex.open(study).split("a")
    transforms.write_transform(study, "a", transforms.fit_transform(opened, split, "zscore"))
    folder = export(study, "a", tmp_path / "export", transform="a", select=SelectConfig(fraction=0.3))
    index = StudyIndex.open(study)
    trained = load_encoder(folder).export.trained
    assert trained is not None
    assert trained.rows_in(index).tolist() == index.rows("a", "train").tolist()


# -------------------------------------------------------------------------------------------------------- not known


def sharded_anew(made: Path, tmp_path: Path) -> tuple[Path, str]:
    other = write_tiny_study(tmp_path / "other", n_stimuli=24, n_test=6, n_reps=3, vary_reps=True, samples_per_shard=7)
    return other, "of these recordings sharded otherwise"


def other_people(made: Path, tmp_path: Path) -> tuple[Path, str]:
    """A study of the same shape whose subjects have other names: its rows look alike, its trials are not the same."""
    other = Path(shutil.copytree(made, tmp_path / "other"))
    plain = read_json(other / "manifest.json")
    plain["tables"]["subjects"] = ["07", "08"]
    rewrite(other, plain)
    return other, "are of another study"


def another_simulation(made: Path, tmp_path: Path) -> tuple[Path, str]:
    other = Path(shutil.copytree(made, tmp_path / "other"))
    rewrite(other, read_json(other / "manifest.json") | {"preprocessing": {"simulated": {"seed": 2}}})
    return other, "are of another study"


def rewrite(study: Path, plain: dict[str, Any]) -> None:
    from data_prep.contract.manifest import write_manifest

    write_manifest(study, Manifest.from_plain(plain))


@pytest.mark.parametrize("other", [sharded_anew, other_people, another_simulation])
def test_what_cannot_be_compared_is_said_not_to_be_known(
    made: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: Any
) -> None:
    folder = export(study, "a", tmp_path / "export")
    elsewhere, reason = other(made, tmp_path)
    write_split(elsewhere, "b", train={"stimulus": STIMULI[3:]}, test={"stimulus": [0, 1, 2]})
    assert run("--export", folder, "--study", elsewhere, "--split", "b", "--output", tmp_path / "r") == 0
    said = (" ".join(capsys.readouterr().out.split()), (tmp_path / "r" / "retrieval.html").read_text())
    for text in said:
        assert "Whether the encoder was trained on any of these trials is not known: the training trials of split" in text
        assert reason in text
        assert "none of these trials" not in text
    found = read_json(tmp_path / "r" / "retrieval.json")
    assert found["trained_trials"] is None
    assert reason in found["trained_not_known"][0]


def old_export(study: Path, output: Path) -> Path:
    """An export as versions before wrote it."""
    folder = export(study, "a", output)
    newer = {"trained", "trials_hash", "study", "unit", "simulated"}
    write_json(folder / "config.json", {name: value for name, value in read_json(folder / "config.json").items() if name not in newer})
    return folder


def test_an_older_export_is_not_known_and_refused_by_the_split_it_names(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = old_export(study, tmp_path / "export")
    assert run("--export", folder, "--study", study, "--output", tmp_path / "own") == 0
    assert "is not known: which training trials of split 'a' were used is not written" in " ".join(capsys.readouterr().out.split())
    renamed(study)
    embed_another(study)
    assert run("--export", folder, "--study", study, "--split", "b", "--output", tmp_path / "r") == 1
    assert f"was trained on {NUM_SEEN} of the trials" in capsys.readouterr().err, "the split that it names has another name now"
    (study / "splits" / "old.json").unlink()
    assert run("--export", folder, "--study", study, "--split", "b", "--output", tmp_path / "r") == 0
    assert "is not known: the training trials of split 'a' are not written in the export" in " ".join(capsys.readouterr().out.split())
    assert read_json(tmp_path / "r" / "retrieval.json")["trained_trials"] is None


# ------------------------------------------------------------------------------------------- init_from, resume, register


def task_on(study: Path, **fields: Any) -> ContrastiveTask:
    data = DataConfig(study=str(study), split="a", embedding="tiny")
    config = ContrastiveConfig(run="unused", data=data, train=TrainConfig(steps=1, global_batch_size=4), model=MODEL, **fields)
    return ContrastiveTask(config, World(rank=0, size=1, local_rank=0, local_size=1), torch.device("cpu"))


def test_weights_of_another_study_are_begun_with_and_that_is_said(
    made: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere, reason = sharded_anew(made, tmp_path)
    write_split(elsewhere, "b", train={"stimulus": STIMULI[:9]}, test={"stimulus": TEST})
    task = task_on(study, init_from=str(export(elsewhere, "b", tmp_path / "first")))
    task.check_start()
    (note,) = [facts["message"] for kind, facts in task.notes if kind == "note"]
    assert "whether it was trained on validation or test trials of split 'a' is not known" in note
    assert reason in note
    assert note in capsys.readouterr().err
    model = task.build_model()
    task.start(model)
    task.export(model.model.state_dict(), tmp_path / "second", 1)
    assert run("--export", tmp_path / "second", "--study", study, "--output", tmp_path / "r") == 0
    assert reason in (tmp_path / "r" / "retrieval.html").read_text(), "what is not known of an ancestor is not known of its children"


def test_a_run_goes_on_after_embed_and_not_on_another_split_of_that_name(study: Path, tmp_path: Path) -> None:
    def identity() -> dict[str, Any]:
        task = task_on(study)
        return make_identity(task.config, task.study)

    write_json(tmp_path / "identity.json", identity())
    embed_another(study)
    check_identity(tmp_path / "identity.json", identity())
    remade(study)
    with pytest.raises(CommandError, match=r"data\.split_hash was \w+… when this run began|data\.split_hash was"):
        check_identity(tmp_path / "identity.json", identity())


def test_a_run_of_an_older_version_goes_by_the_fingerprint(study: Path, tmp_path: Path) -> None:
    task = task_on(study)
    before = make_identity(task.config, task.study)
    del before["data"]["trials_hash"]
    write_json(tmp_path / "identity.json", before)
    check_identity(tmp_path / "identity.json", make_identity(task.config, task.study))
    embed_another(study)
    with pytest.raises(CommandError, match=r"data\.fingerprint was"):
        check_identity(tmp_path / "identity.json", make_identity((again := task_on(study)).config, again.study))


def test_register_takes_a_study_that_has_got_another_embedding(study: Path, tmp_path: Path) -> None:
    encoder = load_encoder(export(study, "a", tmp_path / "export"))
    embed_another(study)
    check_study(encoder, loader_of(study, "a", "test"), tmp_path / "export")


# ------------------------------------------------------------------------------------------------------------ the value


@pytest.mark.parametrize("seed", range(12))
def test_an_altered_set_of_trials_is_refused_naming_the_file(study: Path, tmp_path: Path, seed: int) -> None:
    folder = export(study, "a", tmp_path / "export")
    rng, plain = np.random.default_rng(seed), read_json(folder / "config.json")
    trained = plain["trained"]
    name = list(trained)[seed % len(trained)]
    if isinstance(trained[name], int):
        trained[name] += int(rng.integers(1, 100))
    else:
        place = rng.integers(len(trained[name]))
        other = "B" if trained[name][place] == "A" else "A"
        trained[name] = trained[name][:place] + other + trained[name][place + 1 :]
    (folder / "config.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match=rf"^{re.escape(str(folder))}/config\.json: trained: .*altered") as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)


def test_a_set_that_was_packed_wrongly_is_refused(study: Path) -> None:
    index = StudyIndex.open(study)
    right = TrialSet.of(index.manifest, len(index.table), np.array([0, 5]))
    small = TrialSet.of(index.manifest, 8, np.array([0, 5]))
    assert right.rows_in(index).tolist() == [0, 5]
    with pytest.raises(UserError, match=rf"trained trials: 2 of 8 rows, expected 2 of the {len(index.table)} of"):
        small.rows_in(index)
    with pytest.raises(UserError, match="altered"):
        replace(right, count=3)
