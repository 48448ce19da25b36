"""Which entry of a params file a tokenizer's folder is, so that no result is published under the name of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqpipe.artifacts.publish import MANIFEST, read_manifest
from vqpipe.artifacts.specs.tokenizer import TOKENIZER
from vqpipe.errors import MismatchError
from vqpipe.params.base import merged, read_yaml, validate
from vqpipe.params.names import NAMED
from vqpipe.tokenizers.stored import CONFIG, read_config
from vqpipe.tokenizers.tokenizer import TokenizerParams


def variants_like(tokenizer: Path, params: Path) -> list[str]:
    """The names of a tokenizer: the variants of a params file whose params it states to have; else its folder's name.

    Of several such variants, the one that the folder is called after. A copy in a folder of another name is recognised
    by its params; a tokenizer that was imported, or whose variant has changed since, by its folder's name.

    Args:
        tokenizer: a folder of either form, which is there.
        params: the params file.

    Raises:
        ArtifactError: the folder contains no tokenizer, or a damaged manifest.
        ParamsError: the params file cannot be read.
    """
    read = read_manifest(tokenizer, TOKENIZER).facts if (tokenizer / MANIFEST).is_file() else None
    stated = (read_config(tokenizer / CONFIG, TOKENIZER) if read is None else read).get("params")
    section = _block(read_yaml(params).get("tokenizer"))
    common = _block(section.get("common"))
    found = [
        name
        for name, own in _block(section.get("variants")).items()
        if _has(stated, whole := merged(common, own)) and _is(stated, whole, f"tokenizer.variants.{name}")
    ]
    called = {tokenizer.name, tokenizer.resolve().name}
    return [name for name in found if name in called] or found or sorted(called)


def need_tokenizer(name: str, tokenizer: Path, params: Path, section: str, pair: str) -> None:
    """Refuse another tokenizer than the one that a pair names, whose results would be published under its name.

    Args:
        name: the tokenizer that the pair names.
        tokenizer: the folder that is given.
        section: `prior` or `task`.
        pair: a name under its `pairs`.

    Raises:
        MismatchError: it is another one; the message names the pairs that it has.
        ArtifactError, ParamsError: as `variants_like`.
    """
    names = variants_like(tokenizer, params)
    if name in names:
        return
    pairs = _block(_block(read_yaml(params).get(section)).get("pairs"))
    kind = _block(pairs.get(pair)).get("kind")
    others = [key for key, own in pairs.items() if isinstance(own, Mapping) and own.get("tokenizer") in names]
    alike = [key for key in others if pairs[key].get("kind") == kind]
    beside = tokenizer.with_name(name)
    again = [f"--tokenizer {beside}"] * beside.is_dir() + [f"--pair {key}" for key in alike[:1]]
    raise MismatchError(
        f"{section}.pairs.{pair} is of the tokenizer {name}, and another one is given: its results would be published "
        f"as those of {name}",
        found=f"{tokenizer}, which is {' or '.join(names)}",
        expected=f"the tokenizer {name}: its folder, or a copy with the params of tokenizer.variants.{name}; or a pair "
        "of the tokenizer that is given",
        choices=others or None,
        run=f"the same command with {', or with '.join(again)}" if again else f"dvc repro tokenizer@{name}",
    )  # fmt: skip


def need_own_outputs(names: Sequence[str], outputs: Iterable[Path], params: Path, section: str) -> None:
    """Refuse an output that is called after another entry of a params file than the one that it is of.

    Args:
        names: what the output may be called; names that are no entries, such as those of trials, are free.
        outputs: folders, and files with one suffix.
        section: `tokenizer`, `prior` or `task`, whose entries' names are not free.

    Raises:
        MismatchError: it has the name of another entry.
        ParamsError: the params file cannot be read.
    """
    entries = _block(_block(read_yaml(params).get(section)).get(NAMED[section]))
    for path in outputs:
        called = path.name.removesuffix(".json").removesuffix(".csv")
        if called in entries and called not in names:
            right = path.with_name(path.name.replace(called, names[0], 1))
            raise MismatchError(
                f"{path} has the name of another entry of {section}.{NAMED[section]} than it is made from",
                found=f"an output of {names[0]}, called {called}",
                expected=f"{right}, or a name that no entry has",
                run=f"the same command with {right}",
            )  # fmt: skip


def _block(value: Any) -> Mapping[str, Any]:
    """A block of a params file; one that is no block, which its own stage refuses, has no entries."""
    return value if isinstance(value, Mapping) else {}


def _has(stated: Any, wanted: Any) -> bool:
    """Whether params, with all defaults, have the values that a params file states."""
    if isinstance(wanted, Mapping):
        return isinstance(stated, Mapping) and all(
            _has(stated.get(key), value) for key, value in wanted.items()
        )
    return bool(stated == wanted)


def _is(stated: Any, whole: Any, section: str) -> bool:
    """Whether params are those of a variant to the last default."""
    return bool(stated == validate(whole, section, TokenizerParams).model_dump(mode="json"))
