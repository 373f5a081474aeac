"""Drawn answers in a run: every seed draws its own, a killed run goes on with the same, idle settings are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import RecipeError
from toolkit.runs.run import run

WARM = {"max_new_tokens": 4, "temperature": 1.0, "top_p": 0.95, "samples": 2}


def answers(folder: Path, strategy: str, seed: int) -> list[dict[str, Any]]:
    lines = (folder / "outputs" / strategy / f"seed-{seed}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["output"] for line in lines]


def test_each_seed_draws_its_own_answers_and_the_same_ones_again(world: Any, tmp_path: Path) -> None:
    recipe = world.recipe(
        tmp_path / "warm.yaml", {"zero_shot": []}, decoding=WARM, seeds=[0, 1], timing={"examples": 0}
    )
    run(recipe, out=tmp_path / "one", store=tmp_path / "store-one")
    first, second = (answers(tmp_path / "one", "zero_shot", seed) for seed in (0, 1))
    assert [one["text"] for one in first] != [one["text"] for one in second]
    assert all(len(one["samples"]) == 2 for one in first)
    path = tmp_path / "one" / "outputs" / "zero_shot" / "seed-0.jsonl"
    kept = path.read_bytes()
    path.write_bytes(b"".join(kept.splitlines(keepends=True)[:11]))
    run(recipe, out=tmp_path / "one", store=tmp_path / "store-two")
    assert path.read_bytes() == kept
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["strategies"]["zero_shot"]["factors"]["decoding"] == (
        "at most 4 new tokens, temperature 1, top-p 0.95, 2 samples"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"decoding": {"samples": 3}}, "decoding.samples: greedy answers are all alike"),
        ({"decoding": {"top_p": 0.5}}, "decoding.top_p: greedy answers are not drawn"),
        ({"likelihood": {"normalise": "bytes"}}, "likelihood: all answers are generated here"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    world: Any, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    recipe = world.recipe(tmp_path / "idle.yaml", {"zero_shot": []}, **changes)
    with pytest.raises(RecipeError, match=expected):
        run(recipe, out=tmp_path / "out", store=tmp_path / "store")


def test_choices_are_not_drawn(world: Any, tmp_path: Path) -> None:
    recipe = world.recipe(
        tmp_path / "idle.yaml", {"zero_shot": []}, task=str(world.choice_task), decoding={"temperature": 0.5}
    )
    with pytest.raises(RecipeError, match=r"decoding\.temperature: choices are scored"):
        run(recipe, out=tmp_path / "out", store=tmp_path / "store")
