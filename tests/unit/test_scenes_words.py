"""The grammar's words and statistics: kinds, counts, closed-form probabilities, and what captions say."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from vqpipe.artifacts.specs.dataset import TRUTH
from vqpipe.data.adapters.scenes import CLASSES, ScenesSource, compose, stated_pairs, truth_table
from vqpipe.data.records import SPLITS
from vqpipe.data.scenes.grammar import (
    CONFLICTS,
    KIND_OF,
    KINDS,
    NOUNS,
    OBJECTS,
    PARTS,
    PLACES,
    draw_words,
    probability,
)
from vqpipe.data.scenes.layout import PLACES_BUILT
from vqpipe.data.scenes.shapes import SHAPES
from vqpipe.params.base import validate


def config(**changes: object) -> ScenesSource:
    """A small source."""
    values = {
        "kind": "scenes", "path": "artifacts/code/dataset.txt", "resolution": 64, "supersample": 4, "seed": 5,
        "num_train": 120, "num_validation": 30, "num_test": 30, "max_objects": 4, "max_captions": 5,
    }  # fmt: skip
    return validate({**values, **changes}, "dataset.source", ScenesSource)


def test_the_grammar_is_as_large_as_promised() -> None:
    assert len(OBJECTS) >= 24
    assert len(KINDS) == 6
    assert len(KIND_OF) >= 40
    assert sum(map(len, KINDS.values())) == len(KIND_OF), "an adjective has two kinds"
    assert 8 <= len(CLASSES) <= 16
    assert set(SHAPES) == set(OBJECTS)
    assert set(PLACES_BUILT) == set(PLACES) == set(CLASSES)
    assert len(NOUNS) == len(OBJECTS) + len(PARTS) + len(PLACES), "a noun has two senses"
    assert not set(NOUNS) & set(KIND_OF)
    assert all(re.fullmatch("[a-z]+", word) for word in (*NOUNS, *KIND_OF))


@pytest.mark.parametrize("noun", sorted(NOUNS))
def test_choices_are_distributions(noun: str) -> None:
    for choice in NOUNS[noun].values():
        assert sum(choice.weights) == pytest.approx(1.0)
        assert all(weight >= 0 for weight in choice.weights)
        assert all(word in KIND_OF for word in choice.words if word is not None)
    if noun not in PLACES:
        assert NOUNS[noun]["colour"].weights[-1] == 0.0, "every thing has a colour"


@pytest.mark.parametrize("noun", ["ball", "car", "sky", "tree", "beach"])
def test_probability_is_the_frequency_of_drawn_words(noun: str) -> None:
    rng, total = random.Random(3), 20_000
    seen = Counter(word for _ in range(total) for word in draw_words(noun, rng))
    for word in KIND_OF:
        assert seen[word] / total == pytest.approx(probability(word, noun), abs=0.012), word


def test_statistics_are_skewed() -> None:
    assert probability("yellow", "sun") > 10 * probability("yellow", "sea") > 0.0
    assert probability("striped", "ball") > 10 * probability("checkered", "sun") > 0.0
    assert probability("tilted", "ball") == 0.0, "nobody could see it"


def test_conflicting_words_never_meet() -> None:
    for index in range(200):
        scene = compose(config(num_train=200), "train", index)
        for bearer in (*scene.items, *scene.parts):
            for word in bearer.words:
                assert not CONFLICTS.get(word, frozenset()) & set(bearer.words)
            assert len({KIND_OF[word] for word in bearer.words}) == len(bearer.words)


def spoken(text: str) -> Counter[tuple[str, str]]:
    """Attributive pairs read from a sentence alone: a run of adjectives straight before a noun modifies
    it."""
    found: Counter[tuple[str, str]] = Counter()
    run: list[str] = []
    for token in re.findall(r"[a-z]+|,", text):
        if token in KIND_OF:
            run.append(token)
            continue
        if token in NOUNS:
            found.update((word, token) for word in run)
        run = []
    return found


def test_said_pairs_are_those_of_the_text() -> None:
    predicative = 0
    for index in range(300):
        scene = compose(config(num_train=300), "train", index)
        text = Counter[tuple[str, str]]()
        for caption in scene.captions:
            assert Counter(caption.pairs) == spoken(caption.text), caption.text
            text += spoken(caption.text)
            predicative += re.search(r" is [a-z]+( and [a-z]+)?$", caption.text) is not None
        assert Counter(stated_pairs(scene)) == text
    assert predicative > 10, "there are predicative sentences, whose adjectives do not count"


def test_said_pairs_are_true_of_the_scene() -> None:
    for index in range(200):
        scene = compose(config(num_train=200), "train", index)
        true = {(word, x.noun) for x in (*scene.items, *scene.parts) for word in x.words}
        true |= {(word, scene.place) for word in scene.moods}
        assert set(stated_pairs(scene)) <= true


def test_captions_are_several_varied_and_lowercase() -> None:
    openings: Counter[str] = Counter()
    for index in range(200):
        captions = compose(config(num_train=200), "train", index).captions
        assert 3 <= len(captions) <= 5
        assert len({caption.text for caption in captions}) == len(captions)
        for caption in captions:
            assert re.fullmatch(r"[a-z ,]+", caption.text)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption.text), caption.text
            openings[
                " ".join("A" if w in KIND_OF else "N" if w in NOUNS else w for w in caption.text.split())
            ] += 1
    assert len(openings) > 150


def test_truth_table_has_the_specs_columns_and_recounts() -> None:
    source = config()
    rows = truth_table(source)
    assert {tuple(row) for row in rows} == {tuple(TRUTH.columns)}
    assert len({(row["adjective"], row["noun"]) for row in rows}) == len(rows)
    for split, total in zip(SPLITS, (120, 30, 30), strict=True):
        said = Counter(pair for i in range(total) for pair in stated_pairs(compose(source, split, i)))
        table = {
            (row["adjective"], row["noun"]): row[f"said_{split}"] for row in rows if row[f"said_{split}"]
        }
        assert table == dict(said)


def test_the_head_of_the_distribution_is_what_is_said() -> None:
    rows = {(row["adjective"], row["noun"]): row for row in truth_table(config(num_train=600))}
    said = [rows[word, "sky"]["said_train"] for word in ("blue", "gray", "golden")]
    assert said == sorted(said, reverse=True)
    assert said[0] > 2 * said[2] > 0
