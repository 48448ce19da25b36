"""The code of a stage: which files count, what in them does, and what another process need not parse again."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest

from vqpipe.errors import ParamsError
from vqpipe.runtime.code import Code, parse_source, stage_code, words_in

TREE = {
    "stages/__init__.py": '"""Stages."""\n',
    "stages/a.py": "def main():\n    from vqpipe.b import x\n",
    "stages/row.py": "import vqpipe.apart\n",
    "vqpipe/__init__.py": '"""Doc."""\n',
    "vqpipe/apart.py": "z = 1\n",
    "vqpipe/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vqpipe.c import y\n"
    "else:\n    import vqpipe.d\n",
    "vqpipe/c.py": "y = 1\n",
    "vqpipe/d.py": 'TABLE = {"e": "vqpipe.whole.e:Plugin", "i": "vqpipe.whole.i:Plugin", "n": 1}\n',
    "vqpipe/whole/__init__.py": '"""Doc."""\n',
    "vqpipe/whole/e.py": "from . import f\nfrom .deep.g import G\nclass Plugin: pass\n",
    "vqpipe/whole/f.py": 'FOLDER = "resources"\n',
    "vqpipe/whole/deep/g.py": "from ..h import H\nG = 1\n",
    "vqpipe/whole/h.py": "H = 1\n",
    "vqpipe/whole/i.py": "class Plugin: pass\n",
    "vqpipe/whole/not_in_the_table.py": "class Other: pass\n",
    "vqpipe/whole/resources/words.txt": "a b c\n",
    "vqpipe/whole/unnamed/words.txt": "a b c\n",
}  # fmt: skip
CODE = """
import os

# A comment.
class Params:
    \"\"\"Doc.\"\"\"

    rate: float = 0.5
    \"\"\"Doc of a field.\"\"\"

    def scaled(self, x: float) -> float:
        \"\"\"Doc.\"\"\"
        return x * self.rate  # why
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQPIPE_SCRATCH", str(tmp_path / "scratch"))
    root = tmp_path / "tree"
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def listing_of(stage: str, root: Path, kinds: Collection[str] | None = None) -> str:
    code = Code(root)
    listing = code.listing(stage, kinds)
    code.keep()
    return listing


def listed(root: Path, stage: str = "a") -> list[str]:
    return [line.split()[1] for line in listing_of(stage, root).splitlines()]


def test_the_closure_follows_imports_tables_and_named_data_and_nothing_else(tree: Path) -> None:
    assert listed(tree) == [
        "stages/a.py", "vqpipe/b.py", "vqpipe/d.py", "vqpipe/whole/deep/g.py", "vqpipe/whole/e.py",
        "vqpipe/whole/f.py", "vqpipe/whole/h.py", "vqpipe/whole/i.py", "vqpipe/whole/resources/words.txt",
    ]  # fmt: skip
    assert listed(tree, "row") == ["stages/row.py", "vqpipe/apart.py"]
    with pytest.raises(ParamsError, match="no module stages"):
        stage_code("none", tree)


def test_plug_ins_that_are_not_named_leave_a_digest_as_it_is(tree: Path) -> None:
    assert "vqpipe/whole/i.py" not in listing_of("a", tree, {"e"})
    assert "vqpipe/whole/e.py" not in listing_of("a", tree, {"i"})
    assert [line.split()[1] for line in listing_of("a", tree, ()).splitlines()] == [
        "stages/a.py", "vqpipe/b.py", "vqpipe/d.py",
    ]  # fmt: skip
    before = {kinds: stage_code("a", tree, kinds) for kinds in [("e",), ("i",), ()]}
    everything = stage_code("a", tree)
    table = tree / "vqpipe/d.py"
    table.write_text(table.read_text().replace('"n"', '"j": "vqpipe.whole.not_in_the_table:Other", "n"'))
    assert before == {kinds: stage_code("a", tree, kinds) for kinds in before}
    assert stage_code("a", tree) != everything
    (tree / "vqpipe/whole/i.py").write_text("class Plugin: x = 1\n")
    after = {kinds: stage_code("a", tree, kinds) for kinds in before}
    assert [kinds for kinds in before if before[kinds] != after[kinds]] == [("i",)]
    table.write_text(table.read_text().replace("whole.e:Plugin", "whole.e:Other"))
    assert stage_code("a", tree, ("e",)) != before["e",]
    table.write_text(table.read_text().replace('"n": 1', '"n": 2'))
    assert stage_code("a", tree, ()) != before[()]


def test_the_words_of_params_are_their_keys_and_strings() -> None:
    assert words_in({"a": {"kind": "b", "x": 1}, "c": ["d", {"e": None}, 2.0]}) == set("abcde") | {
        "kind",
        "x",
    }
    assert words_in(None) == set()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# A comment.", "# Another, which is longer."),
        ('"""Doc."""\n\n    rate', '"""Says more\n\n    in lines."""\n\n    rate'),
        ('    """Doc of a field."""\n', ""),
        ('        """Doc."""\n        return', "        return"),
        ("  # why", ""),
        ("x * self.rate", "(x\n            * self.rate)"),
        ("import os\n", "import os\n\nif TYPE_CHECKING:\n    from vqpipe.c import y\n"),
        ('"""Doc."""', "'Doc.'"),
    ],
)
def test_prose_and_layout_do_not_count(old: str, new: str) -> None:
    changed = CODE.replace(old, new, 1)
    assert changed != CODE
    assert parse_source(changed.encode()).digest == parse_source(CODE.encode()).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * self.rate", "x + self.rate"),
        ("0.5", "0.25"),
        ("0.5", "'0.5'"),
        ("rate: float", "rate: int"),
        ("def scaled", "@property\n    def scaled"),
        ("import os", "import sys"),
        ("return x", "return x if x else x"),
        ("import os\n", "import os\n\nif not TYPE_CHECKING:\n    from vqpipe.c import y\n"),
        ("x * self.rate", 'f"{x:{self.rate}}"'),
    ],
)
def test_behaviour_counts(old: str, new: str) -> None:
    changed = CODE.replace(old, new, 1)
    assert changed != CODE
    assert parse_source(changed.encode()).digest != parse_source(CODE.encode()).digest


def test_values_of_different_types_and_moved_parts_differ() -> None:
    sources = (
        "x = 1",
        "x = 1.0",
        "x = True",
        "x = '1'",
        "x = b'1'",
        "x = None",
        "x = ...",
        "x = [1]",
        "x = (1,)",
    )
    sources += (
        "x = {**a, 1: 2}",
        "x = {1: 2, **a}",
        "x = f'1'",
        "x = f'{1}'",
        "x = f'{1!r}'",
        "x = f'{1:2}'",
    )
    digests = {parse_source(source.encode()).digest for source in sources}
    assert len(digests) == len(sources)


def test_a_digest_is_the_same_in_every_version_of_python() -> None:
    """Recorded with Python 3.11; 3.12 and 3.13, whose trees have other fields, give the same."""
    source = "x = f'{a:<{width}}  {b!r} {c:>10}' 'more'\ny = u'kind'\nasync def g():\n    return [z async for z in y]\n"
    assert parse_source(source.encode()).digest[:16] == "5bdd092840730bcf"


def test_only_the_stages_of_a_changed_file_change(tree: Path) -> None:
    before = {stage: stage_code(stage, tree) for stage in ("a", "row")}
    path = tree / "vqpipe/whole/h.py"
    path.write_text('"""Doc."""\n# H.\nH = 1\n')
    assert before == {stage: stage_code(stage, tree) for stage in before}
    path.write_text("H = 2\n")
    assert stage_code("a", tree) != before["a"]
    assert stage_code("row", tree) == before["row"]
    path.write_text(TREE["vqpipe/whole/h.py"])
    (tree / "vqpipe/whole/resources/words.txt").write_text("a b\n")
    assert stage_code("a", tree) != before["a"]


def test_a_new_line_of_a_table_changes_the_stages_of_the_table(tree: Path) -> None:
    before = {stage: stage_code(stage, tree) for stage in ("a", "row")}
    place = '"o": "vqpipe.whole.not_in_the_table:Other"'
    (tree / "vqpipe/d.py").write_text(f'TABLE = {{"e": "vqpipe.whole.e:Plugin", {place}}}\n')
    assert stage_code("a", tree) != before["a"]
    assert "vqpipe/whole/not_in_the_table.py" in listed(tree)
    assert stage_code("row", tree) == before["row"]


def test_parsed_files_are_kept_for_the_next_process_and_a_damaged_store_is_parsed_again(tree: Path) -> None:
    listing = listing_of("a", tree)
    (kept,) = (tree.parent / "scratch").iterdir()
    content = json.loads(kept.read_bytes())
    code = Code(tree)
    assert code.listing("a") == listing
    assert set(content) == set(code._kept), "nothing was parsed"
    for damaged in (b"", b"{", b"[]", b'{"a": 1}', b'{"a": [1]}'):
        kept.write_bytes(damaged)
        assert listing_of("a", tree) == listing
        assert json.loads(kept.read_bytes()) == content
