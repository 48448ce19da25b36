"""CLIP from its folder: features, preprocessing, tokens, frozen weights, pretrained sources and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tests.tiny import write_tiny_clip
from vqpipe.artifacts.publish import tree_digest
from vqpipe.errors import ArtifactError, MismatchError, SetupError
from vqpipe.text.vectors import ClipTokenVectors, word_vectors
from vqpipe.text.vocabulary import Vocabulary
from vqpipe.text.wordnet_tagger import WordnetPos
from vqpipe.vision import towers
from vqpipe.vision.byte_pairs import is_single_token
from vqpipe.vision.clip import RESIZE_MODES, Clip, resize_to, weights_digest, write_clip
from vqpipe.vision.pin import FileSource, TagSource, load_pretrained_clip

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 12},
    "text_cfg": TEXT,
}
RESNET = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TEXT,
}
PREPROCESS = {
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.3, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def make(model_cfg: dict[str, Any], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = towers.build_model(model_cfg, "test")
    for name, parameter in model.named_parameters():
        if name.endswith("bn3.weight"):  # zero at the start, which would hide the residual branch
            nn.init.ones_(parameter)
    return model


def clip_of(model_cfg: dict[str, Any]) -> Clip:
    return Clip(make(model_cfg), PREPROCESS, "test:random:0")


@pytest.fixture
def vit() -> Clip:
    return clip_of(VIT)


def images(side: int, num: int = 2, width: int | None = None) -> torch.Tensor:
    return torch.rand(num, 3, side, width or side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    config = {"model_cfg": VIT, "preprocess_cfg": PREPROCESS}
    write_clip(tmp_path / "clip", make(VIT), config, name="tiny", tag="fitted", fitted_on="12 captions")
    path = tmp_path / "clip/config.json"
    content = path.read_bytes()
    for damaged in (b"[" + content[1:], content.replace(b"preprocess_cfg", b"preprocess_cfh")):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"(?s)clip.*(config\.json|dvc checkout)"):
            Clip.load(tmp_path / "clip")


def test_a_written_clip_is_read_back_from_its_folder_alone(tmp_path: Path) -> None:
    model = make(VIT)
    config = {"model_cfg": VIT, "preprocess_cfg": PREPROCESS}
    facts = write_clip(tmp_path / "clip", model, config, name="tiny", tag="fitted", fitted_on="12 captions")
    clip = Clip.load(tmp_path / "clip")
    assert clip.id == facts["id"] == f"tiny:fitted:{weights_digest(model.state_dict())[:12]}"
    assert (clip.image_size, clip.embed_dim, clip.patch_dim, clip.patch_grid) == (32, 12, 24, (4, 4))
    torch.testing.assert_close(
        clip.encode_image(images(32)), Clip(model, PREPROCESS, "x").encode_image(images(32))
    )
    before = tree_digest(tmp_path / "clip")
    write_clip(tmp_path / "clip", make(VIT), config, name="tiny", tag="fitted", fitted_on="12 captions")
    assert tree_digest(tmp_path / "clip") == before


def test_the_id_follows_the_weights(tmp_path: Path) -> None:
    assert weights_digest(make(VIT).state_dict()) != weights_digest(make(VIT, seed=1).state_dict())


def test_a_missing_folder_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="dvc repro clip"):
        Clip.load(tmp_path / "nothing")


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    config = {"model_cfg": {**VIT, "embed_dim": 10}, "preprocess_cfg": PREPROCESS}
    write_clip(tmp_path / "clip", make(VIT), config, name="tiny", tag="t", fitted_on=None)
    with pytest.raises(ArtifactError, match="do not fit"):
        Clip.load(tmp_path / "clip")


def test_preprocessing_equals_open_clips_on_the_native_resolution(vit: Clip) -> None:
    mean, std = (torch.tensor(PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    expected = vit.model.visual(((images(32) + 1) / 2 - mean) / std)
    torch.testing.assert_close(vit.encode_image(images(32)), expected)


def test_downsizing_is_antialiased(vit: Clip) -> None:
    stripes = torch.ones(1, 3, 128, 128)
    stripes[..., ::2] = -1  # averages to 0; sampling without a low-pass would give one of the two
    grey = vit.preprocess(torch.zeros(1, 3, 32, 32))
    assert (vit.preprocess(stripes) - grey)[..., 2:-2].abs().max() < 0.1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (17, 17), (128, 128), (40, 90)])
def test_any_resolution_is_taken(vit: Clip, height: int, width: int) -> None:
    assert vit.encode_image(images(height, width=width)).shape == (2, 12)
    assert vit.patch_features(images(height, width=width), projected=True).shape == (2, 4, 4, 12)


def test_frozen_for_ever(vit: Clip) -> None:
    nn.Sequential(vit).train()
    assert not any(module.training for module in vit.modules())
    assert not any(parameter.requires_grad for parameter in vit.parameters())


def test_patch_features_are_the_normed_tokens_in_place() -> None:
    clip = clip_of({**VIT, "vision_cfg": {**VIT["vision_cfg"], "pool_type": "avg"}})
    features = clip.patch_features(images(32), projected=True)
    torch.testing.assert_close(features.mean(dim=(1, 2)), clip.encode_image(images(32)))
    own = clip.patch_features(images(32), projected=False)
    assert own.shape == (2, 4, 4, 24)
    torch.testing.assert_close(own @ clip.model.visual.proj, features)


def test_patch_positions_are_row_major() -> None:
    clip = clip_of({**VIT, "vision_cfg": {**VIT["vision_cfg"], "layers": 1}})
    spot = torch.zeros(1, 3, 32, 32)
    spot[..., 8:16, 24:32] = 1  # row 1, column 3
    moved = clip.patch_features(spot, False) - clip.patch_features(torch.zeros(1, 3, 32, 32), False)
    assert int(moved.square().sum(dim=-1).flatten().argmax()) == 1 * 4 + 3


def test_perceptual_features_stop_after_the_last_block(vit: Clip) -> None:
    ran: list[int] = []
    for number, block in enumerate(vit.model.visual.transformer.resblocks):
        block.register_forward_hook(lambda *_, n=number: ran.append(n))
    features = vit.perceptual_features(images(32), [0, 1])
    assert ran == [0, 1]
    assert [f.shape for f in features] == [(2, 16, 24)] * 2
    last = vit.perceptual_features(images(32), [2])[0]
    torch.testing.assert_close(
        vit.model.visual.ln_post(last).unflatten(1, (4, 4)), vit.patch_features(images(32), False)
    )


def test_perceptual_features_have_gradients_to_the_images_only(vit: Clip) -> None:
    pictures = images(48).requires_grad_()
    torch.stack(vit.perceptual_features(pictures, [0, 1])).square().sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in vit.parameters())


POOLS: dict[str, dict[str, Any]] = {
    "class token": {}, "mean": {"pool_type": "avg"},
    "norm after the mean": {"pool_type": "avg", "final_ln_after_pool": True},
    "no first norm": {"no_ln_pre": True}, "sine positions": {"pos_embed_type": "sin_cos_2d"},
    "attention": {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("custom_text", [False, True])
def test_every_pooling_of_a_vit_has_patch_features(pool: str, custom_text: bool) -> None:
    config = {**VIT, "vision_cfg": {**VIT["vision_cfg"], **POOLS[pool]}, "custom_text": custom_text}
    clip = clip_of(config)
    assert clip.patch_features(images(32), projected=False).shape == (2, 4, 4, 24)
    assert clip.patch_features(images(32), projected=True).shape == (2, 4, 4, 12)
    means = clip.patch_features(images(32), projected=False).mean(dim=-1)
    torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-5, rtol=0)  # a layer norm came last


@pytest.mark.parametrize(
    "config", [RESNET, {**VIT, "vision_cfg": {**VIT["vision_cfg"], **POOLS["attention"]}}]
)
def test_where_every_place_is_alike_projected_features_are_the_embedding(config: dict[str, Any]) -> None:
    clip = clip_of(config)
    visual = clip.model.visual
    generator = torch.Generator().manual_seed(2)
    alike = torch.randn(2, 1, clip.patch_dim, generator=generator).expand(-1, 9, -1)
    if config is RESNET:
        visual.attnpool.positional_embedding.zero_()
        visual.forward_intermediates = lambda *_, **__: {
            "image_intermediates": [alike[:, :4].transpose(1, 2).unflatten(2, (2, 2))]
        }
        expected = visual.attnpool(alike[:, :4].transpose(1, 2).unflatten(2, (2, 2)))
    else:
        visual.forward_intermediates = lambda *_, **__: {"image_intermediates": [alike]}
        expected = visual._pool(alike)[0] @ visual.proj
    found = towers.last_features(clip.model, images(32), projected=True)
    torch.testing.assert_close(found, expected[:, None].expand_as(found))


def test_two_poolings_by_attention_are_refused() -> None:
    config = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "attentional_pool": "parallel"}}
    with pytest.raises(SetupError, match="two poolings"):
        towers.build_model(config, "test")


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize(("height", "width"), [(40, 90), (131, 57), (20, 31), (17, 17)])
def test_resizing_takes_what_open_clips_transform_takes(resize_mode: str, height: int, width: int) -> None:
    pixels = images(5, 1).repeat_interleave(28, 2).repeat_interleave(28, 3)[0, :, :height, :width]
    picture = ((pixels + 2) * 63.75).round().to(torch.uint8)  # mid tones: Pillow clips what overshoots
    transform = image_transform(32, False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=resize_mode)
    expected = transform(Image.fromarray(picture.permute(1, 2, 0).numpy()))
    found = resize_to(picture[None].float() / 127.5 - 1, 32, "bicubic", resize_mode)[0]
    assert ((found.clamp(-1, 1) + 1) / 2 - expected).abs().max() <= 1.5 / 255


@pytest.mark.parametrize("layers", [[], [3], [-1], [1, 0], [1, 1]])
def test_perceptual_layers_that_are_not_there_are_refused(vit: Clip, layers: list[int]) -> None:
    with pytest.raises(MismatchError, match="from 0 to 2"):
        vit.perceptual_features(images(32), layers)


def test_a_resnet_gives_patches_but_no_blocks() -> None:
    clip = clip_of(RESNET)
    assert (clip.patch_grid, clip.patch_dim, clip.num_blocks) == ((2, 2), 256, 0)
    own = clip.patch_features(images(64), projected=False)
    final = clip.model.visual.forward_intermediates(clip.preprocess(images(64)), indices=[4])
    torch.testing.assert_close(own.permute(0, 3, 1, 2), final["image_intermediates"][0])
    pool = clip.model.visual.attnpool
    projected = clip.patch_features(images(64), projected=True)
    assert projected.shape == (2, 2, 2, 12)
    torch.testing.assert_close(projected, pool.c_proj(pool.v_proj(own)))
    with pytest.raises(MismatchError, match="no transformer blocks"):
        clip.perceptual_features(images(64), [0])


def test_token_ids_are_clips_own(vit: Clip) -> None:
    texts = ["a red Bird", "", "one two three four five six seven eight nine ten eleven twelve"]
    expected = SimpleTokenizer()(texts, context_length=12)
    assert torch.equal(vit.token_ids(texts), expected)
    assert expected[1].tolist() == [49406, 49407] + [0] * 10
    assert int(expected[2, -1]) == 49407  # cut, and still ended


def test_text_embeddings_do_not_depend_on_the_padding(vit: Clip) -> None:
    texts = ["a bird", "a small red bird on a green tree", "sky"]
    expected = vit.model.encode_text(vit.token_ids(texts))
    torch.testing.assert_close(vit.encode_text(texts), expected)
    torch.testing.assert_close(vit.encode_text(texts[:1]), expected[:1])
    assert vit.encode_text([]).shape == (0, 12)


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("vision_cfg", "timm_model_name", "convnext_tiny", "timm"),
        ("text_cfg", "hf_tokenizer_name", "bert", "tokenizer"),
        ("text_cfg", "hf_model_name", "roberta", "text tower"),
    ],
)
def test_foreign_towers_are_refused_by_name(section: str, field: str, value: str, said: str) -> None:
    config = {**VIT, section: {**VIT[section], field: value}}  # type: ignore[dict-item]
    with pytest.raises(SetupError, match=said):
        towers.build_model(config, "foreign")


def test_a_file_is_pinned_with_its_config(tmp_path: Path) -> None:
    model = make(VIT)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}}, tmp_path / "ck.pt")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_cfg": VIT, "preprocess_cfg": {"mean": [0, 0, 0]}})
    )
    digests = set()
    for name in ("weights.safetensors", "ck.pt"):
        source = FileSource(
            kind="file", model="tiny", path=str(tmp_path / name), config=str(tmp_path / "config.json")
        )
        pinned, config = load_pretrained_clip(source)
        digests.add(weights_digest(pinned.state_dict()))
        assert config["preprocess_cfg"]["mean"] == [0, 0, 0]
        assert config["preprocess_cfg"]["interpolation"] == "bicubic"
    assert digests == {weights_digest(model.state_dict())}


class Hostile:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, "bad.pt")
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    with pytest.raises(SetupError, match="cannot be read"):
        load_pretrained_clip(FileSource(kind="file", model="tiny", path="bad.pt", config="config.json"))
    assert not Path("ran").exists()


def test_unknown_names_list_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="did you mean ViT-B-32"):
        load_pretrained_clip(TagSource(kind="tag", model="ViT-B-33", tag="openai"))
    with pytest.raises(SetupError, match="laion2b_s34b_b79k"):
        load_pretrained_clip(TagSource(kind="tag", model="ViT-B-32", tag="laion"))
    with pytest.raises(SetupError, match="there is no file"):
        load_pretrained_clip(FileSource(kind="file", model="ViT-B-32", path=str(tmp_path / "none.pt")))


def test_a_failed_download_states_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fail)
    small = make(VIT)
    monkeypatch.setattr(towers, "build_model", lambda *_: small)
    with pytest.raises(SetupError, match="kind: file") as caught:
        load_pretrained_clip(TagSource(kind="tag", model="ViT-B-32", tag="openai"))
    assert "no route" in str(caught.value)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return Clip.load(write_tiny_clip(tmp_path / "clip"))


def test_single_tokens() -> None:
    words = ["bird", "red", "teal-coloured", "axolotl", "", "black and white"]
    assert [word for word in words if is_single_token(word)] == ["bird", "red"]


def test_the_table_has_a_row_for_each_token(clip: Clip) -> None:
    table = clip.token_embeddings()
    assert table.shape == (49408, 8)
    ids = clip.token_ids(["bird"])[0, :3]
    assert torch.equal(table[ids], clip.model.token_embedding(ids))
    assert not table.requires_grad


def test_word_vectors_from_the_table(clip: Clip) -> None:
    vocabulary = Vocabulary(WordnetPos(kind="wordnet"), {"red": 1}, {"axolotl": 1})
    found = word_vectors(vocabulary, ClipTokenVectors(kind="clip_tokens"), lambda: clip)
    pieces = [id_ for id_ in clip.token_ids(["axolotl"])[0].tolist() if 0 < id_ < 49406]
    assert len(pieces) > 1
    torch.testing.assert_close(found.nouns[0], clip.token_embeddings()[pieces].mean(0))


def test_a_text_tower_without_a_table_is_reported(clip: Clip) -> None:
    clip.model.token_embedding = nn.Identity()
    with pytest.raises(MismatchError, match="no table"):
        clip.token_embeddings()
