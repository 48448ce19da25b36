"""Classification: its measures compared with slow forms, images without a class, and heads that start from an MAE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from timm.utils import accuracy
from torch import Tensor, nn

from tests.small_answers import NUM_DIFFERENT, PLACES, read_all, write_all, write_boxes
from tests.small_tasks import COMMON, JOINT
from tests.tiny import TOKENIZER
from vqpipe.data.loader import ImageSplit
from vqpipe.errors import DataError, MismatchError, SetupError
from vqpipe.metrics.floors import other_examples
from vqpipe.params.base import validate
from vqpipe.tasks import TASKS
from vqpipe.tasks.classification import Classification, Labelled, confusion
from vqpipe.tasks.heads import HeadParams
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs, view_of
from vqpipe.tasks.task import task_entry
from vqpipe.tasks.vit import code_vit, load_mae, tokens_of

SPACE = CodeSpace((4, 4), 4, (64,), True, (4,))
HEAD = HeadParams(**JOINT)
OTHER_GRID = 7


class Said(nn.Module):
    """A head that says what it is given: the logits of each image by its codes' first number."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, z_q: Tensor) -> Tensor:
        return self.logits[z_q[:, 0, 0, 0].long()]


class Numbers:
    """Inputs whose latent is the image's number."""

    name = "numbers"

    def __init__(self, view: Any) -> None:
        self.space, self.tokenizer = view.space, view.tokenizer

    def quantized(self, values: Tensor) -> Any:
        return type("Seen", (), {"z_q": values})()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("classes"), NUM_DIFFERENT)


def make(root: Path, **changes: Any) -> Classification:
    dataset, clip, tokenizer = read_all(root)
    own = task_entry({**COMMON, "training": TOKENIZER["training"]}, {"kind": "classification", **changes})
    found = TASKS["classification"](
        validate(own, "task", TASKS.params()), dataset, clip, tokenizer.resolution, root
    )
    assert isinstance(found, Classification)
    return found


def relabelled(examples: Any, labels: np.ndarray, names: list[str]) -> Labelled:
    split = object.__new__(ImageSplit)
    split.__dict__.update(examples.split.__dict__)
    split.class_names = names
    return replace(examples, split=split, targets=torch.from_numpy(labels))


def numbered(root: Path) -> FrozenInputs:
    """The images' numbers, as `Said` reads them."""
    _, clip, tokenizer = read_all(root)
    view: Any = Numbers(view_of("codes", tokenizer, clip))
    return FrozenInputs(view, torch.arange(float(NUM_DIFFERENT))[:, None, None, None].expand(-1, 4, 4, 4))


def test_accuracy_is_that_of_one_image_at_a_time(small: Path) -> None:
    task, draws = make(small), np.random.default_rng(0)
    names = [f"class {at}" for at in range(7)]
    labels = draws.integers(0, 6, NUM_DIFFERENT)
    test = relabelled(task.examples("test"), labels, names)
    train = relabelled(task.examples("train"), np.array([1] * 9 + [4] * 8 + [0, 2] * 2), names)
    logits = torch.from_numpy(draws.standard_normal((NUM_DIFFERENT, 7))).float()
    found = task.measure(Said(logits), numbered(small), test, train)
    others = other_examples(NUM_DIFFERENT, task.config.seed)
    order = [sorted(range(7), key=lambda at: -float(row[at])) for row in logits]
    metrics = found.metrics
    assert metrics.top1.mean == pytest.approx(
        np.mean([order[i][0] == labels[i] for i in range(NUM_DIFFERENT)])
    )
    assert metrics.top5.mean == pytest.approx(
        np.mean([labels[i] in order[i][:5] for i in range(NUM_DIFFERENT)])
    )
    assert metrics.other_image.mean == pytest.approx(
        np.mean([order[others[i]][0] == labels[i] for i in range(NUM_DIFFERENT)])
    )
    assert (metrics.chance, metrics.chance5) == (1 / 7, 5 / 7)
    assert metrics.majority == np.mean(labels == 1)
    assert metrics.majority5 == np.mean(np.isin(labels, [1, 4, 0, 2, 3]))
    for at, share in enumerate(metrics.per_class.values()):
        own = [i for i in range(NUM_DIFFERENT) if labels[i] == at]
        assert share == pytest.approx(np.mean([order[i][0] == at for i in own]))
    assert list(metrics.per_class) == names[:6]
    assert sum(sum(row.values()) for row in metrics.confusion.values()) == NUM_DIFFERENT
    wrong = next(i for i in range(NUM_DIFFERENT) if order[i][0] != labels[i])
    assert metrics.confusion[names[labels[wrong]]][names[order[wrong][0]]] >= 1
    assert found.values.keys() == {"top1", "top5", "other_image"}


def test_accuracy_is_timm_s(small: Path) -> None:
    task, draws = make(small), np.random.default_rng(1)
    names, labels = [f"class {at}" for at in range(12)], draws.integers(0, 12, NUM_DIFFERENT)
    test, train = (relabelled(task.examples(split), labels, names) for split in ("test", "train"))
    logits = torch.from_numpy(draws.standard_normal((NUM_DIFFERENT, 12))).float()
    logits[torch.arange(NUM_DIFFERENT), test.targets] += 1
    assert all(len(row.unique()) == len(row) for row in logits), "of equal logits either may come first"
    found = task.measure(Said(logits), numbered(small), test, train)
    top1, top5 = accuracy(logits, test.targets, topk=(1, 5))
    assert 20 < top1 < top5 < 90
    assert 100 * found.metrics.top1.mean == pytest.approx(float(top1))
    assert 100 * found.metrics.top5.mean == pytest.approx(float(top5))
    for at, row in enumerate(logits):
        own = [float(share) / 100 for share in accuracy(row[None], test.targets[at : at + 1], topk=(1, 5))]
        assert [found.values["top1"][at], found.values["top5"][at]] == own


def test_confusion_counts_pairs() -> None:
    labels, found = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 0, 2])
    assert confusion(labels, found, ["a", "b", "c"]) == {"a": {"a": 1, "b": 1}, "c": {"a": 1, "c": 2}}


def test_five_of_five_classes_are_not_measured(small: Path) -> None:
    task = make(small)
    _, clip, tokenizer = read_all(small)
    test, train = task.examples("test"), task.examples("train")
    inputs = FrozenInputs.encode(view_of("codes", tokenizer, clip), test.split, test.positions, 8)
    head = task.head(inputs.space, task.known(train)).eval()
    with torch.no_grad():
        found = task.measure(head, inputs, test, train)
    assert (found.metrics.top5, found.metrics.majority5, found.metrics.chance5) == (None, None, None)
    assert found.metrics.num_classes == len(PLACES)
    protocol = task.describe(inputs, test, train)
    assert (protocol.num_without_class, protocol.num_train, protocol.init) == (0, NUM_DIFFERENT, "fresh")


def test_images_without_a_class_are_left_out_and_counted(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ImageSplit.open

    def with_gaps(*given: Any) -> ImageSplit:
        found = whole(*given)
        found.labels = np.where(np.arange(len(found)) % 4 == 1, -1, found.labels)
        return found

    monkeypatch.setattr(ImageSplit, "open", with_gaps)
    test = make(small).examples("test")
    assert isinstance(test, Labelled)
    assert (len(test), test.num_without) == (NUM_DIFFERENT * 3 // 4, NUM_DIFFERENT // 4)
    assert not (test.positions % 4 == 1).any()
    assert (test.labels >= 0).all()
    assert test.labels.tolist() == test.split.labels[test.positions].tolist()


def test_data_without_classes_are_refused_before_training(tmp_path: Path, small: Path) -> None:
    write_boxes(tmp_path, {"train": 8, "validation": 2, "test": 8}, leave_out=("label_name",))
    task = make(small)
    task.dataset = tmp_path / "dataset"
    with pytest.raises(DataError, match=r"no classes to tell apart(.|\n)*0 of 8 images with one"):
        task.examples("test")


def test_weights_that_are_not_there_are_refused_before_training(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="does not exist"):
        make(small, init=str(tmp_path / "none.pth")).examples("test")


# --- the transformer and its start


def mae(width: int = 32, layers: int = 2, grid: int = OTHER_GRID) -> dict[str, Tensor]:
    """The weights of a small MAE encoder as timm has them: pixels of 4 x 4 patches, no classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = VisionTransformer(
            img_size=4 * grid, patch_size=4, embed_dim=width, depth=layers, num_heads=2, num_classes=0
        )
        return {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}


def decoder() -> dict[str, Tensor]:
    """What the official file has besides the encoder."""
    names = ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight")
    return {name: torch.zeros(3) for name in names}


def test_codes_are_in_the_place_of_patches() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = code_vit(SPACE, HEAD, 3).eval()
    z_q = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    model.patch_embed.standardise.mean.fill_(0.5)
    model.patch_embed.standardise.std.fill_(2.0)
    tokens = model.patch_embed.project((z_q - 0.5) / 2).flatten(2).transpose(1, 2)
    state = torch.cat([model.cls_token.expand(2, -1, -1), tokens], dim=1) + model.pos_embed
    for block in model.blocks:
        state = block(state)
    torch.testing.assert_close(model(z_q), model.head(model.norm(state)[:, 0]))
    assert model.pos_embed.shape == (1, 17, 32)
    coarse = code_vit(SPACE, HEAD.model_copy(update={"side": 2}), 3)
    assert coarse.pos_embed.shape == (1, 5, 32)
    assert tokens_of(coarse, SPACE) == (2, 2)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(z_q).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("form", ["timm.safetensors", "timm.pth", "official.pth"])
def test_a_head_starts_from_an_mae(form: str, tmp_path: Path) -> None:
    weights, path = mae(), tmp_path / form
    if form.endswith("safetensors"):
        save_file(weights, path)
    else:
        torch.save({"model": weights | decoder()} if form.startswith("official") else weights, path)
    model = code_vit(SPACE, HEAD, 3)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_mae(model, path, (4, 4))
    for name, tensor in model.state_dict().items():
        if name.startswith(("patch_embed.", "head.")):
            assert torch.equal(tensor, fresh[name]), name
        elif name != "pos_embed":
            assert torch.equal(tensor, weights[name]), name
    assert torch.equal(model.pos_embed[:, :1], weights["pos_embed"][:, :1])
    old = weights["pos_embed"][:, 1:].reshape(1, OTHER_GRID, OTHER_GRID, 32).permute(0, 3, 1, 2)
    new = torch.nn.functional.interpolate(old, size=(4, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(model.pos_embed[:, 1:], new.permute(0, 2, 3, 1).reshape(1, 16, 32))


def test_positions_of_the_same_grid_are_taken_as_they_are(tmp_path: Path) -> None:
    weights = mae(grid=4)
    save_file(weights, tmp_path / "mae.safetensors")
    model = code_vit(SPACE, HEAD, 3)
    load_mae(model, tmp_path / "mae.safetensors", (4, 4))
    assert torch.equal(model.pos_embed, weights["pos_embed"])


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (without(mae(), "norm.weight"), r"no tensor norm\.weight \(1 in all\)"),
        (without(mae(), "cls_token"), "no tensor cls_token"),
        (mae() | {"fc_norm.weight": torch.ones(32)}, r"an unknown tensor fc_norm\.weight"),
        (mae(layers=3), r"an unknown tensor blocks\.2\.attn"),
        (mae(layers=1), r"no tensor blocks\.1\.norm1\.weight"),
        (mae(width=64), r"cls_token of shape \(1, 1, 64\)"),
        (mae() | {"pos_embed": torch.zeros(1, 8, 32)}, "pos_embed of 7 patches"),
        (mae() | {"norm.bias": torch.full((32,), torch.nan)}, r"norm\.bias has values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    weights: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "mae.safetensors")
    model = code_vit(SPACE, HEAD, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MismatchError, match=message):
        load_mae(model, tmp_path / "mae.safetensors", (4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    model = code_vit(SPACE, HEAD, 3)
    (tmp_path / "text.pth").write_text("no weights", encoding="utf-8")
    with pytest.raises(SetupError, match=r"text\.pth cannot be read"):
        load_mae(model, tmp_path / "text.pth", (4, 4))
    torch.save({"model": {"epoch": 3}}, tmp_path / "epoch.pth")
    with pytest.raises(SetupError, match="no state dict"):
        load_mae(model, tmp_path / "epoch.pth", (4, 4))


def test_the_record_has_the_weights_and_not_their_path(small: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one.safetensors", "two.safetensors"):
        save_file(mae(), tmp_path / name)
        task = make(small, init=str(tmp_path / name))
        found.append(task.recorded()["init"])
        head = task.started(task.head(SPACE, task.known(task.examples("train"))), SPACE)
        assert torch.equal(head.state_dict()["norm.bias"], mae()["norm.bias"])
    save_file(mae() | {"norm.bias": torch.ones(32)}, tmp_path / "one.safetensors")
    assert found[0] == found[1] != make(small, init=str(tmp_path / "one.safetensors")).recorded()["init"]
    assert make(small).recorded()["init"] == "fresh"
