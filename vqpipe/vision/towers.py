"""open_clip models behind a few functions: build one from a config, and read features out of its towers.

Two kinds of image tower are known: the vision transformer, and CLIP's modified ResNet with attention pooling.
Texts go through CLIP's own byte-pair tokenizer, which is part of the open_clip package. That package is imported inside
functions, since it takes seconds and params are read without it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from vqpipe.errors import SetupError

SUPPORTED = "a ViT or ResNet image tower with CLIP's own text tower and tokenizer"


def build_model(model_cfg: Mapping[str, Any], name: str) -> nn.Module:
    """An open_clip model with fresh weights, fp32, from its `model_cfg`.

    Raises:
        SetupError: an architecture that needs more than open_clip itself (timm towers, Hugging Face text
            towers or tokenizers, captioning decoders) or that it calls untested (two poolings by attention), or a
            config that it refuses.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(dict(model_cfg))
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    foreign = [
        label
        for label, present in (
            ("timm image tower", vision.get("timm_model_name")),
            ("Hugging Face text tower", text.get("hf_model_name")),
            ("Hugging Face tokenizer", text.get("hf_tokenizer_name")),
            ("captioning decoder", config.get("multimodal_cfg")),
            ("two poolings by attention", isinstance(vision.get("attentional_pool"), str)),
        )
        if present
    ]
    if foreign:
        raise SetupError(f"CLIP {name} cannot be used here", found=", ".join(foreign), expected=SUPPORTED)
    custom_text = bool(config.pop("custom_text", False))
    try:
        model: nn.Module = (CustomTextCLIP if custom_text else CLIP)(**config)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise SetupError(
            f"CLIP {name}: open_clip refuses this config ({error})", expected=SUPPORTED
        ) from error
    side = image_side(model, name)
    grid_of(model, side)
    return model


def _is_vit(model: nn.Module) -> bool:
    """Whether the image tower is a vision transformer; a ResNet otherwise."""
    from open_clip.transformer import VisionTransformer

    return isinstance(model.visual, VisionTransformer)


def image_side(model: nn.Module, name: str) -> int:
    """Side of the tower's square input in pixels; `SetupError` where it is not square."""
    visual: Any = model.visual
    size = visual.image_size
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if sides[0] != sides[1]:
        raise SetupError(f"CLIP {name} has an input that is not square", found=sides, expected="equal sides")
    return int(sides[0])


def grid_of(model: nn.Module, side: int) -> tuple[int, int]:
    """Rows and columns of the tower's last feature map for a square input of `side` pixels."""
    visual: Any = model.visual
    if _is_vit(model):
        height, width = visual.grid_size
        return int(height), int(width)
    return side // 32, side // 32


def feature_dim(model: nn.Module) -> int:
    """Channels of the image tower's last features, before the projection."""
    visual: Any = model.visual
    if _is_vit(model):
        return int(visual.conv1.out_channels)
    return int(visual.attnpool.v_proj.in_features)


def num_blocks(model: nn.Module) -> int:
    """Transformer blocks of the image tower; 0 for a ResNet."""
    visual: Any = model.visual
    return len(visual.transformer.resblocks) if _is_vit(model) else 0


def last_features(
    model: nn.Module, images: Float[Tensor, "b 3 s s"], projected: bool
) -> Float[Tensor, "b n d"]:
    """Dense features after the last norm, without the class token, for normalised images of the tower's size.

    A ViT gives `ln_post` of its patches, projected by the visual projection; where the tower's own norm comes
    after its pooling, the same norm is applied to each patch. A ResNet gives its last map (it has no norm there);
    projected, each place goes through the value and output maps of the attention pooling, as if the pooling saw it
    alone, without the positional embedding (MaskCLIP, Zhou et al. 2022, section 3.2). A ViT that pools by attention
    is treated alike: the norm of the pooling's keys; projected, its value and output maps, `ln_post`, projection.
    """
    visual: Any = model.visual
    if not _is_vit(model):
        output = visual.forward_intermediates(images, indices=[4], intermediates_only=True)
        features = output["image_intermediates"][0].flatten(2).transpose(1, 2)
        return visual.attnpool.c_proj(visual.attnpool.v_proj(features)) if projected else features
    features = block_outputs(model, images, [num_blocks(model) - 1])[0]
    if visual.attn_pool is not None:
        features = visual.attn_pool.ln_k(features)
        if not projected:
            return features
        features = _value_alone(visual.attn_pool.attn, features)
    features = visual.ln_post(features)
    return features @ visual.proj if projected and visual.proj is not None else features


def _value_alone(
    attention: nn.MultiheadAttention, features: Float[Tensor, "b n w"]
) -> Float[Tensor, "b n d"]:
    """What attention gives a query that sees one place alone: that place's value through the output map."""
    width = attention.embed_dim
    weight = (
        attention.v_proj_weight if attention.in_proj_weight is None else attention.in_proj_weight[-width:]
    )
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[-width:]
    return attention.out_proj(linear(features, weight, bias))


def block_outputs(
    model: nn.Module, images: Float[Tensor, "b 3 s s"], layers: Sequence[int]
) -> list[Float[Tensor, "b n d"]]:
    """Outputs of the named blocks (0-based, rising) without the class token; later ones do not run."""
    visual: Any = model.visual
    output = visual.forward_intermediates(
        images, indices=list(layers), stop_early=True, intermediates_only=True, output_fmt="NLC"
    )
    return list(output["image_intermediates"])


def embedding_and_blocks(
    model: nn.Module, images: Float[Tensor, "b 3 s s"], layers: Sequence[int]
) -> tuple[Float[Tensor, "b e"], list[Float[Tensor, "b n d"]]]:
    """The image embedding, not normalised, and `block_outputs`, from one pass."""
    visual: Any = model.visual
    output = visual.forward_intermediates(images, indices=list(layers), output_fmt="NLC")
    return output["image_features"], list(output["image_intermediates"])


def text_length(ids: Int[Tensor, "n t"]) -> int:
    """Tokens of the longest text, up to its end token, which has the largest id; on a GPU this waits for it."""
    return int(ids.argmax(dim=-1).max()) + 1


def encode_ids(model: nn.Module, ids: Int[Tensor, "n t"], length: int | None = None) -> Float[Tensor, "n e"]:
    """Text embeddings of token ids, not normalised.

    With a causal tower that pools at the end token, the padding after the longest text changes nothing, so it
    is not computed.

    Args:
        model: a CLIP.
        ids: padded at the end.
        length: `text_length(ids)` or more, where it is known; otherwise it is read from the ids.
    """
    from open_clip.model import CLIP

    if not isinstance(model, CLIP) or model.attn_mask is None or model.text_pool_type != "argmax":
        return model.encode_text(ids)  # type: ignore[operator]
    ends = ids.argmax(dim=-1)
    length = length or text_length(ids)
    states = model.token_embedding(ids[:, :length]) + model.positional_embedding[:length]
    states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
    pooled = model.ln_final(states[torch.arange(len(ids), device=ids.device), ends])
    projection = model.text_projection
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
