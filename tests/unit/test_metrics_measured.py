"""Digests of what was measured: equal for equal pixels and params, different for any other."""

from __future__ import annotations

import torch

from vqpipe.metrics.measured import DIGITS, ImagesDigest, measured_with, text_digest

IMAGES = torch.arange(5 * 3 * 4 * 4, dtype=torch.uint8).view(5, 3, 4, 4)
NONE = ImagesDigest().images("none")
PROTOCOL = {"version": 1, "distances": {"num_subsets": 5, "layers": [0, 1]}}


def digest(*batches: torch.Tensor, split: str = "test") -> str:
    found = ImagesDigest()
    for batch in batches:
        found.add(batch)
    return found.images(split).digest


def test_order_and_batches_do_not_count_and_every_pixel_does() -> None:
    whole = digest(IMAGES)
    assert whole == digest(IMAGES[:2], IMAGES[2:]) == digest(IMAGES.flip(0)) == digest(IMAGES, split="images")
    other = IMAGES.clone()
    other[3, 2, 1, 0] ^= 1
    others = [
        digest(other), digest(IMAGES[:4]), digest(IMAGES, IMAGES[:1]), digest(IMAGES.flip(3)),
        digest(IMAGES.view(5, 3, 2, 8)), digest(IMAGES.flip(1)),
    ]  # fmt: skip
    assert len({whole, *others}) == 1 + len(others)
    assert len(whole) == DIGITS


def test_the_record_has_the_parts_that_people_read() -> None:
    found = ImagesDigest()
    found.add(IMAGES)
    assert found.images("test").plain() | {"digest": ""} == {
        "split": "test", "num_images": 5, "pixels": "3 x 4 x 4", "digest": "",
    }  # fmt: skip


def test_the_digest_does_not_depend_on_the_machine() -> None:
    assert digest(IMAGES) == "69767c0522878a9c"
    assert text_digest(["b", "a"]) == text_digest(["a", "b"]) == "18d79cb747ea174c"
    assert measured_with(NONE, PROTOCOL).protocol["digest"] == "dbd239a16b41ee98"


def test_any_part_of_the_protocol_counts_and_its_order_does_not() -> None:
    own = measured_with(NONE, PROTOCOL).protocol
    assert own["distances"] == {"num_subsets": 5, "layers": "0, 1"}
    turned = {"distances": dict(reversed(PROTOCOL["distances"].items())), "version": 1}  # type: ignore[attr-defined]
    assert measured_with(NONE, turned).protocol["digest"] == own["digest"]
    for other in (PROTOCOL | {"version": 2}, PROTOCOL | {"x": 1}, {"version": 1}):
        assert measured_with(NONE, other).protocol["digest"] != own["digest"]
