"""Point 1: within a contrast only what the two stacks' parts own may differ, or what `varies` names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import FairnessError
from toolkit.inference import LocalModel

FOUND = {
    "model": r"tiny-model \(\w{12}\) against",
    "dtype": "float32 against bfloat16",
    "decoding": "at most 5 new tokens, greedy against at most 3 new tokens, greedy",
    "answer_by": "generation against likelihood",
    "template": r"brief \(\w{12}\) against answer \(\w{12}\)",
}
FACTORS = tuple(FOUND)


class OddStrategies:
    """Tickets with a strategy for each factor that differs from the baseline in that factor alone."""

    def __init__(self, here: Any, root: Path) -> None:
        self.here = here
        self.brief = root / "brief.yaml"
        self.brief.write_text(
            'name: brief\nsystem: "BRIEFLY. {{ instruction }}"\npassages: ""\n'
            "user: |-\n  {% for value in inputs.values() %}\n  {{ value }}\n  {% endfor %}\n"
        )
        self.reweighted = root / "other" / "tiny-model"
        shutil.copytree(here.models.other, self.reweighted)
        self.twin = root / "twin" / "tiny-model"
        shutil.copytree(here.models.model, self.twin)
        own = {
            "model": {"model": "reweighted"},
            "dtype": {"model": "twin"},
            "decoding": {"decoding": {"max_new_tokens": 5}},
            "answer_by": {"answer_by": "generation"},
            "template": {"template": str(self.brief)},
        }
        self.stacks = {f"odd_{name}": [own[name], {"prompt": {"shots": 2}}] for name in FACTORS}

    def load(self, name: str) -> LocalModel:
        """The twin has the base's name and digest, and only it is in fp32."""
        return self.here.loader(name, "float32" if name == str(self.twin) else "bfloat16")

    def overrides(self, factors: tuple[str, ...], varies: dict[str, list[str]]) -> list[str]:
        stacks = {"zero_shot": [], **{f"odd_{factor}": self.stacks[f"odd_{factor}"] for factor in factors}}
        contrasts = [{"a": f"odd_{name}", "b": "zero_shot", "varies": named} for name, named in varies.items()]
        return [
            f"models={json.dumps({'reweighted': str(self.reweighted), 'twin': str(self.twin)})}",
            f"strategies={json.dumps(stacks)}",
            f"contrasts={json.dumps(contrasts)}",
            "metrics=[accuracy]",
            "limit=2",
        ]


@pytest.fixture
def odd(tiny_shipped: Any, tmp_path: Path) -> OddStrategies:
    return OddStrategies(tiny_shipped, tmp_path)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_no_part_owns_is_refused_unless_declared(odd: OddStrategies, factor: str) -> None:
    error = odd.here.refusal("tickets", *odd.overrides((factor,), {}), load=odd.load)
    assert isinstance(error, FairnessError)
    said = re.escape(f"contrast odd_{factor} - zero_shot is refused: the two differ in {factor} (") + f"{factor}: "
    assert re.match(said + FOUND[factor], str(error)), str(error)
    assert f"declare `varies: [{factor}]` to compare systems" in str(error)
    assert not (odd.here.last / "outputs").exists()


@pytest.mark.parametrize("factor", FACTORS)
def test_naming_another_factor_does_not_help(odd: OddStrategies, factor: str) -> None:
    others = [name for name in FACTORS if name != factor]
    error = odd.here.refusal("tickets", *odd.overrides((factor,), {factor: others}), load=odd.load)
    assert isinstance(error, FairnessError)
    assert f"the two differ in {factor} (" in str(error)


def test_declared_factors_are_accepted_and_recorded(odd: OddStrategies) -> None:
    result = odd.here.run("tickets", *odd.overrides(FACTORS, {name: [name] for name in FACTORS}), load=odd.load)
    written = json.loads((result.folder / "comparison.json").read_text(encoding="utf-8"))["contrasts"]
    assert [(row["a"], row["b"], row["varies"]) for row in written] == [
        (f"odd_{name}", "zero_shot", [name]) for name in FACTORS
    ]
    assert all(row["refused"] is None and row["n"] == 2 and row["difference"] is not None for row in written)
    sheets = json.loads((result.folder / "manifest.json").read_text(encoding="utf-8"))["strategies"]
    base = sheets["zero_shot"]["factors"]
    for name in FACTORS:
        own = sheets[f"odd_{name}"]["factors"]
        assert [factor for factor in base if own[factor] != base[factor]] == [name]


def test_a_template_set_by_a_part_belongs_to_the_stack(odd: OddStrategies, outputs: Any) -> None:
    stacks = {"zero_shot": [], "own": [{"prompt": {"shots": 2, "template": str(odd.brief)}}]}
    result = odd.here.run("tickets", f"strategies={json.dumps(stacks)}", "contrasts=[]", "metrics=[accuracy]")
    (contrast,) = result.comparison["contrasts"]
    assert (contrast["a"], contrast["b"], contrast["varies"], contrast["refused"]) == ("own", "zero_shot", (), None)
    tokenizer = odd.here.loader(str(odd.here.models.model)).renderer.tokenizer
    for name, opening in (("own", "BRIEFLY. Route the"), ("zero_shot", "Route the")):
        for output in outputs(result.folder, name):
            assert tokenizer.decode(output["prompt_token_ids"]).startswith(f"<|im_start|>system\n{opening}")
