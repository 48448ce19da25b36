"""Trains the tokenizers of a folder's params.json, as one process or as a rank.

    torchrun --nproc-per-node 2 tests/train_ranks.py FOLDER

FOLDER holds `params.json` (params by name), `dataset`, and `clip` for those with `align`; what rank r of n ends with
goes to FOLDER/n/NAME/rank r.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.recipes import patches
from vqpipe.params.base import validate
from vqpipe.runtime.distributed import process_group, rank, world_size
from vqpipe.tokenizers.tokenizer import TokenizerParams
from vqpipe.tokenizers.train import train_tokenizer
from vqpipe.vision.clip import Clip


def train_all(root: Path) -> None:
    for name, section in json.loads((root / "params.json").read_text()).items():
        config = validate(section, "tokenizer", TokenizerParams)
        own = root / f"{world_size()}" / name
        own.mkdir(parents=True, exist_ok=True)
        codebook = patches() if config.codebook == "patches" else None
        clip = Clip.load(root / "clip") if config.align is not None else None
        done = train_tokenizer(
            config, codebook, root / "dataset", clip, scratch=own, curves=own / "curves.csv",
            device=torch.device("cpu"), title=name,
        )  # fmt: skip
        state = {key: value.contiguous() for key, value in done.tokenizer.state_dict().items()}
        for at, book in enumerate(done.tokenizer.codebooks()):
            state[f"codebook.{at}"] = book.vectors.contiguous()
        for key, value in done.aligner.state_dict().items() if done.aligner is not None else ():
            state[f"aligner.{key}"] = value.contiguous()
        save_file(state, own / f"rank{rank()}.safetensors")
        (own / f"rank{rank()}.json").write_text(json.dumps(done.metrics.plain()))


if __name__ == "__main__":
    with process_group():
        train_all(Path(sys.argv[1]))
