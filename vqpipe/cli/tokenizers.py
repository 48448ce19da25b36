"""The tools around one tokenizer: `vqpipe tokenize`, `detokenize`, `import`, and `export`, also of a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqpipe.errors import counted
from vqpipe.library.choices import Weights
from vqpipe.runtime.terminal import say

TOKENIZER_HELP = "The tokenizer: a folder, a name below artifacts/tokenizer, or owner/name on the Hub"
TokenizerOption = Annotated[str, typer.Option(metavar="PATH", help=f"{TOKENIZER_HELP}.")]
CONDITIONS = {"class": " --class NAME", "text": " --text TEXT", "label_map": " --map PNG"}
"""Options of `vqpipe sample` by what a prior is conditioned on."""
BatchSize = Annotated[int, typer.Option(min=1, help="Images in memory at once.")]


def tokenize(
    images: Annotated[Path, typer.Argument(metavar="IMAGE_DIR", help="A folder of images, at any depth.")],
    tokenizer: TokenizerOption,
    out: Annotated[Path, typer.Option(help="The Parquet file to publish.")],
    batch_size: BatchSize = 32,
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Side of the squares in pixels; the tokenizer's without it.")
    ] = None,
) -> None:
    """Write the indices of every image below a folder to a Parquet file, and what was left out to a second one.

    Example: vqpipe tokenize photos --tokenizer artifacts/tokenizer/lc --out photos.parquet
    """
    from vqpipe.artifacts.inputs_outputs import need_output
    from vqpipe.artifacts.specs.tokens import CODES
    from vqpipe.library.hub import Tokenizer
    from vqpipe.library.tokens import tokenize as run
    from vqpipe.runtime.device import device

    need_output(out, CODES)
    done = run(images, Tokenizer.from_pretrained(tokenizer, device()), out, batch_size, resolution)
    groups, rows, columns = done.facts["shape"]
    codes = " x ".join(f"{count:,}" for count in done.facts["num_codes"])
    say(
        f"wrote {out}: {counted(done.images, 'image')}, {groups} x {rows} x {columns} indices each, of {codes} codes"
    )
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in done.left_out.items()) or "none"
    say(f"left out: {counted(sum(done.left_out.values()), 'file')} ({reasons}); see {done.quarantine}")


def detokenize(
    tokens: Annotated[Path, typer.Argument(metavar="TOKENS", help="What `vqpipe tokenize` wrote.")],
    tokenizer: TokenizerOption,
    out: Annotated[Path, typer.Option(help="The folder of PNG files to publish.")],
    batch_size: BatchSize = 32,
) -> None:
    """Write the image of every row of a tokens file as a PNG, with the tokenizer that made the file.

    Example: vqpipe detokenize photos.parquet --tokenizer artifacts/tokenizer/lc --out again
    """
    from vqpipe.artifacts.specs.exported import DECODED
    from vqpipe.library.hub import Tokenizer
    from vqpipe.library.places import need_own
    from vqpipe.library.tokens import detokenize as run
    from vqpipe.runtime.device import device

    need_own(out, DECODED)
    count = run(tokens, Tokenizer.from_pretrained(tokenizer, device()), out, batch_size)
    say(f"wrote {out}: {counted(count, 'image')}")


def export(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A tokenizer (a folder, a name below artifacts/tokenizer, or owner/name on the Hub) or a prior (a "
            "folder, a name below artifacts/prior, or owner/name on the Hub).",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to publish.")],
    metrics: Annotated[
        Path | None, typer.Option(help="Of a prior: its metrics file, for the model card.")
    ] = None,
    license_: Annotated[
        str | None, typer.Option("--license", metavar="NAME", help="Of a prior: its licence, as on the Hub.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Of a prior: its tokenizer (as above), where it is not found."),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="Of a prior of texts: its CLIP, where it is not found.")
    ] = None,
) -> None:
    """Write a tokenizer as ONNX graphs, checked in onnxruntime, or a prior as safetensors with all that it needs.

    Example: vqpipe export artifacts/tokenizer/lc --out lc-onnx

    Example: vqpipe export artifacts/prior/lc-gpt --metrics artifacts/metrics/prior/lc-gpt.json --out shared
    """
    from vqpipe.errors import ParamsError

    if _is_prior(path):
        from vqpipe.artifacts.remedies import quoted
        from vqpipe.library.prior_export import export_prior
        from vqpipe.library.priors import ImagePrior

        loaded = ImagePrior.from_pretrained(path, tokenizer=tokenizer, clip=clip)
        export_prior(loaded, out, metrics, license_)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        say(
            f"wrote {out}: a prior with all that it needs, {size / 1e6:,.1f} MB; its card is {out / 'README.md'}"
        )
        condition = "" if loaded.prior.knows_null else CONDITIONS[loaded.prior.config.condition]
        say(f"draw with it: vqpipe sample --prior {quoted(out)}{condition} --out grid.png")
        return
    given = {"--metrics": metrics, "--license": license_, "--tokenizer": tokenizer, "--clip": clip}
    extra = [name for name, value in given.items() if value is not None]
    if extra:
        raise ParamsError(
            f"{path} is no prior, and ONNX graphs take none of these options", found=", ".join(extra),
            expected="the folder of a prior, or no such option",
        )  # fmt: skip
    from vqpipe.artifacts.specs.exported import ONNX
    from vqpipe.library.export import export_tokenizer, need_packages
    from vqpipe.library.places import need_own

    need_packages()
    need_own(out, ONNX)
    from vqpipe.library.hub import Tokenizer

    done = export_tokenizer(Tokenizer.from_pretrained(path), out)
    facts = done.facts
    side, (rows, columns) = facts["resolution"], facts["grid"]
    say(
        f"wrote {out}: images (batch, 3, {side}, {side}) to indices (batch, {facts['groups']}, {rows}, {columns}) and "
        f"back, opset {facts['opset']}"
    )
    say(
        f"in onnxruntime: {done.num_equal} of {done.num_indices} indices equal, images within {done.image_error:.1e}"
    )


def _is_prior(path: str) -> bool:
    """Whether a path, a name below artifacts/prior or a name on the Hub means a prior; else it means a tokenizer.

    Raises:
        ArtifactError: it means neither.
        ParamsError: it means both.
        SetupError: the Hub cannot be reached, or does not give access.
    """
    from vqpipe.errors import ParamsError
    from vqpipe.library import hub, priors
    from vqpipe.library.places import none_of
    from vqpipe.tokenizers.stored import CONFIG

    places = (priors.PLACE, hub.PLACE)
    found = [
        place for place in places if place.is_one(Path(path) if Path(path).exists() else place.folder / path)
    ]
    if len(found) > 1:
        raise ParamsError(
            f"{path} is the name of a prior and of a tokenizer", expected="the path of one of them",
            choices=[(place.folder / path).as_posix() for place in found],
        )  # fmt: skip
    if found:
        return found[0] is priors.PLACE
    below = [place for place in places if Path(path).parent == place.folder]
    if not Path(path).exists() and ("/" not in path or below):
        raise none_of(below or places, path)
    for place in places:
        place.need_there(Path(path))
    if Path(path).exists() or path.count("/") != 1:
        return False
    return priors.PLACE.is_one(hub.download(path, CONFIG, "tokenizer or prior").parent)


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint: .ckpt, .pt, .pth or .safetensors.")],
    config: Annotated[Path, typer.Argument(help="Its YAML config.")],
    out: Annotated[Path, typer.Option(help="The tokenizer's folder to publish.")],
    layout: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The layout, where the config's class has a name of its own."),
    ] = None,
    weights: Annotated[
        Weights | None,
        typer.Option(help="Which set of weights; without it the one that the project evaluates."),
    ] = None,
    words: Annotated[Path | None, typer.Option(help="VQCT: the .npz file of its words and graph.")] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Side of the images in pixels; LlamaGen: 256 without it; Open-MAGVIT2, SimVQ: the config's.",
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List every key that is left out.")] = False,
) -> None:
    """Read another project's checkpoint, tensors only, into a tokenizer, and look at the result.

    Example: vqpipe import last.ckpt model.yaml --out artifacts/tokenizer/vqgan
    """
    from vqpipe.artifacts.remedies import quoted
    from vqpipe.library.foreign import import_checkpoint, need_imported, publish_import

    need_imported(out)
    imported = import_checkpoint(
        checkpoint, config, layout=layout, weights=weights, words=words, resolution=resolution,
    )  # fmt: skip
    publish_import(imported, checkpoint, config, out)
    tokenizer, check = imported.tokenizer, imported.check
    dropped = ", ".join(f"{name} {count:,}" for name, count in imported.left_out_counts.items()) or "none"
    say(f"layout: {imported.title} ({imported.layout}), {imported.weights} weights")
    say(f"keys mapped: {imported.num_mapped:,}; left out: {len(imported.left_out):,} ({dropped})")
    for key in imported.left_out if list_ else ():
        say(f"  {key}")
    if imported.note:
        say(f"note: {imported.note}")
    rows, columns = tokenizer.grid
    codes = " x ".join(f"{count:,}" for count in check.num_codes)
    say(
        f"wrote {out}: {tokenizer.config.quantizer.kind}, K = {codes}, dimension {check.dim}, "
        f"{tokenizer.resolution} x {tokenizer.resolution} pixels to {rows} x {columns} indices, {check.bits:,.0f} bits"
    )
    reached = ", ".join(f"{share:.0%}" for share in check.reached)
    used = ", ".join(f"{count:,}" for count in check.used)
    most = min(1.0, check.draws / max(check.num_codes))
    bound = f" (of {most:.0%} that so many can)" if most < 1 else ""
    say(
        f"looked at: {check.draws:,} random latents reach {reached} of the codes{bound}; a test picture uses {used} "
        f"and comes back finite, {check.low:.2f} to {check.high:.2f}"
    )
    say(f"measure it: vqpipe evaluate IMAGES --tokenizer {quoted(out)}")
