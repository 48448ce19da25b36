"""`from vqpipe import Tokenizer`: a tokenizer that is read from a folder or from the Hugging Face Hub, and shared.

    tokenizer = Tokenizer.from_pretrained("artifacts/tokenizer/lc")   # or "someone/their-tokenizer"
    indices = tokenizer.encode(tokenizer.preprocess(picture))
    picture = tokenizer.to_pil(tokenizer.decode(indices))[0]
    tokenizer.push_to_hub("someone/my-tokenizer", model_card_kwargs={"license": "cc-by-4.0"})

The class of the training half, `vqpipe.tokenizers.tokenizer.Tokenizer`, reads folders without huggingface_hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vqpipe.artifacts.inputs_outputs import need_outside
from vqpipe.artifacts.remedies import quoted
from vqpipe.artifacts.spec import check_header
from vqpipe.artifacts.specs.tokenizer import TOKENIZER, WEIGHTS
from vqpipe.artifacts.tensors import read_tensor_header
from vqpipe.data.images import centre_square, to_rgb
from vqpipe.data.loader import to_float, to_uint8
from vqpipe.errors import ArtifactError, MismatchError, SetupError, VqpipeError
from vqpipe.library.cards import SIGNED, signed, tokenizer_card
from vqpipe.library.measured import card_metrics
from vqpipe.library.places import Place
from vqpipe.tokenizers import tokenizer as training
from vqpipe.tokenizers.identity import tokenizer_digest
from vqpipe.tokenizers.stored import CONFIG, LIBRARY, MODEL, read_config, write_config_folder

if TYPE_CHECKING:
    from typing import Self

try:
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
except ImportError as error:
    raise SetupError(
        "vqpipe.Tokenizer needs huggingface_hub; vqpipe.tokenizers.tokenizer.Tokenizer reads folders without it",
        run="pip install huggingface_hub",
    ) from error


CARD = "README.md"
PLACE = Place("tokenizer", Path("artifacts/tokenizer"), frozenset({TOKENIZER.name}))
TRANSPORT: type[Exception] = HfHubHTTPError.__bases__[0]  # type: ignore[assignment]
"""The base error of the HTTP client that huggingface_hub uses; its versions use different ones."""


class Tokenizer(
    ModelHubMixin,
    training.Tokenizer,
    library_name=LIBRARY,
    pipeline_tag="image-feature-extraction",
    tags=["image-tokenizer", "vector-quantization"],
):
    """A tokenizer with `from_pretrained`, `save_pretrained` and `push_to_hub`.

    The latter two are huggingface_hub's. Their `model_card_kwargs` may have `codebook` (folder of the pretrained
    codebook), `metrics` (what the stage `evaluate` or `vqpipe bench-tokenizers` wrote), `dataset` (what the images of
    the metrics are called on the Hub) and `license` (a name of the Hub's list).
    """

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path_or_hub_id: str | Path,
        device: torch.device | str = "cpu",
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Read a tokenizer, in eval mode.

        Args:
            path_or_hub_id: a folder (a pipeline artifact, or what `save_pretrained` wrote), a name below
                `artifacts/tokenizer`, or `owner/name` on the Hub, in this order. A `Path` is never taken for a name.
            device: where it goes.
            revision: branch, tag or commit on the Hub.
            cache_dir: huggingface_hub's cache, where not the usual one.
            force_download: download again what is in the cache.
            local_files_only: use only what is in the cache.
            token: access token of the Hub, where not the one that is logged in.

        Raises:
            ArtifactError: no path or name, neither a folder nor a name on the Hub, another library's model, or another
                version.
            SetupError: the Hub cannot be reached, or does not give access.
        """
        folder = PLACE.local(path_or_hub_id)
        if folder is not None:
            return super(ModelHubMixin, cls).from_pretrained(folder, device)
        name = str(path_or_hub_id)
        options: dict[str, Any] = {
            "cache_dir": cache_dir, "force_download": force_download, "token": token,
            "local_files_only": local_files_only,
        }  # fmt: skip
        try:
            config = download(name, CONFIG, revision=revision, **options)
        except VqpipeError:
            PLACE.need_there(Path(name))  # a mistyped path looks like owner/name
            raise
        try:
            read_config(config, TOKENIZER)  # before the weights, which may be large
        except ArtifactError as error:
            raise ArtifactError(f"{name} on the Hub: {error}".splitlines()) from error
        download(name, MODEL, revision=config.parent.name, **options)
        return super(ModelHubMixin, cls).from_pretrained(config.parent, device)

    def preprocess(self, images: Image.Image | Sequence[Image.Image]) -> Float[Tensor, "b 3 r r"]:
        """PIL images as this tokenizer takes them, on its device; see `vqpipe.library.hub.preprocess`."""
        return preprocess(images, self.resolution).to(self.latent_scale.device)

    def to_pil(self, images: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
        """What `decode` gave, as PIL images; see `vqpipe.library.hub.to_pil`."""
        return to_pil(images)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:  # type: ignore[override]
        """Write `config.json`, `model.safetensors` and a card; see `huggingface_hub.ModelHubMixin.save_pretrained`.

        A card that an earlier call wrote there is written anew; one that was edited, or is not ours, is kept.

        Raises:
            ArtifactError: a folder of another kind, such as an artifact or an exported prior; a card that would be kept
                names other weights, or options for the card with one that would be kept.
        """
        _need_saved(Path(save_directory))
        card = Path(save_directory) / CARD
        if card.is_file():
            text = card.read_text(encoding="utf-8", errors="replace")
            kept = signed(text.rpartition(SIGNED)[0]) != text
            named = re.search(r"\| SHA-256 of params and weights \| (\w{64}) \|", text)
            other = named[1] != tokenizer_digest(self) if named else "made with vqpipe" in text
            if kept and (other or options.get("model_card_kwargs")):
                lacks = "is not of these weights" if other else "lacks the options that are given"
                raise ArtifactError(
                    f"{card} was edited and would be kept, but {lacks}",
                    expected="a folder without a card", run=f"rm {quoted(card)}",
                )  # fmt: skip
            if not kept:
                card.unlink()
                try:
                    return super().save_pretrained(save_directory, **options)
                except BaseException:
                    if not card.exists():  # else the new one is there, and what failed comes after it
                        card.write_text(text, encoding="utf-8")
                    raise
        return super().save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Make or update a repository on the Hub; see `huggingface_hub.ModelHubMixin.push_to_hub`.

        Returns:
            The commit's address.

        Raises:
            ArtifactError: not a name that a repository can have.
            SetupError: the Hub cannot be reached, or does not give access.
        """
        with _explained(repo_id):
            return str(super().push_to_hub(repo_id, **options))

    def generate_model_card(  # type: ignore[override]
        self,
        *,
        codebook: Path | str | None = None,
        metrics: Path | str | None = None,
        dataset: str | None = None,
        license: str | None = None,
    ) -> ModelCard:
        """The card: what the tokenizer is, its codebook and where that comes from, K, metrics, what to check.

        With metrics, the head of the card has them as `model-index`, which the Hub shows next to the card.

        Raises:
            ArtifactError: the codebook or the metrics cannot be read.
            MismatchError: another codebook than the one that the tokenizer was built on, or metrics of others.
        """
        shared: dict[str, Any] = type(self)._hub_mixin_info.model_card_data.to_dict()  # type: ignore[no-untyped-call]
        data = {**shared, **({"license": license} if license else {})}
        measured = card_metrics(Path(metrics), self) if metrics else None
        if measured is not None:
            data |= {
                "model_name": f"{self.config.quantizer.kind} image tokenizer",
                "eval_results": measured.eval_results(dataset),
            }
        front = ModelCardData(**dict(sorted(data.items()))).to_yaml()
        text = tokenizer_card(self, Path(codebook) if codebook else None, measured)
        return ModelCard(signed(f"---\n{front}\n---\n\n{text}"))

    def _save_pretrained(self, save_directory: Path) -> None:
        write_config_folder(save_directory, self.state_dict(), self.described(self.facts), TOKENIZER, WEIGHTS)


def _need_saved(folder: Path) -> None:
    """Check, before anything is written, that a tokenizer can be saved into a folder, which may have further files.

    Raises:
        ArtifactError: a file, a published folder or a place in one, or a model that `save_pretrained` did not write.
    """
    expected = "a new folder, or one that save_pretrained wrote"
    need_outside(folder / CONFIG)
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file", expected=expected)
    try:
        if (folder / CONFIG).is_file():
            read_config(folder / CONFIG, TOKENIZER)
        elif (folder / MODEL).is_file():  # of a call that was stopped before it wrote the config
            check_header(read_tensor_header(folder / MODEL)[0], WEIGHTS, folder / MODEL)
    except ArtifactError as error:
        raise ArtifactError(
            f"{folder} has a model that would be overwritten", found=str(error).splitlines()[0], expected=expected
        ) from error  # fmt: skip


def preprocess(images: Image.Image | Sequence[Image.Image], resolution: int) -> Float[Tensor, "b 3 r r"]:
    """PIL images of any mode and shape as float32 in [-1, 1], r = `resolution`.

    Upright by EXIF, transparency over white, 8-bit RGB; then the shorter side is scaled to `resolution` (Lanczos,
    antialiased) and the centre is cut out, as `vqpipe evaluate` and `vqpipe tokenize` do.

    Raises:
        MismatchError: no image, or something that is not a PIL image.
        BadImage: floating-point or 32-bit pixels, whose range is not known.
    """
    given: Any = images
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]
    if not all(isinstance(image, Image.Image) for image in listed):
        kind = next(type(image) for image in listed if not isinstance(image, Image.Image))
        raise MismatchError(
            "these are not PIL images", found=f"{kind.__module__}.{kind.__name__}",
            expected="a PIL image, or a list of them",
            run="Image.open(path) for a file, Image.fromarray(array) for pixels (H, W, 3) in uint8",
        )  # fmt: skip
    if not listed:
        raise MismatchError("there is no image to prepare", expected="a PIL image, or a list of them")
    squares = [centre_square(to_rgb(image), resolution) for image in listed]
    return to_float(torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2))


def to_pil(images: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
    """Images in [-1, 1] as PIL images; values beyond are clamped.

    Raises:
        MismatchError: another shape or dtype, or values that are not finite.
    """
    expected = "floating-point values of shape (b, 3, H, W), as decode gives them"
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
        found = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise MismatchError("these are not images", found=found, expected=expected)
    if not images.is_floating_point() or not bool(images.isfinite().all()):
        found = f"{images.dtype}" if not images.is_floating_point() else "values that are NaN or infinite"
        raise MismatchError("these are not images in [-1, 1]", found=found, expected=expected)
    return [Image.fromarray(image) for image in to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()]


def download(name: str, file: str, what: str = "tokenizer", **options: Any) -> Path:
    """One file of a repository on the Hub, in the local cache.

    Args:
        what: the repository should contain, for messages.
        **options: of `huggingface_hub.hf_hub_download`.

    Raises:
        ArtifactError: no such repository, revision or file.
        SetupError: the Hub cannot be reached, or does not give access.
    """
    with _explained(name, what):
        return Path(hf_hub_download(name, file, **options))


@contextmanager
def _explained(name: str, what: str = "tokenizer") -> Iterator[None]:
    """Turn what the Hub's client raises into a message that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise ArtifactError(
            f"{name} is neither a folder here nor a name on the Hub",
            expected=f"a {what}'s folder, or owner/name",
        ) from error
    except GatedRepoError as error:
        raise SetupError(
            f"{name} on the Hub is gated", run="hf auth login, and ask for access on its page"
        ) from error
    except RepositoryNotFoundError as error:
        raise ArtifactError(
            f"{name} is neither a folder here nor a repository on the Hub that you may see",
            expected=f"a {what}'s folder, or owner/name", run="hf auth login, where it is private",
        ) from error  # fmt: skip
    except RevisionNotFoundError as error:
        raise ArtifactError(f"{name} on the Hub has no such revision", found=_first(error)) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise SetupError(
            f"{name} is not a folder here, is not in the Hub's cache, and the Hub cannot be asked", found=_first(error),
            expected="a network and HF_HUB_OFFLINE unset, or the path of a folder that is there",
        ) from error  # fmt: skip
    except EntryNotFoundError as error:
        writer = "push_to_hub" if what == "tokenizer" else "vqpipe export"
        raise ArtifactError(
            f"{name} on the Hub has no {what} of this library", found=_first(error),
            expected=f"{CONFIG} and {MODEL}, as {writer} writes them",
        ) from error  # fmt: skip
    except HfHubHTTPError as error:
        raise SetupError(f"the Hub refused {name}", found=_first(error), run="hf auth login") from error
    except (TRANSPORT, ConnectionError) as error:
        raise SetupError(f"the Hub cannot be reached for {name}", found=_first(error)) from error


def _first(error: Exception) -> str:
    """The first line of an error's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[
        :300
    ]
