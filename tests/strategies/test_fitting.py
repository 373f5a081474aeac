"""Fitting: part by part through the Store; what changed is fitted again, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from toolkit.errors import RecipeError, RunError
from toolkit.inference import LocalModel, ScriptedModel
from toolkit.meter import Meter
from toolkit.rendering import Draft, Renderer
from toolkit.store import Store
from toolkit.strategies.adapter import Adapter, FitContext, Part, Responder
from toolkit.strategies.fitting import load
from toolkit.strategies.prompt import PromptAdapter
from toolkit.strategies.retrieve import RetrieveAdapter
from toolkit.tasks.output import Output
from toolkit.tasks.task import Task

SMALL = {"size_tokens": 16, "overlap_tokens": 0}


class Recorded(Adapter):
    """Counts its fits; saves what it fitted; tries three settings on validation."""

    answers: tuple[str, ...] = ("refund", "card", "top up")
    fits: ClassVar[list[str]] = []
    loads: ClassVar[list[str]] = []

    def fit(self, context: FitContext) -> Part:
        self.fits.append(str(context.folder))
        (context.folder / "work.txt").write_text("in progress", encoding="utf-8")
        best = max(self.answers, key=lambda answer: context.validate(Always(answer)))
        return Always(best)

    def load(self, folder: Path, context: FitContext) -> Part:
        self.loads.append(str(folder))
        return Always((folder / "answer.txt").read_text(encoding="utf-8"))


class Always(Part):
    def __init__(self, answer: str) -> None:
        self.answer = answer

    def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
        return [Output(draft.example.id, "answered", answer=self.answer, text=self.answer) for draft in drafts]

    def save(self, folder: Path) -> None:
        (folder / "answer.txt").write_text(self.answer, encoding="utf-8")


@pytest.fixture(autouse=True)
def _nothing_counted() -> None:
    Recorded.fits.clear()
    Recorded.loads.clear()


@pytest.fixture
def hosted(renderer: Renderer) -> ScriptedModel:
    return ScriptedModel(lambda prompt: "card", renderer=renderer)


@pytest.fixture
def events() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def meter(events: list[Any]) -> Meter:
    return Meter(lambda name, fields: events.append((name, dict(fields))))


def test_trials_on_validation_are_counted_and_written_down(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, meter: Meter, events: list[Any], tmp_path: Path
) -> None:
    bench = make_bench(choice_task, hosted, meter=meter)
    fitted = fit_on(bench, Recorded())
    assert fitted.trials == 3
    lines = (tmp_path / "system" / "1-recorded" / "trials.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"trial": n, "value": 0.25} for n in (1, 2, 3)]
    assert [fields["value"] for name, fields in events if name == "trial"] == [0.25] * 3
    again = fit_on(bench, Recorded(), folder="again")
    assert (again.trials, again.fit_seconds) == (3, fitted.fit_seconds)
    assert len(Recorded.fits) == 1
    assert fit_on(bench).trials == 0


def test_a_second_fit_loads_from_the_folder_or_the_store(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, tmp_path: Path
) -> None:
    bench = make_bench(choice_task, hosted)
    systems = [fit_on(bench, Recorded(), folder=folder).system for folder in ("one", "one", "two")]
    assert len(Recorded.fits) == 1
    assert [Path(folder).parent.name for folder in Recorded.loads] == ["one", "one", "two"]
    assert len({system.key for system in systems}) == 1
    assert len({repr(system.answer(choice_task.test)) for system in systems}) == 1
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["1-recorded"]
    about = json.loads((tmp_path / "one" / "1-recorded" / "part.json").read_text(encoding="utf-8"))
    assert about["settings"] == {"answers": ["refund", "card", "top up"]}


def test_a_damaged_store_entry_is_fitted_again(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, tmp_path: Path
) -> None:
    bench = make_bench(choice_task, hosted)
    fit_on(bench, Recorded(), folder="one")
    for path in (tmp_path / "store").rglob("answer.txt"):
        path.write_text("poison", encoding="utf-8")
    assert fit_on(bench, Recorded(), folder="two").system.answer(choice_task.test)[0].answer == "refund"
    assert len(Recorded.fits) == 2


class Refits(Adapter):
    """Without `load`; uses the work folder."""

    fits: ClassVar[list[int]] = []

    def fit(self, context: FitContext) -> Part:
        self.fits.append(1)
        (context.folder / "scratch").write_text("x", encoding="utf-8")
        context.validate(Part())
        return Part()


def test_an_adapter_without_load_is_fitted_once_the_first_time_and_again_where_it_was_stored(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, tmp_path: Path
) -> None:
    Refits.fits.clear()
    bench = make_bench(choice_task, hosted)
    assert fit_on(bench, Refits()).trials == 1
    assert len(Refits.fits) == 1
    assert fit_on(bench, Refits()).trials == 1
    assert fit_on(bench, Refits(), folder="other").trials == 1
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["1-refits"]


CHANGES: dict[str, Any] = {
    "settings": lambda bench: (bench, Recorded(answers=("card",))),
    "training data": lambda bench: (replace(bench, task=replace(bench.task, train=bench.task.train[:-1])), Recorded()),
    "model": lambda bench: (
        replace(bench, model=ScriptedModel(lambda p: "card", "another", bench.model.renderer)),
        Recorded(),
    ),
    "environment": lambda bench: (replace(bench, environment={"dtype": "bfloat16"}), Recorded()),
    "code": lambda bench: (replace(bench, versions={"code": "2"}), Recorded()),
    "template": lambda bench: (
        replace(bench, conditions=replace(bench.conditions, template=replace(bench.conditions.template, system="s"))),
        Recorded(),
    ),
    "answer_by": lambda bench: (
        replace(bench, conditions=replace(bench.conditions, answer_by="generation")),
        Recorded(),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_part_depends_on_makes_it_fit_again(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, change: str
) -> None:
    bench = make_bench(choice_task, hosted)
    first = fit_on(bench, Recorded())
    other, adapter = CHANGES[change](bench)
    second = fit_on(other, adapter)
    assert len(Recorded.fits) == 2
    assert second.system.key != first.system.key


def test_a_new_version_of_the_code_and_other_parts_before_fit_again(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(choice_task, hosted)
    fit_on(bench, Recorded(), folder="one")
    fit_on(bench, PromptAdapter(shots=1), Recorded(), folder="two")
    assert len(Recorded.fits) == 2
    monkeypatch.setattr(Recorded, "version", "2")
    fit_on(bench, Recorded(), folder="three")
    assert len(Recorded.fits) == 3


def test_the_seed_matters_to_seeded_adapters_only(choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any) -> None:
    class Seeded(Recorded):
        @property
        def seeded(self) -> bool:
            return True

    bench = make_bench(choice_task, hosted)
    for seed in (0, 1, None):
        fit_on(bench, Recorded(), seed=seed, folder=f"plain{seed}")
    assert len(Recorded.fits) == 1
    for seed in (0, 1, 0):
        fit_on(bench, Seeded(), seed=seed, folder=f"seeded{seed}")
    assert len(Recorded.fits) == 3


def fitted_parts(events: list[Any]) -> list[str]:
    return [fields["adapter"] for name, fields in events if name == "fit"]


def test_another_version_of_the_code_retrieves_and_indexes_again(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, meter: Meter, events: list[Any]
) -> None:
    bench = make_bench(text_task, tiny_model, meter=meter)
    for versions, folder in (({"code": "1"}, "one"), ({"code": "1"}, "same"), ({"code": "2"}, "two")):
        events.clear()
        fit_on(replace(bench, versions=versions), RetrieveAdapter(top_k=1, **SMALL), folder=folder)
        indexed = [name for name, _ in events if name == "index"]
        assert (fitted_parts(events), indexed) == (([], []) if folder == "same" else (["retrieve"], ["index"]))


def test_a_changed_corpus_fits_retrieval_again_and_nothing_before_it(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any, meter: Meter, events: list[Any]
) -> None:
    stack = PromptAdapter(shots=2), RetrieveAdapter(top_k=1, **SMALL)
    fit_on(make_bench(text_task, tiny_model, meter=meter), *stack)
    assert fitted_parts(events) == ["prompt", "retrieve"]
    events.clear()
    fit_on(make_bench(text_task, tiny_model, meter=meter), *stack, folder="same")
    assert fitted_parts(events) == []
    assert text_task.corpus is not None
    (text_task.corpus / "buoy.md").write_text("The lanternfish buoy weighs 41 kilograms.\n", encoding="utf-8")
    fit_on(make_bench(text_task, tiny_model, meter=meter), *stack, folder="changed")
    assert fitted_parts(events) == ["retrieve"]
    events.clear()
    fit_on(make_bench(text_task, tiny_model, meter=meter), stack[0], RetrieveAdapter(top_k=2, **SMALL), folder="k")
    assert fitted_parts(events) == ["retrieve"]
    assert [name for name, _ in events if name == "index"] == []


def test_a_part_in_the_run_folder_under_another_key_is_replaced(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any
) -> None:
    bench = make_bench(choice_task, hosted)
    assert fit_on(bench, Recorded()).system.answer(choice_task.test)[0].answer == "refund"
    assert fit_on(bench, Recorded(answers=("card",))).system.answer(choice_task.test)[0].answer == "card"


def test_a_fit_that_dies_leaves_its_work_and_no_part(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(choice_task, hosted)
    with monkeypatch.context() as patched:
        patched.setattr(Always, "save", lambda self, folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit_on(bench, Recorded())
    assert not (tmp_path / "system" / "1-recorded").exists()
    assert len(list((tmp_path / "system").glob(".1-recorded.work-*/work.txt"))) == 1
    fit_on(bench, Recorded())
    assert [path.name for path in (tmp_path / "system").iterdir()] == ["1-recorded"]


def test_fitting_cannot_see_the_test_split_by_type(choice_task: Task) -> None:
    seen = choice_task.without_test()
    assert not hasattr(seen, "test")
    assert type(seen).__name__ == "TrainingTask"
    assert seen.training_digest == choice_task.training_digest


def test_a_part_is_fitted_on_the_drafts_of_the_parts_before_it(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    seen: list[Draft] = []

    class Looks(Adapter):
        def fit(self, context: FitContext) -> Part:
            seen.extend(draft for _, draft in context.drafts("train"))
            seen.extend(draft for _, draft in context.drafts("validation"))
            return Part()

    fit_on(make_bench(text_task, tiny_model), RetrieveAdapter(top_k=2, **SMALL), Looks(), PromptAdapter(shots=1))
    assert [len(draft.passages) for draft in seen] == [2] * 4
    assert all(draft.demonstrations == () and draft.example.targets is None for draft in seen)


def test_another_strategy_must_be_named_by_uses(choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any) -> None:
    class Asks(Adapter):
        named: tuple[str, ...] = ()

        def uses(self) -> tuple[str, ...]:
            return self.named

        def fit(self, context: FitContext) -> Part:
            return Always(str(context.system("small").answer(context.task.validation)[0].text))

        def load(self, folder: Path, context: FitContext) -> Part:
            return Always((folder / "answer.txt").read_text(encoding="utf-8"))

    bench = make_bench(choice_task, hosted)
    small = fit_on(bench, folder="small").system
    with pytest.raises(RecipeError, match="'asks' asks for strategy 'small' without naming it in `uses`"):
        fit_on(bench, Asks(), systems={"small": small}.__getitem__)
    fitted = fit_on(bench, Asks(named=("small",)), systems={"small": small}.__getitem__)
    assert fitted.system.answer(choice_task.test)[0].answer == "card"
    other = fit_on(bench, PromptAdapter(shots=2), folder="other").system
    changed = fit_on(bench, Asks(named=("small",)), systems={"small": other}.__getitem__, folder="changed")
    assert changed.system.key != fitted.system.key


def test_an_embedder_is_asked_for_by_name(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    bench = make_bench(text_task, tiny_model, embedder=None)
    with pytest.raises(RecipeError, match="add `embedder: "):
        fit_on(bench, RetrieveAdapter(**SMALL))


def test_a_strategy_without_parts_is_the_model_itself(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any
) -> None:
    fitted = fit_on(make_bench(choice_task, hosted), seed=None)
    assert (fitted.facts, fitted.trials, fitted.fit_seconds) == ((), 0, 0.0)
    assert fitted.system.answer(choice_task.test)[0].answer == "card"


def test_a_finished_system_is_loaded_without_fitting_and_answers_the_same(
    choice_task: Task, hosted: Any, make_bench: Any, fit_on: Any, strategy_of: Any, tmp_path: Path
) -> None:
    bench, stack = make_bench(choice_task, hosted), (PromptAdapter(shots=2), Recorded())
    fitted = fit_on(bench, *stack).system
    elsewhere = make_bench(choice_task, hosted, store=Store(tmp_path / "empty"), environment={"dtype": "bfloat16"})
    again = load(strategy_of("stack", *stack), 0, elsewhere, tmp_path / "system", no_system)
    assert again.answer(choice_task.test) == fitted.answer(choice_task.test)
    assert len(Recorded.fits) == 1
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda place: (place / "answer.txt").write_text("poison", encoding="utf-8"), "missing or damaged"),
        (lambda place: (place / "part.json").unlink(), "missing or damaged"),
        (lambda place: place.rename(place.with_name("moved")), "missing or damaged"),
    ],
)
def test_a_finished_system_that_was_harmed_or_has_other_settings_is_refused(
    choice_task: Task,
    hosted: Any,
    make_bench: Any,
    fit_on: Any,
    strategy_of: Any,
    tmp_path: Path,
    harm: Any,
    reason: str,
) -> None:
    bench = make_bench(choice_task, hosted)
    fit_on(bench, Recorded())
    with pytest.raises(RunError, match="other settings"):
        load(strategy_of("stack", Recorded(answers=("card",))), 0, bench, tmp_path / "system", no_system)
    harm(tmp_path / "system" / "1-recorded")
    with pytest.raises(RunError, match=reason):
        load(strategy_of("stack", Recorded()), 0, bench, tmp_path / "system", no_system)
    assert fit_on(bench, Recorded()).system.answer(choice_task.test)[0].answer == "refund"


def no_system(name: str) -> Any:
    raise AssertionError(f"nobody uses {name}")
