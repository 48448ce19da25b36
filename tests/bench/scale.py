"""Print the cost of counting words and pairs as captions grow: captions/s compared with NLTK, memory, seconds.

    python -m tests.bench.scale           # 25 thousand to 1 million captions; some minutes
    python -m tests.bench.scale --full    # and 5 million

The captions are COCO's (val2017), drawn with repetition and streamed from a text file. Each figure is of a process
of its own from its start to its end, with all its workers; memory is the sum of their resident pages.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from vqpipe.data.adapters.coco import CocoCorpus
from vqpipe.data.corpus import read_captions
from vqpipe.runtime.seeds import numpy_rng

ROOT = Path(__file__).parents[2]
COCO = ROOT / "../shared/data/coco/annotations/captions_val2017.json"
NUM_NLTK = 3_000
PARAMS = """
corpus: {kind: text, path: captions.txt}
vocabulary:
  pos: {kind: wordnet}
  phrases: {predicative: false, shades: noun}
  min_count: 11
  max_adjectives: null
  max_nouns: null
"""
GOALS = "goals on two cores: 10 x NLTK, 25,014 captions in about 3 s, 5 million under 1.5 GB at constant cost"


class Cost(NamedTuple):
    """Of a process and its workers: seconds from start to end, on the clock and of all cores; most memory at once."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(arguments: Sequence[str], workers: int, cwd: Path = ROOT) -> Cost:
    environment = {
        **os.environ, "VQPIPE_WORKERS": str(workers), "VQPIPE_ENGINE": "local", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    start, peak = time.perf_counter(), 0
    cpu: dict[int, float] = {}
    process = psutil.Popen([sys.executable, *arguments], cwd=cwd, env=environment)
    while process.poll() is None:
        resident = 0
        for one in [process, *process.children(recursive=True)]:
            try:
                resident += one.memory_info().rss
                cpu[one.pid] = sum(one.cpu_times()[:2])
            except psutil.Error:
                continue  # it has just ended
        peak = max(peak, resident)
        time.sleep(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(arguments))
    return Cost(time.perf_counter() - start, sum(cpu.values()), peak)


def write_drawn(path: Path, captions: Sequence[str], count: int) -> None:
    """Captions drawn with repetition, one a line."""
    rng = numpy_rng(0, "bench scale")
    with path.open("w", encoding="utf-8") as stream:
        for at in range(0, count, 100_000):
            drawn = rng.integers(len(captions), size=min(100_000, count - at))
            stream.writelines(f"{captions[index]}\n" for index in drawn)


def nltk_rate(captions: Sequence[str]) -> float | None:
    """Captions/s of NLTK's `word_tokenize` and `pos_tag`, loading apart; None where its data is not here."""
    try:
        from nltk import pos_tag, word_tokenize

        pos_tag(word_tokenize("a red bird"))
    except (ImportError, LookupError):
        return None
    start = time.perf_counter()
    for caption in captions[:NUM_NLTK]:
        pos_tag(word_tokenize(caption))
    return min(NUM_NLTK, len(captions)) / (time.perf_counter() - start)


def count_command(folder: Path) -> list[str]:
    return [
        "-m", "stages.vocabulary", f"--corpus={folder / 'captions.txt'}", f"--params={folder / 'params.yaml'}",
        f"--out={folder / 'vocabulary'}", f"--metrics={folder / 'vocabulary.json'}",
    ]  # fmt: skip


def text_at_scale(sizes: Sequence[int]) -> None:
    print("\ntext at scale\n-------------", flush=True)
    if not COCO.is_file():
        print(f"skipped: {COCO} is not here")
        return
    captions = [text for _, text in read_captions(CocoCorpus(kind="coco", path=str(COCO)))]
    rate = nltk_rate(captions)
    told = f"{rate:,.0f} captions/s" if rate else "no data here (NLTK_DATA)"
    print(f"NLTK word_tokenize + pos_tag, one core: {told}\n{GOALS}\n")
    print(
        " captions  workers  seconds  captions/s  x NLTK   GB  further million: s, CPU s",
        flush=True,
    )
    before: dict[int, tuple[int, Cost]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_drawn(folder / "captions.txt", captions, size)
            (folder / "params.yaml").write_text(PARAMS)
            for workers in (1, 2) if size <= 300_000 else (2,):
                cost = run(count_command(folder), workers)
                known, earlier = before.get(workers, (size, cost))
                more = ""
                if size > known:
                    scale = 1e6 / (size - known)
                    more = f"{scale * (cost.seconds - earlier.seconds):15.1f}"
                    more += f"{scale * (cost.cpu_seconds - earlier.cpu_seconds):8.1f}"
                speed = size / cost.seconds
                ratio = f"{speed / rate:7.1f}" if rate else "      -"
                print(
                    f"{size:9,d}  {workers:7d}  {cost.seconds:7.1f}  {speed:10,.0f} {ratio}"
                    f"  {cost.peak_bytes / 1e9:.2f}  {more}",
                    flush=True,
                )
                before[workers] = (size, cost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="5 million captions too")
    given = parser.parse_args()
    text_at_scale([25_000, 250_000, 1_000_000, *([5_000_000] if given.full else [])])


if __name__ == "__main__":
    main()
