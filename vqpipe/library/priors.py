"""A prior with what it needs to draw pictures: its tokenizer and, where it takes texts, its text encoder.

    prior = ImagePrior.from_pretrained("artifacts/prior/lc-gpt")   # or an exported folder, or "owner/name" on the Hub
    images = prior.sample(4, classes=["beach", "forest"], guidance=2.0, seed=0)   # (4, 3, r, r) in about [-1, 1]
    filled = prior.complete(Image.open("photo.jpg"), keep="top", n=5)

Letters: n images, r side in pixels, l text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor

from vqpipe.artifacts.specs.exported import EXPORTED_PRIOR
from vqpipe.artifacts.specs.prior import PRIOR
from vqpipe.data.images import turn_of, upright
from vqpipe.errors import ArtifactError, MismatchError, ParamsError, VqpipeError, did_you_mean
from vqpipe.library.choices import Keep
from vqpipe.library.clips import load_clip
from vqpipe.library.hub import Tokenizer, download, preprocess, to_pil
from vqpipe.library.masks import fit_mask, hidden_tokens, keep_mask, mask_of, need_fillable
from vqpipe.library.places import Place, find_part
from vqpipe.params.base import validate
from vqpipe.priors.artifact import StoredPrior, read_prior
from vqpipe.priors.contract import NO_LABEL, UNKNOWN, Condition, Prior, SamplingParams
from vqpipe.priors.measure import IMAGE_BATCH
from vqpipe.priors.text import SentenceText, TextEncoder, text_encoder
from vqpipe.priors.train import to_codes
from vqpipe.runtime.batches import slices
from vqpipe.runtime.seeds import torch_rng
from vqpipe.tokenizers.identity import identity_text, tokenizer_identity
from vqpipe.tokenizers.stored import CONFIG, MODEL, read_config

Map = Int64[Tensor, "r r"] | Path | str
PLACE = Place("prior", Path("artifacts/prior"), frozenset({PRIOR.name, EXPORTED_PRIOR.name}))
"""Where a name without a folder is looked for."""
TOKENIZER_FOLDER, CLIP_FOLDER = "tokenizer", "clip"
"""In an exported prior."""
GREY = 0
"""The colour type of a greyscale PNG, byte 25 of the file; byte 24 is the bit depth."""
OPTIONS = {"class": "classes (--class)", "text": "text (--text)", "label_map": "label_map (--map)"}
"""Argument and option that give each kind of condition."""


@dataclass(frozen=True)
class Asked:
    """The condition of each of n images."""

    condition: Condition
    n: int
    given: bool
    """Whether at least one image has a condition."""


class ImagePrior:
    """Draws and completes images. Images are floating-point (n, 3, r, r), about [-1, 1], on the tokenizer's device.

    `guidance` and further sampling params by name (`temperature=0.9`) replace those that the prior was measured with;
    the prior's own model of them checks them. Image i gets the same random numbers however many are drawn.
    """

    def __init__(
        self,
        stored: StoredPrior,
        tokenizer: Tokenizer,
        encoder: TextEncoder | None,
        clip_folder: Path | None = None,
    ) -> None:
        self.stored, self.tokenizer, self.encoder = stored, tokenizer, encoder
        self.clip_folder = clip_folder
        """Where the CLIP of `encoder` is, for an export; None where it is not one's."""
        self.prior: Prior = stored.prior
        _need_same("tokenizer", stored.made_with.tokenizer, tokenizer_identity(tokenizer))
        if stored.made_with.text_encoder is not None:
            _need_same(
                "text encoder", stored.made_with.text_encoder, encoder.id if encoder is not None else "none"
            )

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str = "cpu",
        *,
        tokenizer: str | Path | None = None,
        clip: str | Path | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> ImagePrior:
        """Read a prior, its tokenizer and, for texts, its text encoder, all in eval mode.

        Args:
            path_or_hub_id: a folder (a pipeline artifact, or what `vqpipe export` wrote), a name below
                artifacts/prior, or `owner/name` on the Hub. A folder that is there wins.
            device: where all of them go.
            tokenizer: where it is, if not in the exported folder, next to the artifact or where its lineage says.
            clip: the folder of the run's CLIP, found in the same way.
            revision: branch, tag or commit on the Hub; the next four are as in `vqpipe.Tokenizer.from_pretrained`.

        Raises:
            ArtifactError: no prior, tokenizer or CLIP there, or a damaged one.
            MismatchError: another tokenizer or text encoder than the prior was trained with.
            ParamsError: a kind of prior that is not in the table.
            SetupError: the Hub cannot be reached, or a sentence model's package is missing.
        """
        folder = PLACE.local(path_or_hub_id)
        if folder is None:
            try:
                folder = _snapshot(
                    str(path_or_hub_id), revision=revision, cache_dir=cache_dir, force_download=force_download,
                    local_files_only=local_files_only, token=token,
                )  # fmt: skip
            except VqpipeError:
                PLACE.need_there(Path(path_or_hub_id))  # a mistyped path looks like owner/name
                raise
        stored = read_prior(folder, device)
        config = stored.prior.config
        at = tokenizer or _part(
            folder, TOKENIZER_FOLDER, Path(TOKENIZER_FOLDER, config.tokenizer), "tokenizer"
        )
        encoder: TextEncoder | None = None
        place: Path | None = None
        needs_clip = config.text is not None and config.text.model is None
        if clip is not None and not needs_clip:
            raise ParamsError(f"{folder} does not use a CLIP", found=clip, expected="no clip (--clip)")
        if config.text is not None and config.text.model is not None:
            encoder = SentenceText(config.text.model, config.text.max_tokens)
        elif config.text is not None:
            place = Path(clip) if clip else _part(folder, CLIP_FOLDER, Path(CLIP_FOLDER), "clip")
            encoder = text_encoder(config.text, load_clip(place, device))
        return cls(stored, Tokenizer.from_pretrained(at, device), encoder, place)

    @property
    def resolution(self) -> int:
        """r, side of its images in pixels."""
        return self.tokenizer.resolution

    def sample(
        self,
        n: int | None = None,
        *,
        classes: str | int | Sequence[str | int | None] | None = None,
        text: str | Sequence[str | None] | None = None,
        label_map: Map | Int64[Tensor, "m r r"] | Sequence[Map | None] | None = None,
        guidance: float | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> Float[Tensor, "n 3 r r"]:
        """Draw images.

        Args:
            n: how many; one for each condition without it. Image i gets condition i modulo their number.
            classes: names or indices of classes; None in a list for an image without one, as in `text` and `label_map`.
            text: captions.
            label_map: the class of each pixel, -1 where it is not known, as a tensor or array; or a PNG, as `read_map`
                takes it.
            guidance: classifier-free guidance scale; 1 is none.
            seed: of the images.
            **sampling: other params of the prior's sampling.

        Raises:
            MismatchError: a condition that the prior does not take; an unknown class; a text longer than the encoder
                reads; a map of another size or with unknown classes; guidance or an image without a condition where
                the null condition was not trained; guidance without a condition.
            ParamsError: fewer than one image, fewer images than conditions, an empty list of them, or sampling params
                that are not valid.
        """
        asked = self._asked(n, classes, text, label_map)
        params = self.sampling(guidance, sampling, asked.given)
        return self._draw(asked.condition, asked.n, params, seed)

    def complete(
        self,
        image: Image.Image | Float[Tensor, "3 r r"],
        mask: Image.Image | Bool[Tensor, "H W"] | None = None,
        *,
        keep: Keep | None = None,
        n: int = 5,
        classes: str | int | None = None,
        text: str | None = None,
        label_map: Map | None = None,
        guidance: float | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> Float[Tensor, "n 3 r r"]:
        """Fill a part of an image n times; tokens outside of it stay, and are decoded with the others.

        Args:
            image: a PIL image, which is scaled and cut by `preprocess`, or a tensor in [-1, 1].
            mask: white or True where the image is to be filled; of the image's aspect.
            keep: in place of a mask, the part that is kept.
            n: completions.

        Raises:
            MismatchError: as `sample`; a mask of another aspect, one that hides nothing or everything, or one that
                the prior cannot fill; an image of another size.
            ParamsError: as `sample`; both a mask and `keep`, or neither.
        """
        asked = self._asked(n, classes, text, label_map)
        params = self.sampling(guidance, sampling, asked.given)
        pixels, hidden = self.hidden(image, mask, keep)
        codes = self.tokenizer.encode(pixels)
        tokens = codes.masked_fill(hidden.to(codes.device), UNKNOWN).expand(asked.n, -1, -1, -1)
        return self._draw(Condition(**asked.condition.parts, tokens=tokens), asked.n, params, seed)

    def hidden(
        self,
        image: Image.Image | Float[Tensor, "3 r r"],
        mask: Image.Image | Bool[Tensor, "H W"] | None = None,
        keep: Keep | None = None,
    ) -> tuple[Float[Tensor, "1 3 r r"], Bool[Tensor, "h w"]]:
        """An image as `complete` takes it, and which of its tokens a mask hides; errors as `complete`."""
        if (mask is None) == (keep is None):
            raise ParamsError(
                "a completion needs a mask or the part that is kept", found="both" if mask is not None else "neither",
                expected="mask (--mask) or keep (--keep)",
            )  # fmt: skip
        pixels, shape, side = self._pixels(image), (self.resolution, self.resolution), self.resolution
        if isinstance(image, Image.Image):
            shape = _upright_shape(image)
        whole = keep_mask(keep, side) if mask is None else fit_mask(mask_of(mask), shape, side)
        hidden = hidden_tokens(whole, self.prior.space.grid)
        need_fillable(self.prior, hidden)
        return pixels, hidden

    def preprocess(self, images: Image.Image | Sequence[Image.Image]) -> Float[Tensor, "n 3 r r"]:
        """PIL images as tensors of the prior's size; see `vqpipe.library.hub.preprocess`."""
        return preprocess(images, self.resolution).to(self.tokenizer.device)

    def to_pil(self, images: Float[Tensor, "n 3 r r"]) -> list[Image.Image]:
        """Drawn images as PIL images."""
        return to_pil(images)

    def class_index(self, name: str | int) -> int:
        """The index of a class by its name, or by the index as a number or text.

        Raises:
            MismatchError: no such class; the message lists them.
        """
        known = self.prior.space.classes
        if isinstance(name, str) and name in known:
            return known.index(name)
        if str(name).isdecimal() and int(name) < len(known):
            return int(name)
        raise MismatchError(
            f"the prior has no class {name}{did_you_mean(str(name), known)}",
            found=name, expected=f"a name, or an index below {len(known)}", choices=known,
        )  # fmt: skip

    def read_map(self, path: Path | str) -> Int64[Tensor, "r r"]:
        """A label map from a PNG in which value 0 is no class and value v is class v - 1, as in the dataset artifact.

        Raises:
            MismatchError: a prior that takes no map; not a PNG of one number per pixel, or a greyscale one of other
                than 8 bits, whose numbers cannot be distinguished from grey levels; another size; unknown classes.
        """
        self._need_taken({"label_map": path})
        classes, side = self.prior.space.map_classes, self.resolution
        expected = (
            f"an 8-bit greyscale or palette PNG of {side} x {side} pixels with one number for each: 0 for none, "
            f"then 1 to {len(classes)}: one more than the number of a class in `vqpipe artifacts show PRIOR --full`"
        )
        try:
            with open(path, "rb") as stream, Image.open(path, formats=("PNG",)) as image:
                image.load()
                depth, colour = stream.read(26)[24:]
                size, mode = image.size, image.mode
                values = (
                    torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) if mode in "LP" else None
                )
        except (OSError, SyntaxError, ValueError) as error:
            raise MismatchError(f"{path} is not a label map", found=error, expected=expected) from error
        if colour == GREY and depth != 8:  # which Pillow scales to 0..255
            raise MismatchError(
                f"{path} is not a label map", found=f"a {depth}-bit greyscale PNG", expected=expected
            )
        if values is None:
            raise MismatchError(f"{path} is not a label map", found=f"mode {mode}", expected=expected)
        if size != (side, side):
            raise MismatchError(
                f"{path} is not of the prior's size", found=f"{size[0]} x {size[1]} pixels", expected=expected
            )
        if int(values.max()) > len(classes):
            raise MismatchError(
                f"{path} has a pixel of an unknown class", found=f"value {int(values.max())}", expected=expected,
                choices=[f"{at}: {name}" for at, name in enumerate(classes, 1)],
            )  # fmt: skip
        return values.view(side, side).long() - 1

    def _pixels(self, image: Any) -> Float[Tensor, "1 3 r r"]:
        if isinstance(image, Image.Image):
            return self.preprocess(image)
        if not isinstance(image, Tensor):
            return preprocess(image, self.resolution)  # which raises
        pixels, side = image if image.ndim == 4 else image[None], self.resolution
        if tuple(pixels.shape) != (1, 3, side, side):
            raise MismatchError(
                "a completion takes one image of the prior's size", found=tuple(image.shape),
                expected=f"(3, {side}, {side}), or a PIL image", run="prior.preprocess(PIL image)",
            )  # fmt: skip
        return pixels.to(self.tokenizer.device)

    def _need_taken(self, given: dict[str, Any]) -> None:
        """Refuse a condition of another kind than the prior's."""
        own = self.prior.config.condition
        wrong = [OPTIONS[kind] for kind in given if kind != own]
        if wrong:
            raise MismatchError(
                f"this prior was trained with condition: {own}", found=", ".join(wrong),
                expected=OPTIONS[own] if own != "none" else "no condition",
            )  # fmt: skip

    def _asked(self, n: int | None, classes: Any, text: Any, label_map: Any) -> Asked:
        named = {"class": classes, "text": text, "label_map": label_map}
        given = {kind: value for kind, value in named.items() if value is not None}
        self._need_taken(given)
        entries = _entries(next(iter(given.values()))) if given else [None]
        if not entries:
            raise ParamsError(
                "an empty list of conditions", found=f"0 for {OPTIONS[next(iter(given))]}",
                expected="at least one, which may be None for an image without; or leave it out",
            )  # fmt: skip
        n = len(entries) if n is None else n
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ParamsError(
                "at least one image must be drawn", found=f"n = {n}", expected="n of 1 or more (--n)"
            )
        if n < len(entries):
            raise ParamsError(
                "fewer images than conditions", found=f"n = {n}", expected=f"{len(entries)} or more, or no n"
            )
        kind = self.prior.config.condition
        empty = [entry is None or (kind == "text" and not str(entry).strip()) for entry in entries]
        if kind != "none" and any(empty) and not self.prior.knows_null:
            raise MismatchError(
                f"this prior needs a {kind.replace('_', ' ')} for each image: the null condition was not trained",
                found=f"{sum(empty)} of {len(entries)} without one, and condition_drop: 0", expected=OPTIONS[kind],
                choices=self.prior.space.classes if kind == "class" else None,
            )  # fmt: skip
        rows = torch.arange(n) % len(entries)
        whole = Condition() if all(empty) else self._condition(entries)
        parts = {name: part[rows.to(part.device)] for name, part in whole.parts.items()}
        return Asked(Condition(**parts).to(self.prior.device), n, not all(empty))

    def _condition(self, entries: list[Any]) -> Condition:
        kind, side = self.prior.config.condition, self.resolution
        if kind == "class":
            indices = [NO_LABEL if entry is None else self.class_index(entry) for entry in entries]
            return Condition(labels=torch.tensor(indices))
        if kind == "text":
            assert self.encoder is not None
            texts = [str(entry or "") for entry in entries]
            for one in texts:
                self.encoder.need_short(one)
            features, ids = self.encoder.encode(texts)
            return Condition(text=features, text_ids=ids)
        maps = [
            torch.full((side, side), -1) if entry is None
            else self.read_map(entry) if isinstance(entry, Path | str)
            else _map_tensor(entry)
            for entry in entries
        ]  # fmt: skip
        for own in maps:
            self.prior.check_condition(Condition(label_map=own[None]), 1)
        return Condition(label_map=torch.stack(maps))

    def sampling(self, guidance: float | None, changes: dict[str, Any], given: bool) -> SamplingParams:
        """The sampling params that `sample` and `complete` draw with: the prior's own, changed.

        Args:
            given: whether an image has a condition.

        Raises:
            MismatchError: guidance that the prior or the lack of a condition does not allow.
            ParamsError: params that are not valid.
        """
        config = self.prior.config
        changes = changes if guidance is None else {**changes, "guidance": guidance}
        if changes.get("guidance", 1) != 1:
            self.prior.check_guidance(changes["guidance"])
            if not given:
                raise MismatchError(
                    f"guidance {changes['guidance']} needs a condition, and no image has one",
                    expected=OPTIONS[config.condition],
                )
        whole = config.model_dump(mode="json")
        whole["sampling"] = {**whole["sampling"], **changes}
        own = whole["sampling"]
        if own["guidance"] == 1:  # the stored options of guidance belong to that which was stored
            off = {"guided_positions": None, "guidance_ramp": "constant"}
            own |= {name: value for name, value in off.items() if name in own and name not in changes}
        return validate(whole, "prior", type(config), "this prior").sampling

    @torch.no_grad()
    def _draw(
        self, condition: Condition, n: int, sampling: SamplingParams, seed: int
    ) -> Float[Tensor, "n 3 r r"]:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ParamsError("the seed is not a whole number", found=seed)
        drawn = self.prior.sample(condition, n, sampling, torch_rng(seed, "prior", "images"))
        codes = to_codes(self.prior, drawn, self.tokenizer).to(self.tokenizer.device)
        return torch.cat([self.tokenizer.decode(codes[rows]) for rows in slices(n, IMAGE_BATCH)])


def _snapshot(name: str, **options: Any) -> Path:
    """The folder in the Hub's cache that has an exported prior; its config is read before its weights are loaded."""
    config = download(name, CONFIG, "prior", **options)
    try:
        facts = read_config(config, EXPORTED_PRIOR)
    except ArtifactError as error:
        raise ArtifactError(f"{name} on the Hub: {error}".splitlines()) from error
    files = [MODEL, f"{TOKENIZER_FOLDER}/{CONFIG}", f"{TOKENIZER_FOLDER}/{MODEL}"]
    text = facts["params"].get("text")
    if text is not None and text["model"] is None:
        files.append(f"{CLIP_FOLDER}/{MODEL}")
    for file in files:
        download(name, file, "prior", **{**options, "revision": config.parent.name})
    return config.parent


def _part(folder: Path, inside: str, nearby: Path, spec: str) -> Path:
    """Where a part of a prior is: in an exported folder; next to the artifact, as in the pipeline; by its lineage."""
    if (folder / CONFIG).is_file():
        return folder / inside
    return find_part(folder, nearby, spec)


def _need_same(what: str, stated: Any, found: Any) -> None:
    if stated != found:
        shown = [identity_text(one) if isinstance(one, dict) else str(one) for one in (found, stated)]
        raise MismatchError(
            f"this is another {what} than the prior was trained with", found=shown[0], expected=shown[1],
            run=f"--{'clip' if what == 'text encoder' else what} with that one, or train the prior again",
        )  # fmt: skip


def _entries(value: Any) -> list[Any]:
    """One condition for each entry of a list or batch; one alone for anything else."""
    if isinstance(value, Tensor | np.ndarray):
        return list(value) if value.ndim == 3 else [value]
    return list(value) if isinstance(value, list | tuple) else [value]


def _map_tensor(entry: Any) -> Int64[Tensor, "r r"]:
    """A label map that is given as a tensor or array."""
    if isinstance(entry, np.ndarray) and entry.dtype.kind in "iu":
        entry = torch.from_numpy(np.ascontiguousarray(entry, dtype=np.int64))
    if not isinstance(entry, Tensor):
        found = f"an array of {entry.dtype}" if isinstance(entry, np.ndarray) else type(entry).__name__
        raise MismatchError(
            "this is not a label map", found=found,
            expected="a tensor or array of whole numbers, the class of each pixel, -1 for none; or the path of a PNG",
        )  # fmt: skip
    return entry.cpu().long()


def _upright_shape(image: Image.Image) -> tuple[int, int]:
    """Height and width after the orientation of its metadata."""
    turned = upright(image, turn_of(image))
    return turned.height, turned.width
