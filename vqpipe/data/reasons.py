"""The fixed words of the quarantine table: why an item of a source was left out."""

from __future__ import annotations

IMAGE_REASONS = {
    "empty_file": "the file holds no bytes",
    "undecodable": "not an image of a known format, or damaged",
    "truncated": "the file ends before the image does",
    "too_many_pixels": "above max_pixels; not decoded",
    "too_many_bytes": "far larger than an image of max_pixels can be; not read",
    "unsupported_pixels": "pixel values without a known range (floating point, 32-bit)",
    "too_small": "shorter side below resize.short_side, and too_small is quarantine",
    "missing_file": "listed, but there is no such file",
    "unreadable": "the file system refused to give it",
    "unsafe_path": "absolute, or leads out of its folder, or a link out of the source",
    "tar_link": "a link inside a tar that leads to none of its images",
    "special_file": "a pipe, socket or device with an image's name; not opened",
    "tar_special": "a device or pipe inside a tar",
    "size_mismatch": "the image's shape is not the one its annotations were made for",
    "no_caption": "no usable caption, though the split has captions",
    "no_class": "lies in no class folder",
    "duplicate_id": "an image of this id was there before",
}
"""Reasons that cost an image; these count towards `max_bad_fraction`."""

SIDE_REASONS = {
    "empty_caption": "a caption without a visible character; the image keeps its others",
    "caption_not_utf8": "a caption with bytes that are no UTF-8; the image keeps its others",
    "caption_not_text": "a caption that is no string; the image keeps its others",
    "orphan_annotation": "annotations of an image that is not listed",
    "bad_annotation": "an annotation without the fields it needs",
    "duplicate_annotation": "an annotation that is listed again, with the same id and content",
    "clipped_box": "a box that reached out of its image by more than a pixel; the part inside is kept",
    "other_file": "a file whose name is not an image's",
    "hidden": "a file or folder whose name begins with a dot; what lies in the folder is not counted",
    "duplicate_path": "another path to a folder or image that is listed: a link or a hard link",
}
"""Reasons that cost no image; they are counted and listed, but not part of the bad fraction."""

REASONS = {**IMAGE_REASONS, **SIDE_REASONS}
