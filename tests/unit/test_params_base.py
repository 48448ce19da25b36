"""Messages for mistakes in a params file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from vqpipe.errors import ParamsError
from vqpipe.models.causal import TransformerParams
from vqpipe.models.denoiser import DenoiserParams
from vqpipe.models.dit import DiTParams
from vqpipe.params.base import Params, load_params, read_yaml, section_of, validate
from vqpipe.params.bounded_yaml import parse_yaml
from vqpipe.quantizers.fvq import FvqParams
from vqpipe.tasks.heads import HeadParams
from vqpipe.tasks.languages import WordsParams


class Vq(Params):
    kind: Literal["vq"]
    num_codes: Annotated[int, Field(ge=2)]


class Soft(Params):
    kind: Literal["soft"]
    temperature: Annotated[float, Field(gt=0)]


Quantizer = Annotated[Vq | Soft, Field(discriminator="kind")]


class Outer(Params):
    quantizer: Quantizer
    rate: Annotated[float, Field(gt=0)]
    words: tuple[str, ...] = ()
    inner: dict[str, Vq] | None = None
    one: int = 1
    side: Literal["left", "right"] = "left"

    @field_validator("one")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("an even number")
        return value


GOOD = {"quantizer": {"kind": "vq", "num_codes": 8}, "rate": 1e-4}


def params_file(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_yaml_1_2_numbers(tmp_path: Path) -> None:
    path = params_file(tmp_path, "outer: {quantizer: {kind: vq, num_codes: 8}, rate: 1e-4, words: [a, no]}")
    config = load_params(path, "outer", Outer)
    assert config.rate == 1e-4
    assert config.words == ("a", "no")


def test_an_unknown_field_gets_a_suggestion_and_the_choices() -> None:
    wrong = {**GOOD, "quantizer": {"kind": "vq", "num_codes": 8, "num_code": 9}}
    with pytest.raises(
        ParamsError,
        match=r"(?s)quantizer.*num_code is not a field; did you mean num_codes\?.*choices: +kind, num_codes",
    ):
        validate(wrong, "outer", Outer)


def test_an_unknown_field_in_a_mapping_of_models() -> None:
    with pytest.raises(
        ParamsError, match=r"outer\.inner\.a\.num_cods is not a field; did you mean num_codes\?"
    ):
        validate({**GOOD, "inner": {"a": {"kind": "vq", "num_codes": 4, "num_cods": 1}}}, "outer", Outer)


def test_a_missing_field_and_every_other_mistake_are_told_at_once() -> None:
    with pytest.raises(ParamsError) as caught:
        validate({"quantizer": {"kind": "vq"}, "rate": -1}, "outer", Outer, "my.yaml")
    text = str(caught.value)
    assert "my.yaml: outer.quantizer.num_codes is missing" in text
    assert "my.yaml: outer.rate: Input should be greater than 0" in text
    assert "found:    -1" in text


@pytest.mark.parametrize("rate", ["1e-4", True, None, [1.0]])
def test_types_are_strict(rate: object) -> None:
    with pytest.raises(ParamsError, match=r"outer\.rate"):
        validate({**GOOD, "rate": rate}, "outer", Outer)


def test_nan_cannot_be_said() -> None:
    with pytest.raises(ParamsError, match="JSON cannot represent"):
        validate({**GOOD, "rate": float("nan")}, "outer", Outer)


def test_a_missing_section_lists_what_is_there(tmp_path: Path) -> None:
    path = params_file(tmp_path, "tokenizer: {variants: {vq: {}}}\nprior: {}")
    with pytest.raises(
        ParamsError, match=r"(?s)no section tokenizers; did you mean tokenizer\?.*choices: +tokenizer, prior"
    ):
        load_params(path, "tokenizers", Vq)
    with pytest.raises(ParamsError, match=r"(?s)no section tokenizer\.variants\.vqct.*found: +vqct"):
        section_of(read_yaml(path), "tokenizer.variants.vqct", path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"quantizer": 3},
            "quantizer is not a block of fields\n  found:    3\n  expected: {kind: vq | soft, …}",
        ),
        (
            {"inner": {"a": True}},
            "inner.a is not a block of fields\n  found:    True\n  expected: {kind: vq, …}",
        ),
        ({"inner": 1}, "inner is not a block of fields\n  found:    1"),
        ({"one": 2}, "outer.one: an even number\n  found:    2"),
    ],
)
def test_a_value_where_a_block_belongs(change: dict[str, object], told: str) -> None:
    with pytest.raises(ParamsError) as caught:
        validate(GOOD | change, "outer", Outer)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "not a mapping"),
        ("", "not a mapping"),
        ("a: 1\na: 2", "not valid YAML"),
    ],
)
def test_files_that_are_no_params(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ParamsError, match=told):
        read_yaml(params_file(tmp_path, text))


def test_a_missing_file_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"(?s)does not exist.*vqpipe preset scenes --out params\.yaml"):
        read_yaml(tmp_path / "params.yaml")


def test_a_binary_file_is_no_params(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="not valid YAML"):
        read_yaml(tmp_path / "params.yaml")


def test_models_are_frozen() -> None:
    config = validate(GOOD, "outer", Outer)
    with pytest.raises(ValidationError, match="frozen"):
        config.rate = 2.0


SIZES = {"width": 16, "num_layers": 1, "num_heads": 4}
DIT = {**SIZES, "kind": "dit", "patch": 2, "mlp_ratio": 4.0}
CAUSAL = {
    **SIZES, "block": {"kind": "gpt2"}, "learned_positions": True, "rotary_base": None, "prefix_attention": "causal",
    "head_bias": False, "dropout": {"embedding": 0.0, "attention": 0.0, "residual": 0.0, "mlp": 0.0},
}  # fmt: skip
FVQ = {
    "kind": "fvq", "dim": 8, "num_codes": 16, "beta": 0.25, "beta_on": "commitment", "patch": 2, "width": 16,
    "depth": 1, "heads": 4, "init": "standard",
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "params", "wrong", "told"),
    [
        (DenoiserParams, {**SIZES, "dropout": 0.0}, {"num_heads": 3}, "width 16 is not a multiple of num_heads 3"),
        (DiTParams, DIT, {"num_heads": 3}, "width 16 is not a multiple of num_heads 3"),
        (TransformerParams, CAUSAL, {"num_heads": 3}, "width 16 is not a multiple of num_heads 3"),
        (HeadParams, {**SIZES, "dropout": 0.0, "side": None}, {"num_heads": 3},
         "width 16 is not a multiple of num_heads 3"),
        (WordsParams, {**SIZES, "kind": "words", "dropout": 0.0, "min_count": 1}, {"num_heads": 3},
         "width 16 is not a multiple of num_heads 3"),
        (FvqParams, FVQ, {"heads": 3}, "width 16 is not a multiple of heads 3"),
        (FvqParams, FVQ, {"patch": 3}, "num_codes 16 is not a multiple of patch 3"),
    ],
)  # fmt: skip
def test_a_size_that_is_no_multiple_is_refused(
    model: type[Params], params: dict[str, Any], wrong: dict[str, Any], told: str
) -> None:
    validate(params, "network", model)
    with pytest.raises(ParamsError) as error:
        validate({**params, **wrong}, "network", model)
    assert str(error.value).splitlines()[0] == f"params.yaml: network: {told}"


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            {"quantizer": {"kind": "vqq"}},
            ["quantizer.kind: there is no such kind; did you mean vq?", "'vqq'", "vq, soft"],
        ),
        ({"quantizer": {"kind": "ibqs"}}, ["quantizer.kind: there is no such kind", "'ibqs'", "vq, soft"]),
        ({"side": "lefft"}, ["side is none of its values; did you mean left?", "'lefft'", "left, right"]),
    ],
)
def test_an_unknown_kind_or_value_has_the_choices_and_the_nearest(
    change: dict[str, Any], lines: list[str]
) -> None:
    with pytest.raises(ParamsError) as raised:
        validate({**GOOD, **change}, "outer", Outer)
    problem, found, choices = lines
    assert str(raised.value) == f"params.yaml: outer.{problem}\n  found:    {found}\n  choices:  {choices}"


def test_a_missing_kind_has_the_choices() -> None:
    with pytest.raises(ParamsError, match=r"outer\.quantizer\.kind is missing\n  choices:  vq, soft$"):
        validate({**GOOD, "quantizer": {}}, "outer", Outer)


def test_a_mistake_in_yaml_is_shown_on_lines_of_its_own() -> None:
    with pytest.raises(ParamsError) as raised:
        parse_yaml("a: 1\n  b: 2\n", "params file p.yaml")
    assert str(raised.value).splitlines() == [
        "params file p.yaml is not valid YAML: mapping values are not allowed here; line 2, column 4",
        "      b: 2",
        "       ^",
    ]
