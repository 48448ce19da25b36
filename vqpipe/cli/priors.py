"""`vqpipe sample` and `vqpipe complete`: pictures of a prior as one PNG of a grid."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqpipe.errors import counted
from vqpipe.library.choices import Keep
from vqpipe.runtime.terminal import say

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from vqpipe.library.priors import ImagePrior

CHUNK = "vqpipe"
"""The PNG's text chunk that says how it was made; a PNG without it is never overwritten."""
PriorOption = Annotated[
    str,
    typer.Option(
        metavar="PATH", help="The prior: a folder, a name below artifacts/prior, or owner/name on the Hub."
    ),
]
TokenizerPath = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Its tokenizer: a folder, a name below artifacts/tokenizer, or owner/name on the Hub; without "
        "it where the prior says.",
    ),
]
ClipPath = Annotated[
    Path | None, typer.Option(help="The CLIP of a prior of texts; without it where the prior says.")
]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, help="Classifier-free guidance scale; 1 is none. Without it the prior's own."),
]
Seed = Annotated[int, typer.Option(help="Seed of the images.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one param of sampling, such as temperature=0.9."),
]
Grid = Annotated[Path, typer.Option(help="The PNG file to write: a grid of the images.")]


def sample(
    prior: PriorOption,
    out: Grid,
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="A class, by name or index; repeat it for several."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text in quotes; repeat it for several.")] = None,
    map_: Annotated[
        list[Path] | None,
        typer.Option(
            "--map", help="A label map as PNG, value 0 for none and v for class v - 1; repeat it for several."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Images; several conditions take turns.")] = 16,
    guidance: Guidance = None,
    seed: Seed = 0,
    set_: Set = None,
    tokenizer: TokenizerPath = None,
    clip: ClipPath = None,
) -> None:
    """Draw images from a prior, of a class, a text or a label map where it takes one.

    Example: vqpipe sample --prior lc-gpt --class beach --n 16 --seed 0 --out grid.png
    """
    from vqpipe.priors.artifact import contact_sheet

    need_picture(out, map_ or [])
    _need_words(text or [])
    changes = _changes(set_ or [], guidance)
    loaded = _load(prior, tokenizer, clip, changes)
    images = loaded.sample(
        n, classes=class_ or None, text=text or None, label_map=map_ or None, seed=seed, **changes
    )
    columns, asked = min(8, -(-n // int(n**0.5))), _asked(class_, text, map_)
    write_picture(out, contact_sheet(_bytes(images), columns), {
        **_identity(loaded, changes, bool(asked)), "n": n, "seed": seed, **asked,
    })  # fmt: skip
    say(f"wrote {out}: {counted(n, 'image')} of {_about(loaded)}, seed {seed}")


def complete(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An image of any size; it is cut to a square.")
    ],
    prior: PriorOption,
    out: Grid,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A picture of the image's aspect: white (above 127) is filled, black and transparency are kept. "
            "A token is drawn anew if any of its pixels is white."
        ),
    ] = None,
    keep: Annotated[Keep | None, typer.Option(help="In place of a mask, the part that is kept.")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="A class, by name or index.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="A text in quotes.")] = None,
    map_: Annotated[Path | None, typer.Option("--map", help="A label map as PNG.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Completions.")] = 5,
    guidance: Guidance = None,
    seed: Seed = 0,
    set_: Set = None,
    tokenizer: TokenizerPath = None,
    clip: ClipPath = None,
) -> None:
    """Fill a part of an image several times: the grid has what is kept, the completions, and the image.

    Example: vqpipe complete photo.jpg --prior lc-gpt --keep top --out completions.png
    """
    from vqpipe.priors.artifact import contact_sheet

    need_picture(out, [path for path in (image, mask, map_) if path is not None])
    _need_words([] if text is None else [text])
    changes = _changes(set_ or [], guidance)
    picture, white = read_picture(image), read_mask(mask) if mask is not None else None
    loaded = _load(prior, tokenizer, clip, changes)
    filled = loaded.complete(
        picture, white, keep=keep, n=n, classes=class_, text=text, label_map=map_,
        seed=seed, **changes,
    )  # fmt: skip
    import torch

    pixels, hidden = loaded.hidden(picture, white, keep)
    step = loaded.resolution // len(hidden)
    holes = hidden.repeat_interleave(step, 0).repeat_interleave(step, 1)
    original = _bytes(pixels)
    sheet = torch.cat([original.masked_fill(holes, 128), _bytes(filled), original])
    asked = _asked([class_] if class_ else None, [text] if text else None, [map_] if map_ else None)
    write_picture(out, contact_sheet(sheet), {
        **_identity(loaded, changes, bool(asked)), "n": n, "seed": seed, "image": image.name, **asked,
        **({"keep": keep} if keep is not None else {"mask": mask.name if mask is not None else ""}),
    })  # fmt: skip
    say(
        f"wrote {out}: {counted(n, 'completion')} of {image} by {_about(loaded)}; "
        f"{int(hidden.sum())} of {hidden.numel()} positions drawn, seed {seed}"
    )


def need_picture(path: Path, inputs: list[Path]) -> None:
    """Check that a grid can be written and that nothing else is lost by it.

    Raises:
        ParamsError: a name that does not end in .png.
        ArtifactError: an input, a folder, or a file that `vqpipe sample` or `complete` did not write.
        SetupError: nothing can be written there.
    """
    from PIL import Image

    from vqpipe.artifacts.inputs_outputs import FileKind, need_apart, need_output
    from vqpipe.errors import ArtifactError, ParamsError

    kind = FileKind("picture", "a PNG that vqpipe sample or complete wrote", (b"\x89PNG",))
    need_output(path, kind)
    need_apart(inputs, [(path, kind)])
    if path.is_file() and path.stat().st_size:
        try:
            with Image.open(path, formats=("PNG",)) as image:
                marked = CHUNK in image.info
        except (OSError, SyntaxError, ValueError):
            marked = False
        if not marked:
            raise ArtifactError(
                f"{path} contains something else, which would be lost", found="another picture",
                expected=f"a new file, or one that is {kind.about}",
            )  # fmt: skip
    if path.suffix.lower() != ".png":
        raise ParamsError("a grid is written as PNG", found=path.name, expected="a name that ends in .png")


def write_picture(path: Path, sheet: np.ndarray, facts: dict[str, Any]) -> None:
    """Publish a grid as PNG with a text chunk that says how it was made; equal content gives equal bytes."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from vqpipe.artifacts.publish import publish_file

    info = PngInfo()
    info.add_itxt(CHUNK, json.dumps(facts, sort_keys=True, ensure_ascii=False))
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", pnginfo=info)
    with publish_file(path) as partial:
        partial.write_bytes(buffer.getvalue())


def read_picture(path: Path) -> Image.Image:
    """An image file, upright, as RGB.

    Raises:
        DataError: no such file, or bytes that give no image.
    """
    from PIL import Image

    from vqpipe.data.images import BadImage, decode
    from vqpipe.data.stream import MAX_PIXELS
    from vqpipe.errors import DataError

    if not path.is_file():
        raise DataError(f"{path} is not a file", expected="an image: JPEG, PNG, WebP, BMP, GIF, TIFF or PPM")
    try:
        return Image.fromarray(decode(path.read_bytes(), MAX_PIXELS))
    except BadImage as error:
        raise DataError(f"{path} is not a usable image", found=error.detail) from error


def read_mask(path: Path) -> Image.Image:
    """A mask, upright, as RGB; its transparent part is black, which is kept. Errors as `read_picture`."""
    import warnings

    from PIL import Image

    from vqpipe.data.images import FORMATS, to_rgb, upright, without_metadata
    from vqpipe.library.masks import on_black

    picture, data = read_picture(path), path.read_bytes()  # which checks the bytes
    plain = without_metadata(data)
    for own, turn in [(data, None)] + ([(plain.data, plain.turn)] if plain is not None else []):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(own), formats=FORMATS) as image:
                    image.load()
                    return upright(Image.fromarray(to_rgb(on_black(image))), turn)
        except Exception:  # metadata that stops the decoder, as in `vqpipe.data.images.decode`
            continue
    return picture


def _need_words(texts: list[str]) -> None:
    """Refuse a text of nothing, which would draw without a condition."""
    from vqpipe.errors import ParamsError

    if not all(text.strip() for text in texts):
        raise ParamsError(
            "--text has no words", found="an empty text", expected="a text, or no --text: without it images are drawn "
            "without a condition",
        )  # fmt: skip


def _asked(classes: list[str] | None, text: list[str] | None, maps: list[Path] | None) -> dict[str, Any]:
    """The conditions as the text chunk has them."""
    asked = {"class": classes, "text": text, "map": [path.name for path in maps or []]}
    return {kind: own for kind, own in asked.items() if own}


def _changes(overrides: list[str], guidance: float | None) -> dict[str, Any]:
    """Values of `--set` and `--guidance` by name."""
    from vqpipe.errors import ParamsError
    from vqpipe.params.bounded_yaml import parse_yaml

    found: dict[str, Any] = {} if guidance is None else {"guidance": guidance}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key or key in found:
            raise ParamsError("--set changes one param, each once", found=override, expected="key=value")
        found[key] = parse_yaml(value, f"the value of {key}")
    return found


def _load(prior: str, tokenizer: str | None, clip: Path | None, changes: dict[str, Any]) -> ImagePrior:
    """The prior, after a check that its sampling has the params that are changed."""
    from vqpipe.errors import ParamsError, did_you_mean
    from vqpipe.library.priors import ImagePrior
    from vqpipe.runtime.device import device

    loaded = ImagePrior.from_pretrained(prior, device(), tokenizer=tokenizer, clip=clip)
    known = list(type(loaded.prior.config.sampling).model_fields)
    for key in changes:
        if key not in known:
            raise ParamsError(f"sampling has no param {key}{did_you_mean(key, known)}", choices=known)
    return loaded


def _bytes(images: Any) -> Any:
    from vqpipe.data.loader import to_uint8

    return to_uint8(images).cpu()


def _identity(loaded: ImagePrior, changes: dict[str, Any], given: bool) -> dict[str, Any]:
    """Which prior drew, by the digest that its metrics have, and with which sampling params."""
    from vqpipe.priors.artifact import prior_digest

    config = loaded.prior.config
    return {
        "prior": config.kind,
        "sha256": prior_digest(loaded.prior, loaded.stored.facts),
        "condition": config.condition,
        "tokenizer": loaded.stored.made_with.tokenizer,
        "sampling": loaded.sampling(None, changes, given).model_dump(mode="json"),
    }


def _about(loaded: ImagePrior) -> str:
    config = loaded.prior.config
    return f"a prior {config.kind} (condition {config.condition}) on the tokenizer {config.tokenizer}"
