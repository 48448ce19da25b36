"""Summary sentences of the boards, made from the rows, each only while its rows are there.

Every sentence computes its numbers, and its words (above, below, cannot be distinguished) from intervals, seed by seed
where rows have seeds in common, so that it changes or disappears when the rows do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from scipy import stats

from vqpipe.boards.claims import NOT_REPRODUCED, NOT_RUN, NOT_TESTABLE, REPRODUCED, UNDECIDED, order
from vqpipe.boards.columns import column, shown
from vqpipe.boards.found import FIRST, GENERATION, Found
from vqpipe.boards.markdown import listed
from vqpipe.boards.results import NEAR, Estimate, Results
from vqpipe.boards.sizes import answer
from vqpipe.params.base import merged
from vqpipe.report.names import LOWER

FEWEST = 3
"""Methods below this number are not ranked."""
MOST = 4
"""Methods that a sentence names."""
Boards = Mapping[str, Found]


def sentences(found: Sequence[Found]) -> tuple[list[str], int]:
    """The sentences whose rows are there, and how many wait for rows."""
    boards = {board.name: board for board in found}
    texts = [make(boards) for make in SENTENCES]
    return [text for text in texts if text], sum(not text for text in texts)


def main_rows(board: Found) -> list[str]:
    """The rows of a board's first table."""
    return [row for _, row in board.claims.tables[0].rows]


def _results(boards: Boards, name: str = FIRST) -> Results | None:
    return boards[name].results if name in boards else None


def _number(results: Results, row: str, metric: str = "psnr") -> str:
    """A row's mean with its unit; the interval is in the tables."""
    value = results.estimate(row, metric)
    mean = None if value is None else Estimate(value.mean, value.mean, value.mean, "none", value.num_seeds)
    unit = column(metric).unit
    return f"{shown(metric, mean)}{f' {unit}' if unit else ''}"


def _with(results: Results, row: str, metric: str = "psnr") -> str:
    """A row with its number: `lc` (25.31 dB)."""
    return f"`{row}` ({_number(results, row, metric)})"


def _relation(results: Results, row: str, base: str) -> str:
    """Where the PSNR of a row is to that of another; both have one."""
    return {1: "above", -1: "below", 0: "not distinguishable from"}[order(results, row, base, "psnr")]


def _some(words: Sequence[str]) -> str:
    """The first words of a list, and how many more there are."""
    few = list(words[:MOST])
    return listed([*few, *([f"{len(words) - MOST} more"] if len(words) > MOST else [])])


def _compared(results: Results, rows: Sequence[str], base: str, metric: str = "psnr") -> str:
    """Which rows are above a row, which are below, and which cannot be distinguished from it."""
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for row in rows:
        if None not in (results.estimate(row, metric), results.estimate(base, metric)):
            groups[order(results, row, base, metric)].append(_with(results, row, metric))
    parts = []
    for sign, words in ((1, "above"), (-1, "below"), (0, "not distinguishable from it")):
        if own_rows := groups[sign]:
            parts.append(f"{_some(own_rows)} {'is' if len(own_rows) == 1 else 'are'} {words}")
    return "; ".join(parts)


def leaders(results: Results, rows: Sequence[str], metric: str) -> list[str]:
    """The row with the best mean, then those that cannot be distinguished from it; of rows that have the metric."""
    values = {row: value for row in rows if (value := results.estimate(row, metric)) is not None}
    sign = -1 if column(metric).better == LOWER else 1
    ranked = sorted(values, key=lambda row: -sign * values[row].mean)
    return [row for row in ranked if row == ranked[0] or order(results, ranked[0], row, metric) * sign <= 0]


def _level(results: Results, best: Sequence[str], metric: str) -> str:
    """The end of a sentence on the first of these rows: that the others cannot be distinguished from it."""
    others = [_with(results, row, metric) for row in best[1:]]
    return f"; {_some(others)} cannot be distinguished from it" if others else ""


def _ranked(metric: str, what: str) -> Callable[[Boards], str]:
    """The leader of the main rows of equal bits by a metric, with those that cannot be distinguished from it."""

    def make(boards: Boards) -> str:
        results = _results(boards)
        if results is None:
            return ""
        main = [row for row in main_rows(boards[FIRST]) if results.is_complete(row)]
        groups = results.equal_bits(main)
        bits, rows = max(groups, key=lambda group: len(group[1]), default=(0.0, []))
        own = [row for row in rows if results.estimate(row, metric) is not None]
        if len(own) < FEWEST:
            return ""
        best = leaders(results, own, metric)
        text = f"Of {len(own)} methods at {bits:,.0f} bits an image, "
        text += f"{_with(results, best[0], metric)} has the {what}{_level(results, best, metric)}"
        if "vq" in own and "vq" not in best:
            text += f"; plain `vq` has {_number(results, 'vq', metric)}"
        return text + "."

    return make


def _equal_bits(boards: Boards) -> str:
    results = _results(boards)
    if results is None or not results.is_complete("vqct", "vq"):
        return ""
    bits, plain = (results.value(row, "bits_per_image") for row in ("vqct", "vq"))
    if bits is None or plain is None:
        return ""
    use = results.use("vq")
    rows = [
        row
        for row in results.board.rows
        if not row.startswith("vqct")
        and results.is_complete(row)
        and abs((results.value(row, "bits_per_image") or 0.0) / bits - 1) <= NEAR
    ]
    if not rows or use is None:
        return ""
    return (
        f"VQCT spends {bits:,.0f} bits an image, where one codebook of {use.num_codes:,} codes spends {plain:,.0f}. "
        f"At equal bits, against its {_number(results, 'vqct')}: {_compared(results, rows, 'vqct')}."
    )


def _alike(results: Results, base: str, parts: AbstractSet[str]) -> list[str]:
    """The other rows that are complete and differ from a row in codebook or in these params of its quantizer alone."""

    def rest(row: str) -> dict[str, Any]:
        whole = merged(results.board.common, results.board.rows[row])
        quantizer = {key: value for key, value in whole.get("quantizer", {}).items() if key not in parts}
        left_out = ("codebook", "foreign_codebook", "quantizer")
        return {**{key: value for key, value in whole.items() if key not in left_out}, "quantizer": quantizer}

    own = rest(base)
    return [
        row for row in results.board.rows if row != base and rest(row) == own and results.is_complete(row)
    ]


def _codebook(results: Results, row: str) -> tuple[str | None, Any]:
    """The folder of a row's codebook, and what its quantizer takes from it."""
    run = next((run for run in results.board.runs.values() if run.row == row), None)
    return run.codebook if run else None, results.board.rows[row].get("quantizer", {}).get("source")


def _words(boards: Boards) -> str:
    """VQCT with other vectors, all else equal: each against random ones of its dimension, and against VQCT's own."""
    results = _results(boards)
    if results is None or not results.is_complete("vqct", "vqct-random"):
        return ""
    rows = ["vqct", *_alike(results, "vqct", {"words"})]
    random = {
        _codebook(results, row)[0]: row
        for row in rows
        if results.board.rows[row]["quantizer"].get("words") == "random"
    }
    pretrained = [row for row in rows if row not in random.values()]
    parts = [
        f"{_with(results, row)} is {_relation(results, row, control)} random vectors of the same dimension and scale "
        f"({_number(results, control)})"
        for row in pretrained
        if (control := random.get(_codebook(results, row)[0])) is not None
    ]
    text = f"What VQCT's codes are made from: behind the same network, {listed(parts)}"
    others = pretrained[1:]
    return text + (f". Against `vqct`, {_compared(results, others, 'vqct')}." if others else ".")


def _start(boards: Boards) -> str:
    results = _results(boards)
    if results is None or not results.is_complete("vq", "vq-uniform"):
        return ""
    used = [_number(results, row, "utilisation") for row in ("vq-uniform", "vq")]
    return (
        f"The start of the codes alone: from the papers' uniform start plain VQ uses {used[0]} of its codes and has "
        f"{_number(results, 'vq-uniform')}; from the first latents it uses {used[1]} and has {_number(results, 'vq')}, "
        f"which is {_relation(results, 'vq', 'vq-uniform')} that."
    )


def _features(boards: Boards) -> str:
    """VQGAN-LC with codes of other origin, all else equal; and its code's random ones with that code's start."""
    results = _results(boards)
    if results is None or not results.is_complete("lc"):
        return ""
    alike = _alike(results, "lc", {"source"})
    done = [row for row in alike if _codebook(results, row) != _codebook(results, "lc")]
    if not done:
        return ""
    text = (
        f"What VQGAN-LC's frozen codes are made from: its k-means centroids of CLIP patches give "
        f"{_number(results, 'lc')}; codes of other origin in their place: {_compared(results, done, 'lc')}."
    )
    paper = "lc-reference-start"
    if not results.is_complete(paper):
        return text
    alike = _alike(results, paper, {"source", "init", "projector"})
    random = [row for row in alike if _codebook(results, row)[1] == "uniform"]
    if random:
        text += (
            f" With the projector's start of its code ({_number(results, paper)}), that code's random codes: "
            f"{_compared(results, random, paper)}."
        )
    return text


def _moving_averages(boards: Boards) -> str:
    """EMA with cluster sizes that start at 0 and at 1, all else equal, at the largest size that has both."""
    results = _results(boards)
    if results is None:
        return ""
    ema = {row: change["quantizer"] for row, change in results.board.rows.items()
           if change.get("quantizer", {}).get("kind") == "ema" and results.is_complete(row)}  # fmt: skip

    def rest(row: str) -> dict[str, Any]:
        return {key: value for key, value in ema[row].items() if key != "initial_size"}

    pairs = [
        (own, other) for own in ema for other in ema
        if ema[own].get("initial_size", 1) == 0 and ema[other].get("initial_size", 1) == 1 and rest(own) == rest(other)
    ]  # fmt: skip
    if not pairs:
        return ""
    zero, one = max(pairs, key=lambda pair: ema[pair[0]]["num_codes"])
    used = [_number(results, row, "utilisation") for row in (zero, one)]
    return (
        f"Moving averages as VQGAN-LC's code starts them (cluster sizes 0): {_with(results, zero)} "
        f"uses {used[0]} of {ema[zero]['num_codes']:,} codes, "
        f"with sizes that start at 1 {_with(results, one)} uses {used[1]}; "
        f"the first PSNR is {_relation(results, zero, one)} the second."
    )


def _size_answer(boards: Boards) -> str:
    results = _results(boards)
    return " ".join(answer(results)) if results is not None else ""


def _probe(boards: Boards) -> str:
    results = _results(boards)
    if results is None:
        return ""
    main = [row for row in main_rows(boards[FIRST]) if results.is_complete(row)]
    both = [
        (row, quality, probe)
        for row in main
        if (quality := results.estimate(row, "psnr")) is not None
        and (probe := results.estimate(row, "linear_probe")) is not None
    ]
    if len(both) < FEWEST:
        return ""
    best = leaders(results, [row for row, *_ in both], "linear_probe")
    rank = float(stats.spearmanr([q.mean for _, q, _ in both], [p.mean for _, _, p in both]).statistic)
    return (
        f"A linear probe reads the class best from {_with(results, best[0], 'linear_probe')}, where chance is "
        f"{_number(results, best[0], 'linear_probe_chance')}{_level(results, best, 'linear_probe')}. "
        f"Over {len(both)} methods its rank correlation with PSNR is {rank:+.2f}."
    )


def _alignment(boards: Boards) -> str:
    results = _results(boards, "language")
    if results is None or not results.is_complete("vq", "vq+lg"):
        return ""
    names = ("task.masked_words.fresh.masked_1.recall", "task.retrieval.fresh.image_to_text.r10")
    recall, found = (results.difference(("vq+lg", name), ("vq", name)) for name in names)
    if recall is None or found is None:
        return ""

    def words(name: str, one: Estimate) -> str:
        effect = (
            "raised" if one.low > 0 else "lowered" if one.high < 0 else "no change that can be distinguished"
        )
        return f"by {shown(name, one, difference=True)} ({effect})"

    return (
        f"Aligning plain VQ's codes with captions (LG-VQ) changes the share of masked words that fresh heads recall "
        f"{words(names[0], recall)}, and the share of captions found among the first ten {words(names[1], found)}, "
        "seed by seed."
    )


TASKS = {
    "top-1": "task.classification.fresh.top1", "CIDEr-D": "task.captioning.fresh.generated.cider_d",
    "accuracy of answers": "task.vqa.fresh.accuracy", "Acc@0.5 of boxes": "task.grounding.fresh.accuracy",
}  # fmt: skip
"""One measure of each task."""


def _tasks(boards: Boards) -> str:
    """How many differences of tasks between aligned rows and plain ones are above 0 and below."""
    known = [results for name in ("tasks", "tasks-text") if (results := _results(boards, name)) is not None]
    pairs = [
        (results, row, plain)
        for results in known
        for row in results.board.rows
        if (plain := results.board.plain(row)) is not None and results.is_complete(row, plain)
    ]
    found = [
        one
        for results, row, plain in pairs
        for name in TASKS.values()
        if (one := results.difference((row, name), (plain, name))) is not None
    ]
    if not found:
        return ""
    above, below = sum(one.low > 0 for one in found), sum(one.high < 0 for one in found)
    return (
        f"Alignment (LG-VQ) in tasks on frozen codes: of {len(found)} differences between a row with it and the same "
        f"row without it, seed by seed ({listed(list(TASKS))}; rows: {len(pairs)}), {above} are above 0 and {below} "
        f"below by their 95 % intervals; chance alone would give about {0.05 * len(found):.1f}."
    )


def _second_set(boards: Boards) -> str:
    """Whether the methods have the same order on the second data set."""
    first, second = _results(boards), _results(boards, "tiny-imagenet")
    if first is None or second is None:
        return ""
    rows = [
        row
        for row in main_rows(boards["tiny-imagenet"])
        if second.is_complete(row) and first.is_complete(row)
    ]
    pairs = [(first.estimate(row, "psnr"), second.estimate(row, "psnr")) for row in rows]
    values = [(one.mean, other.mean) for one, other in pairs if one is not None and other is not None]
    if len(values) < FEWEST:
        return ""
    rank = float(stats.spearmanr(*zip(*values, strict=True)).statistic)
    return (
        f"On {boards['tiny-imagenet'].claims.title}, the PSNR of {len(values)} methods has a rank correlation "
        f"of {rank:+.2f} with that on {boards[FIRST].claims.title.lower()}."
    )


def rank_interval(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's rank correlation of four pairs or more and its 95 % interval, by Fisher's z with the standard error
    sqrt((1 + r^2 / 2) / (n - 3)) (Bonett & Wright, 2000); NaN for two equal orders, of which z is infinite."""
    rank = float(stats.spearmanr(one, other).statistic)
    if abs(rank) > 1 - 1e-9:
        return rank, math.nan, math.nan
    half = 1.96 * math.sqrt((1 + rank**2 / 2) / (len(one) - 3))
    return rank, math.tanh(math.atanh(rank) - half), math.tanh(math.atanh(rank) + half)


def _generation(boards: Boards) -> str:
    """Whether the FD-CLIP of reconstructions predicts that of samples, over the tokenizers that have priors."""
    results = _results(boards, GENERATION)
    if results is None:
        return ""
    done = [row for row in results.board.rows if results.is_complete(row)]
    names = dict.fromkeys(
        name for row in done for run in results.metrics[row].values() for name in run
        if name.startswith("prior.") and name.endswith(".samples.fd_clip")
    )  # fmt: skip
    parts = []
    for name in names:
        # At the number of images of the samples: the distance depends on it.
        made = name.replace(".samples.", ".reconstructions.")
        pairs = [(results.estimate(row, made), results.estimate(row, name)) for row in done]
        values = [(one.mean, other.mean) for one, other in pairs if one is not None and other is not None]
        if len(values) > FEWEST:
            rank, low, high = rank_interval(*zip(*values, strict=True))
            interval = "no interval" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"
            parts.append(f"{rank:+.2f} ({interval}) for {name.split('.')[1]} over {len(values)} tokenizers")
    if not parts:
        return ""
    return f"The rank correlation of the FD-CLIP of reconstructions with that of samples is {listed(parts)}."


def claims_sentence(found: Sequence[Found]) -> str:
    """How many claims of all boards have each outcome."""
    counts = Counter(one.outcome for board in found for own in board.verdicts.values() for one in own)
    return (
        f"Of {counts.total()} claims, {counts[REPRODUCED]} are reproduced, {counts[NOT_REPRODUCED]} are not at this "
        f"scale, and of {counts[UNDECIDED]} the intervals decide neither; {counts[NOT_TESTABLE]} cannot be tested here "
        f"and {counts[NOT_RUN]} wait for rows."
    )


SENTENCES: tuple[Callable[[Boards], str], ...] = (
    _ranked("psnr", "highest PSNR"),
    _ranked("fd_clip", "lowest FD-CLIP"),
    _size_answer,
    _equal_bits,
    _words,
    _features,
    _start,
    _moving_averages,
    _alignment,
    _tasks,
    _probe,
    _generation,
    _second_set,
)
