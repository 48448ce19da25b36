"""A checkpoint of taming-transformers computes here what its layout says, and every key of it is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner

from stages.evaluate import app as evaluate_app
from tests import tiny
from tests.foreign_vqgan import Reference, State, make_config, make_state
from tests.tiny import picture
from vqpipe.cli.app import app
from vqpipe.errors import DataError, MismatchError, ParamsError
from vqpipe.evaluation.evaluate import evaluate_folder
from vqpipe.library.foreign import FAMILIES, Imported, import_checkpoint, read_checkpoint
from vqpipe.library.foreign import read_config as read_config_of
from vqpipe.tokenizers.tokenizer import Tokenizer

EVALUATE: dict[str, Any] = {
    "seed": 0, "num_images": None, "batch_size": 8, "num_bootstrap": 100,
    "perceptual": {"kind": "clip", "layers": [0, 1]},
    "distances": {"features": "clip", "num_subsets": 2, "subset_images": 4, "num_neighbours": 3, "seed": 0},
    "floors": {"num_patches": 64, "num_iterations": 1, "max_num_codes": 16},
    "examples": {"num_images": 0, "num_codes": 0, "num_patches": 0},
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "f16": {"ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [2], "resolution": 32},
    "attention-at-three": {"ch_mult": [1, 2, 2], "attn_resolutions": [32, 16, 8], "num_res_blocks": 2},
    "no-level-has-attention": {"attn_resolutions": [64]},
    "wide-first-level": {"ch_mult": [2, 1]},
    "one-level": {"ch_mult": [1], "attn_resolutions": []},
}


TARGETS = (*FAMILIES["taming"].targets, *FAMILIES["latent-diffusion"].targets)


def read_config(path: Path) -> object:
    return read_config_of(path, FAMILIES)


def write(folder: Path, config: dict[str, Any], state: State) -> tuple[Path, Path]:
    checkpoint, yaml = folder / "last.ckpt", folder / "model.yaml"
    torch.save({"state_dict": state, "epoch": 3, "global_step": 40}, checkpoint)
    with yaml.open("w") as stream:
        YAML().dump(config, stream)
    return checkpoint, yaml


def read(folder: Path, config: dict[str, Any], state: State) -> Imported:
    return import_checkpoint(*write(folder, config, state))


@pytest.fixture
def config() -> dict[str, Any]:
    return make_config()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_imported_tokenizer_computes_the_layouts_function(layout: str, tmp_path: Path) -> None:
    config = make_config(**LAYOUTS[layout])
    state = make_state(config)
    imported, reference = read(tmp_path, config, state), Reference(state, config)
    tokenizer = imported.tokenizer
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latent = reference.latent(images)
    torch.testing.assert_close(tokenizer.encode_latent(images), latent, atol=2e-4, rtol=1e-4)
    indices = tokenizer.encode(images)
    assert torch.equal(indices[:, 0], reference.indices(latent))
    assert indices.unique().numel() > 1
    torch.testing.assert_close(
        tokenizer.decode(indices), reference.images(indices[:, 0]), atol=2e-4, rtol=1e-4
    )


def test_every_key_is_mapped_or_listed(config: dict[str, Any], tmp_path: Path) -> None:
    state = make_state(config)
    state["model_ema.decay"] = torch.tensor(0.99)
    state["quantize.embedding.cluster_size"] = torch.ones(40)
    imported = read(tmp_path, config, state)
    assert imported.num_mapped + len(imported.left_out) == len(state)
    assert imported.left_out_counts == {"loss": 4, "model_ema": 1, "quantize": 1}
    assert "loss.discriminator.main.0.weight" in imported.left_out


def test_each_mapped_key_lands_in_one_place(config: dict[str, Any], tmp_path: Path) -> None:
    state = {key: torch.full_like(tensor, n) for n, (key, tensor) in enumerate(make_state(config).items(), 1)}
    imported = read(tmp_path, config, state)
    own = imported.tokenizer.state_dict()
    held = [
        int(value) for name in own if name != "latent_scale" for value in own[name].unique() if own[name].ndim
    ]
    mapped = [n for n, key in enumerate(state, 1) if key not in imported.left_out]
    assert sorted(held) == mapped


@pytest.mark.slow
def test_the_command_publishes_what_evaluate_measures(config: dict[str, Any], tmp_path: Path) -> None:
    checkpoint, yaml = write(tmp_path, config, make_state(config))
    out = tmp_path / "vqgan"
    result = CliRunner().invoke(app, ["import", str(checkpoint), str(yaml), "--out", str(out), "--list"])
    assert result.exit_code == 0, result.output
    assert "left out: 4 (loss 4)" in result.output
    assert "  loss.perceptual_loss.net.slice1.0.bias" in result.output
    tokenizer = Tokenizer.from_pretrained(out)
    assert tokenizer.facts["origin"]["keys_left_out"] == {"loss": 4}
    assert str(tmp_path) not in json.dumps(tokenizer.facts)
    (tmp_path / "photos").mkdir()
    for index in range(4):
        picture(index, bool(index % 2)).save(tmp_path / f"photos/{index}.png")
    metrics = evaluate_folder(tmp_path / "photos", Tokenizer.from_pretrained(out))
    assert metrics["codes"]["code"]["num_codes"] == 40
    assert metrics["psnr"]["mean"] > 0


def test_the_evaluate_stage_measures_what_was_imported(tmp_path: Path) -> None:
    config = make_config(resolution=16, attn_resolutions=[8])
    checkpoint, yaml = write(tmp_path, config, make_state(config))
    arguments = ["import", str(checkpoint), str(yaml), "--out", str(tmp_path / "vqgan")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    tiny.write_dataset(tmp_path, {"train": 8, "validation": 2, "test": 8})
    tiny.write_tiny_clip(tmp_path / "clip")
    with (tmp_path / "params.yaml").open("w") as stream:
        YAML().dump({"evaluate": EVALUATE}, stream)
    inputs = {name: tmp_path / name for name in ("dataset", "clip")}
    paths = {**inputs, "tokenizer": tmp_path / "vqgan", "params": tmp_path / "params.yaml",
             "out": tmp_path / "out", "metrics": tmp_path / "metrics.json"}  # fmt: skip
    done = CliRunner().invoke(
        evaluate_app, [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    )
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["codes"]["code"]["num_tokens"] == 8 * 64
    assert metrics["protocol"]["resolution"] == 16
    assert (tmp_path / "out/manifest.json").is_file()


def test_safetensors_and_bare_state_dicts_are_read(config: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = make_state(config)
    save_file(state, tmp_path / "vqgan.safetensors")
    torch.save(state, tmp_path / "bare.pt")
    for name in ("vqgan.safetensors", "bare.pt"):
        found = read_checkpoint(tmp_path / name).state
        assert set(found) == set(state)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_half_precision_weights_become_float32(config: dict[str, Any], tmp_path: Path) -> None:
    state = {key: tensor.half() for key, tensor in make_state(config).items()}
    tokenizer = read(tmp_path, config, state).tokenizer
    assert {p.dtype for p in tokenizer.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"double_z": True}, "double_z"),
        ({"ch": 48}, "multiple of 32"),
        ({"in_channels": 4}, "in_channels"),
        ({"ch_mult": [1, 2, 2, 2], "resolution": 36}, "not a multiple of 8"),
        ({"attn_type": "linear"}, "attn_type"),
        ({"num_head_channels": 8}, "num_head_channels is not a field"),
        ({"remap": "used.npy"}, "remap"),
    ],
)
def test_configs_that_this_trunk_cannot_follow_are_refused(
    changes: dict[str, Any], message: str, config: dict[str, Any], tmp_path: Path
) -> None:
    _, yaml = write(tmp_path, make_config(**changes), make_state(config))
    with pytest.raises(ParamsError, match=message):
        read_config(yaml)


@pytest.mark.parametrize(
    "target",
    [
        "taming.models.cond_transformer.Net2NetTransformer", "taming.models.vqgan.VQModel2", "VQModel", "", None,
        ["taming.models.vqgan.VQModel"], 3,
    ],
)  # fmt: skip
def test_a_class_that_is_not_known_is_refused_by_name(
    target: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    config["model"]["target"] = target
    checkpoint, yaml = write(tmp_path, config, make_state(config))
    arguments = ["import", str(checkpoint), str(yaml), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "does not know the class model.target" in result.output
    assert (str(target) if target is not None else "no target") in result.output
    assert "taming.models.vqgan.EMAVQ" in result.output, "it lists what it knows"
    assert not (tmp_path / "out").exists()
    del config["model"]["target"]
    with pytest.raises(ParamsError, match="no target"):
        read(tmp_path, config, make_state(config))


@pytest.mark.parametrize("target", TARGETS)
def test_classes_that_compute_the_same_are_read(target: str, config: dict[str, Any], tmp_path: Path) -> None:
    config["model"]["target"] = target
    state = make_state(config)
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    reference = Reference(state, config)
    indices = read(tmp_path, config, state).tokenizer.encode(images)
    assert torch.equal(indices[:, 0], reference.indices(reference.latent(images)))


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [
        ("params", "use_cosine", True),
        ("params", "anchor", "closest"),
        ("params", "quantizer", {"l2": True}),
        ("params", "topk", 2),
        ("params", "use_l2_norm", True),
        ("params", "l2_normalize", True),
        ("params", "distance", "cos"),
        ("params", "use_ema", True),
        ("params", "remap", "used.npy"),
        ("model", "init_args", {}),
        ("model", "quantizer_target", "some.Class"),
        ("file", "quantizer", {"distance": "cosine"}),
        ("ddconfig", "num_heads", 4),
    ],
)
def test_a_field_that_may_change_the_codes_is_refused_by_name(
    place: str, field: str, value: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    params = config["model"]["params"]
    state = make_state(config)
    sections = {"file": config, "model": config["model"], "params": params, "ddconfig": params["ddconfig"]}
    sections[place][field] = value
    with pytest.raises(ParamsError, match=field):
        read(tmp_path, config, state)


def test_fields_of_training_and_neutral_values_are_accepted(config: dict[str, Any], tmp_path: Path) -> None:
    state = make_state(config)
    plain = read(tmp_path, config, state).tokenizer.state_dict()
    config |= {"data": {"target": "main.DataModuleFromConfig"}, "lightning": {"trainer": {"benchmark": True}}}
    config["model"]["params"] |= {
        "monitor": "val/rec_loss", "ckpt_path": None, "ignore_keys": [], "image_key": "image", "colorize_nlabels": None,
        "remap": None, "sane_index_shape": False, "learning_rate": 4.5e-6, "use_ema": False, "use_l2_norm": False,
        "distance": "l2", "scheduler_config": {"target": "some.Schedule"},
    }  # fmt: skip
    again = read(tmp_path, config, state).tokenizer.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1, 2]", "model is not a mapping"),
        ("- model", "is not a mapping"),
        ("model:\n  target: taming.models.vqgan.VQModel\n  params: [ddconfig]", "model.params is not a mapping"),
        ("model:\n  target: taming.models.vqgan.VQModel", "no section model.params"),
        ("embed_dim: 8\nn_embed: 64", "no section model"),
        ("model: {target: ldm.models.diffusion.ddpm.LatentDiffusion, params: {first_stage_config: {}}}",
         "under model.params.first_stage_config"),
        ("model: {target: taming.models.vqgan.VQModel, params: {embed_dim: '${model.dim}', n_embed: 4, ddconfig: {}}}",
         "model.params.embed_dim is an interpolation"),
    ],
)  # fmt: skip
def test_configs_of_another_form_say_what_is_expected(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=message):
        read_config(path)
    with pytest.raises(ParamsError, match="is not a file"):
        read_config(tmp_path / "none.yaml")


def test_a_second_set_of_weights_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    state = make_state(config)
    averaged = {f"model_ema.{key.replace('.', '')}": tensor * 2 for key, tensor in state.items()}
    with pytest.raises(MismatchError, match=r"averaged weights and raw ones.*\n.*model_ema\.decoder"):
        read(tmp_path, config, {**state, **averaged})


def test_keys_outside_the_layout_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    state = make_state(config)
    for key in (
        "cond_stage.weight",
        "quantize.embed_probability",
        "codebook_projection.weight",
        "first_stage_model.x",
    ):
        with pytest.raises(MismatchError, match=key):
            read(tmp_path, config, {**state, key: torch.ones(3)})


def test_a_checkpoint_of_the_gumbel_variant_needs_its_class(config: dict[str, Any], tmp_path: Path) -> None:
    state = make_state(config)
    named = make_config()
    named["model"]["target"] = "taming.models.vqgan.GumbelVQ"
    with pytest.raises(ParamsError, match="embed_dim and z_channels"):
        read(tmp_path, named, state)
    named["model"]["params"]["ddconfig"]["z_channels"] = 6
    with pytest.raises(MismatchError, match=r"quantize\.embed\.weight, quantize\.proj"):
        read(tmp_path, named, state)
    state["quantize.embed.weight"] = state.pop("quantize.embedding.weight")
    with pytest.raises(MismatchError, match=r"of a Gumbel VQGAN[\s\S]*GumbelVQ"):
        read(tmp_path, config, state)


def test_keys_and_shapes_that_do_not_fit_are_named(config: dict[str, Any], tmp_path: Path) -> None:
    state = make_state(config)
    short = {key: tensor for key, tensor in state.items() if key != "encoder.mid.attn_1.q.weight"}
    with pytest.raises(MismatchError, match=r"lacks 1 of .*\n.*encoder\.mid\.attn_1\.q\.weight"):
        read(tmp_path, config, short)
    with pytest.raises(MismatchError, match=r"decoder\.up\.0\.block\.2"):
        read(tmp_path, make_config(num_res_blocks=2), state)
    with pytest.raises(MismatchError, match=r"does not ask for\n.*attn\.0"):
        read(tmp_path, make_config(attn_resolutions=[]), state)
    with pytest.raises(MismatchError, match=r"quantize\.embedding\.weight \(40, 6\), not \(41, 6\)"):
        read(tmp_path, make_config(n_embed=41), state)
    flat = {**state, "encoder.mid.attn_1.q.weight": torch.zeros(64, 64)}
    with pytest.raises(MismatchError, match=r"attn_1\.q\.weight \(64, 64\), not \(64, 64, 1, 1\)"):
        read(tmp_path, config, flat)
    with pytest.raises(MismatchError, match="not finite"):
        read(tmp_path, config, {**state, "decoder.conv_out.bias": torch.full((3,), torch.nan)})


def test_files_that_are_no_checkpoint_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"PK\x03\x04 cut", "damaged, cut short"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_checkpoint(path)
    with pytest.raises(DataError, match="not a file"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save({"weights": [1, 2]}, path)
    with pytest.raises(DataError, match=r"no state dict\n.*weights"):
        read_checkpoint(path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        read_checkpoint(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(("key", "problem"), [("encoder", "latent"), ("decoder", "reconstruction")])
def test_a_network_that_gives_values_that_are_not_finite_is_refused(
    key: str, problem: str, config: dict[str, Any], tmp_path: Path
) -> None:
    state = make_state(config)
    state[f"{key}.conv_out.weight"] = state[f"{key}.conv_out.weight"] * 3e38
    state[f"{key}.conv_out.weight"] = state[f"{key}.conv_out.weight"].clamp(-3e38, 3e38)
    with pytest.raises(MismatchError, match=f"the {problem} of a test picture is not finite"):
        read(tmp_path, config, state)
