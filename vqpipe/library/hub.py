"""`from vqpipe import Tokenizer`: a tokenizer that is read from a folder or from the Hugging Face Hub, and shared.

    tokenizer = Tokenizer.from_pretrained("artifacts/tokenizer/lc")   # or "someone/their-tokenizer"
    indices = tokenizer.encode(tokenizer.preprocess(picture))
    picture = tokenizer.to_pil(tokenizer.decode(indices))[0]
    tokenizer.push_to_hub("someone/my-tokenizer", model_card_kwargs={"license": "cc-by-4.0"})

The class of the training half, `vqpipe.tokenizers.tokenizer.Tokenizer`, reads folders without huggingface_hub.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vqpipe.errors import ArtifactError, SetupError
from vqpipe.library.card import card
from vqpipe.library.images import preprocess, to_pil
from vqpipe.tokenizers import tokenizer as training
from vqpipe.tokenizers.stored import CONFIG, LIBRARY, MODEL, named_folder, read_config, write_config_folder

try:
    from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
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

if TYPE_CHECKING:
    from typing import Self

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

    The latter two are huggingface_hub's. Their `model_card_kwargs` may hold `prior` (folder of the codebook prior),
    `metrics` (what the stage `evaluate` wrote) and `license` (a name of the Hub's list).
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
            path_or_hub_id: a folder (a pipeline artifact, or what `save_pretrained` wrote), or `owner/name` on the
                Hub. A folder that is there wins; a `Path` is never taken for a name.
            device: where it goes.
            revision: branch, tag or commit on the Hub.
            cache_dir: huggingface_hub's cache, where not the usual one.
            force_download: download again what is in the cache.
            local_files_only: take what the cache holds, and ask no network.
            token: access token of the Hub, where not the one that is logged in.

        Raises:
            ArtifactError: no path or name, neither a folder nor a name on the Hub, another library's model, or another
                version.
            SetupError: the Hub cannot be reached, or does not give access.
        """
        name = named_folder(path_or_hub_id)
        if os.path.exists(name) or not isinstance(name, str):
            return super(ModelHubMixin, cls).from_pretrained(Path(name), device)
        if name.startswith((".", "~", os.sep)):
            return super(ModelHubMixin, cls).from_pretrained(Path(name).expanduser(), device)
        with _told(name):
            config = Path(
                hf_hub_download(
                    name, CONFIG, revision=revision, cache_dir=cache_dir, force_download=force_download, token=token,
                    local_files_only=local_files_only,
                )
            )  # fmt: skip
        try:
            read_config(config)  # before the weights, which may be large
        except ArtifactError as error:
            raise ArtifactError(f"{name} on the Hub: {error}".splitlines()) from error
        with _told(name):
            hf_hub_download(
                name, MODEL, revision=config.parent.name, cache_dir=cache_dir, force_download=force_download,
                token=token, local_files_only=local_files_only,
            )  # fmt: skip
        return super(ModelHubMixin, cls).from_pretrained(config.parent, device)

    def preprocess(self, images: Image.Image | Sequence[Image.Image]) -> Float[Tensor, "b 3 r r"]:
        """PIL images as this tokenizer takes them, on its device; see `vqpipe.library.images.preprocess`."""
        return preprocess(images, self.resolution).to(self.latent_scale.device)

    def to_pil(self, images: Float[Tensor, "b 3 H W"]) -> list[Image.Image]:
        """What `decode` gave, as PIL images; see `vqpipe.library.images.to_pil`."""
        return to_pil(images)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Make or update a repository on the Hub; see `huggingface_hub.ModelHubMixin.push_to_hub`.

        Returns:
            The commit's address.

        Raises:
            ArtifactError: not a name that a repository can have.
            SetupError: the Hub cannot be reached, or does not give access.
        """
        with _told(repo_id):
            return str(super().push_to_hub(repo_id, **options))

    def generate_model_card(  # type: ignore[override]
        self,
        *,
        prior: Path | str | None = None,
        metrics: Path | str | None = None,
        license: str | None = None,
    ) -> ModelCard:
        """The card: what the tokenizer is, its prior and where that comes from, K, metrics, what to check.

        Raises:
            ArtifactError: the prior or the metrics cannot be read.
            MismatchError: a prior of another kind than the tokenizer was built on.
        """
        shared: dict[str, Any] = type(self)._hub_mixin_info.model_card_data.to_dict()  # type: ignore[no-untyped-call]
        data = {**shared, **({"license": license} if license else {})}
        text = card(self, Path(prior) if prior else None, Path(metrics) if metrics else None)
        return ModelCard(f"---\n{_front(data)}\n---\n\n{text}")

    def _save_pretrained(self, save_directory: Path) -> None:
        write_config_folder(save_directory, self.state_dict(), self.described(self.facts))


def _front(data: dict[str, Any]) -> str:
    """The YAML that heads a card: plain words and lists of them."""
    lines = []
    for key, value in sorted(data.items()):
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {item}" for item in value)]
        elif value is not None:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turns what the Hub's client raises into a message that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise ArtifactError(
            f"{name} is neither a folder here nor a name on the Hub",
            expected="a tokenizer's folder, or owner/name",
        ) from error
    except GatedRepoError as error:
        raise SetupError(
            f"{name} on the Hub is gated", run="hf auth login, and ask for access on its page"
        ) from error
    except RepositoryNotFoundError as error:
        raise ArtifactError(
            f"{name} is neither a folder here nor a repository on the Hub that you may see",
            expected="a tokenizer's folder, or owner/name", run="hf auth login, where it is private",
        ) from error  # fmt: skip
    except RevisionNotFoundError as error:
        raise ArtifactError(f"{name} on the Hub has no such revision", found=_first(error)) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise SetupError(
            f"{name} is no folder here, is not in the Hub's cache, and the Hub cannot be asked", found=_first(error),
            expected="a network and HF_HUB_OFFLINE unset, or the path of a folder that is there",
        ) from error  # fmt: skip
    except EntryNotFoundError as error:
        raise ArtifactError(
            f"{name} on the Hub holds no tokenizer of this library", found=_first(error),
            expected=f"{CONFIG} and {MODEL}, as push_to_hub writes them",
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
