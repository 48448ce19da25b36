"""A folder of images as a file of tokens, and back: no dataset, no pipeline.

The file is a Parquet artifact of the tokens stage's table `codes`: image_id (path below the folder), split (`images`),
label (-1), indices (list<int32>, flattened from groups, h, w). Its header's facts: `shape` of the indices, `groups`,
`grid`, `num_codes`, `resolution`, and the tokenizer's quantizer and SHA-256 (`tokenizer_digest`). A second file,
`NAME.quarantine.parquet`, lists what was left out, and why; it is written even where it is empty. See
`vqpipe.data.records` for its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vqpipe.artifacts.inputs_outputs import need_output
from vqpipe.artifacts.publish import fit_name, publish_folder
from vqpipe.artifacts.spec import check_header
from vqpipe.artifacts.specs.dataset import QUARANTINE
from vqpipe.artifacts.specs.exported import DECODED
from vqpipe.artifacts.specs.tokens import CODES
from vqpipe.artifacts.tables import iter_batches, read_header, stream_table
from vqpipe.data.images import encode_png
from vqpipe.data.loader import to_float, to_uint8
from vqpipe.data.records import Bad, count_by_reason, quarantine_table
from vqpipe.data.stream import IMAGES_LAYOUT, Square, squares
from vqpipe.data.walk import no_images
from vqpipe.errors import ArtifactError, MismatchError, ParamsError, printable
from vqpipe.library.places import need_own
from vqpipe.runtime.terminal import progress_bar
from vqpipe.tokenizers.identity import identity_text, tokenizer_identity
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.tokens import codes_table

SPLIT = "images"
"""The value of the column `split`."""
NO_LABEL = -1
CHUNK_ROWS = 1024
"""Rows that are collected before they are written, as a row group."""


@dataclass(frozen=True)
class Tokenized:
    """What `tokenize` wrote."""

    images: int
    left_out: dict[str, int]
    """Files that gave no tokens, by reason."""
    quarantine: Path
    facts: dict[str, Any]


def tokenize(
    folder: Path, tokenizer: Tokenizer, out: Path, batch_size: int, resolution: int | None = None
) -> Tokenized:
    """Encode every image below a folder; memory does not grow with their number.

    Images are scaled and cut to squares as `Tokenizer.preprocess` does. The same images, tokenizer and batch size give
    the same bytes on the same kind of device.

    Args:
        folder: the images, at any depth; see `vqpipe.data.stream.squares`.
        tokenizer: in eval mode, on its device.
        out: the Parquet file.
        batch_size: images encoded at once.
        resolution: side of the squares, pixels; the tokenizer's own by default.

    Raises:
        DataError: no such folder, or no usable image in it.
        ParamsError: a resolution that the tokenizer cannot halve often enough, or `out` is no Parquet file's name.
        ArtifactError: `out`, or the second file, would replace something else.
    """
    side, step = resolution or tokenizer.resolution, tokenizer.config.trunk.downsampling
    if side < step or side % step:
        raise ParamsError(
            f"this tokenizer takes {step} x {step} pixels to one index", found=f"resolution {side}",
            expected=f"a multiple of {step}",
        )  # fmt: skip
    if out.suffix != ".parquet" or out.is_dir() or printable(str(out)) != str(out):
        raise ParamsError(
            "tokens are written to a Parquet file", found=printable(str(out)),
            expected="a path that is valid UTF-8 and ends in .parquet",
        )  # fmt: skip
    quarantine = out.with_name(fit_name(out.stem, ".quarantine.parquet"))
    need_output(out, CODES)
    need_output(quarantine, QUARANTINE)
    grid = [side // step, side // step]
    facts = {
        "shape": [tokenizer.groups, *grid], "groups": tokenizer.groups, "grid": grid,
        "num_codes": list(tokenizer.num_codes), "resolution": side, "tokenizer": tokenizer_identity(tokenizer),
    }  # fmt: skip
    bad: list[Bad] = []
    images = 0
    with stream_table(out, CODES, facts) as append, progress_bar("tokens", None) as bar:
        ids: list[str] = []
        parts: list[Tensor] = []
        for names, indices in _encoded(squares(folder, side), tokenizer, batch_size, bad):
            ids.extend(names)
            parts.append(indices)
            images += len(names)
            bar.advance(len(names))
            if len(ids) >= CHUNK_ROWS:
                append(codes_table(ids, SPLIT, np.full(len(ids), NO_LABEL), torch.cat(parts)))
                ids, parts = [], []
        if ids:
            append(codes_table(ids, SPLIT, np.full(len(ids), NO_LABEL), torch.cat(parts)))
        left_out = count_by_reason(bad)
        if not images:
            raise no_images(
                str(folder), bad, IMAGES_LAYOUT, "vqpipe tokenize with the folder that contains the images"
            )
        table, lacking = quarantine_table([(SPLIT, entry) for entry in bad])
        with stream_table(quarantine, QUARANTINE, {"images": images, "left_out": left_out, **lacking}) as add:
            add(table)
    return Tokenized(images, left_out, quarantine, facts)


def _encoded(
    found: Iterator[Square | Bad], tokenizer: Tokenizer, batch_size: int, bad: list[Bad]
) -> Iterator[tuple[list[str], Int64[Tensor, "b g h w"]]]:
    """Full batches in order; files that are not usable images go to `bad`."""
    waiting: list[Square] = []

    def encode() -> tuple[list[str], Tensor]:
        pixels = torch.from_numpy(np.stack([image for _, image in waiting])).permute(0, 3, 1, 2)
        indices = tokenizer.encode(to_float(pixels).to(tokenizer.latent_scale.device)).cpu()
        return [image_id for image_id, _ in waiting], indices

    for item in found:
        if isinstance(item, Bad):
            bad.append(item)
            continue
        waiting.append(item)
        if len(waiting) == batch_size:
            yield encode()
            waiting.clear()
    if waiting:
        yield encode()


def detokenize(tokens: Path, tokenizer: Tokenizer, out: Path, batch_size: int) -> int:
    """Write the image of every row of a tokens file as a PNG file with the id as its name, and publish the folder.

    An id that does not end in `.png` gets that ending (`bird.jpg` gives `bird.jpg.png`), so that `bird.jpg` and
    `bird.png` do not share a file. A name that is taken gets one more `.png`; a name that is too long is cut and ends
    in a hash. The fact `renamed` gives the ids of these files.

    Returns:
        The number of images.

    Raises:
        ArtifactError: no such file, not what `tokenize` writes, rows of another shape than its header has, an id that
            leads out of the folder or occurs twice, or an `out` that would be overwritten.
        MismatchError: another tokenizer made the tokens; the message names both. Indices out of range.
    """
    facts = read_facts(tokens)
    own = tokenizer_identity(tokenizer)
    if facts["tokenizer"] != own:
        raise MismatchError(
            f"{tokens} was made by another tokenizer", found=f"tokens of {identity_text(facts['tokenizer'])}",
            expected=f"tokens of this one: {identity_text(own)}",
        )  # fmt: skip
    need_own(out, DECODED)
    shape, where = tuple(facts["shape"]), tokenizer.latent_scale.device
    content: dict[str, Any] = {
        "tokenizer": own,
        "resolution": facts["resolution"],
        "images": 0,
    }
    done: set[str] = set()
    with publish_folder(out, DECODED, content) as folder, progress_bar("images", None) as bar:
        for batch in iter_batches(tokens, CODES, ["image_id", "indices"], batch_size):
            values = batch["indices"].flatten().to_numpy(zero_copy_only=False)
            if values.size != batch.num_rows * np.prod(shape) or batch["indices"].null_count:
                raise ArtifactError(
                    f"{tokens} does not have the shape in its header", expected=f"{shape} a row",
                    found=f"{values.size} indices in {batch.num_rows} rows",
                )  # fmt: skip
            indices = torch.from_numpy(np.array(values.reshape(-1, *shape), dtype=np.int64)).to(where)
            pixels = to_uint8(tokenizer.decode(indices)).permute(0, 2, 3, 1).cpu().numpy()
            for image_id, image in zip(batch["image_id"].to_pylist(), pixels, strict=True):
                if image_id in done:
                    raise ArtifactError(f"{tokens}: an id occurs twice", found=repr(image_id))
                done.add(image_id)
                name = _write(folder, image_id, encode_png(image), tokens)
                if name != _png_name(image_id):
                    content.setdefault("renamed", {})[name] = image_id
            content["images"] += batch.num_rows
            bar.advance(batch.num_rows)
    return int(content["images"])


def read_facts(tokens: Path) -> dict[str, Any]:
    """The facts of a tokens file.

    Raises:
        ArtifactError: no such file, or not what `tokenize` writes.
    """
    if not tokens.is_file():
        raise ArtifactError(f"{tokens} is not a file", expected="a tokens file", run="vqpipe tokenize")
    header = read_header(tokens)
    check_header(header, CODES, tokens)
    if "tokenizer" not in header.facts:
        raise ArtifactError(
            f"{tokens} does not name the tokenizer that made it", found="a shard of the tokens stage",
            expected="a file of `vqpipe tokenize`",
        )  # fmt: skip
    return header.facts


def _write(folder: Path, image_id: str, png: bytes, tokens: Path) -> str:
    """Write one image; its name below the folder."""
    given = PurePosixPath(image_id)
    if given.is_absolute() or ".." in given.parts or "\0" in image_id:
        raise ArtifactError(f"{tokens}: an id leads out of the folder", found=repr(image_id))
    parent = folder.joinpath(*(fit_name(part, "") for part in given.parent.parts))
    for name in dict.fromkeys((_png_name(given.name), f"{given.name}.png")):
        path = parent / fit_name(name[:-4], name[-4:])
        with suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(png)
            return path.relative_to(folder).as_posix()
    raise ArtifactError(
        f"{tokens}: two ids would share a file, or one would be a file and a folder", found=repr(image_id)
    )


def _png_name(image_id: str) -> str:
    """The file name of an image's PNG, where that is free and not too long."""
    return image_id if image_id.lower().endswith(".png") else f"{image_id}.png"
