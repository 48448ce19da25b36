"""List the code of every stage: the first stage, whose files all other stages depend on in place of their source."""

import re
from pathlib import Path
from typing import Annotated

import typer

from stages.cli import stage_app

LISTING = re.compile(r"(?:[0-9a-f]{12}  \S+\n)+")
"""What a listing looks like; other files in the folder are left alone."""


def main(
    stages: Annotated[list[str], typer.Argument(help="Stages, such as graph.")],
    out: Annotated[Path, typer.Option(help="The folder of listings to bring up to date.")],
) -> None:
    """Write OUT/STAGE.txt for each stage: a hash of what each file of code does that the stage can import.

    A listing that is up to date is not written again; listings of other stages are removed.

    Example: python -m stages.code dataset clip --out artifacts/code
    """
    from vqpipe.runtime.code import Code

    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob("*.txt"):
        if path.stem not in stages and LISTING.fullmatch(path.read_text(encoding="utf-8", errors="replace")):
            path.unlink()
    code = Code(Path.cwd())
    for stage in stages:
        path, text = out / f"{stage}.txt", code.listing(stage)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            part = path.with_name(f".{path.name}.partial")
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    code.keep()


app = stage_app(main)

if __name__ == "__main__":
    app()
