"""A run whose recipe says `dtype: nf4`: one base in 4 bits for every strategy, told, keyed and checked as such."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import FairnessError, RecipeError
from toolkit.models import load_adapter, load_pretrained
from toolkit.models.four_bit import in_float32, is_quantised
from toolkit.models.weights import shared_copy
from toolkit.report.card_code import loading_code
from toolkit.runs import after
from toolkit.runs.export import tuned_weights, write_merged
from toolkit.runs.reopen import reopen
from toolkit.strategies.adapter import Adapter, FitContext, Part
from toolkit.strategies.strategy import installed_adapters

Start = Callable[..., Any]
TUNE = {"rank": 2, "max_steps": 2, "learning_rate": 0.01}
TWO = {"zero_shot": [], "lora": [{"tune": TUNE}]}
NO_TIMING = {"examples": 0}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.report.write_report", lambda root: None)


@pytest.fixture
def library() -> None:
    pytest.importorskip("bitsandbytes", reason="weights in 4 bits need the extra `qlora` (bitsandbytes)")


@pytest.mark.usefixtures("library")
def test_every_strategy_answers_from_the_weights_in_4_bits_and_the_run_says_so(
    start: Start, asked: list[Any], artefacts: Any, tmp_path: Path
) -> None:
    result = start(TWO, dtype="nf4", timing=NO_TIMING)
    manifest = json.loads((result.folder / "manifest.json").read_text(encoding="utf-8"))
    dtype = manifest["environment"]["dtype"]
    assert dtype in ("float32, weights in nf4", "bfloat16, weights in nf4")
    assert manifest["environment"]["bitsandbytes"] == importlib.metadata.version("bitsandbytes")
    assert {facts["factors"]["dtype"] for facts in manifest["strategies"].values()} == {dtype}
    (model,) = manifest["models"].values()
    assert model["digest"].endswith("/nf4")
    assert model["dtype"] == dtype
    assert model["path"].startswith("packed")
    merge = result.comparison["strategies"]["lora"]["merge"]
    assert (merge["examples"], merge["dequantised"]) == (8, True)
    assert any("adapter into the weights, dequantised, would change" in note for note in result.comparison["notes"])

    first, known = len(asked), artefacts(result.folder)
    asked.clear()
    start(TWO, out="again", fresh=True, dtype="nf4", timing=NO_TIMING)
    assert len(asked) == first
    assert artefacts(tmp_path / "again") == known
    reopened = reopen(result.folder).system("lora")
    outputs = (result.folder / "outputs/lora/seed-0.jsonl").read_text(encoding="utf-8").splitlines()
    examples = {example.id: example for example in reopen(result.folder).prepared.task.test}
    said = [json.loads(line)["output"] for line in outputs]
    again = reopened.answer([examples[item["example_id"]] for item in said])
    assert [list(item.token_ids) for item in again] == [item["token_ids"] for item in said]


@pytest.mark.usefixtures("library")
def test_what_was_computed_in_4_bits_is_not_taken_for_the_whole_weights(start: Start, asked: list[Any]) -> None:
    folder = start({"zero_shot": []}, dtype="nf4", timing=NO_TIMING).folder
    dtype = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["environment"]["dtype"]
    first = len(asked)
    asked.clear()
    start({"zero_shot": []}, out="whole", dtype=dtype.partition(",")[0], timing=NO_TIMING)
    assert len(asked) == first > 0


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("method", ["pissa", "olora", "full"])
def test_methods_that_write_to_the_base_are_refused_before_anything_is_computed(
    start: Start, asked: list[Any], method: str
) -> None:
    strategies = {"zero_shot": [], "odd": [{"tune": {"method": method}}]}
    with pytest.raises(RecipeError, match=rf"recipe.yaml:\d+.*tune: method: {method} .*in 4 bits.*take method lora"):
        start(strategies, dtype="nf4")
    assert asked == []


@pytest.mark.usefixtures("library")
def test_a_strategy_that_changes_a_scale_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaling(Adapter):
        def fit(self, context: FitContext) -> Part:
            module: Any = context.model.module  # type: ignore[attr-defined]
            module.model.layers[1].mlp.up_proj.weight.quant_state.absmax[0] += 1
            return Part()

    there: Mapping[str, type[Adapter]] = {**installed_adapters(), "scaling": Scaling}
    monkeypatch.setattr("toolkit.strategies.strategy.installed_adapters", lambda: there)
    with pytest.raises(FairnessError, match="'odd' changed the base model's weights"):
        start({"zero_shot": [], "odd": [{"scaling": {}}]}, dtype="nf4", timing=NO_TIMING)


def test_a_merge_that_does_not_fit_into_the_memory_does_not_end_a_run(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("a merged copy")

    monkeypatch.setattr(after, "_merged_against_beside", too_large)
    notices: list[str] = []

    def noted(name: str, fields: Mapping[str, Any]) -> None:
        if name == "notice":
            notices.append(fields["text"])

    result = start(TWO, timing=NO_TIMING, listener=noted)
    assert result.comparison["strategies"]["lora"]["merge"] is None
    assert any(text.startswith("lora: merged weights do not fit into the memory") for text in notices)
    assert not any("Merging" in note for note in result.comparison["notes"])


def test_a_merge_of_whole_weights_is_told_as_before(start: Start) -> None:
    result = start(TWO, timing=NO_TIMING)
    assert result.comparison["strategies"]["lora"]["merge"]["dequantised"] is False
    assert any("adapter into the weights would change" in note for note in result.comparison["notes"])


@pytest.mark.usefixtures("library")
def test_what_was_tuned_in_4_bits_is_handed_over(start: Start, world: Any, tmp_path: Path) -> None:
    import torch

    tune = {**TUNE, "max_steps": 8, "learning_rate": 0.05}
    folder = start({"zero_shot": [], "lora": [{"tune": tune}]}, dtype="nf4", timing=NO_TIMING).folder
    tuned = tuned_weights(folder, "lora")
    (tmp_path / "whole").mkdir()
    write_merged(tuned, tmp_path / "whole", "float32")
    base = in_float32(shared_copy(load_pretrained(world.model, "nf4", "cpu").module))
    whole = load_pretrained(tmp_path / "whole", "float32", "cpu").module
    assert not is_quantised(whole)
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        wanted = load_adapter(base, tuned.weights)(input_ids=ids).logits
        torch.testing.assert_close(whole(input_ids=ids).logits, wanted, rtol=0, atol=1e-4)
        assert not torch.allclose(base(input_ids=ids).logits, wanted, rtol=0, atol=1e-3)
    code = loading_code(tuned.base, merged=False, asked=None)
    line = next(line for line in code.splitlines() if "AutoModelForCausalLM.from_pretrained" in line)
    assert 'dtype="nf4"' not in line
    assert "quantization_config=in_4_bits" in line
    compile(code, "card", "exec")
