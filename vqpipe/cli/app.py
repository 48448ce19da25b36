"""The `vqpipe` console script: one small command per tool, heavy imports inside each.

Exit codes: 0 done, 1 a gate of `compare` was breached, 2 a user's mistake (one message).
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vqpipe.cli.bench_tokenizers import bench_tokenizers
from vqpipe.cli.priors import complete, sample
from vqpipe.cli.tasks import ask
from vqpipe.cli.tokenizers import TokenizerOption, detokenize, export, import_, tokenize
from vqpipe.errors import ParamsError, sentences
from vqpipe.runtime.signals import stop_on_signals
from vqpipe.runtime.terminal import say

METRICS = Path("artifacts/report/metrics.json")


class _Group(TyperGroup):
    """Turns a user's mistake into its message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        with sentences(), stop_on_signals():
            return super().invoke(ctx)


_STYLE: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}
app = typer.Typer(
    cls=_Group,
    pretty_exceptions_enable=False,
    help="Tools around the vqpipe pipeline and its artifacts.",
    **_STYLE,
)
artifacts_app = typer.Typer(help="Show and verify artifacts.", **_STYLE)
app.add_typer(artifacts_app, name="artifacts")


def _named(path: Path) -> Path:
    """The path of an artifact with its name, which its sidecars are called by: `.` has none."""
    return path if path.name else path.absolute()


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Tools around the vqpipe pipeline and its artifacts."""
    if version:
        from importlib.metadata import version as installed

        say(installed("vqpipe"))
        raise typer.Exit


@app.command()
def preset(
    name: Annotated[str | None, typer.Argument(help="The preset's name.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default standard output.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one key; +KEY=VALUE adds one. May be repeated."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that differs.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the presets and exit.")] = False,
) -> None:
    """Print or write the params file of a preset.

    Example: vqpipe preset coco --out params.yaml --set dataset.source.path=../data/coco
    """
    from vqpipe.cli.presets import describe, preset_names, preset_text

    names = preset_names()
    if list_:
        width = max(map(len, names), default=0)
        for known in names:
            say(f"{known:<{width}}  {describe(known)}".rstrip())
        return
    if name is None:
        raise ParamsError("no preset is named", choices=names, run="vqpipe preset --list")
    text = preset_text(name, set_ or [])
    if out is None:
        say(text, end="")
        return
    if out.is_dir():
        raise ParamsError(f"{out} is a folder", expected="a file, such as params.yaml")
    if out.exists() and not force and out.read_bytes() != text.encode():
        changes = [word for change in set_ or [] for word in ("--set", change)]
        raise ParamsError(
            f"{out} exists and differs from preset {name}", expected="a new file, or one of the same content",
            run=shlex.join(["vqpipe", "preset", name, "--out", str(out), *changes, "--force"]),
        )  # fmt: skip
    from vqpipe.artifacts.publish import publish_text
    from vqpipe.runtime.preflight import need_place

    need_place(out.parent, [out.name])
    publish_text(out, text)
    say(f"wrote {out}")


@artifacts_app.command("show")
def artifacts_show(
    path: Annotated[Path, typer.Argument(help="A folder, .parquet or .safetensors.")],
    full: Annotated[bool, typer.Option("--full", help="Long facts whole, such as all classes.")] = False,
) -> None:
    """Print an artifact's header in words.

    Example: vqpipe artifacts show artifacts/tokenizer/lc
    """
    from vqpipe.artifacts.show import show

    say(show(_named(path), full))


@artifacts_app.command("verify")
def artifacts_verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...", help="A folder of artifacts, an artifact or a file; without it, artifacts."
        ),
    ] = None,
) -> None:
    """Compare artifacts, metrics, curves and lineage with their checksums.

    Each problem is one line with the command that mends it. Exit code 2 where there is one.

    Example: vqpipe artifacts verify artifacts/tokenizer
    """
    from vqpipe.artifacts.publish import MANIFEST
    from vqpipe.artifacts.verify import verify

    found = verify(
        [_named(path) if (path / MANIFEST).is_file() else path for path in paths or [Path("artifacts")]]
    )
    say(found.text())
    if found.problems:
        raise typer.Exit(2)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A metrics file or a git revision: the base.")],
    b: Annotated[str, typer.Argument(help="A metrics file or a git revision: the run to compare with it.")],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GATE",
            help="Exit with code 1 if the change B - A meets this, such as 'clip.accuracy<-5%'; any change meets "
            "'clip.id!='.",
        ),
    ] = None,
    path: Annotated[Path, typer.Option(help="The metrics file within a revision.")] = METRICS,
    everything: Annotated[
        bool, typer.Option("--all", help="Also print metrics that did not change.")
    ] = False,
    allow_different: Annotated[
        bool,
        typer.Option(
            "--allow-different",
            help="Warn instead of refusing when the runs differ in their images or protocol.",
        ),
    ] = False,
) -> None:
    """Print how metrics changed from A to B; exit 1 where a gate is breached.

    Runs that measured other images, or under another protocol, are refused with exit code 2.

    Example: vqpipe compare main artifacts/report/metrics.json --fail-on 'tokenizer.lc.psnr<-0.2'
    """
    from vqpipe.errors import MismatchError
    from vqpipe.report.gate import breaches, deltas, parse_gate, read_metrics, table, unlike

    gates = [parse_gate(text) for text in fail_on or []]
    first, second = read_metrics(a, path), read_metrics(b, path)
    again = ["vqpipe", "compare", a, b, *(word for text in fail_on or [] for word in ("--fail-on", text))]
    again += [*(["--path", str(path)] if path != METRICS else []), *(["--all"] if everything else [])]
    warning, differ = unlike(first, second, (a, b))
    if warning:
        say(f"warning: {warning}", err=True)
    if differ and not allow_different:
        raise MismatchError(
            "A and B did not measure alike; what differs is listed above",
            expected="the same images and protocol on both sides; measure one side again, or compare them anyway",
            run=shlex.join([*again, "--allow-different"]),
        )
    if first == second:
        say(f"A and B have the same metrics; those of the workspace are in {path}", err=True)
    changes = deltas(first, second)
    broken = breaches(gates, changes)
    say(table(changes, everything))
    for sentence in broken:
        say(f"breach: {sentence}", err=True)
    if broken:
        raise typer.Exit(1)


@app.command()
def pairs(
    caption: Annotated[str, typer.Argument(help="A caption in quotes.")],
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="wordnet, nltk or spacy; repeat it for several. Without it, wordnet and nltk.",
        ),
    ] = None,
    spacy_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The pipeline of the backend spacy: an installed package or a folder, such as en_core_web_sm, "
            "the default.",
        ),
    ] = None,
    predicative: Annotated[bool, typer.Option("--predicative", help='Also "the boat is red".')] = False,
) -> None:
    """Print a caption's words with their parts of speech, and its (adjective, noun) pairs, by each backend.

    Example: vqpipe pairs "a small red boat under a grey sky"
    """
    from vqpipe.cli.pairs import side_by_side
    from vqpipe.text.tagger import PhraseParams

    phrases = PhraseParams(predicative=predicative, shades="noun")
    say(side_by_side(caption, backend or [], spacy_model, phrases))


@app.command()
def boards(
    folder: Annotated[Path, typer.Option(help="A folder of boards: params, claims, metrics, cost.")] = Path(
        "boards"
    ),
    out: Annotated[
        Path,
        typer.Option(
            help="The first Markdown page to write; the others go to a folder next to it, named alike."
        ),
    ] = Path("docs/scoreboard.md"),
) -> None:
    """Write the pages of the boards from the metrics of their rows; missing rows are listed.

    Example: vqpipe boards --out docs/scoreboard.md
    """
    from vqpipe.artifacts.inputs_outputs import MARKDOWN, need_output
    from vqpipe.boards.changes import read_earlier
    from vqpipe.boards.found import read_boards
    from vqpipe.boards.page import boards_pages, write_pages

    need_output(out, MARKDOWN)
    if out.suffix != ".md":
        raise ParamsError("the first page is Markdown", found=out.name, expected="a name that ends in .md")
    pages = boards_pages(read_boards(folder), read_earlier(folder), out.stem)
    write_pages(pages, out)
    say(f"wrote {out} and {len(pages) - 1} files in {out.with_suffix('')}")


@app.command()
def why(
    adjective: Annotated[str, typer.Argument(help="An adjective.")],
    noun: Annotated[str, typer.Argument(help="A noun.")],
    codebook: Annotated[Path, typer.Option(help="The words codebook.")] = Path("artifacts/codebook/words"),
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Where the captions are: a file (.json, .jsonl, .txt, .tsv, .csv, .parquet), a folder of one kind, "
            "a dataset artifact, or a params file (.yaml) with the section corpus. Without it, params.yaml where "
            "that works."
        ),
    ] = None,
) -> None:
    """Print why a words codebook joins an adjective and a noun, with the first captions, or why it does not.

    Example: vqpipe why red bird --codebook artifacts/codebook/words --corpus artifacts/dataset
    """
    from vqpipe.cli.why import explain

    say(explain(codebook, adjective, noun, corpus))


@app.command()
def card(
    path: Annotated[Path, typer.Argument(help="A codebook: words or patches.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The Markdown file to write; without it PATH.card.md, next to the codebook."),
    ] = None,
) -> None:
    """Write a page about a codebook: where it comes from, what is in it, what to check before sharing it.

    Example: vqpipe card artifacts/codebook/words --out words.md
    """
    from vqpipe.artifacts.inputs_outputs import MARKDOWN, need_output
    from vqpipe.artifacts.publish import publish_text
    from vqpipe.library.cards import codebook_card as card_text

    path = _named(path)
    target = need_output(out or path.with_name(f"{path.name}.card.md"), MARKDOWN)
    publish_text(target, card_text(path))
    say(f"wrote {target}")


@app.command()
def evaluate(
    images: Annotated[Path, typer.Argument(help="A folder of images.")],
    tokenizer: TokenizerOption,
    clip: Annotated[
        Path | None,
        typer.Option(help="The CLIP whose features are compared; without it those metrics are left out."),
    ] = None,
) -> None:
    """Measure a tokenizer on your own images and print the metrics as JSON.

    Example: vqpipe evaluate photos --tokenizer artifacts/tokenizer/lc --clip artifacts/clip
    """
    import json

    from vqpipe.evaluation.evaluate import evaluate_folder
    from vqpipe.library.hub import Tokenizer
    from vqpipe.runtime.device import device

    measured = evaluate_folder(images, Tokenizer.from_pretrained(tokenizer, device()), clip)
    say(json.dumps(measured, sort_keys=True, indent=2))


app.command()(bench_tokenizers)
app.command()(tokenize)
app.command()(detokenize)
app.command()(export)
app.command()(sample)
app.command()(complete)
app.command()(ask)
app.command("import")(import_)
app.command("import-vqgan", hidden=True)(import_)  # its name in 0.2

if __name__ == "__main__":
    app()
