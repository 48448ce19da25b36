"""The base of the metrics models: what a stage measured, written as sealed JSON and read through the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from vqpipe.artifacts.seal import read_sealed_json
from vqpipe.errors import ArtifactError


class Metrics(BaseModel):
    """Frozen; unknown fields and numbers that are not finite are refused. A field that is None is not written."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def plain(self) -> dict[str, Any]:
        """As plain JSON: nested mappings of finite numbers and strings."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)

    @classmethod
    def of(cls, content: dict[str, Any], where: object, run: str | None = None) -> Self:
        """The metrics in parsed JSON.

        Args:
            content: the parsed object.
            where: what a message calls it, such as the file's path.
            run: the command that writes it anew, for the message.

        Raises:
            ArtifactError: a field is missing, unknown or of another type.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(
                f"{where} does not have the form that this version writes", found=f"{place}: {first['msg']}",
                expected=f"the fields of {cls.__name__}", run=run,
            ) from error  # fmt: skip

    @classmethod
    def read(cls, path: Path, run: str | None = None) -> Self:
        """The metrics of a sealed file.

        Raises:
            ArtifactError: the file is missing, damaged, or of another form.
        """
        return cls.of(read_sealed_json(path, run), path, run)
