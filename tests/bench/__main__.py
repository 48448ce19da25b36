"""Print what the pipeline costs on this machine: the stages as they ran, start-up, and the hot parts beside others.

Ratios are of runs in this process, one after the other; the absolute figures are of this machine and its load.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {
    "scale": "counting words and pairs, beside NLTK",
    "patches": "patch features, beside a plain open_clip loop",
    "clusters": "k-means, beside faiss and scikit-learn",
    "search": "nearest code, beside the naive form, vector-quantize-pytorch and faiss",
    "verification": "checksums: their share of each stage of preset pico",
}
"""Benches with a module of their own. Two are run by hand: `tests.bench.large_k`, which needs real features, and
`tests.bench.sampling`, which compares two commits."""


def median_seconds(work: Callable[[], object], runs: int = 3) -> float:
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, capture_output=True)


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def stage_costs() -> None:
    title("stages, as they last ran here (from the cost sidecars)")
    total, peak = 0.0, 0
    for path in sorted((ROOT / "artifacts").rglob("*.cost.json")):
        cost = json.loads(path.read_text())
        total, peak = total + cost["seconds"], max(peak, cost["peak_memory_bytes"])
        name = path.relative_to(ROOT / "artifacts").as_posix().removesuffix(".cost.json")
        print(f"{name:28s} {cost['seconds']:8.1f} s   {cost['peak_memory_bytes'] / 1e9:5.2f} GB")
    if total:
        print(f"{'sum / largest':28s} {total:8.1f} s   {peak / 1e9:5.2f} GB     goal: 5 GB")
    else:
        print("no stage has run in this checkout; run: make repro")


def start_up() -> None:
    title("start-up")
    for stage in ("dataset", "graph", "tokenizer", "prior"):
        seconds = median_seconds(lambda s=stage: command(f"stages.{s}", "--help"))
        print(f"python -m stages.{stage} --help   {seconds:.2f} s")
    print("goal: 0.5 s")
    if (ROOT / "dvc.lock").is_file():
        print(
            f"dvc repro, nothing to do   {median_seconds(lambda: command('dvc', 'repro'), 2):.2f} s   goal: 3 s"
        )


def rendering() -> None:
    from vqpipe.data.adapters.scenes import render
    from vqpipe.data.build import DatasetParams
    from vqpipe.params.base import load_params

    title("scenes")
    source = load_params(ROOT / "params.yaml", "dataset", DatasetParams).source
    assert source.kind == "scenes", "the bench draws scenes; run it with params.yaml as preset scenes"
    count = 200
    seconds = median_seconds(lambda: sum(1 for _ in render(source, "train", 0, count)))
    cores = len(os.sched_getaffinity(0))
    print(
        f"{count / seconds:.0f} images/s on one core at {source.resolution} px; x {cores} cores; goal: 500 on two"
    )


def tagging() -> None:
    from vqpipe.text.phrases import pairs
    from vqpipe.text.pos import tagger
    from vqpipe.text.wordnet_tagger import WordnetPos

    title("part of speech and pairs")
    backend = tagger(WordnetPos(kind="wordnet"))
    captions = [
        "a small bird with a long yellow beak",
        "two red and blue buses near a tall old clock tower",
    ] * 1000
    seconds = median_seconds(lambda: [pairs(caption, backend) for caption in captions])
    print(f"{len(captions) / seconds:.0f} captions/s on one core")


def modules() -> None:
    """Benches of their own, each a process: worker processes import its main module anew, and that stays light."""
    for name, heading in MODULES.items():
        title(heading)
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], cwd=ROOT, check=True)


if __name__ == "__main__":
    for part in (stage_costs, start_up, rendering, tagging, modules):
        part()
