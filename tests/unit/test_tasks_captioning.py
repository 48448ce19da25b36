"""Captioning: what is drawn, cut and left out, the search, GPT-2 from the disk, the floors, and a head that learns."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_tasks import COMMON
from tests.tiny import TOKENIZER, write_dataset, write_tiny_clip, write_tokenizer
from vqpipe.artifacts.specs.task import CAPTIONING_PICTURES
from vqpipe.artifacts.tables import read_table
from vqpipe.data.loader import ImageSplit, to_float
from vqpipe.errors import DataError, MismatchError, ParamsError, SetupError
from vqpipe.metrics.caption_scores import caption_scores
from vqpipe.metrics.caption_words import ptb_words
from vqpipe.metrics.floors import other_examples
from vqpipe.metrics.measured import interval
from vqpipe.params.base import merged, validate
from vqpipe.quantizers.contract import Quantized
from vqpipe.report.about_captioning import section
from vqpipe.report.blocks import Absent, Examples, Table
from vqpipe.report.inputs import ReportParams
from vqpipe.report.task_pairs import TaskRun
from vqpipe.tasks import TASKS, captioning
from vqpipe.tasks.beam import beam_search
from vqpipe.tasks.caption_numbers import named_objects, scored
from vqpipe.tasks.captioner import Captioner
from vqpipe.tasks.captioning import Captioning, TrainCaptioned, bits_per_word, human_sets
from vqpipe.tasks.inputs import CodeSpace, FrozenInputs
from vqpipe.tasks.languages import Coder, Gpt2Language, Language, coder_of, known_coder
from vqpipe.tasks.solve import Solved, solve_task
from vqpipe.tasks.stored import load_head
from vqpipe.tasks.task import Task, task_entry
from vqpipe.tasks.words import END, PAD, words_of
from vqpipe.tokenizers.tokenizer import Tokenizer
from vqpipe.tokenizers.train import whiten
from vqpipe.vision.clip import Clip

CPU = torch.device("cpu")
SPACE = CodeSpace((4, 4), 4, (16,), True, (4,))
TEXTS = ["a red cat", "a dog on a red mat", "cat"]
TRAINING = {
    **TOKENIZER["training"], "num_steps": 250, "batch_size": 16, "learning_rate": 3e-3, "log_every": 50,
    "checkpoint_every": 100,
}  # fmt: skip
MLP = {"kind": "mlp", "prefix_length": 2}
CODES = {"kind": "codes"}
ONE = {**COMMON["captioning"]["head"]["mapper"], "num_vectors": 3}


def params(**changes: Any) -> Any:
    head = {**COMMON["captioning"]["head"], **changes.pop("head", {})}
    entry = task_entry(COMMON, {"kind": "captioning"})
    return validate({**merged(entry, changes), "head": head}, "task", TASKS.params())


def words() -> Coder:
    vocabulary = ["a", "cat", "red", "dog", "mat", "on"]
    return known_coder(params().head.language_model, {"words": vocabulary, "language_model": "words"})


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of a few thousand random weights with a byte-level tokenizer, as the library saves both."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(TEXTS, vocab_size=280, min_frequency=1, special_tokens=["<|endoftext|>"])
    trainer.save_model(str(folder))
    tokenizer = transformers.GPT2TokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(shape).save_pretrained(folder)
    return folder


def on_gpt2(folder: Path, tune: bool = False) -> dict[str, Any]:
    return {"head": {"language_model": {"kind": "gpt2", "path": str(folder), "tune": tune}}}


def captioner(coder: Coder | None = None, max_words: int = 6, **head: Any) -> Captioner:
    torch.manual_seed(0)
    made = Captioner(SPACE, params(head=head).head, coder or words(), max_words)
    with torch.no_grad():  # far from where training starts, so that words differ
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.eval()


def slow_search(language: Language, prefix: Tensor, stop: int, length: int, banned: list[int]) -> list[int]:
    """The likeliest word each time, without a cache."""
    found: list[int] = []
    while len(found) < length and stop not in found:
        inputs = [prefix, language.embed(torch.tensor([found]))] if found else [prefix]
        logits = language(torch.cat(inputs, dim=1))[0, -1]
        logits[banned] = -torch.inf
        found.append(int(logits.argmax()))
    return found


def check_search(language: Language, stop: int, banned: list[int]) -> None:
    prefix = torch.randn(3, 4, language.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        beams = beam_search(language.begin(prefix, 7), beam=1, stop=stop, length=7)
        for image in range(3):
            slow = slow_search(language, prefix[image : image + 1], stop, 7, banned)
            assert beams.sequences(image) == [slow]
        several = beam_search(language.begin(prefix, 7), beam=4, stop=stop, length=7)
        for image in range(3):
            for own, score in zip(several.sequences(image), several.scores[image], strict=True):
                inputs = torch.cat(
                    [prefix[image : image + 1], language.embed(torch.tensor([own[:-1]]).long())], 1
                )
                logits = language(inputs)[0, 3:]
                logits[:, banned] = -torch.inf
                logs = logits.log_softmax(dim=1)[range(len(own)), own]
                torch.testing.assert_close(logs.mean(), score, rtol=1e-4, atol=1e-5)


def test_the_search_with_a_cache_is_the_one_without() -> None:
    language = captioner(max_words=10).language
    check_search(language, END, [number for number in range(4) if number != END])


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
def test_a_caption_ends_after_the_greatest_number_of_words(beam: int) -> None:
    head = captioner(max_words=3)
    head.language.words.weight[END] = 0.0  # the end is never the likeliest word
    z_q = torch.randn(30, 4, 4, 4)
    assert max(len(words_of(text)) for text in head.captions(z_q, beam)) == 3
    begun = [head.language.begin(head.prefix(z_q), 4) for _ in range(2)]
    free, ended = (
        beam_search(one, beam=beam, stop=END, length=4, must_stop=must)
        for one, must in zip(begun, (False, True), strict=True)
    )
    assert any(len(own) == 4 and own[-1] != END for image in range(30) for own in free.sequences(image))
    for image in range(30):
        for own, score in zip(ended.sequences(image), ended.scores[image], strict=True):
            assert own[-1] == END
            inputs = [
                head.prefix(z_q[image : image + 1]),
                head.language.embed(torch.tensor([own[:-1]]).long()),
            ]
            logits = head.language(torch.cat(inputs, dim=1))[0, head.prefix_length - 1 :]
            logits[:, [number for number in range(4) if number != END]] = -torch.inf
            logs = logits.log_softmax(dim=1)[range(len(own)), own]
            torch.testing.assert_close(
                logs.mean(), score, rtol=1e-4, atol=1e-5
            )  # the end at its own probability


def test_the_codes_as_prefix_take_a_place_for_each_token() -> None:
    head = captioner(mapper=CODES, side=2)
    assert (head.prefix_length, head.image.num_tokens, len(head.language.places)) == (4, 4, 4 + 6 + 1)
    assert head.prefix(torch.randn(2, 4, 4, 4)).shape == (2, 4, 16)


@pytest.mark.parametrize("mapper", [COMMON["captioning"]["head"]["mapper"], MLP, CODES, ONE])
def test_each_mapper_makes_a_prefix_of_the_codes(mapper: dict[str, Any]) -> None:
    head = captioner(mapper=mapper)
    z_q = torch.randn(2, 4, 4, 4)
    assert head.prefix(z_q).shape == (2, head.prefix_length, 16)
    assert head.prefix_length == (16 if mapper is CODES else mapper["prefix_length"])
    coded, _ = head.coder.encode(TEXTS[:2], 6)
    loss = head.losses(z_q, coded[:, None])
    loss.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert len(set(head.captions(torch.randn(20, 4, 4, 4), 2))) > 1


@torch.no_grad()
def test_the_loss_is_of_each_word_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    head, z_q = captioner(), torch.randn(1, 4, 4, 4)
    coded, cut = head.coder.encode(["cat", "a dog on a red mat a cat"], 6)
    assert cut == 1
    assert coded.tolist() == [[5, END, *[PAD] * 5], [4, 7, 9, 4, 6, 8, END]]
    total, count = 0.0, 0
    for row in coded.tolist():
        own = [word for word in row if word != PAD]
        for at, word in enumerate(own):
            inputs = [head.prefix(z_q), head.language.embed(torch.tensor([own[:at]]).long())]
            total -= float(head.language(torch.cat(inputs, dim=1))[0, -1].log_softmax(dim=0)[word])
            count += 1
    assert float(head.losses(z_q, coded[None])) == pytest.approx(total / count, rel=1e-5)
    texts = [["cat", "a dog on a red mat a cat"], ["cat"]]
    found = bits_per_word(head, z_q.expand(2, -1, -1, -1), texts)
    assert found[0] == pytest.approx(total / count / np.log(2), rel=1e-5)
    sizes: list[int] = []
    monkeypatch.setattr(captioning, "LOGITS", 2 * 7 * head.coder.num_tokens)
    following = head.language.following
    monkeypatch.setattr(
        head.language, "following", lambda states: sizes.append(states.shape[:2]) or following(states)
    )
    parts = bits_per_word(head, z_q.expand(2, -1, -1, -1), texts)
    assert sizes == [(2, 7), (1, 7)]  # no logits of the prefix
    np.testing.assert_allclose(parts, found, rtol=1e-5)


def test_unknown_words_are_counted_and_never_written() -> None:
    coder = words()
    assert coder.num_unknown(["a blue cat", "the sky is blue", "a mat"]) == 1 + 4
    assert not any("unk" in text for text in captioner().captions(torch.randn(50, 4, 4, 4), 3))


def train(num_captions: int = 2, seed: int = 0) -> TrainCaptioned:
    texts = [["a", "cat", "dog"], ["mat"], ["red", "on"]]
    coded, cut = words().encode([text for own in texts for text in own], 3)
    return TrainCaptioned(
        cast(Any, None), np.arange(3), captions=texts, num_left_out=0, num_dropped=0, coder=words(), words=coded,
        num_cut=cut, num_captions=num_captions, seed=seed,
    )  # fmt: skip


def test_captions_are_drawn_anew_and_alike_on_all_ranks() -> None:
    examples, seen = train(), set()
    for step in range(40):
        rows = np.array([2, 0, 1, 0])
        batch = examples.batch(rows, step)
        parts = [examples.batch(rows, step, slice(at, at + 2)) for at in (0, 2)]
        assert torch.equal(batch, torch.cat(parts))
        first = batch[:, :, 0].tolist()
        assert set(first[0]) == {6, 9}
        assert set(first[1]) < {4, 5, 7}
        assert len(set(first[1])) == 2
        assert first[2] == [8, 8]
        seen.add(str(first))
    assert len(seen) > 5
    assert not torch.equal(train(seed=1).batch(np.arange(3), 0), examples.batch(np.arange(3), 0))


def test_objects_that_a_caption_names() -> None:
    found = named_objects(
        ["a traffic light and a cat", "a cat", "a red sky", "a category"],
        [{"traffic light"}, {"cat"}, set(), {"cat"}],
    )
    np.testing.assert_array_equal(found, [0.5, 1.0, np.nan, np.nan])
    assert np.isnan(named_objects(["a cat"], [set()])).all()
    found = named_objects(
        ["a hot dog", "a hot dog hot dog", "a hot dog and a dog", "a Teddy Bear", "a bear"],
        [{"hot dog"}, {"Hot Dog"}, {"dog"}, {"teddy bear"}, {"bear"}],
    )
    np.testing.assert_array_equal(found, [1.0, 1.0, 0.5, 1.0, 1.0])


def test_the_numbers_are_those_of_the_set() -> None:
    texts, truth = ["a red cat", "a dog"], [["a red cat", "cat"], ["a dog on a mat", "red"]]
    made = scored(texts, truth, [set(), {"dog"}], False, lambda own: interval(own[np.isfinite(own)], 100, 0))
    known = caption_scores(texts, truth, java=False)
    plain = made.numbers.plain()
    assert {name: plain[name] for name in known.corpus if name.startswith("bleu")} == {
        name: value for name, value in known.corpus.items() if name.startswith("bleu")
    }
    for name in ("rouge_l", "cider_d"):
        assert plain[name]["mean"] == pytest.approx(known.corpus[name])
    assert plain["objects"]["mean"] == 1.0
    assert set(made.absent) == {"meteor", "spice"}


def test_a_human_caption_is_no_reference_of_its_own() -> None:
    truth = [["a", "b", "c"], ["d"], ["e", "f"]]
    sets = human_sets(truth, ["x", "y", "z"], seed=0)
    own, others, rows = sets["human"]
    assert rows.tolist() == [0, 2]
    for text, left, row in zip(own, others, rows, strict=True):
        assert sorted([text, *left]) == sorted(truth[row])
    assert sets["generated_as_human"] == (["x", "z"], others, rows)
    assert len({human_sets(truth, ["", "", ""], seed)["human"][0][0] for seed in range(20)}) == 3
    assert human_sets([["a"], ["b", "c"]], ["", ""], 0) == {}


# --- GPT-2


def test_gpt2_is_read_from_the_disk_and_searched(gpt2: Path) -> None:
    from transformers import GPT2LMHeadModel

    language = Gpt2Language(params(**on_gpt2(gpt2)).head.language_model, 20).eval()
    reference = GPT2LMHeadModel.from_pretrained(gpt2).eval()
    inputs = torch.randn(2, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(language(inputs), reference(inputs_embeds=inputs).logits)
    check_search(language, 0, [])


@pytest.mark.parametrize("tune", [True, False])
def test_gpt2_is_trained_or_frozen(gpt2: Path, tune: bool) -> None:
    settings = params(**on_gpt2(gpt2, tune)).head
    coder = coder_of(settings.language_model, TEXTS)
    coded, cut = coder.encode(["a red cat", "a dog on a red mat"], 4)
    assert cut == 1
    assert coder.decode(coded[0].tolist()) == "a red cat"
    assert coded[0].tolist().count(coder.stop) == coded[1].tolist().count(coder.stop) == 1
    head = Captioner(SPACE, settings, coder, 4).train()
    assert head.language.training is tune
    head.losses(torch.randn(2, 4, 4, 4), coded[:, None]).mean().backward()
    grown = [name for name, parameter in head.named_parameters() if parameter.grad is not None]
    assert any(name.startswith("language") for name in grown) is tune
    assert all(name in grown for name, _ in head.mapper.named_parameters(prefix="mapper"))
    head.eval()
    assert all(isinstance(text, str) for text in head.captions(torch.randn(2, 4, 4, 4), 2))


def test_a_folder_that_is_no_gpt2_is_refused(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="not a GPT-2 model") as missing:
        coder_of(params(**on_gpt2(tmp_path)).head.language_model, TEXTS)
    assert "model.safetensors" in str(missing.value)
    shutil.copytree(gpt2, tmp_path / "other")
    (tmp_path / "other/model.safetensors").write_bytes(b"no weights")
    settings = params(**on_gpt2(tmp_path / "other")).head.language_model
    with pytest.raises(DataError, match="not a GPT-2 model"):
        Gpt2Language(settings, 8)
    with pytest.raises(DataError, match="not the GPT-2 that the head was trained with"):
        known_coder(settings, coder_of(params(**on_gpt2(gpt2)).head.language_model, TEXTS).known)
    with pytest.raises(DataError, match="do not fit into GPT-2"):
        Gpt2Language(params(**on_gpt2(gpt2)).head.language_model, 33)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SetupError, match="needs the package transformers"):
        coder_of(params(**on_gpt2(gpt2)).head.language_model, TEXTS)


# --- the whole task


@pytest.fixture(scope="module")
def learnable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clip, Tokenizer]:
    """Dark and light images with two captions that name which, and a tokenizer whose codes tell them apart."""
    root = tmp_path_factory.mktemp("captioning")
    dataset = write_dataset(
        root,
        {"train": 48, "validation": 2, "test": 16},
        templates=["a {} one", "this is a rather {} picture"],
    )
    clip = Clip.load(write_tiny_clip(root / "clip"))
    tokenizer = Tokenizer.from_pretrained(write_tokenizer(root / "vq"))
    images = to_float(ImageSplit.open(dataset, "train", 16).images(0, 48))
    with torch.no_grad():
        whiten(tokenizer.quant_conv, tokenizer.encoder(images), torch.Generator().manual_seed(0))
        latents = tokenizer.encode_latent(images).movedim(1, -1).reshape(-1, 4)
        tokenizer.get_parameter("quantizer.codes").copy_(latents[:: len(latents) // 16][:16])
    return dataset, clip, tokenizer


def solved(given: tuple[Path, Clip, Tokenizer], scratch: Path, **changes: Any) -> Solved:
    dataset, clip, tokenizer = given
    scratch.mkdir(exist_ok=True)
    settings = params(**{"training": TRAINING, "batch_size": 7, **changes})
    return solve_task(
        settings, tokenizer, None, dataset, clip, scratch=scratch, curves=None, device=CPU, title="captioning"
    )


@pytest.fixture(scope="module")
def found(learnable: tuple[Path, Clip, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Solved:
    return solved(learnable, tmp_path_factory.mktemp("found") / "one")


def test_a_head_learns_to_write_what_the_codes_show(
    learnable: tuple[Path, Clip, Tokenizer], found: Solved, tmp_path: Path
) -> None:
    fresh, protocol = found.metrics.fresh, found.metrics.protocol
    labels = ImageSplit.open(learnable[0], "test", 16).labels
    same = float((labels == labels[other_examples(16, 3)]).mean())
    assert fresh.generated.rouge_l.mean > 0.95
    assert fresh.generated_as_human.cider_d.mean > fresh.human.cider_d.mean
    wrong = (fresh.other_image.rouge_l.mean - same) / (
        1 - same
    )  # where the other image is of the other class
    assert wrong < 0.85
    assert fresh.bits.mean < fresh.bits_other_image.mean - 0.1
    assert fresh.num_distinct == 2
    assert fresh.tokenizer == "ptb"
    assert fresh.commonest.rouge_l.mean < fresh.generated.rouge_l.mean
    assert (protocol.num_references, protocol.num_train_captions, protocol.num_cut) == (32, 96, 0)
    assert (protocol.num_unknown, protocol.language_model) == (0, "words")
    alone = solved(learnable, tmp_path / "none", input="none").metrics.fresh
    assert alone.generated == alone.other_image
    assert alone.generated.rouge_l.mean < fresh.generated.rouge_l.mean


def test_gpt2_is_solved_written_and_read_again(
    learnable: tuple[Path, Clip, Tokenizer], gpt2: Path, tmp_path: Path
) -> None:
    dataset, clip, tokenizer = learnable
    copies = [Path(shutil.copytree(gpt2, tmp_path / name)) for name in ("one", "other")]
    short = {**TRAINING, "num_steps": 20, "log_every": 10, "checkpoint_every": 20}
    runs = []
    for at, folder in enumerate(copies):
        settings = {**on_gpt2(folder, tune=True), "training": short, "max_words": 20}
        runs.append(solved(learnable, tmp_path / f"run {at}", **settings))
    assert runs[0].metrics == runs[1].metrics  # not where GPT-2 is
    metrics = runs[0].metrics
    assert metrics.protocol.language_model.startswith("gpt2 ")
    language = metrics.measured.protocol["head"]["language_model"]
    assert language == {"kind": "gpt2", "tune": True, "files": metrics.protocol.language_model}
    assert str(tmp_path) not in metrics.model_dump_json()
    task, head = load_head(runs[0].write(tmp_path / "written"), tokenizer, clip)
    images = ImageSplit.open(dataset, "test", 16).images(0, 16)
    own = runs[0].head
    assert task.answers(head.network, head.known, head.see(images), []) == runs[0].task.answers(
        own.network, own.known, own.see(images), []
    )


@torch.no_grad()
def test_bits_are_of_words_also_where_the_model_has_pieces(gpt2: Path) -> None:
    settings = params(**on_gpt2(gpt2)).head
    coder, texts = coder_of(settings.language_model, TEXTS), [["a mat-red cat.", "cat"], ["a dog"]]
    head, z_q = Captioner(SPACE, settings, coder, 20).eval(), torch.randn(2, 4, 4, 4)
    found = bits_per_word(head, z_q, texts)
    for row, own in enumerate(texts):
        coded, cut = coder.encode(own, 20)
        pieces, count = int((coded != coder.pad).sum()), sum(len(words_of(text)) + 1 for text in own)
        assert cut == 0
        nats = float(head.losses(z_q[row : row + 1], coded[None])) * pieces
        assert found[row] == pytest.approx(nats / np.log(2) / count, rel=1e-5)
    assert pieces > 0
    coded, cut = coder.encode(["a red cat on a dog"], 3)
    assert cut == 1
    assert coder.num_words(coded).tolist() == [len(words_of(coder.decode(coded[0].tolist()))) + 1]


def test_the_same_seed_gives_the_same_bytes_and_the_head_is_read_again(
    learnable: tuple[Path, Clip, Tokenizer], found: Solved, tmp_path: Path
) -> None:
    again = solved(learnable, tmp_path / "again")
    assert again.metrics == found.metrics
    files = [run.write(tmp_path / name) / "head.safetensors" for name, run in (("a", found), ("b", again))]
    assert files[0].read_bytes() == files[1].read_bytes()
    dataset, clip, tokenizer = learnable
    task, head = load_head(tmp_path / "a", tokenizer, clip)
    images = ImageSplit.open(dataset, "test", 16).images(0, 16)
    rows = read_table(tmp_path / "a/pictures.parquet", CAPTIONING_PICTURES).to_pylist()
    ids, written = (
        ImageSplit.open(dataset, "test", 16).ids,
        task.answers(head.network, {}, head.see(images), []),
    )
    captions = dict(zip(ids, written, strict=True))
    assert len(rows) == 2
    assert all(row["caption"] == captions[row["image_id"]] for row in rows)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    learnable: tuple[Path, Clip, Tokenizer], found: Solved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, whole = [], Captioning.loss

    def loss(self: Captioning, *given: Any) -> Any:
        steps.append(0)
        if len(steps) == TRAINING["checkpoint_every"] + 20:
            raise KeyboardInterrupt
        return whole(self, *given)

    monkeypatch.setattr(Captioning, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        solved(learnable, tmp_path / "one")
    again = solved(learnable, tmp_path / "one")
    assert len(steps) == TRAINING["num_steps"] + 20
    assert again.metrics == found.metrics
    for name, value in found.head.network.state_dict().items():
        assert torch.equal(again.head.network.state_dict()[name], value), name


def test_the_loss_of_a_batch_is_the_mean_of_the_ranks() -> None:
    head, task = captioner(), TASKS["captioning"](params(), Path("dataset"), cast(Any, None), 16, None)
    batch = words().encode(["cat", "a red cat", "a dog on a red mat", "dog"], 6)[0][:, None]
    z_q = torch.randn(4, 4, 4, 4)

    def of(rows: slice) -> Tensor:
        return task.loss(head, Quantized(z_q[rows], *[cast(Any, None)] * 4), batch[rows], 0.0)[0]

    halves = (of(slice(0, 2)) + of(slice(2, 4))) / 2
    torch.testing.assert_close(of(slice(4)), halves)


def test_the_page_has_the_scores_and_the_pictures(found: Solved, tmp_path: Path) -> None:
    found.write(tmp_path / "vq")
    made = [
        TaskRun(name, tmp_path / "vq", found.metrics, {}, params(input=seen), name)
        for name, seen in (("no image", "none"), ("vq", "codes"))
    ]
    cut = found.metrics.model_copy(
        update={"protocol": found.metrics.protocol.model_copy(update={"num_cut": 5})}
    )
    made[0] = replace(made[0], metrics=cut)
    part = section(made, ReportParams.model_construct(max_picture_pixels=64, num_task_examples=1))
    (table,) = (block for block in part.blocks if isinstance(block, Table))
    assert [row[0].text for row in table.rows] == [
        "vq", "no image", "the most frequent training caption", "chance: a training caption drawn for each image",
        "a true caption left out, against the image's others",
    ]  # fmt: skip
    assert table.quiet == {1, 2, 3, 4}
    for words in (
        "16 test images with 32 captions, of which 0 of one word and 0 cut in bits per word. ",
        "Heads trained on 96 captions, of which 0 cut (vq). ",
        "Heads trained on 96 captions, of which 5 cut (no image). ",
    ):
        assert words in table.note
    assert {len(row) for row in table.rows} == {len(table.columns)}
    names = [column.name for column in table.columns]
    fresh = found.metrics.fresh
    assert table.rows[0][names.index("CIDEr-D")].text == f"{100 * fresh.generated.cider_d.mean:.1f}"
    human = table.rows[4]
    assert human[names.index("one fewer")].text == f"{100 * fresh.human.cider_d.mean:.1f}"
    assert [cell.text for cell in human].count("") == len(names) - 2
    (examples,) = (block for block in part.blocks if isinstance(block, Examples))
    (example,) = examples.items
    assert [answer.title for answer in example.rows[0]] == ["vq", "no image"]
    assert any("meteor" in block.text.lower() for block in part.blocks if isinstance(block, Absent))
    (nothing,) = section([], ReportParams.model_construct()).blocks
    assert isinstance(nothing, Absent)


def test_batches_change_no_caption(
    learnable: tuple[Path, Clip, Tokenizer], found: Solved, tmp_path: Path
) -> None:
    dataset, clip, _ = learnable
    task = TASKS["captioning"](params(batch_size=16), dataset, clip, 16, None)
    test, train = task.examples("test"), task.examples("train")
    inputs = FrozenInputs.encode(found.head.view, test.split, test.positions, 16)
    with torch.no_grad():
        whole = task.measure(found.head.network, inputs, test, train).metrics
    assert whole.generated == found.metrics.fresh.generated


def of_captions(captions: list[list[str]], monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Task:
    """The task with a split of these captions, image k with an object `thing k`."""
    task = TASKS["captioning"](params(**changes), Path("dataset"), cast(Any, None), 16, None)
    split = SimpleNamespace(captions=captions, ids=[f"image {at}" for at in range(len(captions))])
    monkeypatch.setattr(task, "images", lambda name: (split, np.arange(len(captions))))
    monkeypatch.setattr(task, "objects", lambda name, positions: [{f"thing {at}"} for at in positions])
    return task


def test_images_without_captions_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [["a cat"], [], ["dog", " "], [""], ["one two three"]]
    task = of_captions(captions, monkeypatch, max_words=2)
    test, train = task.examples("test"), task.examples("train")
    assert (test.ids, test.captions, test.num_left_out) == (
        ["image 0", "image 2", "image 4"],
        [["a cat"], ["dog"], ["one two three"]],
        2,
    )
    assert test.objects == [{"thing 0"}, {"thing 2"}, {"thing 4"}]
    assert (train.num_left_out, train.num_cut) == (2, 1)
    found = described(task, test, train)
    assert (found.num_references, found.num_one_word, found.num_test_cut, found.num_cut) == (3, 1, 1, 1)
    assert (found.num_train_captions, found.num_train_one_word) == (3, 1)
    task = of_captions([[], [" "], ["dog"]], monkeypatch)
    for name in ("test", "train"):
        with pytest.raises(DataError, match="captioning needs images with captions"):
            task.examples(name)


def described(task: Task, test: Any, train: Any) -> Any:
    seen = SimpleNamespace(space=SPACE, view=SimpleNamespace(name="codes"))
    return task.describe(cast(Any, seen), test, train)


def test_captions_of_signs_are_no_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    task = of_captions([["a cat"], ["."], ["...", "!"], ["dog"], ["a red cat", "?"]], monkeypatch)
    test, train = task.examples("test"), task.examples("train")
    assert test.captions == train.captions == [["a cat"], ["dog"], ["a red cat"]]
    found = described(task, test, train)
    assert (found.num_left_out, found.num_dropped, found.num_references, found.num_one_word) == (2, 4, 3, 1)
    assert (found.num_train_left_out, found.num_train_dropped, found.num_train_captions) == (2, 4, 3)


@pytest.mark.parametrize(
    ("text", "same"),
    [("A red cat's mat.", True), ("10:30", False), ("3.5 cats", False), ("St. Mary", False), ("AT&T", False)],
)
def test_some_words_of_references_cannot_be_written(text: str, same: bool) -> None:
    """docs/tasks.md names these: a language model of words puts spaces between all pieces."""
    coder = coder_of(params().head.language_model, [text])
    written = coder.decode(coder.encode([text], 8)[0][0].tolist())
    assert (ptb_words(written) == ptb_words(text)) is same


def test_the_record_knows_which_image_has_which_captions_and_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    test = of_captions([["a cat", "red"], ["a dog"]], monkeypatch).examples("test")
    moved = of_captions([["a cat"], ["red", "a dog"]], monkeypatch).examples("test")
    assert test.digests()["captions"] != moved.digests()["captions"]
    assert test.digests()["things"] == moved.digests()["things"]
    other = replace(test, objects=test.objects[::-1])
    assert other.digests()["things"] != test.digests()["things"]
    assert other.digests()["captions"] == test.digests()["captions"]
    assert set(replace(test, objects=[set(), set()]).digests()) == {"captions"}


def test_java_is_refused_before_training_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert len(of_captions([["a cat"], ["a dog"]], monkeypatch).examples("test")) == 2
    with pytest.raises(SetupError, match="were to use Java"):
        of_captions([["a cat"], ["a dog"]], monkeypatch, java=True).examples("test")


def test_what_java_cannot_score_is_said_before_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(captioning, "need_java", lambda java: {"spice": "no parser"})
    of_captions([["a cat"], ["a dog"]], monkeypatch, java=True).examples("test")
    assert capsys.readouterr().err == "warning: captioning is measured without SPICE: no parser\n"


def test_java_null_uses_it_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert len(of_captions([["a cat"], ["a dog"]], monkeypatch, java=None).examples("test")) == 2
    said = capsys.readouterr().err
    assert "without METEOR: no program `java`" in said
    assert "without SPICE: no program `java`" in said
    asked: list[bool | None] = []
    monkeypatch.setattr(captioning, "need_java", lambda java: asked.append(java) or {})
    of_captions([["a cat"], ["a dog"]], monkeypatch, java=None).examples("test")
    assert asked == [None]


def test_a_java_that_fails_after_training_does_not_lose_the_head(
    learnable: tuple[Path, Clip, Tokenizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(captions: Any) -> None:
        raise SetupError("out of memory")

    monkeypatch.setattr(captioning, "need_java", lambda java: {})
    monkeypatch.setattr("vqpipe.metrics.caption_scores.java_words", fails)
    monkeypatch.setattr("vqpipe.metrics.caption_scores.shutil.which", lambda name: name)
    short = {**TRAINING, "num_steps": 2}
    found = solved(learnable, tmp_path / "java", java=True, training=short).metrics.fresh
    plain = solved(learnable, tmp_path / "plain", java=False, training=short).metrics.fresh
    assert found.absent.keys() == {"meteor", "spice"}
    assert all("out of memory" in reason for reason in found.absent.values())
    assert found.tokenizer == "ptb"
    assert found.model_copy(update={"absent": plain.absent}) == plain
    assert "without METEOR: Java failed after training" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(learnable: tuple[Path, Clip, Tokenizer], tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="more beams than the vocabulary"):
        solved(learnable, tmp_path / "beams", beam=50)
    for head in ({"mapper": {**ONE, "num_heads": 3}}, {"language_model": {"kind": "gpt3"}}):
        with pytest.raises(ParamsError):
            params(head=head)
