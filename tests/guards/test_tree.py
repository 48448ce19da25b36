"""Rules of the tree: lengths, params, DVC files, declared packages, and what must never be committed."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hypothesis import settings

from stages.dvcfile import read_stages
from stages.lock import LISTINGS
from vqpipe.params.base import read_yaml, section_of
from vqpipe.runtime.code import Code

ROOT = Path(__file__).parents[2]


def found(pattern: str, *folders: str) -> list[Path]:
    """The files under the folders at any depth, at least one in each."""
    files = []
    for folder in folders:
        own = sorted((ROOT / folder).rglob(pattern))
        assert own, f"no {pattern} under {folder}"
        files += own
    return files


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SOURCES = found("*.py", "vqpipe", "stages")
PROGRAMS = [*SOURCES, *found("*.py", "examples")]
PARAMS_FILES = [ROOT / "params.yaml", *found("*.yaml", "vqpipe/presets"), *found("params.yaml", "boards")]
STAGES = read_stages(ROOT)
assert STAGES
BANNED_KEYS = {"size", "nfiles"}


@pytest.mark.parametrize("file", [*PROGRAMS, *found("*.py", "tests")], ids=name_of)
def test_no_file_is_over_700_lines(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 700


def test_nothing_is_left_of_a_move() -> None:
    """A module or name that moved leaves no second place to import it from."""
    mark = "# shim" + ": moved"
    files = [*PROGRAMS, *found("*.py", "tests")]
    left = [name_of(file) for file in files if mark in file.read_text(encoding="utf-8")]
    assert not left, f"{len(left)} files still have {mark}: {', '.join(left[:10])}"


@pytest.mark.parametrize("file", PROGRAMS, ids=name_of)
def test_every_module_has_a_doc_string(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def keys_of(node: object) -> set[str]:
    if isinstance(node, dict):
        return set(map(str, node)) | {k for v in node.values() for k in keys_of(v)}
    if isinstance(node, list):
        return {k for v in node for k in keys_of(v)}
    return set()


@pytest.mark.parametrize("file", PARAMS_FILES, ids=name_of)
def test_no_param_has_a_name_that_dvc_ignores(file: Path) -> None:
    keys = keys_of(read_yaml(file))
    assert keys
    assert not keys & BANNED_KEYS


def fields_of(file: Path) -> set[str]:
    """Annotated names in the bodies of classes with a base, at any depth: the fields of params models among them."""
    classes = [
        n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.ClassDef)
    ]
    fields = [n for c in classes if c.bases for n in c.body if isinstance(n, ast.AnnAssign)]
    return {n.target.id for n in fields if isinstance(n.target, ast.Name)}


PRINTS = ("print", "typer.echo", "typer.secho", "warnings.warn", "sys.stdout.write", "sys.stderr.write")


def prints_of(source: str) -> list[str]:
    """Calls that print text unchanged. The text of an error, after `error: `, was made printable when it was built."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func) in PRINTS
        and not (call.args and ast.unparse(call.args[0]).startswith(("f'error: ", "'error: ")))
    ]


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_printed_text_is_made_printable_first(file: Path) -> None:
    if name_of(file) != "vqpipe/runtime/terminal.py":
        assert not prints_of(file.read_text(encoding="utf-8")), "use vqpipe.runtime.terminal.say"


def test_the_guard_finds_calls_that_print() -> None:
    assert len(prints_of("print(x)\ntyper.echo(f'{x}', err=True)\nsys.stderr.write(x)")) == 3
    assert not prints_of("say(x)\ntyper.echo(f'error: {x}')")


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_params_model_has_a_name_that_dvc_ignores(file: Path) -> None:
    assert not fields_of(file) & BANNED_KEYS


def test_the_guards_of_names_find_one_at_any_depth(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("class A(Params):\n    class B(Params):\n        size: int = 1\n")
    assert fields_of(bad) & BANNED_KEYS == {"size"}
    assert keys_of({"a": [{"b": {"nfiles": 1}}]}) & BANNED_KEYS == {"nfiles"}


@pytest.mark.parametrize("name", [name for name in STAGES if name != "code"])
def test_a_stage_names_its_module_its_listing_and_existing_params(name: str) -> None:
    stage, own = STAGES[name], name.split("@")[0]
    assert stage.cmd.split()[2] == f"stages.{own}"
    assert [dep for dep in stage.deps if Path(dep).parent == LISTINGS] in (
        [f"{LISTINGS}/{own}.txt"],
        [f"{LISTINGS}/{own}.txt"] * 2,  # the raw data of `scenes` are its code
    )
    data = read_yaml(ROOT / "params.yaml")
    for param in stage.params:
        section_of(data, param, ROOT / "params.yaml")
    outs = {out for other in STAGES.values() for out in other.outs}
    for dep in stage.deps:
        made = any(out == dep or out.startswith(dep + "/") or dep.startswith(out + "/") for out in outs)
        assert made or (ROOT / dep).exists(), f"{dep} is neither made by a stage nor in the tree"
        assert not dep.startswith(("stages", "vqpipe/")) or dep == data["dataset"]["source"]["path"], dep


def test_the_code_of_every_stage_is_listed_and_of_nothing_else() -> None:
    boards = [read_yaml(file)["stages"] for file in found("dvc.yaml", "boards")]
    entries = [
        entry for stages in (read_yaml(ROOT / "dvc.yaml")["stages"], *boards) for entry in stages.values()
    ]
    modules = {entry.get("do", entry)["cmd"].split()[2].removeprefix("stages.") for entry in entries}
    words = STAGES["code"].cmd.split()
    assert set(words[3 : words.index("--out")]) == modules - {"code"}


@pytest.mark.parametrize(
    ("package", "stages"),
    [
        ("vqpipe/data/adapters", ["clip", "patches", "cluster", "tokenizer", "tokens", "prior"]),
        ("vqpipe/quantizers", ["dataset", "clip", "vocabulary", "graph", "patches", "cluster"]),
        ("vqpipe/priors", ["tokenizer", "tokens", "evaluate"]),
    ],
)
def test_a_new_plugin_makes_no_stage_stale_that_does_not_use_its_table(
    package: str, stages: list[str]
) -> None:
    """`report` uses all: it reads the metrics of every stage through the models next to their code."""
    assert (ROOT / package).is_dir()
    for stage in stages:
        used = [path for path in Code(ROOT).closure(f"stages.{stage}") if path.startswith(f"{package}/")]
        assert not used, f"{stage} imports {used}"


def test_a_folder_of_data_is_named_by_a_module_next_to_it() -> None:
    """A listing has the data that its modules name; data that none names could change numbers unnoticed."""
    code = Code(ROOT)
    for file in (ROOT / "vqpipe").rglob("*"):
        if (
            file.is_file()
            and file.suffix not in (".py", ".pyc")
            and not {"py.typed", "presets"} & set(file.parts)
        ):
            named = [m for m in file.parents[1].glob("*.py") if file.parent.name in code.source(m).words]
            assert named, f"{file}: no module of {file.parents[1]} names {file.parent.name}"


def test_every_path_of_a_stage_command_is_declared() -> None:
    words_of = {
        name: [w for w in stage.cmd.split() if w.startswith("artifacts/")] for name, stage in STAGES.items()
    }
    assert any(words_of.values())
    for stage in STAGES.values():
        for word in words_of[stage.name]:
            declared = {*stage.deps, *stage.outs}
            assert word in declared or any(d.startswith(word + "/") for d in declared), (
                f"{stage.name}: {word}"
            )


@pytest.mark.parametrize(
    "name", [*sorted({s.cmd.split()[2] for s in STAGES.values()}), "vqpipe.runtime.code"]
)
def test_a_stage_module_imports_nothing_heavy(name: str) -> None:
    code = f"import sys, {name}; print(' '.join(sorted(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    assert not {"torch", "numpy", "pyarrow", "pydantic", "open_clip", "faiss", "PIL"} & set(loaded.split())


@pytest.mark.parametrize("file", found("*.py", "stages"), ids=name_of)
def test_a_stage_is_short(file: Path) -> None:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            body = [s for s in node.body if not isinstance(s, ast.Import | ast.ImportFrom)]
            assert sum((s.end_lineno or 0) - s.lineno + 1 for s in body[1:]) <= 25


def imports_of(file: Path) -> set[str]:
    """The packages that a module imports anywhere, by the first part of their names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_no_test_reads_a_clock() -> None:
    """Times on a busy machine mean nothing; benchmarks measure them."""
    assert settings.default is not None
    assert settings.default.deadline is None
    for file in found("*.py", "tests"):
        if "bench" not in file.relative_to(ROOT).parts:
            assert "time" not in imports_of(file), file


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [d for group in project["optional-dependencies"].values() for d in group]
    declared = {
        re.split(r"[<>=!~\[ ]", d)[0].lower().replace("_", "-") for d in [*project["dependencies"], *extras]
    }
    owners = packages_distributions()
    for file in PROGRAMS:
        for top in imports_of(file) - set(sys.stdlib_module_names) - {"vqpipe", "stages"}:
            dists = {d.lower().replace("_", "-") for d in owners.get(top, [top])}
            assert dists & declared, f"{file.name} imports {top}, which pyproject.toml does not declare"


def test_the_lock_has_every_declared_package_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert " @ " not in lock
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lock.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for dep in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert re.split(r"[<>=!~\[ ]", dep)[0].lower().replace("_", "-") in pinned, dep


def test_no_pickle_and_no_unsafe_load() -> None:
    for file in PROGRAMS:
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            # Only the exception that a refused load raises may be imported from pickle.
            only_error = isinstance(node, ast.ImportFrom) and {a.name for a in node.names} == {
                "UnpicklingError"
            }
            if isinstance(node, ast.ImportFrom) and not only_error:
                names.append(node.module or "")
            assert not {n.split(".")[0] for n in names} & {"pickle", "dill", "joblib", "cloudpickle"}, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
                assert safe == "True", f"{file}:{node.lineno}"
