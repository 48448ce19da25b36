"""`vqpipe.Tokenizer`: the same weights from an artifact, a saved folder and the Hub, and what is refused how."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.hub_mixin as mixin
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

import vqpipe.library.hub as hub
from tests.recipes import every_recipe, make_tokenizer
from tests.tiny import write_tokenizer
from vqpipe import Tokenizer
from vqpipe.artifacts.publish import publish_folder
from vqpipe.artifacts.specs.exported import EXPORTED_PRIOR
from vqpipe.errors import ArtifactError, MismatchError, SetupError
from vqpipe.library.cards import tokenizer_card
from vqpipe.library.measured import card_metrics
from vqpipe.tokenizers import tokenizer as training
from vqpipe.tokenizers.identity import tokenizer_digest

RECIPES = every_recipe()
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def same(one: training.Tokenizer, other: training.Tokenizer) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    equal = set(mine) == set(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)
    return equal and torch.equal(one.encode(IMAGES), other.encode(IMAGES))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What `save_pretrained` wrote of a tokenizer from an artifact."""
    Tokenizer.from_pretrained(write_tokenizer(tmp_path / "artifact")).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_artifact_and_saved_folder_are_read_alike(saved: Path, tmp_path: Path) -> None:
    artifact = Tokenizer.from_pretrained(tmp_path / "artifact")
    for again in (Tokenizer.from_pretrained(str(saved)), training.Tokenizer.from_pretrained(saved)):
        assert same(artifact, again)
        assert not again.training
        assert again.facts == artifact.facts
    shutil.copytree(saved, tmp_path / "twice")
    artifact.save_pretrained(tmp_path / "twice")
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (saved / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


@pytest.mark.parametrize("name", RECIPES)
def test_every_quantizer_comes_back_with_its_names(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(RECIPES[name], Tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert same(tokenizer, again)
    assert [book.names for book in again.codebooks()] == [book.names for book in tokenizer.codebooks()]


def test_a_name_is_looked_for_below_artifacts_first_and_the_hub_is_not_asked_about_a_typo(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    shutil.copytree(saved, tmp_path / "artifacts/tokenizer/lc")
    assert same(Tokenizer.from_pretrained("lc"), Tokenizer.from_pretrained(saved))
    for wrong in ("lcc", "artifacts/tokenizer/lcc"):
        with pytest.raises(ArtifactError, match=r"did you mean lc\?\n(.*\n)*.*choices: +lc\n"):
            Tokenizer.from_pretrained(wrong)


def test_a_card_is_of_the_weights_next_to_it(saved: Path) -> None:
    first = (saved / "README.md").read_text()
    other = Tokenizer.from_pretrained(saved)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    other.save_pretrained(saved, model_card_kwargs={"license": "mit"})
    text = (saved / "README.md").read_text()
    assert f"| SHA-256 of params and weights | {tokenizer_digest(other)} |" in text
    assert "license: mit" in text
    (saved / "README.md").write_text(first.replace("# Image tokenizer", "# My tokenizer"))
    with pytest.raises(ArtifactError, match="was edited and would be kept, but is not of these weights"):
        other.save_pretrained(saved)
    (saved / "README.md").write_text(text.replace("# Image tokenizer", "# My tokenizer"))
    other.save_pretrained(saved)
    assert "# My tokenizer" in (saved / "README.md").read_text()
    with pytest.raises(ArtifactError, match="lacks the options that are given"):
        other.save_pretrained(saved, model_card_kwargs={"license": "mit"})


def test_a_folder_of_another_kind_is_refused_before_anything_is_written(saved: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(saved)
    exported, other, weights = tmp_path / "exported", tmp_path / "other", tmp_path / "weights"
    with publish_folder(exported, EXPORTED_PRIOR, {}) as folder:
        (folder / "tokenizer").mkdir()
        for name in EXPORTED_PRIOR.required:  # a card that the check of edited ones would want removed
            (folder / name).write_text("made with vqpipe")
    for folder, name in ((other, "config.json"), (weights, "model.safetensors")):
        folder.mkdir()
        (folder / name).write_text('{"model_type": "clip"}')
    for place, message in (
        (exported, "is a published folder.*\n.*an artifact of exported-prior"),
        (exported / "mine", "is a published folder"),
        (tmp_path / "artifact", "is a published folder.*\n.*an artifact of tokenizer"),
        (other, "would be overwritten\n.*another library's model"),
        (weights, "would be overwritten\n.*cannot be read as safetensors"),
        (other / "config.json", "is a file"),
    ):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ArtifactError, match=message) as refused:
            tokenizer.save_pretrained(place)
        assert "rm " not in str(refused.value)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (saved / "config.json").unlink()  # as a call leaves it that is stopped before its last file
    tokenizer.save_pretrained(saved)


def test_a_card_that_was_edited_changes_nothing(saved: Path) -> None:
    (saved / "README.md").write_text("# mine")
    (saved / "notes.txt").write_text("more")
    tokenizer = Tokenizer.from_pretrained(saved)
    tokenizer.save_pretrained(saved)
    assert (saved / "README.md").read_text() == "# mine"


def test_what_is_not_a_tokenizers_folder_is_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout has the folder below where its pipeline has run
    with pytest.raises(ArtifactError, match="does not exist"):
        Tokenizer.from_pretrained(tmp_path / "some" / "one")
    with pytest.raises(ArtifactError, match=r"there is no tokenizer one\n(.*\n)*.*artifact, saved"):
        Tokenizer.from_pretrained("./one")
    for name in ("lc", "artifacts/tokenizer/lc"):
        with pytest.raises(ArtifactError, match=f"there is no tokenizer {name}\n.*a name below") as elsewhere:
            Tokenizer.from_pretrained(name)
        assert "run:" not in str(elsewhere.value)  # no pipeline is here
    (tmp_path / "artifacts").mkdir()  # as in a fresh clone
    for name in ("lc", "artifacts/tokenizer/lc"):
        with pytest.raises(
            ArtifactError, match=f"there is no tokenizer {name}\n(.*\n)*.*dvc repro tokenizer"
        ):
            Tokenizer.from_pretrained(name)
    with pytest.raises(ArtifactError, match="neither a folder here nor a name on the Hub"):
        Tokenizer.from_pretrained("artifacts/tokenizer/lc/more")
    (tmp_path / "other").mkdir()
    with pytest.raises(ArtifactError, match=r"contains no tokenizer\n.*nothing"):
        Tokenizer.from_pretrained(tmp_path / "other")
    config = json.loads((saved / "config.json").read_text())
    for changed, message in (
        ({"_class_name": "VQModel", "sample_size": 32}, "another library's model\n.*_class_name: VQModel"),
        ({**config, "version": 99}, "an artifact of another version\n.*tokenizer v99"),
        ({**config, "facts": {**config["facts"], "resolution": 32}}, "differ\n.*resolution"),
        ([], "another library's model"),
    ):
        (saved / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match=message):
            Tokenizer.from_pretrained(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read as JSON"):
        Tokenizer.from_pretrained(saved)
    (saved / "config.json").write_text(json.dumps(config))
    (saved / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"no model\.safetensors"):
        Tokenizer.from_pretrained(saved)


class Remote:
    """A Hub of one repository that lies in a folder; counts what was asked of it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.asked: list[tuple[str, str | None]] = []

    def download(self, repo_id: str, filename: str, *, revision: str | None = None, **_: Any) -> str:
        self.asked.append((filename, revision))
        if not (self.folder / filename).exists():
            raise LocalEntryNotFoundError("cannot find the file in the local cache")
        target = self.cache / "snapshots" / "c0ffee" / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / filename, target)
        return str(target)

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
        shutil.copytree(folder_path, self.folder, dirs_exist_ok=True)
        return f"commit to {repo_id}"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    made = Remote(tmp_path / "remote", tmp_path / "cache")
    monkeypatch.setattr(hub, "hf_hub_download", made.download)
    monkeypatch.setattr(mixin, "HfApi", lambda token=None: made)
    return made


def test_what_is_pushed_is_what_is_pulled(saved: Path, remote: Remote) -> None:
    tokenizer = Tokenizer.from_pretrained(saved)
    assert tokenizer.push_to_hub("some/one", model_card_kwargs={"license": "mit"}) == "commit to some/one"
    again = Tokenizer.from_pretrained("some/one", revision="main")
    assert same(tokenizer, again)
    assert remote.asked == [("config.json", "main"), ("model.safetensors", "c0ffee")]  # one commit for both
    header = ModelCard.load(remote.folder / "README.md").data
    assert (header.license, header.library_name) == ("mit", "vqpipe")


def test_a_push_that_fails_leaves_the_card_of_the_weights_that_were_saved(
    saved: Path, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(remote, "upload_folder", fail)
    other = Tokenizer.from_pretrained(saved)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(SetupError, match="cannot be reached"):
        other.save_pretrained(saved, push_to_hub=True, repo_id="some/one")
    assert tokenizer_digest(other) in (saved / "README.md").read_text()


@pytest.mark.parametrize("name", ["lc-paper", "residual-vqct", "vqct-paper"])
def test_codebooks_and_names_come_back_from_the_hub(name: str, remote: Remote) -> None:
    tokenizer = make_tokenizer(RECIPES[name], Tokenizer)
    tokenizer.push_to_hub("some/one")
    again = Tokenizer.from_pretrained("some/one")
    assert same(tokenizer, again)
    assert [book.names for book in again.codebooks()] == [book.names for book in tokenizer.codebooks()]
    assert torch.equal(again.decode(again.encode(IMAGES)), tokenizer.decode(tokenizer.encode(IMAGES)))


def test_another_librarys_repository_is_refused_before_its_weights_are_loaded(remote: Remote) -> None:
    remote.folder.mkdir()
    (remote.folder / "config.json").write_text('{"model_type": "clip"}')
    (remote.folder / "model.safetensors").write_text("large")
    with pytest.raises(ArtifactError, match=r"some/one on the Hub: .*another library's model\n.*clip"):
        Tokenizer.from_pretrained("some/one")
    assert [name for name, _ in remote.asked] == ["config.json"]


def test_without_a_network_the_message_says_so(remote: Remote) -> None:
    with pytest.raises(SetupError, match="the Hub cannot be asked"):
        Tokenizer.from_pretrained("some/one")


@pytest.mark.slow
def test_a_refused_connection_is_reported(saved: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from vqpipe import Tokenizer; from vqpipe.errors import SetupError\n"
        "try: Tokenizer.from_pretrained(sys.argv[1]).push_to_hub('some/one', token='none')\n"
        "except SetupError as error: print(error)"
    )
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved)],
        capture_output=True,
        text=True,
        env={**env, "PYTHONPATH": root},
    )
    assert "the Hub cannot be reached for some/one" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_training_half_reads_tokenizers_without_huggingface_hub(saved: Path) -> None:
    script = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from pathlib import Path; from vqpipe.tokenizers.tokenizer import Tokenizer\n"
        "print(Tokenizer.from_pretrained(Path(sys.argv[1])).num_codes)\n"
        "from vqpipe.errors import SetupError\n"
        "try: from vqpipe import Tokenizer\n"
        "except SetupError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("(16,)\n")
    assert "pip install huggingface_hub" in done.stdout


def test_the_card_says_what_is_known(saved: Path, tmp_path: Path) -> None:
    def of(own: dict[str, float]) -> dict[str, float]:
        return {"mean": 21.5, "low": 21.4, "high": 21.6, **own}

    tokenizer = Tokenizer.from_pretrained(saved)
    measured = {
        "sha256": tokenizer_digest(tokenizer), "psnr": of({}), "fd_clip": 0.35,
        "protocol": {"num_images": 2000, "split": "test", "resolution": 64, "features": "clip x"},
        "codes": {"code": {"utilisation": 0.5, "perplexity": 7.0, "num_codes": 16, "num_tokens": 99}},
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(measured))
    text = tokenizer_card(tokenizer, metrics=card_metrics(tmp_path / "metrics.json", tokenizer))
    assert "| PSNR, dB | 21.5 | 21.4 to 21.6 |" in text
    assert "| code | 0.5000 | 7.0 | 16 | 99 |" in text
    assert "2,000 images (test)" in text
    assert "| codes (code) | 16 |" in text
    for other in ({**measured, "sha256": "0" * 64}, {k: v for k, v in measured.items() if k != "sha256"}):
        (tmp_path / "metrics.json").write_text(json.dumps(other))
        with pytest.raises(MismatchError, match="has no numbers of this tokenizer"):
            card_metrics(tmp_path / "metrics.json", tokenizer)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ArtifactError, match="does not contain the metrics"):
        card_metrics(tmp_path / "metrics.json", tokenizer)


def test_the_card_names_the_codebook_and_its_licences() -> None:
    tokenizer = make_tokenizer(RECIPES["vqct-paper"])
    assert "Its facts are not known" in tokenizer_card(tokenizer)
    tokenizer.facts["codebook"] = {"clip": "vit:fitted:00", "pos": {"kind": "wordnet"}}
    text = tokenizer_card(tokenizer)
    assert "| codes (noun) | 7 |" in text
    assert "vit:fitted:00" in text
    assert "Captions." in text
    tokenizer.facts["origin"] = {"layout": "VQGAN"}
    assert "vqpipe did not train them" in tokenizer_card(tokenizer)


def test_the_card_refuses_another_codebook(tmp_path: Path) -> None:
    from vqpipe.artifacts.publish import write_manifest
    from vqpipe.artifacts.spec import header_for
    from vqpipe.artifacts.specs.tokenizer import NO_CODEBOOK

    (tmp_path / "none").mkdir()
    write_manifest(tmp_path / "none", header_for(NO_CODEBOOK, {}))
    with pytest.raises(MismatchError, match="not the codebook of this tokenizer"):
        tokenizer_card(make_tokenizer(RECIPES["lc-paper"]), codebook=tmp_path / "none")


def test_pictures_to_tensors_and_back(saved: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(saved)
    grey = Image.fromarray(np.arange(40 * 24, dtype=np.uint16).reshape(24, 40) * 60)
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    images = tokenizer.preprocess([grey, clear, Image.new("P", (9, 30))])
    assert images.shape == (3, 3, 16, 16)
    assert images.abs().max() <= 1
    assert (images[1] == 1).all(), "transparency is laid over white"
    wide = Image.fromarray(np.repeat(np.arange(48, dtype=np.uint8)[None], 16, 0)).convert("RGB")
    assert np.array(tokenizer.to_pil(tokenizer.preprocess(wide))[0])[0, :, 0].tolist() == list(range(16, 32))
    assert len(tokenizer.to_pil(tokenizer.decode(tokenizer.encode(images)))) == 3
    with pytest.raises(MismatchError, match="no image"):
        tokenizer.preprocess([])
    with pytest.raises(MismatchError, match="not images"):
        tokenizer.to_pil(images[0])
