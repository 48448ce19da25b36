"""Files that carry the SHA-256 of themselves, so that a reader finds a changed bit without a second file.

A sealed file contains `vqpipe-sha256:` and 64 hexadecimal digits once: the SHA-256 of the file with zeros for them.
They may be anywhere in JSON, and are in the header of safetensors and in the footer of Parquet.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vqpipe.errors import ArtifactError

MARK = "vqpipe-sha256:"
DIGITS = 64
UNSEALED = MARK + "0" * DIGITS
"""What a writer puts where the seal goes."""
SEAL = "seal"
"""The key in JSON."""
SAFETENSORS, PARQUET = ".safetensors", ".parquet"
"""The endings of binary files that can be sealed."""
_BLOCK = 1 << 20


def sealed_text(text: str) -> str:
    """A text that contains `UNSEALED` once, with its digest in place of the zeros."""
    assert text.count(UNSEALED) == 1, "a text to be sealed has one place for the seal"
    return text.replace(UNSEALED, MARK + hashlib.sha256(text.encode()).hexdigest())


def seal_file(path: Path, kind: str) -> None:
    """Seal a file that contains `UNSEALED` once in its header or footer; in place.

    Args:
        kind: `SAFETENSORS` or `PARQUET`, regardless of the ending of the file's name.
    """
    at = _place(path, kind)
    assert at is not None, f"{path} has no place for a seal"
    digest = _digest(path, at)
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(digest.encode())


def check_seal(path: Path, run: str | None = None) -> None:
    """Compare a file with its seal; reads all of it.

    Args:
        run: the command that mends the file, for the message.

    Raises:
        ArtifactError: no seal, or other content than was sealed.
    """
    at = _place(path, path.suffix) if path.suffix in (SAFETENSORS, PARQUET) else None
    if at is None:
        raise _unsealed(path, run)
    with path.open("rb") as stream:
        stream.seek(at)
        stated = stream.read(DIGITS).decode("ascii", "replace")
    need_equal(path, _digest(path, at), stated, run)


def need_equal(where: object, found: str, expected: str, run: str | None = None) -> None:
    """Raise `ArtifactError` where a file's digest is not the one that was written down for it."""
    if found != expected:
        raise ArtifactError(
            f"{where} is damaged: its content is not what was written",
            found=f"SHA-256 {found[:16]}…", expected=f"SHA-256 {expected[:16]}…", run=run,
        )  # fmt: skip


def read_sealed_json(path: Path, run: str | None = None) -> dict[str, Any]:
    """The content of a sealed JSON object, without its seal.

    Args:
        run: the command that mends the file, for the message.

    Raises:
        ArtifactError: not a JSON object, no seal, or other content than was sealed.
    """
    return parse_sealed(path.read_bytes(), path, run)[0]


def parse_sealed(
    raw: bytes, where: object, run: str | None = None, *, required: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a JSON object without its seal, and the digests of other files that the seal names.

    Args:
        raw: the bytes of the file.
        where: names the file in messages.
        run: the command that mends the file, for the message.
        required: False takes an object without any trace of a seal, as other programs write it.

    Raises:
        ArtifactError: not a JSON object, no seal where one is required, or other content than was sealed.
    """
    content = parse_object(raw, where, run)
    seal, at = content.pop(SEAL, None), _find(raw)
    if at is None or not isinstance(seal, str):
        if not required and seal is None and MARK.encode() not in raw:
            return content, {}
        raise _unsealed(where, run)
    stated = raw[at : at + DIGITS].decode("ascii", "replace")
    zeroed = raw[:at] + b"0" * DIGITS + raw[at + DIGITS :]
    need_equal(where, hashlib.sha256(zeroed).hexdigest(), stated, run)
    return content, dict(word.split(":", 1) for word in seal.split()[1:])


def _unsealed(where: object, run: str | None) -> ArtifactError:
    return ArtifactError(
        f"{where} carries no checksum: it is damaged, or an older version of vqpipe wrote it", run=run
    )


def parse_object(raw: bytes, where: object, run: str | None = None) -> dict[str, Any]:
    """A JSON object from the bytes of a file.

    Raises:
        ArtifactError: not UTF-8, not JSON, or not an object.
    """
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: cannot be read as JSON ({error})", run=run) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: not a JSON object", found=type(content).__name__, run=run)
    return content


def _find(raw: bytes) -> int | None:
    """Where the digits begin; None unless the mark occurs exactly once."""
    at = raw.find(MARK.encode())
    if at < 0 or at + len(UNSEALED) > len(raw) or raw.find(MARK.encode(), at + 1) >= 0:
        return None
    return at + len(MARK)


def _place(path: Path, kind: str) -> int | None:
    """Where the digits of a file begin; None where it has none, or is truncated."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if kind == PARQUET:
            stream.seek(max(size - 8, 0))
            begin = size - 8 - int.from_bytes(stream.read(4), "little")
            end = size
        else:
            begin, end = 0, 8 + int.from_bytes(stream.read(8), "little")
        if not 0 <= begin < end <= size:
            return None
        stream.seek(begin)
        at = _find(stream.read(end - begin))
    return None if at is None else begin + at


def _digest(path: Path, at: int) -> str:
    """SHA-256 of a file with zeros for the digits at `at`."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        digest.update(stream.read(at))
        stream.seek(at + DIGITS)
        digest.update(b"0" * DIGITS)
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
