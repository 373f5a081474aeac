"""docs/training.md names every setting with its default."""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.tuning import TuneSettings

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_setting_stands_there_with_its_default_and_why() -> None:
    said: dict[str, str] = {}
    for names, defaults, why in re.findall(r"^\| (`.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE):
        assert why.strip()
        fields = re.findall(r"`(\w+)`", names)
        values = [value.strip(" `") for value in defaults.split(",")]
        said |= dict(zip(fields, values * len(fields) if len(values) == 1 else values, strict=False))
    assert set(said) == set(TuneSettings.model_fields)
    for name, field in TuneSettings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "none" if default in (None, {}) else f"{default:g}" if isinstance(default, float) else str(default)
        assert said[name] == shown, name
