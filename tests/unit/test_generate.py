"""``generate`` in one process: arms, ranks taken in turn, interruptions, refusals, and texts that no format must lose."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.contract.cli import from_plain
from data_prep.contract.errors import CommandError, UserError
from data_prep.contract.seal import SEALS, seal_all
from data_prep.embed.command import EmbedConfig
from data_prep.embed.command import run as embed
from tests.distributed.training import write_split
from tests.helpers.tiny_llm import write_tiny_llm
from tests.helpers.tiny_study import TinyEmbedding, write_tiny_study
from tests.helpers.tiny_text import DATA, tiny_config, write_tiny_encoder, write_tiny_text
from trainer.__main__ import COMMANDS, main
from trainer.artifacts.generations import ARMS, SOURCE, GenerationFacts, read_generations
from trainer.artifacts.text import load_text
from trainer.distributed.world import World
from trainer.generate.command import generate
from trainer.generate.config import GenerateConfig
from trainer.generate.folder import GenerationFolder
from trainer.models.language.decoding import DecodingConfig
from trainer.models.language.eeg_language_model import EEGLanguageModel
from trainer.tasks.text.config import TextConfig
from trainer.tasks.text.task import TextTask

CPU = torch.device("cpu")
MODEL_ARMS = [arm for arm in ARMS if arm not in ("nearest-caption", "caption-prior")]


def export_model(home: Path, name: str, **changes: dict[str, Any]) -> Path:
    """A text export as training writes it, its adapter and projector moved away from their start at random."""
    plain = tiny_config(home)
    for field, value in changes.items():
        plain[field] = {**plain.get(field, {}), **value} if isinstance(value, dict) else value
    task = TextTask(from_plain(TextConfig, plain), World(), CPU)
    model = task.build_model()
    task.start(model)
    generator = torch.Generator().manual_seed(5)
    weights = {
        name: value.detach() + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    task.export(weights, home / name, 12)
    return home / name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("generate")
    write_tiny_text(home)
    # Stimuli 14 to 19 are three concepts of two images each, 20 to 23 a concept of their own.
    write_split(home / "study", "pairs", train={"stimulus": list(range(14))}, test={"stimulus": list(range(14, 20))})
    write_split(home / "study", "singles", train={"stimulus": list(range(14))}, test={"stimulus": list(range(20, 24))})
    write_split(home / "study", "leaky", train={"stimulus": [20, 21]}, test={"stimulus": [3, 4, 22]})
    export_model(home, "model", prompt={"concepts": 1, "concept_dropout": 0.5})
    export_model(home, "label", prompt={"concepts": 2}, stage={"name": "label"})
    torch.set_num_threads(1)
    return home


def config(home: Path, output: Path, **changes: Any) -> GenerateConfig:
    fields: dict[str, Any] = {
        "export": str(home / "model"), "output": str(output), "label_only": str(home / "label"), "split": "pairs", "batch_size": 5,
        "arms": list(ARMS), "device": "cpu", "decoding": DecodingConfig(max_new_tokens=6),
    }  # fmt: skip
    return GenerateConfig(**(fields | changes))


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text(encoding="utf-8").split("\n") if line]


def said(folder: Path, arm: str) -> list[str]:
    return [record["generated"] for record in read(folder) if record["arm"] == arm]


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    """All arms, by one rank without interruption."""
    generate(config(home, home / "whole"), World(), CPU)
    return home / "whole"


# ---------------------------------------------------------------------------------------------------------------- arms


def test_every_arm_captions_every_item_and_evaluation_reads_them(whole: Path) -> None:
    found = read_generations([whole])
    assert found.arms == list(ARMS)
    assert found.items == list(range(12))  # 6 stimuli of 2 subjects
    assert len(found.records) == 12 * len(ARMS)
    facts = json.loads((whole / "generate.json").read_text())
    assert facts["records"] == dict.fromkeys(ARMS, 12)
    assert facts["left_out"] == {}
    assert (facts["split"], facts["part"], facts["simulated"]) == ("pairs", "test", False)
    record = read(whole)[0]
    assert record["expected"] == ["a picture of train/0014", "a second caption"]
    assert (record["stimulus"], record["subject"], record["image"]) == ("train/0014", "01", "train/0014.jpg")
    assert record["concept_true"] == "concept7"
    # Candidates are training concepts, so no concept of this part is ever predicted.
    assert {r["concept_predicted"] for r in read(whole)} <= {"", *(f"concept{c}" for c in range(7))}


def test_arms_show_the_model_what_they_promise(home: Path, whole: Path) -> None:
    records = read(whole)
    prompts = {arm: {r["prompt"] for r in records if r["arm"] == arm} for arm in ARMS}
    for arm in ("eeg", "noise", "shuffled", "shuffled-within-concept", "concept-mean", "image"):
        assert len(prompts[arm]) == 1
        assert "<eeg>" in min(prompts[arm])
        assert "may be" not in min(prompts[arm])
    for arm in ("eeg+concept", "noise+word", "label-only", "keywords"):
        for record in records:
            if record["arm"] == arm:
                assert f"It may be: {record['concept_predicted']}" in record["prompt"]
                assert ("<eeg>" in record["prompt"]) == (arm in ("eeg+concept", "noise+word"))
    assert all(prompt.split(".")[0].count("concept") == 2 for prompt in prompts["label-only"])  # it was trained with two words
    by_arm = {arm: said(whole, arm) for arm in ARMS}
    for arm in MODEL_ARMS[1:]:
        assert by_arm[arm] != by_arm["eeg"], arm
    assert len(set(by_arm["caption-prior"])) == 1
    assert set(by_arm["nearest-caption"]) <= {f"a picture of train/{stimulus:04d}" for stimulus in range(14)}
    concepts = {arm: [r["concept_predicted"] for r in records if r["arm"] == arm] for arm in ARMS}
    assert concepts["eeg"] == concepts["eeg+concept"] == concepts["concept-mean"] == concepts["keywords"]
    assert concepts["noise"] == concepts["noise+word"]
    # The eeg arm is what the export itself says of the same trials.
    decoder = load_text(home / "model")
    again = decoder.caption(*eeg_of_part(home), decoding=DecodingConfig(max_new_tokens=6), batch_size=5)
    assert [decoder.prompter.encode([]).text] == list(prompts["eeg"])
    assert again != by_arm["eeg"]  # it adds its predicted words, as in training
    assert again == by_arm["eeg+concept"]


def test_controls_of_a_model_that_always_saw_words_have_words_of_their_own(home: Path, tmp_path: Path) -> None:
    export = export_model(home, "always", prompt={"concepts": 1})
    arms = ["eeg", "eeg+concept", "noise+word", "shuffled", "image", "concept-mean"]
    generate(config(home, tmp_path, export=str(export), arms=arms), World(), CPU)
    for record in read(tmp_path):
        assert (f"may be: {record['concept_predicted']}." in record["prompt"]) == (record["arm"] != "eeg"), record
    shown = {arm: [r["concept_predicted"] for r in read(tmp_path) if r["arm"] == arm] for arm in arms}
    assert sorted(shown["shuffled"]) == sorted(shown["eeg"]), "the words that another image's EEG says"
    assert shown["image"] != shown["eeg"], "the words that the image itself says"
    facts = json.loads((tmp_path / "generate.json").read_text())
    assert any("the arms eeg and noise are foreign" in note for note in facts["notes"])
    assert any("Prompts of shuffled, concept-mean, image have words" in note for note in facts["notes"])
    assert {"shuffled", "image"} <= set(facts["with_words"])


def eeg_of_part(home: Path) -> tuple[Any, list[str]]:
    """Repeated trials of the part and their subjects, read past the loader's preparation."""
    from trainer.data.config import DataConfig
    from trainer.data.index import StudyIndex
    from trainer.data.loader import Loader

    index = StudyIndex.open(home / "study")
    loader = Loader(index, DataConfig(study=str(home / "study"), **(DATA | {"split": "pairs", "repetitions": "mean"})), "test", seed=0)
    (host,) = loader.sequential(100)
    subjects = index.manifest.tables.subjects
    return host.repetitions_RCT.unflatten(0, (-1, host.equal_count)).numpy(), [subjects[s] for s in host.subject_B.tolist()]


def test_candidates_of_the_part_are_a_closed_gallery_and_it_is_said(home: Path, tmp_path: Path) -> None:
    generate(config(home, tmp_path, candidates="part", arms=["eeg+concept", "label-only", "keywords"]), World(), CPU)
    assert {r["concept_predicted"] for r in read(tmp_path)} <= {"concept7", "concept8", "concept9"}
    assert json.loads((tmp_path / "generate.json").read_text())["candidates"] == "part"


def test_an_arm_that_the_part_cannot_make_is_left_out_and_recorded(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(config(home, tmp_path, split="singles", arms=["shuffled-within-concept", "caption-prior"]), World(), CPU)
    why = json.loads((tmp_path / "generate.json").read_text())["left_out"]
    assert list(why) == ["shuffled-within-concept"]
    assert "a single stimulus" in why["shuffled-within-concept"]
    assert "shuffled-within-concept is left out" in capsys.readouterr().out
    assert {r["arm"] for r in read(tmp_path)} == {"caption-prior"}


def test_a_model_of_tokens_that_never_saw_an_image_is_not_shown_one(home: Path, tmp_path: Path) -> None:
    export = export_model(home, "tokens", prefix={"features": "tokens", "kind": "resampler"}, stage={"name": "eeg"})
    arms = ["eeg", "eeg+concept", "image", "concept-mean"]
    generate(config(home, tmp_path, export=str(export), arms=arms), World(), CPU)
    facts = json.loads((tmp_path / "generate.json").read_text())
    assert list(facts["left_out"]) == ["concept-mean", "image"]
    assert facts["records"] == {"eeg": 12, "eeg+concept": 12}
    assert any("never saw words" in note for note in facts["notes"])


def test_a_label_only_model_that_was_trained_less_is_no_control(home: Path, tmp_path: Path) -> None:
    # The model went through two stages, the label-only one through one of them.
    both = export_model(
        home, "two-stages", stage={"name": "eeg"}, init_from=str(home / "model"), prompt={"concepts": 1, "concept_dropout": 0.5}
    )
    generate(config(home, tmp_path, export=str(both), arms=["eeg", "label-only", "image"]), World(), CPU)
    facts = json.loads((tmp_path / "generate.json").read_text())
    steps = json.loads((home / "label" / "config.json").read_text())["planned_steps"]
    lengths = f"trained for {steps} steps, the model for {2 * steps} in all of its stages"
    assert facts["left_out"] == {"label-only": f"the label-only model was {lengths}: expected as many"}
    assert facts["trained_on"] == ["image", "eeg"]
    assert any("what it forgot of images lowers the image arm" in note for note in facts["notes"])


def test_what_earlier_calls_had_to_say_stays(home: Path, tmp_path: Path) -> None:
    generate(config(home, tmp_path, split="singles", arms=["shuffled-within-concept", "eeg"], limit=3), World(), CPU)
    before = json.loads((tmp_path / "generate.json").read_text())
    generate(config(home, tmp_path, split="singles", arms=["caption-prior"], limit=3), World(), CPU)
    after = json.loads((tmp_path / "generate.json").read_text())
    assert after["left_out"] == before["left_out"] != {}
    assert set(before["notes"]) <= set(after["notes"])
    assert any("3 of 8 items are captioned" in note for note in after["notes"])


def test_the_style_of_the_prompt_can_be_chosen(home: Path, tmp_path: Path) -> None:
    generate(config(home, tmp_path, style="creative", arms=["eeg"], limit=2), World(), CPU)
    assert all("vivid" in r["prompt"] for r in read(tmp_path))


# -------------------------------------------------------------------------------------------- ranks, interruptions, limits


def in_turn(configured: GenerateConfig, size: int) -> None:
    """All ranks of a world, one after the other; rank 0 once more at the end, to collect what the others wrote."""
    for rank in (*range(size), 0):
        (Path(configured.output) / SEALS).unlink(missing_ok=True)  # at once, rank 0 seals when all others are done
        generate(configured, World(rank=rank, size=size, local_rank=rank, local_size=size), CPU)


def test_the_text_does_not_depend_on_the_number_of_ranks(home: Path, whole: Path, tmp_path: Path) -> None:
    arms = ["eeg", "noise+word", "shuffled", "keywords", "nearest-caption"]
    in_turn(config(home, tmp_path, arms=arms), 2)
    assert len(list((tmp_path / "parts").glob("eeg.*"))) == 2
    assert read(tmp_path) == [record for record in read(whole) if record["arm"] in arms]


@pytest.mark.long
def test_sampling_depends_on_seed_and_item_only(home: Path, tmp_path: Path) -> None:
    sampled = DecodingConfig(method="sample", max_new_tokens=6, temperature=1.5)
    common = {"decoding": sampled, "arms": ["eeg"]}
    generate(config(home, tmp_path / "a", **common), World(), CPU)
    in_turn(config(home, tmp_path / "b", **common, batch_size=4), 2)
    generate(config(home, tmp_path / "c", **common, seed=1), World(), CPU)
    assert (tmp_path / "a/generations.jsonl").read_bytes() == (tmp_path / "b/generations.jsonl").read_bytes()
    assert said(tmp_path / "a", "eeg") != said(tmp_path / "c", "eeg")


def test_killed_and_started_again_it_goes_on_where_it_stopped(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, arms = 0, ["eeg", "eeg+concept", "keywords", "caption-prior"]
    real = EEGLanguageModel.generate

    def dying(self: EEGLanguageModel, *args: Any, **kwargs: Any) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(EEGLanguageModel, "generate", dying)
    with pytest.raises(KeyboardInterrupt):
        generate(config(home, tmp_path, arms=arms), World(), CPU)
    assert not (tmp_path / "generate.json").exists()
    torn = tmp_path / "parts" / "eeg+concept.0-of-1.jsonl"
    torn.write_bytes(torn.read_bytes()[:-20])  # the last line, cut short
    calls = 100
    in_turn(config(home, tmp_path, arms=arms), 2)  # on another number of ranks
    # Of 3 arms with 3 batches each, 4 batches were done, one of which has to be said again.
    assert calls == 100 + 9 - 4 + 1
    assert read(tmp_path) == [record for record in read(whole) if record["arm"] in arms]


@pytest.mark.long
def test_arms_can_be_added_but_nothing_else_changed(home: Path, tmp_path: Path) -> None:
    generate(config(home, tmp_path, arms=["eeg"], label_only=""), World(), CPU)
    before = said(tmp_path, "eeg")
    generate(config(home, tmp_path, arms=["caption-prior", "label-only"]), World(), CPU)
    assert said(tmp_path, "eeg") == before
    assert json.loads((tmp_path / "generate.json").read_text())["records"] == {"eeg": 12, "label-only": 12, "caption-prior": 12}
    for changes, message in (
        ({"seed": 1}, "seed 0, now it is 1"),
        ({"decoding": DecodingConfig(max_new_tokens=7)}, "decoding.max_new_tokens 6, now it is 7"),
        ({"split": "singles"}, "data.split"),
        ({"candidates": "part"}, "candidates"),
        ({"batch_size": 6}, "batch_size 5, now it is 6"),
    ):
        with pytest.raises(CommandError, match=message):
            generate(config(home, tmp_path, arms=["eeg"], **changes), World(), CPU)
    assert said(tmp_path, "eeg") == before


def test_a_limit_is_a_fixed_choice_of_items_with_the_same_captions(home: Path, whole: Path, tmp_path: Path) -> None:
    arms = ["eeg", "noise", "shuffled"]
    generate(config(home, tmp_path, arms=arms, limit=4), World(), CPU)
    few = {(r["arm"], r["item"]): r["generated"] for r in read(tmp_path)}
    everything = {(r["arm"], r["item"]): r["generated"] for r in read(whole)}
    assert len({item for _, item in few}) == 4
    assert few.items() <= everything.items()


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["egg"]}, "arms: egg, expected some of eeg, eeg\\+concept"),
        ({"arms": []}, "arms: empty"),
        ({"arms": ["label-only"], "label_only": ""}, "label_only: empty"),
        ({"batch_size": 0}, "batch_size: 0, expected at least 1"),
    ],
)
def test_contradictions_are_refused_at_once(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, tmp_path, **changes)


def test_models_and_studies_that_do_not_fit_are_refused_in_a_sentence(home: Path, tmp_path: Path) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises((CommandError, ValueError)) as error:
            generate(config(home, tmp_path / "never", arms=["eeg", "label-only"], **changes), World(), CPU)
        assert not (tmp_path / "never").exists()
        return str(error.value)

    assert "expected a text export" in refused(export=str(home / "nowhere"))
    assert "not a text export" in refused(export=str(home / "encoder"))
    assert "was trained in stage label" in refused(export=str(home / "label"))
    assert "reads EEG (stage mixed), expected a model trained in stage label" in refused(label_only=str(home / "model"))
    assert "no such split" in refused(split="nothing")
    assert "was trained on 8 of the trials that split 'leaky' calls test" in refused(split="leaky")
    assert "another base" in refused(base=str(write_tiny_llm(tmp_path / "other", seed=7)))
    other = write_tiny_study(tmp_path / "study", n_subjects=1, n_stimuli=8, n_test=2, n_chans=5)
    write_split(other, "pairs", train={"stimulus": [0, 1]}, test={"stimulus": [6, 7]})
    assert "n_chans is 5, the encoder was trained with 4" in refused(study=str(other))


@pytest.mark.parametrize("change", ["split remade under its name", "split deleted", "embedding added"])
def test_trained_trials_are_not_captioned_whatever_became_of_the_study(home: Path, tmp_path: Path, change: str) -> None:
    study = Path(shutil.copytree(home / "study", tmp_path / "elsewhere"))
    clauses = {"train": {"stimulus": [20, 21]}, "test": {"stimulus": [3, 4, 22]}}
    write_split(study, "tiny" if "remade" in change else "turned", **clauses)
    if "deleted" in change:
        (study / "splits" / "tiny.json").unlink()
    if "added" in change:
        embed(EmbedConfig(study=str(study), name="more", embedding=TinyEmbedding(seed=4)))
    fields = {"study": str(study), "split": "tiny" if "remade" in change else "turned", "arms": ["eeg"]}
    with pytest.raises(
        CommandError, match=r"was trained on 8 of the trials that split '\w+' calls test \(they are training trials of 'tiny'"
    ):
        generate(config(home, tmp_path / "never", **fields), World(), CPU)
    assert not (tmp_path / "never").exists()


def test_captions_go_on_after_embed_and_say_what_is_not_known(home: Path, tmp_path: Path) -> None:
    study = Path(shutil.copytree(home / "study", tmp_path / "study"))
    few = {"study": str(study), "label_only": "", "limit": 3}
    generate(config(home, tmp_path / "captions", arms=["noise"], **few), World(), CPU)
    embed(EmbedConfig(study=str(study), name="more", embedding=TinyEmbedding(seed=4)))
    generate(config(home, tmp_path / "captions", arms=["noise", "caption-prior"], **few), World(), CPU)
    found = read_generations([tmp_path / "captions"])
    assert found.arms == ["noise", "caption-prior"]
    assert (found.shared.trained_trials, found.shared.trained_not_known) == (0, ())
    with (tmp_path / "captions" / "generations.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {tuple(row[name] for name in SOURCE) for row in rows} == {("study", "pairs", "test", "microvolts", "False")}

    other = write_tiny_study(tmp_path / "other", n_subjects=2, n_stimuli=24, n_test=4, samples_per_shard=7, n_reps=2)
    write_split(other, "pairs", train={"stimulus": list(range(14))}, test={"stimulus": list(range(14, 20))})
    generate(config(home, tmp_path / "others", arms=["noise"], **few | {"study": str(other)}), World(), CPU)
    facts = read_generations([tmp_path / "others"]).shared
    assert facts.trained_trials is None
    assert "these recordings sharded otherwise" in facts.trained_not_known[0]


def test_a_label_only_model_of_another_base_is_refused(home: Path, tmp_path: Path) -> None:
    write_tiny_llm(tmp_path / "base", seed=3)
    plain = {"base": {"name": str(tmp_path / "base")}, "prompt": {"concepts": 1}, "stage": {"name": "label"}}
    label = export_model(home, "other-label", **plain)
    with pytest.raises(CommandError, match="expected the same base"):
        generate(config(home, tmp_path / "never", arms=["label-only"], label_only=str(label)), World(), CPU)


@pytest.mark.long
def test_items_without_captions_are_refused_or_dropped_and_counted(home: Path, tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "study", n_subjects=2, n_stimuli=24, n_test=4, samples_per_shard=5, n_reps=2, uncaptioned=(15, 22))
    write_split(study, "tiny", train={"stimulus": list(range(14))}, test={"stimulus": [14, 15, 16]})
    write_tiny_encoder(tmp_path / "encoder", study)
    common = {"study": str(study), "split": "tiny", "arms": ["eeg", "caption-prior"]}
    with pytest.raises(CommandError, match="2 of 6 items of part 'test' have no caption to compare with \\(first 'train/0015'\\)"):
        generate(config(home, tmp_path / "a", **common), World(), CPU)
    generate(config(home, tmp_path / "b", **common, missing_captions="drop"), World(), CPU)
    facts = json.loads((tmp_path / "b/generate.json").read_text())
    assert (facts["num_items"], facts["num_uncaptioned"]) == (4, 2)
    assert {r["stimulus"] for r in read(tmp_path / "b")} == {"train/0014", "train/0016"}


def test_the_command_says_errors_in_one_line(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--config", "configs/evaluate/generate.yaml", "--export", str(home / "model"), "--output", str(tmp_path / "x")]
    assert main("trainer", "", COMMANDS, [*argv, "--arms", "[egg]"]) == 2
    assert main("trainer", "", COMMANDS, [*argv, "--split", "nothing", "--device", "cpu"]) == 1
    lines = capsys.readouterr().err.strip().split("\n")
    assert [line.split(" ")[0] for line in lines] == ["error:", "captioning", "error:"]


# ----------------------------------------------------------------------------------------------------------------- files

NASTY = [
    "",
    'she said "hi", twice',
    "line one\nline two\r\nthree",
    "emoji 👩‍🎨 and é",
    "tab\tand; semicolon, comma",
    "=1+1",
    "\u2028\x85\x1c",
    "half \ud83d pair",
]


def test_any_text_survives_both_files(tmp_path: Path) -> None:
    folder = GenerationFolder(tmp_path)
    folder.begin({"seed": 0})
    common = {"arm": "eeg", "stimulus": "s", "subject": "01", "image": "", "concept_true": "", "concept_predicted": "", "seed": 0}
    records = [
        {**common, "item": number, "expected": [text or "x", 'a "b"\n'], "generated": text, "prompt": text}
        for number, text in enumerate(NASTY)
    ]
    folder.append("eeg", "0-of-1", records)
    folder.finish(GenerationFacts())
    kept = [text.replace("\ud83d", "?") for text in NASTY]
    assert [r["generated"] for r in read(tmp_path)] == kept
    with (tmp_path / "generations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["generated"] for row in rows] == kept
    assert [json.loads(row["expected"]) for row in rows] == [r["expected"] for r in read(tmp_path)]
    found = read_generations([tmp_path])
    assert [found.records[0, "eeg", q].generated for q in range(len(NASTY))] == kept


def strict(text: str) -> Any:
    """JSON as the standard has it, without Python's NaN and Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_cannot_hold_are_null_and_said(home: Path, tmp_path: Path) -> None:
    changes = {"timeout_seconds": math.inf, "decoding": DecodingConfig(max_new_tokens=2, temperature=math.inf), "limit": 2}
    wanted = config(home, tmp_path / "out", arms=["eeg"], label_only="", **changes)
    for _ in range(2):  # the second time it goes on from what the first one wrote
        generate(wanted, World(), CPU)
        facts = strict((tmp_path / "out" / "generate.json").read_text())
        assert facts["config"]["timeout_seconds"] is None
        (note,) = [note for note in facts["notes"] if "not finite" in note]
        assert note == "Left empty, since they are not finite numbers: config.decoding.temperature (inf), config.timeout_seconds (inf)."
        assert facts["records"] == {"eeg": 2}
    assert strict((tmp_path / "out" / "request.json").read_text())["decoding"]["temperature"] is None

    folder = GenerationFolder(tmp_path / "own")
    folder.begin({"seed": math.nan})
    folder.check({"seed": math.nan})
    record = {**read(tmp_path / "out")[0], "score": math.nan}
    folder.append("eeg", "0-of-1", [record])
    folder.finish(GenerationFacts())
    assert strict((tmp_path / "own" / "generations.jsonl").read_text()) == record | {"score": None}


def test_an_encoder_that_makes_no_numbers_is_refused_in_a_sentence(home: Path, tmp_path: Path) -> None:
    export = Path(shutil.copytree(home / "model", tmp_path / "model"))
    file = export / "encoder" / "model.safetensors"
    whole = load_file(file)
    save_file({name: value * math.nan if value.is_floating_point() else value for name, value in whole.items()}, file)
    with pytest.raises(UserError, match=r"model.safetensors: .* is not finite, expected numbers: the training that wrote it had failed"):
        generate(config(home, tmp_path / "out", export=str(export), arms=["eeg"], label_only=""), World(), CPU)
    save_file({name: value * 1e38 if value.is_floating_point() else value for name, value in whole.items()}, file)
    for folder in (file.parent, export):
        seal_all(folder)  # as if training had written it so
    with pytest.raises(
        UserError, match="EEG of trial 0 has no finite embedding: its values are too large, or the encoder's weights are damaged"
    ):
        generate(config(home, tmp_path / "out", export=str(export), arms=["eeg"], label_only=""), World(), CPU)
