"""A VQGAN in the taming-transformers layout, made from the layout's facts alone: keys, and functions of them.

Nothing here imports the library: the imported tokenizer is compared with it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def make_config(**changes: Any) -> dict[str, Any]:
    """A config as in its YAML file; `changes` go to ddconfig, or to params where they belong there."""
    params: dict[str, Any] = {"embed_dim": 6, "n_embed": 40}
    dd: dict[str, Any] = {
        "double_z": False, "z_channels": 10, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [16], "dropout": 0.0,
    }  # fmt: skip
    for name, value in changes.items():
        (params if name in params or name == "remap" else dd)[name] = value
    target = "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
    loss = {"target": target, "params": {"disc_start": 250001, "disc_weight": 0.8}}
    return {
        "model": {
            "base_learning_rate": 4.5e-6, "target": "taming.models.vqgan.VQModel",
            "params": {**params, "ddconfig": dd, "lossconfig": loss},
        },
    }  # fmt: skip


class _Maker:
    """Random weights by name, far enough from zero that every layer counts."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self.draw = torch.Generator().manual_seed(seed)

    def conv(self, name: str, inputs: int, outputs: int, kernel: int) -> None:
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=self.draw)
        self.state[f"{name}.weight"] = weight / (inputs * kernel**2) ** 0.5
        self.state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=self.draw)

    def norm(self, name: str, channels: int) -> None:
        self.state[f"{name}.weight"] = 1 + 0.2 * torch.randn(channels, generator=self.draw)
        self.state[f"{name}.bias"] = 0.2 * torch.randn(channels, generator=self.draw)

    def block(self, name: str, inputs: int, outputs: int) -> None:
        self.norm(f"{name}.norm1", inputs)
        self.conv(f"{name}.conv1", inputs, outputs, 3)
        self.norm(f"{name}.norm2", outputs)
        self.conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            self.conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def attention(self, name: str, channels: int) -> None:
        self.norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            self.conv(f"{name}.{part}", channels, channels, 1)

    def middle(self, name: str, channels: int) -> None:
        self.block(f"{name}.block_1", channels, channels)
        self.attention(f"{name}.attn_1", channels)
        self.block(f"{name}.block_2", channels, channels)


def make_state(config: dict[str, Any], seed: int = 0) -> State:
    """A checkpoint's state dict: encoder, decoder, codebook, and keys of a loss that no tokenizer needs."""
    params = config["model"]["params"]
    dd, make = params["ddconfig"], _Maker(seed)
    ch, mult, blocks = dd["ch"], dd["ch_mult"], dd["num_res_blocks"]
    make.conv("encoder.conv_in", 3, ch, 3)
    width, side = ch, dd["resolution"]
    for level, m in enumerate(mult):
        for block in range(blocks):
            make.block(f"encoder.down.{level}.block.{block}", width, ch * m)
            width = ch * m
            if side in dd["attn_resolutions"]:
                make.attention(f"encoder.down.{level}.attn.{block}", width)
        if level < len(mult) - 1:
            make.conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
            side //= 2
    make.middle("encoder.mid", width)
    make.norm("encoder.norm_out", width)
    make.conv("encoder.conv_out", width, dd["z_channels"], 3)
    make.conv("decoder.conv_in", dd["z_channels"], width, 3)
    make.middle("decoder.mid", width)
    for level in reversed(range(len(mult))):
        for block in range(blocks + 1):
            make.block(f"decoder.up.{level}.block.{block}", width, ch * mult[level])
            width = ch * mult[level]
            if side in dd["attn_resolutions"]:
                make.attention(f"decoder.up.{level}.attn.{block}", width)
        if level > 0:
            make.conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
            side *= 2
    make.norm("decoder.norm_out", width)
    make.conv("decoder.conv_out", width, 3, 3)
    make.conv("quant_conv", dd["z_channels"], params["embed_dim"], 1)
    make.conv("post_quant_conv", params["embed_dim"], dd["z_channels"], 1)
    codes = torch.randn(params["n_embed"], params["embed_dim"], generator=make.draw)
    make.state["quantize.embedding.weight"] = codes
    make.conv("loss.discriminator.main.0", 3, 8, 4)
    make.norm("loss.perceptual_loss.net.slice1.0", 8)
    return make.state


class Reference:
    """The layout's forward pass, written out with functions on the state dict."""

    def __init__(self, state: State, config: dict[str, Any]) -> None:
        self.state = state
        self.dd = config["model"]["params"]["ddconfig"]

    def conv(self, name: str, x: Tensor, **options: Any) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

    def swish(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", self.swish(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", self.swish(self.norm(f"{name}.norm2", h)), padding=1)
        if f"{name}.nin_shortcut.weight" in self.state:
            x = self.conv(f"{name}.nin_shortcut", x)
        return x + h

    def attention(self, name: str, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        normed = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", normed).reshape(b, c, h * w) for part in "qkv")
        weights = (torch.bmm(q.permute(0, 2, 1), k) * c**-0.5).softmax(dim=2)  # b, query, key
        mixed = torch.bmm(v, weights.permute(0, 2, 1)).reshape(b, c, h, w)
        return x + self.conv(f"{name}.proj_out", mixed)

    def middle(self, name: str, x: Tensor) -> Tensor:
        x = self.block(f"{name}.block_1", x)
        if f"{name}.attn_1.q.weight" in self.state:
            x = self.attention(f"{name}.attn_1", x)
        return self.block(f"{name}.block_2", x)

    def latent(self, images: Tensor) -> Tensor:
        x, side = self.conv("encoder.conv_in", images, padding=1), self.dd["resolution"]
        levels = len(self.dd["ch_mult"])
        for level in range(levels):
            for block in range(self.dd["num_res_blocks"]):
                x = self.block(f"encoder.down.{level}.block.{block}", x)
                if side in self.dd["attn_resolutions"]:
                    x = self.attention(f"encoder.down.{level}.attn.{block}", x)
            if level < levels - 1:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
                side //= 2
        x = self.swish(self.norm("encoder.norm_out", self.middle("encoder.mid", x)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x, padding=1))

    def indices(self, latent: Tensor) -> Tensor:
        codes = self.state["quantize.embedding.weight"].double()
        rows = latent.double().permute(0, 2, 3, 1)
        return (rows[..., None, :] - codes).square().sum(-1).argmin(-1)

    def images(self, indices: Tensor) -> Tensor:
        return self.decoded(self.state["quantize.embedding.weight"][indices].permute(0, 3, 1, 2))

    def decoded(self, z: Tensor) -> Tensor:
        levels = len(self.dd["ch_mult"])
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", z), padding=1)
        x, side = self.middle("decoder.mid", x), self.dd["resolution"] // 2 ** (levels - 1)
        for level in reversed(range(levels)):
            for block in range(self.dd["num_res_blocks"] + 1):
                x = self.block(f"decoder.up.{level}.block.{block}", x)
                if side in self.dd["attn_resolutions"]:
                    x = self.attention(f"decoder.up.{level}.attn.{block}", x)
            if level > 0:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.conv(f"decoder.up.{level}.upsample.conv", x, padding=1)
                side *= 2
        return self.conv("decoder.conv_out", self.swish(self.norm("decoder.norm_out", x)), padding=1)
