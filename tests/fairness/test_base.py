"""Point 7: the base is what it was after every strategy; adapted weights live on a view."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import FairnessError
from toolkit.inference import LocalModel
from toolkit.meter import Meter
from toolkit.rendering import Draft
from toolkit.runs.after import merge_report
from toolkit.runs.reopen import reopen
from toolkit.store import Store
from toolkit.strategies.adapter import Adapter, FitContext, Part, Responder
from toolkit.tasks.output import Output


def _write_weights(module: Any) -> None:
    module.model.layers[1].mlp.up_proj.weight.data[3, 5] += 0.5


def _train_mode(module: Any) -> None:
    module.model.layers[0].train()


def _requires_grad(module: Any) -> None:
    module.model.layers[1].self_attn.q_proj.weight.requires_grad_(True)


def _replace_module(module: Any) -> None:
    import torch

    class Linear(torch.nn.Linear):
        """Same name of class, same tensors, another answer."""

        def forward(self, input: Any) -> Any:
            return super().forward(input) * 2

    old = module.model.layers[0].mlp.down_proj
    new = Linear(old.in_features, old.out_features, bias=False, dtype=old.weight.dtype)
    new.weight = old.weight
    module.model.layers[0].mlp.down_proj = new.eval()


def _inject_lora(module: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), module)


CHANGES = {
    "weights": _write_weights,
    "train mode": _train_mode,
    "requires_grad": _requires_grad,
    "modules": _replace_module,
    "lora": _inject_lora,
}


class ChangingAdapter(Adapter):
    """Changes the base model in place, while fitting or while answering."""

    what: str
    when: str = "fit"

    def fit(self, context: FitContext) -> Part:
        assert isinstance(context.model, LocalModel)
        part = ChangingPart(context.model.module, self.what)
        if self.when == "fit":
            part.change()
        return part if self.when == "respond" else Part()


class ChangingPart(Part):
    def __init__(self, module: Any, what: str) -> None:
        self.module, self.what = module, what

    def change(self) -> None:
        CHANGES[self.what](self.module)

    def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
        outputs = answer(drafts)
        self.change()
        return outputs


@pytest.mark.parametrize(("what", "when"), [*((what, "fit") for what in CHANGES), ("weights", "respond")])
def test_a_strategy_that_changes_the_base_is_refused(tiny_shipped: Any, plant: Any, what: str, when: str) -> None:
    plant(changing=ChangingAdapter)
    odd = f"odd: [changing: {{what: {what}, when: {when}}}]"
    error = tiny_shipped.refusal(
        "quickstart", f"strategies={{zero_shot: [], {odd}, later: [prompt: {{shots: 1}}]}}", "limit=1"
    )
    assert isinstance(error, FairnessError)
    assert str(error).startswith("strategy 'odd' changed the base model's ")
    assert "every other strategy would be measured on another model" in str(error)
    assert (tiny_shipped.last / "outputs" / "zero_shot").exists()
    assert not (tiny_shipped.last / "outputs" / "later").exists()
    assert not (tiny_shipped.last / "comparison.json").exists()


def test_a_refused_strategy_is_refused_again_by_the_same_command(tiny_shipped: Any, plant: Any) -> None:
    """Its parts and answers must not be found in the Store or the run folder, where the base is not looked at."""

    class SavedAdapter(ChangingAdapter):
        def load(self, folder: Path, context: FitContext) -> Part:
            return Part()

    plant(changing=SavedAdapter)
    stacks = "strategies={zero_shot: [], odd: [changing: {what: weights}]}"
    errors = [str(tiny_shipped.refusal("quickstart", stacks, "limit=1")) for _ in range(2)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("strategy 'odd' changed the base model's ")
    same_folder = tiny_shipped.last
    tiny_shipped.runs -= 1
    assert str(tiny_shipped.refusal("quickstart", stacks, "limit=1")) == errors[0]
    assert tiny_shipped.last == same_folder


def test_a_change_to_any_of_several_models_of_one_name_is_refused(
    tiny_shipped: Any, plant: Any, tmp_path: Path
) -> None:
    plant(changing=ChangingAdapter)
    namesake = tmp_path / "other" / "tiny-model"
    shutil.copytree(tiny_shipped.models.other, namesake)
    stacks = "strategies={odd: [model: other, changing: {what: weights}], zero_shot: [], later: [prompt: {shots: 1}]}"
    overrides = (f"models={json.dumps({'other': str(namesake)})}", stacks, "limit=1")
    contrasts = "contrasts=[{a: odd, b: zero_shot, varies: [model]}]"
    error = tiny_shipped.refusal("quickstart", *overrides, contrasts)
    assert isinstance(error, FairnessError)
    assert str(error).startswith("strategy 'odd' changed the base model's ")


@pytest.mark.parametrize("recipe", ["handbook", "tickets"])
def test_after_every_shipped_strategy_the_base_is_bit_for_bit_what_it_was(
    whole_runs: Any, observe: Any, recipe: str
) -> None:
    import torch

    whole = whole_runs(recipe)
    assert {strategy.name for strategy in whole.recipe.strategies} >= {"zero_shot", "few_shot", "lora"}
    before, after = whole.before, observe(whole.base)
    assert whole.base.module.dtype == torch.bfloat16
    for name in ("storage", "modules", "gradients", "attention"):
        assert after[name] == before[name]
    assert not any(training for _, _, training in after["modules"])
    assert all((wanted, empty) == (False, True) for _, wanted, empty in after["gradients"])
    assert after["tensors"].keys() == before["tensors"].keys()
    assert len(after["tensors"]) > 20
    assert all(torch.equal(tensor, before["tensors"][name]) for name, tensor in after["tensors"].items())
    assert torch.equal(after["logits"], before["logits"])


def test_a_fresh_adapter_answers_bit_for_bit_like_the_base(tiny_shipped: Any, observe: Any) -> None:
    import torch

    from toolkit.tuning import TuneSettings
    from toolkit.tuning.adapter import new_adapter

    base = tiny_shipped.loader(str(tiny_shipped.models.model))
    plain = observe(base)["logits"]
    adapted = new_adapter(base.module, TuneSettings(rank=16), seed=0)
    view = adapted.get_base_model().eval()
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        assert torch.equal(view(input_ids=ids).logits, plain)
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name:
                tensor += 0.1
        assert not torch.equal(view(input_ids=ids).logits, plain)
    assert torch.equal(observe(base)["logits"], plain)


def test_the_reloaded_adapter_is_the_one_that_was_trained(
    tiny_shipped: Any, outputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from toolkit.tuning import trainable

    trained: list[Any] = []
    save = trainable.save_adapter

    def recorded(adapted: Any, *rest: Any) -> None:
        trained.append(adapted)
        save(adapted, *rest)

    monkeypatch.setattr(trainable, "save_adapter", recorded)
    result = tiny_shipped.run(
        "quickstart", "strategies={zero_shot: [], lora: [tune: {rank: 4, max_steps: 3}]}", "metrics=[token_f1]"
    )
    monkeypatch.undo()
    monkeypatch.setenv("TOOLKIT_CACHE", str(tiny_shipped.root / "another-cache"))
    reopened = reopen(result.folder)
    system, base = reopened.system("lora"), reopened.system("zero_shot")
    ids = torch.arange(3, 60)[None]
    (adapted,) = trained
    with torch.inference_mode():
        view = adapted.get_base_model().eval()
        view.set_attn_implementation("sdpa")  # it was trained with other kernels, which sum in another order
        kept = view(input_ids=ids).logits
        assert isinstance(system.model, LocalModel)
        assert isinstance(base.model, LocalModel)
        assert torch.equal(system.model.module(input_ids=ids).logits, kept)
        assert not torch.equal(base.model.module(input_ids=ids).logits, kept)
    test = {example.id: example for example in reopened.prepared.task.test}
    said = outputs(result.folder, "lora")
    again = system.answer([test[item["example_id"]] for item in said])
    assert [list(item.token_ids) for item in again] == [item["token_ids"] for item in said]
    assert [item.confidence for item in again] == [item["confidence"] for item in said]
    differs = base.answer([test[item["example_id"]] for item in said])
    assert [item.confidence for item in differs] != [item["confidence"] for item in said]


@pytest.mark.parametrize("recipe", ["handbook", "tickets"])
def test_what_merging_would_change_is_told_for_tuned_strategies_only(whole_runs: Any, recipe: str) -> None:
    written = json.loads((whole_runs(recipe).folder / "comparison.json").read_text(encoding="utf-8"))
    tuned = {strategy.name for strategy in whole_runs(recipe).recipe.strategies if "tune" in strategy.label()}
    assert tuned >= {"lora"}
    told = {name: facts["merge"] for name, facts in written["strategies"].items() if facts["merge"] is not None}
    assert set(told) == tuned
    assert {facts["examples"] for facts in told.values()} == {whole_runs(recipe).recipe.limit}


@pytest.mark.parametrize("recipe", ["handbook", "tickets"])
def test_merging_is_measured_on_64_validation_examples(whole_runs: Any, recipe: str, tmp_path: Path) -> None:
    found = reopen(whole_runs(recipe).folder, load=lambda _: whole_runs(recipe).base)
    base, validation = found.system("zero_shot").model, found.prepared.task.validation
    told = []
    for name in [strategy.name for strategy in found.strategies if "tune" in strategy.label()]:
        path = tmp_path / f"{name}.json"
        report = merge_report(found.system(name), base, validation, path, Store(tmp_path / "store"), Meter())
        assert report == json.loads(path.read_text(encoding="utf-8"))
        assert report["examples"] == 64
        assert report["share"] == report["changed"] / 64
        told.append(report["changed"])
    assert 0 < max(told) <= 64  # in bf16, merging does change answers
