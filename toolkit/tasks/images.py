"""Images in data: no model here reads them, and as text they would be thousands of letters of nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KINDS = ("image", "image_url", "input_image")
"""Types of a message's parts, as the chat protocols name them."""

ADVICE = "models are asked with text only here; give a caption, or the text that was read from the image (OCR)"


def holds_image(value: Any) -> bool:
    """Whether a value of JSON is an image, or has one somewhere within."""
    if isinstance(value, str):
        return value.startswith("data:image/")
    if isinstance(value, Mapping):
        return value.get("type") in KINDS or any(map(holds_image, value.values()))
    return isinstance(value, Sequence) and any(map(holds_image, value))
