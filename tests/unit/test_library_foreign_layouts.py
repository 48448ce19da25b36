"""Checkpoints of every layout give here the indices and the reconstructions of the layout's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner

from tests.foreign_layouts import CASES, DIM, Case, averaged, llamagen, open_magvit2, vqct, vqgan_lc
from tests.small_sources import DATA
from tests.tiny import picture
from vqpipe.cli.app import app
from vqpipe.errors import DataError, MismatchError, ParamsError
from vqpipe.library.foreign import FAMILIES, Imported, import_checkpoint
from vqpipe.tokenizers.tokenizer import Tokenizer

FOREIGN = DATA / "foreign"
GIVEN: dict[str, dict[str, Any]] = {
    "taming_vq": {}, "taming_gumbel": {}, "llamagen": {"resolution": 32}, "vqgan_lc": {}, "ibq": {},
    "vqct": {"words": FOREIGN / "vqct_priors.npz"},
}  # fmt: skip


BASE: dict[str, Any] = {
    "ckpt_path": None, "ignore_keys": [], "image_key": "image", "colorize_nlabels": None, "monitor": None,
    "learning_rate": 1e-4, "warmup_epochs": 1.0, "scheduler_type": "None", "min_learning_rate": 0, "stage": None,
}  # fmt: skip
ROWS: dict[str, Any] = {
    "remap": None, "sane_index_shape": False, "gradient_clip_val": 0, "resume_lr": None, "lr_drop_epoch": None,
    "lr_drop_rate": 0.1,
}  # fmt: skip
SIGNATURES: dict[str, dict[str, Any]] = {
    "seed_voken_vq": BASE | ROWS,
    "ibq": BASE | ROWS | {
        "cosine_similarity": False, "use_entropy_loss": False, "sample_minimization_weight": 1.0,
        "batch_maximization_weight": 1.0, "entropy_temperature": 0.01, "beta": 0.25,
    },
    "open_magvit2": BASE | {
        "resume_lr": None, "token_factorization": False, "lr_drop_epoch": None, "lr_drop_rate": 0.1,
        "factorized_bits": [9, 9],
    },
    "simvq": BASE | {"accumulate_steps": 1},
}  # fmt: skip
"""Arguments of the projects' classes, which a config saved by LightningCLI states all, at their defaults."""


def write(folder: Path, case: Case) -> tuple[Path, Path, dict[str, Any]]:
    checkpoint, yaml, options = folder / "last.ckpt", folder / "model.yaml", dict(case.options)
    torch.save(case.content, checkpoint)
    with yaml.open("w") as stream:
        YAML().dump(case.config, stream)
    if case.words:
        options["words"] = folder / "words.npz"
        np.savez(options["words"], **case.words)
    return checkpoint, yaml, options


def read(folder: Path, case: Case, **more: Any) -> Imported:
    checkpoint, yaml, options = write(folder, case)
    return import_checkpoint(checkpoint, yaml, **{**options, **more})


@pytest.mark.parametrize("name", CASES)
def test_indices_and_reconstructions_are_the_layouts(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    imported = read(tmp_path, case)
    tokenizer = imported.tokenizer
    assert tokenizer.config.quantizer.kind == case.kind
    indices = tokenizer.encode(case.images)
    assert torch.equal(indices, case.indices)
    least = 3 if case.kind == "vqct" else 9
    assert all(group.unique().numel() >= least for group in indices.unbind(1)), (
        "an image uses many codes, so that equality says something"
    )
    torch.testing.assert_close(tokenizer.decode(indices), case.reconstruction, atol=1e-4, rtol=1e-4)
    assert imported.check.num_codes == tokenizer.num_codes
    assert all(0.2 < share <= 1 for share in imported.check.reached)


@pytest.mark.parametrize("name", GIVEN)
def test_checkpoints_of_the_projects_own_classes_come_back(name: str) -> None:
    if not (FOREIGN / f"{name}.ckpt").is_file():
        pytest.skip(f"needs {FOREIGN / name}.ckpt, a small checkpoint from the project's own class")
    imported = import_checkpoint(FOREIGN / f"{name}.ckpt", FOREIGN / f"{name}.yaml", **GIVEN[name])
    with np.load(FOREIGN / f"{name}.npz") as given:
        image, stored, reconstruction = (
            torch.from_numpy(given[part]) for part in ("image", "indices", "reconstruction")
        )
    expected = stored[:, None] if stored.ndim == 3 else stored.movedim(-1, 1)
    indices = imported.tokenizer.encode(image)
    assert torch.equal(indices, expected)
    assert (imported.tokenizer.decode(indices) - reconstruction).abs().max() < 1e-4


def test_every_family_is_tried() -> None:
    tried = {read_layout(case()) for case in CASES.values()} | {"taming"}
    assert tried == set(FAMILIES)


def read_layout(case: Case) -> str:
    if "layout" in case.options:
        return str(case.options["layout"])
    model = case.config.get("model")
    if model is None:
        return "llamagen"
    target = model.get("target", model.get("class_path"))
    return next(name for name, family in FAMILIES.items() if target in family.targets)


@pytest.mark.parametrize("name", ["open_magvit2", "vqct", "vqgan_lc", "seed_voken_vq"])
def test_the_command_publishes_a_tokenizer_that_reads_itself_back(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    checkpoint, yaml, options = write(tmp_path, case)
    out = tmp_path / "imported"
    words = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    done = CliRunner().invoke(app, ["import", str(checkpoint), str(yaml), "--out", str(out), *words])
    assert done.exit_code == 0, done.output
    assert "random latents reach" in done.output
    assert f"{case.kind}, K = " in done.output
    tokenizer = Tokenizer.from_pretrained(out)
    assert torch.equal(tokenizer.encode(case.images), case.indices)
    assert tokenizer.facts["origin"]["weights"] in ("raw", "averaged")
    assert str(tmp_path) not in json.dumps(tokenizer.facts)


def test_an_imported_tokenizer_tokenizes_a_folder_of_images(tmp_path: Path) -> None:
    checkpoint, yaml, options = write(tmp_path, CASES["llamagen"]())
    out = tmp_path / "imported"
    arguments = [
        "import",
        str(checkpoint),
        str(yaml),
        "--out",
        str(out),
        "--resolution",
        str(options["resolution"]),
    ]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (tmp_path / "photos").mkdir()
    picture(0, True).save(tmp_path / "photos/bird.png")
    arguments = [
        "tokenize",
        str(tmp_path / "photos"),
        "--tokenizer",
        str(out),
        "--out",
        str(tmp_path / "out.parquet"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "1 x 8 x 8 indices each, of 40 codes" in done.output


def test_the_rule_of_two_sets_of_weights(tmp_path: Path) -> None:
    case = CASES["ibq"]()
    both = read(tmp_path, case)
    raw = read(tmp_path, case, weights="raw")
    assert (both.weights, raw.weights) == ("averaged", "raw")
    for imported, used, other in (
        (both, "model_ema.encoderconv_inweight", "encoder.conv_in.weight"),
        (raw, "encoder.conv_in.weight", "model_ema.encoderconv_inweight"),
    ):
        assert used not in imported.left_out
        assert other in imported.left_out
        assert imported.num_mapped + len(imported.left_out) == len(case.content["state_dict"])
    assert not torch.equal(both.tokenizer.encode(case.images), raw.tokenizer.encode(case.images))
    state = case.content["state_dict"]
    alone = {key: tensor for key, tensor in state.items() if not key.startswith("model_ema.")}
    case.content["state_dict"] = alone
    with pytest.raises(MismatchError, match="no averaged weights, which its config's use_ema promises"):
        read(tmp_path, case)
    case.config["model"]["init_args"]["use_ema"] = False
    assert read(tmp_path, case).weights == "raw"
    with pytest.raises(MismatchError, match="has no averaged weights"):
        read(tmp_path, case, weights="averaged")
    case.content["state_dict"] = state
    with pytest.raises(MismatchError, match="averaged weights and raw ones"):
        read(tmp_path, case)
    case.config["model"]["init_args"]["use_ema"] = True
    case.content["state_dict"] = {k: t for k, t in state.items() if k != "model_ema.encoderconv_inweight"}
    with pytest.raises(MismatchError, match=r"averaged weights lack parameters\n.*encoder\.conv_in\.weight"):
        read(tmp_path, case)
    case.content["state_dict"] = {**state, "model_ema.encoderconv_out2weight": torch.ones(1)}
    with pytest.raises(MismatchError, match=r"model_ema\.encoderconv_out2weight"):
        read(tmp_path, case)


def test_of_two_sets_of_weights_of_latent_diffusion_one_must_be_named(tmp_path: Path) -> None:
    case = CASES["latent_diffusion"]()
    case.config["model"]["params"]["use_ema"] = True
    state = case.content["state_dict"]
    case.content["state_dict"] = {**state, **averaged(state)}
    with pytest.raises(
        MismatchError, match=r"averaged weights and raw ones[\s\S]*--weights raw or --weights averaged"
    ):
        read(tmp_path, case)
    assert torch.equal(read(tmp_path, case, weights="raw").tokenizer.encode(case.images), case.indices)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ibq", {"l2_normalize": True}, "l2_normalize"),
        ("ibq", {"cosine_similarity": True}, "cosine_similarity"),
        ("ibq", {"remap": "used.npy"}, "remap"),
        ("ibq", {"quantizer": "other"}, "does not know model.init_args.quantizer"),
        ("open_magvit2", {"token_factorization": True}, "token_factorization"),
        ("open_magvit2", {"n_embed": 64}, r"n_embed = 2\^embed_dim"),
        ("simvq", {"quantconfig": {"target": "taming.modules.vqvae.quantize.FSQ", "params": {}}}, "quantconfig.target"),
        ("llamagen", {"decoder_ch_mult": [1, 2, 4]}, "decoder_ch_mult"),
        ("llamagen", {"codebook_dim": 3}, "section model"),
        ("vqgan_lc", {"quantizer_type": "EMA"}, "quantizer_type: org"),
        ("vqgan_lc_ema", {"quantizer_type": "org"}, "quantizer_type: ema"),
        ("vqgan_lc", {"use_cblinear": 0}, "use_cblinear: 1"),
        ("vqgan_lc", {"use_cblinear": 2}, "use_cblinear"),
        ("vqgan_lc", {"n_vision_words": 41}, r"tok_embeddings.weight \(40, 16\), not \(41, 16\)"),
        ("gumbel", {"embed_dim": 5}, "embed_dim and z_channels"),
        ("lg_vq", {"distance": "cos"}, "distance: cos"),
        ("seed_voken_vq", {"use_l2": True}, "use_l2"),
    ],
)  # fmt: skip
def test_what_may_change_the_codes_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    case = CASES[name]()
    model = case.config.get("model", {})
    model.get("params", model.get("init_args", case.config)).update(changes)
    with pytest.raises((ParamsError, MismatchError), match=message):
        read(tmp_path, case)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_config_that_the_trainer_saved_is_read(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    case.config["model"]["init_args"] = SIGNATURES[name] | case.config["model"]["init_args"]
    case.config |= {"trainer": {"devices": "8"}, "data": {"class_path": "main.Data"}, "ckpt_path": None}
    assert torch.equal(read(tmp_path, case).tokenizer.encode(case.images), case.indices)


def test_tensors_that_do_not_belong_to_a_layout_are_refused(tmp_path: Path) -> None:
    for case, key in (
        (open_magvit2(), "quantize.project_in.weight"),
        (llamagen(), "encoder.conv_blocks.0.attn.0.q.weight"),
        (vqgan_lc(), "codebook_projection.2.weight"),
        (vqct(), "quantize.gcn.conv3.bias"),
    ):
        state = case.content.get("state_dict", case.content.get("model"))
        state[key] = torch.ones(1)
        with pytest.raises(MismatchError, match=key):
            read(tmp_path, case)
    case = open_magvit2()
    case.content["state_dict"]["quantize.mask"] = torch.tensor([1, 2, 4, 16, 8])
    with pytest.raises(MismatchError, match="order of the bits"):
        read(tmp_path, case)
    case = open_magvit2(adaptive=False)
    with pytest.raises(MismatchError, match=r"no decoder\.adaptive"):
        read(tmp_path, case)
    case = vqgan_lc()
    case.content["model"] = {
        k: t for k, t in case.content["model"].items() if k != "codebook_projection.weight"
    }
    with pytest.raises(MismatchError, match="not words under one linear layer"):
        read(tmp_path, case)


@pytest.mark.parametrize("name", ["open_magvit2", "open_magvit2_first_release", "simvq"])
def test_a_config_of_another_side_than_the_trainings_is_put_right(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    tokenizer = read(tmp_path, case, resolution=64).tokenizer
    assert (tokenizer.resolution, tokenizer.grid) == (64, (16, 16))
    assert torch.equal(tokenizer.encode(case.images), case.indices)
    with pytest.raises(ParamsError, match="resolution 66 is not a multiple"):
        read(tmp_path, case, resolution=66)


def test_vqgan_lc_at_the_dimension_at_which_its_class_normalises_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqpipe.library.foreign.others.UNIT_DIM", DIM)
    with pytest.raises(MismatchError, match=f"at {DIM} dimensions VQGAN-LC normalises latents"):
        read(tmp_path, vqgan_lc())
    case = CASES["vqgan_lc_without_a_layer"]()  # of trained random codes, where it does not
    assert torch.equal(read(tmp_path, case).tokenizer.encode(case.images), case.indices)
    case.config["model"]["params"]["tuning_codebook"] = -2
    with pytest.raises(MismatchError, match="tuning_codebook -2"):
        read(tmp_path, case)


def test_vqct_needs_the_words_that_it_was_trained_with(tmp_path: Path) -> None:
    case = vqct()
    checkpoint, yaml, options = write(tmp_path, case)
    with pytest.raises(MismatchError, match="--words"):
        import_checkpoint(checkpoint, yaml)
    for part, value, message in (
        ("pairs", np.array([["small", "bird"]]), "not those that the checkpoint's network gives"),
        (
            "noun_vectors",
            case.words["noun_vectors"][:, :5],
            "of different dimensions",
        ),
        ("nouns", np.array(["beak", "light", "bird", "leg"]), "have no vector[\\s\\S]*wing"),
    ):
        np.savez(options["words"], **{**case.words, part: value})
        with pytest.raises((MismatchError, DataError), match=message):
            import_checkpoint(checkpoint, yaml, **options)
    np.savez(options["words"], **{name: array for name, array in case.words.items() if name != "pairs"})
    with pytest.raises(DataError, match=r"lacks arrays\n.*no pairs"):
        import_checkpoint(checkpoint, yaml, **options)
    np.savez(options["words"], **{**case.words, "pairs": np.array([("a", {})], dtype=object)})
    with pytest.raises(DataError, match="without pickled objects"):
        import_checkpoint(checkpoint, yaml, **options)
    for name, rows in (("adjective_counts", 3), ("noun_vectors", 2), ("noun_vectors", None), ("pairs", None)):
        array = case.words[name]
        np.savez(options["words"], **{**case.words, name: array[:, 0] if rows is None else array[:rows]})
        with pytest.raises(DataError, match=f"{name} (has not one row for each|are not pairs)"):
            import_checkpoint(checkpoint, yaml, **options)
    np.savez_compressed(options["words"], **case.words)
    whole = options["words"].read_bytes()
    for damaged in (b"", whole[:-100], whole[:60] + b"\xff" * 40 + whole[100:]):
        options["words"].write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as a file of words"):
            import_checkpoint(checkpoint, yaml, **options)
    with options["words"].open("wb") as stream:
        np.save(stream, case.words["pairs"])
    with pytest.raises(DataError, match="cannot be read as a file of words"):
        import_checkpoint(checkpoint, yaml, **options)
    with pytest.raises(ParamsError, match="for VQCT alone"):
        read(tmp_path, CASES["lg_vq"](), words=options["words"])
    with pytest.raises(ParamsError, match="--resolution is for"):
        read(tmp_path, CASES["lg_vq"](), resolution=64)


def test_a_class_of_another_name_can_be_read_as_a_layout(tmp_path: Path) -> None:
    case = CASES["lg_vq"]()
    case.config["model"]["target"] = "fork.models.Vq"
    with pytest.raises(ParamsError, match=r"does not know the class[\s\S]*--layout taming"):
        read(tmp_path, case)
    assert torch.equal(read(tmp_path, case, layout="lg-vq").tokenizer.encode(case.images), case.indices)
    with pytest.raises(ParamsError, match="no such layout"):
        read(tmp_path, case, layout="lgvq")
    with pytest.raises(ParamsError, match="of another layout than --layout"):
        read(tmp_path, CASES["lg_vq"](), layout="taming")
