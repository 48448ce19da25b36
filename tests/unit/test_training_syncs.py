"""What a step reads from the device, counted on a CPU; and the adversarial loss, which passes each net once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests import small_alignment, small_priors
from tests.plain_step import PlainObjective
from tests.recipes import (
    BSQ,
    CVQ,
    DIVEQ,
    EMA,
    FC,
    FSQ,
    FVQ,
    GUMBEL,
    IBQ,
    LC,
    LFQ,
    MULTI,
    PRETRAINED,
    REG_VQ,
    RESIDUAL,
    SIM_VQ,
    SQ_VAE,
    VQ,
    VQCT,
    WASSERSTEIN,
)
from tests.small_training import CPU, Distance, batch_at, params
from tests.unit.test_training_clip import FIT
from vqpipe.codebooks.search import Metric
from vqpipe.params.base import validate
from vqpipe.priors.contract import Batch, Condition
from vqpipe.priors.train import PriorTraining
from vqpipe.quantizers import QUANTIZERS, AnyQuantizer, build
from vqpipe.quantizers.cvq import OnlineClusteredQuantizer
from vqpipe.quantizers.reg_vq import RegularisedQuantizer
from vqpipe.runtime.seeds import seed_everything
from vqpipe.tokenizers.objective import TokenizerObjective
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.training import loop, step
from vqpipe.training.checkpoint import moving_tensors
from vqpipe.training.clip import ContrastiveTraining, FitParams, ImageTextBatch, open_clip_config
from vqpipe.training.objective import Objective, TrainingParams
from vqpipe.training.step import Stepper
from vqpipe.training.window import Window, pack, read
from vqpipe.vision.clip import token_ids
from vqpipe.vision.towers import build_model, text_length

READS = {
    "_local_scalar_dense",
    "is_nonzero",
    "item",
    "nonzero",
    "equal",
    "masked_select",
    "bincount",
    "_unique2",
    "unique_dim",
}
"""Operations for whose result the host waits. Indexing with a mask is one of them, by way of its indices."""


METHODS = {Tensor.tolist: "tolist", Tensor.cpu: "cpu", Tensor.numpy: "numpy"}
"""Copies to the host that dispatch no operation where the tensor is there already."""


@contextmanager
def reads() -> Iterator[Counter[str]]:
    """Counts what would make the host wait if the tensors were on a GPU, by its name."""
    found: Counter[str] = Counter()
    with Operations(found), Methods(found):
        yield found


class Methods(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in METHODS:
            self.found[METHODS[func]] += 1
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put_", "index_put") else ()
        masked = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
        moved = name == "_to_copy" and (kwargs or {}).get("device") not in (None, args[0].device)
        if name in READS or masked or moved:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def plain_search(z: Tensor, codes: Tensor, metric: Metric = "euclidean", tile: int | None = None) -> Tensor:
    """The nearest code without the exact search, which is counted elsewhere."""
    return torch.cdist(z, codes).argmin(1)


FROM_DATA = {"init": "data"}
QUANTIZER: dict[str, dict[str, Any]] = {
    "vq": {**VQ, **FROM_DATA},
    "ema": {**EMA, **FROM_DATA, "restart": {"threshold": 0.9, "every": 100}},
    "ema-restart": {**EMA, **FROM_DATA, "restart": {"threshold": 100.0, "every": 1}},
    "lc": {**LC, **FROM_DATA},
    "vqct": VQCT,
    "vqct-adjectives": {**VQCT, "topk_adjectives": 2},
    "cvq": {**CVQ, **FROM_DATA},
    "bsq": BSQ,
    "diveq": {**DIVEQ, "replacement": None},
    "diveq-replacement": {**DIVEQ, "replacement": {"every": 1, "threshold": 1.0, "spread": 0.1}},
    "fc": FC,
    "fsq": FSQ,
    "fvq": FVQ,
    "gumbel": GUMBEL,
    "ibq": IBQ,
    "lfq": LFQ,
    "multi": {**MULTI, "base": VQ},
    "reg_vq": REG_VQ,
    "residual": RESIDUAL,
    "sim_vq": SIM_VQ,
    "sq_vae": SQ_VAE,
    "wasserstein": WASSERSTEIN,
}
WAITS = {
    "ema-restart": {"nonzero": 1},
    "diveq-replacement": {"cpu": 1},
    "vqct-adjectives": {"nonzero": 4},
}
"""What docs/training.md names as exceptions: reads of a micro-batch beside the one value of each step."""
ON_HOST = {"diveq-replacement": {"nonzero": 1}, "reg_vq": {"nonzero": 1}}
"""The same for reads of tensors that are on the host whatever the device, and that a CPU cannot tell apart."""
ADVERSARIAL = {"weight": 0.1, "start": 0.0, "warmup": 0.0}


def make_with(
    quantizer: dict[str, Any],
    kind: type[TokenizerObjective] = TokenizerObjective,
    adversarial: dict[str, Any] | None = None,
    **training: Any,
) -> TokenizerObjective:
    """A small tokenizer of a quantizer, whose discriminator is on from the first step."""
    codebook = validate(quantizer, "quantizer", AnyQuantizer).codebook
    config = params(
        codebook=codebook,
        quantizer=quantizer,
        losses={"adversarial": {**ADVERSARIAL, **(adversarial or {})}},
        training={"num_steps": 100, "log_every": 50, "ema_decay": 0.9, **training},
    )
    seed_everything(0, "weights")
    made = kind(config, Tokenizer(config, build(config.quantizer, PRETRAINED[codebook])), None)
    made.module.train()
    return made


def stepping(training: TokenizerObjective) -> Stepper:
    """Its stepper."""
    config = training.config.training
    return Stepper(training, loop._prepare(training, config, CPU), config, CPU)


PLATEAU = {"plateau": {"window": 50, "min_relative_change": 0.9, "earliest": 0.3, "latest": 0.9}}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", [*QUANTIZER, "plateau"])
def test_a_step_within_a_window_reads_one_boolean(
    name: str, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search, which has tests of its own, is replaced, and so is the schedule, which reads a number of the host.
    Optimisers are fused as on CUDA: the other forms count their steps on the host."""
    for module in ("quantizers.nearest", "quantizers.cvq", "quantizers.sq_vae", "codebooks.search"):
        monkeypatch.setattr(f"vqpipe.{module}.nearest", plain_search)
    monkeypatch.setattr(step, "schedule", lambda *_: 1.0)
    plateau = {"start": PLATEAU} if name == "plateau" else None
    training = make_with(QUANTIZER.get(name, VQ), adversarial=plateau, accumulate=accumulate)
    stepper = stepping(training)
    for optimizer in stepper.state.optimizers.values():
        for group in optimizer.param_groups:
            group["fused"] = True
    for number in range(4):
        with reads() as found:
            terms = stepper.step(batch_at(number))
        assert terms is not None
        stepper.state.window.add(terms)
        stepper.state.step += 1
        if number:  # the first step sets codes from data
            reading = {**WAITS.get(name, {}), **ON_HOST.get(name, {})}
            waits = {what: accumulate * times for what, times in reading.items()}
            assert found == {"_local_scalar_dense": 1, **waits}, number
    row = stepper.state.window.close()
    assert {"learning_rate", "ae/loss", "ae/grad_norm", "ae/codes_in_batch_0"} <= set(row)
    assert ("disc/loss" in row) is (name != "plateau")


def clip_training() -> tuple[Objective, ImageTextBatch, TrainingParams]:
    """A small CLIP's contrastive training, and a batch with one caption twice."""
    fit = validate(FIT, "clip.fit", FitParams)
    model = build_model(open_clip_config(fit)["model_cfg"], "fitted")
    ids = token_ids(["a", "b c", "a"], 10)
    batch = ImageTextBatch(torch.randn(3, 3, 16, 16), ids[:, : text_length(ids)], torch.tensor([0, 1, 0]))
    return ContrastiveTraining(model, 100.0), batch, fit.training


def prior_training() -> tuple[Objective, Batch, TrainingParams]:
    """A small class-conditional GPT, and a batch with labels."""
    prior = small_priors.model(small_priors.ONE).train()
    condition = Condition(labels=small_priors.labels())
    return PriorTraining(prior), (small_priors.images(small_priors.ONE), condition), prior.config.training


@pytest.mark.parametrize("make", [clip_training, prior_training])
def test_a_step_of_a_clip_and_of_a_prior_reads_one_boolean(
    make: Callable[[], tuple[Objective, Any, TrainingParams]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "schedule", lambda *_: 1.0)
    objective, batch, config = make()
    stepper = Stepper(objective, loop._prepare(objective, config, CPU), config, CPU)
    for group in stepper.state.optimizers["main"].param_groups:
        group["fused"] = True
    with reads() as found:
        assert stepper.step(batch) is not None
    assert found == {"_local_scalar_dense": 1}


def test_the_alignment_of_a_step_waits_once_for_the_number_of_masked_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captions as a loader gives them, whose longest one the host knows; the ratio is a number of the host."""
    monkeypatch.setattr("vqpipe.alignment.losses.truncated_normal", lambda _: 0.2)
    text = small_alignment.captions(small_alignment.CAPTIONS)
    text = replace(text, longest=int(text.lengths.max()), num_words=int(text.words.max()) + 1)
    aligner, quantized = small_alignment.make(small_alignment.params()).train(), small_alignment.codes()
    with reads() as found:
        loss, _ = aligner(quantized, text)
        loss.backward()
    assert found == {"nonzero": 1}


def test_random_anchors_are_drawn_where_the_latents_are() -> None:
    """A tensor that is made on the CPU and copied would be an operation that moves it."""
    quantizer = build(validate({**CVQ, "anchor": "random"}, "quantizer", AnyQuantizer), None).to("meta")
    assert isinstance(quantizer, OnlineClusteredQuantizer)
    latents = torch.empty(2 * quantizer.num_codes[0], quantizer.codes.shape[1], device="meta")
    with reads() as found:
        assert quantizer._anchors(latents).device == latents.device
    assert not found


def test_masked_positions_take_sampled_codes_without_a_read_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a meta tensor, which has no values, every read is an error."""
    quantizer = build(validate(REG_VQ, "quantizer", AnyQuantizer), None).to("meta")
    assert isinstance(quantizer, RegularisedQuantizer)
    monkeypatch.setattr(quantizer, "search", lambda rows, _: torch.zeros_like(rows[:, 0], dtype=torch.int64))
    rows = torch.empty(50, quantizer.dim, device="meta")
    assert quantizer.search_in_training(rows, quantizer.codes, 0.0).device == rows.device


def gradients(training: TokenizerObjective) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Of one unclipped step, and its terms."""
    torch.manual_seed(1)
    stepper = stepping(training)
    half = training.config.training.precision == "fp16"
    stepper.state.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=half)
    terms = stepper.step(batch_at(0))
    assert terms is not None
    (numbers,) = read([terms], CPU)
    return {n: p.grad for n, p in training.module.named_parameters() if p.grad is not None}, numbers


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["vq", "lc"])
def test_one_pass_back_through_each_net_gives_the_gradients_of_the_plain_form(
    name: str, precision: str
) -> None:
    found = []
    for kind in (PlainObjective, TokenizerObjective):
        training = make_with(QUANTIZER[name], kind, clip_grad_norm=0.0, precision=precision)
        torch.manual_seed(0)
        training.perceptual = Distance()
        found.append(gradients(training))
    (plain, plain_terms), (ours, our_terms) = found
    assert set(plain) == set(ours)
    tolerance = {"fp32": 1e-5, "fp16": 2e-2}[precision]
    for parameter, value in plain.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(
            ours[parameter], value, rtol=0, atol=tolerance * scale + 1e-8, msg=parameter
        )
    assert set(plain_terms) == set(our_terms)
    assert our_terms["ae/adaptive_weight"] > 0
    for term, value in plain_terms.items():
        assert our_terms[term] == pytest.approx(value, rel=tolerance * 10, abs=1e-5), term


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_every_parameter_gets_a_gradient_and_what_is_averaged_changes_in_place(kind: str) -> None:
    """So data-parallel training need not look for parameters without one."""
    training = make_with(dict(QUANTIZERS[kind].about.example))
    assert not any(training.unused(phase) for phase in training.phases)
    before = {name: value.data_ptr() for name, value in moving_tensors(training.published()).items()}
    found, _ = gradients(training)
    assert before == {name: value.data_ptr() for name, value in moving_tensors(training.published()).items()}
    wanted = {n for n, p in training.module.named_parameters() if p.requires_grad}
    assert set(found) == wanted


def test_only_matrices_of_layers_decay_and_only_what_is_published_is_averaged() -> None:
    training = make_with(QUANTIZER["lc"])
    names = {id(p): n for n, p in training.module.named_parameters()}
    groups = [group for phase in training.phases for group in training.parameters(phase)]
    decaying = {names[id(p)] for group in groups if "weight_decay" not in group for p in group["params"]}
    kept = {names[id(p)] for group in groups if "weight_decay" in group for p in group["params"]}
    assert decaying | kept == set(names.values())
    assert not decaying & kept
    assert {
        "tokenizer.quantizer.projector.weight",
        "tokenizer.encoder.stem.weight",
        "discriminator.layers.0.weight",
    } <= decaying
    assert all(
        name.endswith("bias") or ".norm" in name or "layers" in name or "head.0" in name for name in kept
    )
    vq = make_with(QUANTIZER["vq"])
    (codes,) = (p for n, p in vq.module.named_parameters() if n == "tokenizer.quantizer.codes")
    assert any(
        p is codes for group in vq.parameters("ae") if "weight_decay" in group for p in group["params"]
    )
    followed = moving_tensors(training.published())
    assert all(name.startswith("tokenizer.") for name in followed)
    assert "tokenizer.quantizer.centroids" in training.module.state_dict()
    assert "tokenizer.quantizer.centroids" not in followed
    ema = moving_tensors(make_with(QUANTIZER["ema"]).published())
    assert {"tokenizer.quantizer.codes", "tokenizer.quantizer.cluster_sizes"} <= set(ema)


def test_ranks_and_micro_batches_leave_means() -> None:
    first = pack({"a": torch.tensor(1.0), "n": torch.tensor(3), "plain": 2.0}, "main/")
    second = pack({"a": torch.tensor(2.0), "n": torch.tensor(5), "plain": 4.0}, "main/")
    nothing = pack({"a": torch.tensor(float("inf"))}, "main/")
    window = Window(CPU)
    window.add([first, second])
    assert window.settle() == {"main/a": [1.5, 1], "main/n": [4.0, 1], "main/plain": [3.0, 1]}
    window.add([nothing])
    window.add([first])
    assert window.close() == {"main/a": 1.25, "main/n": 3.5, "main/plain": 2.5}
    assert window.close() == {}
