"""EfficientNet-Lite0: the published layout, features compared with timm's network, and what is refused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vqpipe.errors import ArtifactError, ParamsError, SetupError
from vqpipe.params.base import validate
from vqpipe.vision import efficientnet
from vqpipe.vision.efficientnet import EfficientNetLite0, EfficientNetLite0Params
from vqpipe.vision.patches import PatchesParams

LAYOUT = "f27d83b3204dce3e4bb8ecc614d2a7dd98f6a9e861a60ec370a4fcd648ea3dea"
"""SHA-256 over names and shapes of the 288 tensors before the head in the file that the package carries."""
PARTS = {  # of a block, here and in timm, where a block that does not expand lacks the first pair
    True: {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
           "_project_conv": "conv_pwl", "_bn2": "bn3"},
    False: {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
}  # fmt: skip


def config(**changes: Any) -> EfficientNetLite0Params:
    plain = {"kind": "efficientnet_lite0", "path": None, "stride": 16, "image_size": 64}
    return validate({**plain, **changes}, "patches.tower", EfficientNetLite0Params)


def weights() -> dict[str, Tensor]:
    """Random weights in the published layout, the head included, with norms that are not the identity."""
    draw = torch.Generator().manual_seed(0)
    drawn = {}
    for name, tensor in EfficientNetLite0(config()).state_dict().items():
        if tensor.dtype == torch.int64:
            drawn[name] = torch.tensor(7)
        elif tensor.ndim == 4:
            drawn[name] = torch.randn(tensor.shape, generator=draw) * (2 / tensor[0].numel()) ** 0.5
        else:
            drawn[name] = torch.rand(tensor.shape, generator=draw) + 0.5
    return drawn | {
        "_conv_head.weight": torch.zeros(8, 320, 1, 1), "_bn1.bias": torch.zeros(8), "_fc.bias": torch.zeros(3)
    }  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lite0") / "lite0.pth"
    torch.save(weights(), path)
    return path


def test_the_layout_is_that_of_the_published_weights() -> None:
    own = EfficientNetLite0(config()).state_dict()
    lines = "".join(f"{name} {tuple(tensor.shape)}\n" for name, tensor in sorted(own.items()))
    assert len(own) == 288
    assert sha256(lines.encode()).hexdigest() == LAYOUT


def test_the_features_are_those_of_timm_s_network(saved: Path) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    reference.load_state_dict(timm_s(weights()))
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        maps = reference(((images + 1) * 127.5 - 127) / 128)
        for stride, expected in zip((4, 8, 16, 32), maps, strict=True):
            network = EfficientNetLite0.load(config(path=str(saved), stride=stride, image_size=96))
            found = network.patch_features(images).permute(0, 3, 1, 2)
            assert network.patch_grid == (96 // stride, 96 // stride)
            assert found.shape == (2, network.patch_dim, *network.patch_grid)
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def timm_s(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under timm's names."""
    places = [(stage, at) for stage, (*_, repeats) in enumerate(efficientnet.STAGES) for at in range(repeats)]
    renamed = {}
    for name, tensor in drawn.items():
        first, _, rest = name.partition(".")
        if first in ("_conv_stem", "_bn0"):
            renamed[f"{ {'_conv_stem': 'conv_stem', '_bn0': 'bn1'}[first] }.{rest}"] = tensor
        elif first == "_blocks":
            number, part, leaf = rest.split(".")
            stage, at = places[int(number)]
            renamed[f"blocks.{stage}.{at}.{PARTS[int(number) > 0][part]}.{leaf}"] = tensor
    return renamed


def test_images_of_any_side_are_resized_and_it_stays_frozen(saved: Path) -> None:
    network = EfficientNetLite0.load(config(path=str(saved)))
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.patch_features(torch.zeros(1, 3, 20, 30)).shape == (1, 4, 4, 112)


def test_the_id_names_the_features_and_the_weights(saved: Path, tmp_path: Path) -> None:
    one = EfficientNetLite0.load(config(path=str(saved)))
    assert one.id.startswith("efficientnet_lite0:stride16@64:")
    changed = weights()
    changed["_bn0.bias"] += 1
    torch.save(changed, tmp_path / "other.pth")
    other = EfficientNetLite0.load(config(path=str(tmp_path / "other.pth")))
    assert other.id.rpartition(":")[0] == one.id.rpartition(":")[0]
    assert other.id != one.id


def test_the_installed_package_is_found_and_its_absence_says_what_to_install(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_with_weights")
    with pytest.raises(SetupError, match=r"(?s)no weights.*vqpipe\[efficientnet\]"):
        EfficientNetLite0.load(config())
    package = tmp_path / "a_package_with_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / efficientnet.FILE).symlink_to(saved)
    monkeypatch.syspath_prepend(tmp_path)
    found = EfficientNetLite0.load(config())
    assert found.id == EfficientNetLite0.load(config(path=str(saved))).id


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def load(content: object) -> None:
        torch.save(content, tmp_path / "bad.pth")
        EfficientNetLite0.load(config(path=str(tmp_path / "bad.pth")))

    drawn = weights()
    with pytest.raises(ArtifactError, match=r"1 unknown .*_blocks\.16"):
        load(drawn | {"_blocks.16._bn2.bias": torch.zeros(1)})
    with pytest.raises(ArtifactError, match=r"1 tensors absent.*_conv_stem\.weight"):
        load({name: tensor for name, tensor in drawn.items() if name != "_conv_stem.weight"})
    with pytest.raises(SetupError, match="no state dict"):
        load([1, 2])
    with pytest.raises(SetupError, match="without pickled code"):
        load(config)
    with pytest.raises(SetupError, match="do not exist"):
        EfficientNetLite0.load(config(path=str(tmp_path / "none.pth")))


@pytest.mark.parametrize(
    ("changes", "tower", "reason"),
    [
        ({"projected": True}, {}, "no projection"),
        ({"grid": 3}, {}, "grid 3 does not divide the tower's 4 x 4"),
        ({}, {"stride": 7}, "stride"),
        ({}, {"image_size": 100}, "multiple of 32"),
    ],
)
def test_params_that_contradict_the_tower_are_refused(
    changes: dict[str, Any], tower: dict[str, Any], reason: str
) -> None:
    plain = {
        "split": "train", "projected": False, "grid": 2, "batch_size": 3, "shard_bytes": 1 << 20,
        "tower": {"kind": "efficientnet_lite0", "stride": 16, "image_size": 64, **tower},
    }  # fmt: skip
    with pytest.raises(ParamsError, match=reason):
        validate({**plain, **changes}, "patches", PatchesParams)
