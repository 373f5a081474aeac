"""What docs/remote.md shows can be used as it stands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from toolkit.inference.remote.prices import prices_for
from toolkit.models import EndpointSource, read_entry
from toolkit.recipe import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "remote.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.parametrize("name", ["my-server.yaml", "hosted.yaml"])
def test_entries_can_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(BLOCKS[name], encoding="utf-8")
    assert read_entry(path).source.endpoint is not None


def test_the_full_entry_shows_every_key_and_default() -> None:
    for name, field in EndpointSource.model_fields.items():
        shown = re.search(rf"^ +#? ?{name}: (\S+)", BLOCKS["hosted.yaml"], re.MULTILINE)
        assert shown is not None, name
        if isinstance(field.default, int | float) and name not in ("logprobs",):
            assert float({"false": "0"}.get(shown[1], shown[1])) == float(field.default), name


def test_the_price_file_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "my-prices.yaml"
    path.write_text(BLOCKS["my-prices.yaml"], encoding="utf-8")
    endpoint = EndpointSource(url="http://localhost:8000/v1", model="gpt-4o-mini", prices=str(path))
    assert prices_for(endpoint)["gpt-4o-mini"].prompt == 0.15


def test_a_local_model_stands_beside_a_served_one_where_systems_are_compared(tmp_path: Path) -> None:
    (block,) = (found for found in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "models: {local" in found)
    path = tmp_path / "recipe.yaml"
    path.write_text(f"task: handbook\n{textwrap.dedent(block)}", encoding="utf-8")
    recipe = load_recipe(path)
    (contrast,) = recipe.contrasts
    assert (contrast.a, contrast.b, contrast.varies) == ("lora", "zero_shot", ("model", "dtype"))
    assert (recipe.model_of("lora"), recipe.model_of("zero_shot")) == ("smollm2-135m-instruct-q4", "my-server")
