"""How many captions get the tokens of Stanford's tokenizer without Java, and records of both for the tests. Needs Java.

python -m tests.bench.caption_words captions_val2017.json             # the share of captions, and those that differ
python -m tests.bench.caption_words captions_val2017.json --record    # tests/data/ptb_words.jsonl, caption_scores.json
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vqpipe.metrics.caption_scores import java_words
from vqpipe.metrics.caption_words import ptb_words

DATA = Path(__file__).parents[1] / "data"
CASES, RECORDED = DATA / "ptb_words.jsonl", DATA / "caption_scores.json"
NUM_IMAGES = 60
SHOWN = 20


def compare(captions: Sequence[str]) -> int:
    """Print the captions whose words differ, at most `SHOWN`; returns their number."""
    start = time.perf_counter()
    own = [ptb_words(caption) for caption in captions]
    seconds = time.perf_counter() - start
    differ = [
        row for row, words in enumerate(zip(own, java_words(captions), strict=True)) if words[0] != words[1]
    ]
    for row in differ[:SHOWN]:
        print(f"{captions[row]!r}\n    {own[row]}")
    print(
        f"{len(captions) - len(differ):,} of {len(captions):,} captions have equal tokens "
        f"({1 - len(differ) / len(captions):.4%}); {len(captions) / seconds:,.0f} captions a second"
    )
    return len(differ)


def record_cases() -> None:
    """Write the tokens of Stanford's program next to the captions in `CASES`."""
    captions = [json.loads(line)["caption"] for line in CASES.read_text(encoding="utf-8").splitlines()]
    rows = [{"caption": a, "words": b} for a, b in zip(captions, java_words(captions), strict=True)]
    CASES.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def record_scores(annotations: Sequence[dict[str, object]]) -> None:
    """Write what the package gives for `NUM_IMAGES` images with five captions, through its own tokenizer.

    A sixth of the candidates each: a reference, a caption of the image that is no reference, one with words left out,
    one with words in another order, one of another image, and one word.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    rng = random.Random(0)
    of_image: dict[object, list[str]] = {}
    for row in annotations:
        of_image.setdefault(row["image_id"], []).append(str(row["caption"]))
    images = rng.sample([captions for captions in of_image.values() if len(captions) >= 5], NUM_IMAGES + 1)
    references, candidates = [], []
    for row, captions in enumerate(images[:-1]):
        kept, words = captions[:5], captions[0].split()
        kind = row % 6
        if kind == 1:
            kept = captions[1:5]
        elif kind == 2:
            words = [word for word in words if rng.random() < 0.6]
        elif kind == 3:
            rng.shuffle(words)
        elif kind == 4:
            words = images[row + 1][0].split()
        elif kind == 5:
            words = words[-1:]
        references.append(kept)
        candidates.append(" ".join(words))

    tokenizer = PTBTokenizer()
    truth = tokenizer.tokenize(
        {row: [{"caption": one} for one in many] for row, many in enumerate(references)}
    )
    given = tokenizer.tokenize({row: [{"caption": one}] for row, one in enumerate(candidates)})
    corpus, per_example = {}, {}
    bleu, bleus = Bleu(4).compute_score(truth, given, verbose=0)
    for n in range(4):
        corpus[f"bleu_{n + 1}"], per_example[f"bleu_{n + 1}"] = bleu[n], bleus[n]
    for name, scorer in (("rouge_l", Rouge()), ("cider_d", Cider()), ("meteor", Meteor())):
        value, values = scorer.compute_score(truth, given)
        corpus[name], per_example[name] = float(value), [float(one) for one in values]
    recorded = {
        "candidates": candidates,
        "references": references,
        "corpus": corpus,
        "per_example": per_example,
    }
    RECORDED.write_text(json.dumps(recorded, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    annotations = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["annotations"]
    if sys.argv[2:] == ["--record"]:
        record_cases()
        record_scores(annotations)
    else:
        compare([row["caption"] for row in annotations])


if __name__ == "__main__":
    main()
