"""prompt, retrieve, the controls and nearest_neighbour: what they show, and what they never show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from toolkit.errors import DataError, RecipeError
from toolkit.inference import LocalModel, ScriptedModel
from toolkit.meter import Meter
from toolkit.prompting import shows_itself
from toolkit.rendering import Renderer
from toolkit.retrieval import HashingEncoder, covered_share
from toolkit.strategies.controls import OracleAdapter, RandomPassagesAdapter
from toolkit.strategies.neighbours import NearestNeighbourAdapter
from toolkit.strategies.prompt import PromptAdapter
from toolkit.strategies.retrieve import RetrieveAdapter
from toolkit.strategies.strategy import NamedAdapter, Strategy, in_order_of_use
from toolkit.strategies.texts import question_of
from toolkit.tasks.example import Example
from toolkit.tasks.task import Task

SMALL = {"size_tokens": 16, "overlap_tokens": 0}


@pytest.fixture
def hosted(renderer: Renderer) -> ScriptedModel:
    return ScriptedModel(lambda prompt: "card", renderer=renderer)


@pytest.mark.parametrize("select", ["random", "balanced", "nearest"])
def test_training_drafts_never_show_an_example_its_own_id_content_or_group(
    choice_task: Task, hosted: ScriptedModel, make_bench: Any, fit_on: Any, select: str
) -> None:
    system = fit_on(make_bench(choice_task, hosted), PromptAdapter(shots=4, select=select)).system
    for example, draft in zip(choice_task.train, system.drafts(choice_task.train), strict=True):
        assert len(draft.demonstrations) == 4
        assert len({shown.id for shown in draft.demonstrations}) == 4
        assert not any(shows_itself(example, shown, False) for shown in draft.demonstrations)


def test_fixed_demonstrations_are_the_same_for_every_question_but_those_they_contain(
    choice_task: Task, hosted: ScriptedModel, make_bench: Any, fit_on: Any
) -> None:
    fitted = fit_on(make_bench(choice_task, hosted), PromptAdapter(shots=4))
    chosen = fitted.facts[0]["demonstrations"]
    for draft in fitted.system.drafts(choice_task.test):
        assert [shown.id for shown in draft.demonstrations] == chosen
    by_id = {example.id: example for example in choice_task.train}
    for name in chosen:
        (draft,) = fitted.system.drafts([by_id[name]])
        place = chosen.index(name)
        shown = [item.id for item in draft.demonstrations]
        assert shown[place] not in chosen
        assert shown[:place] + shown[place + 1 :] == chosen[:place] + chosen[place + 1 :]


def test_balanced_demonstrations_show_each_label_once(
    choice_task: Task, hosted: ScriptedModel, make_bench: Any, fit_on: Any
) -> None:
    system = fit_on(make_bench(choice_task, hosted), PromptAdapter(shots=4, select="balanced")).system
    (draft, *_) = system.drafts(choice_task.test)
    assert sorted(item.targets for item in draft.demonstrations) == sorted(
        (label,) for label in choice_task.contract.labels
    )


def test_nearest_demonstrations_end_with_the_most_alike(
    choice_task: Task, hosted: ScriptedModel, make_bench: Any, fit_on: Any
) -> None:
    from toolkit.retrieval import HashingEncoder

    encoder = HashingEncoder()
    system = fit_on(make_bench(choice_task, hosted), PromptAdapter(shots=3, select="nearest")).system
    pool = encoder.encode_queries([question_of(example) for example in choice_task.train])
    for example, draft in zip(choice_task.test, system.drafts(choice_task.test), strict=True):
        scores = pool @ encoder.encode_queries([question_of(example)])[0]
        by_id = {item.id: score for item, score in zip(choice_task.train, scores, strict=True)}
        shown = [by_id[item.id] for item in draft.demonstrations]
        assert shown == sorted(shown)
        assert shown == pytest.approx(sorted(scores)[-3:], abs=1e-6)


def test_seeds_change_random_demonstrations_and_not_the_nearest(
    choice_task: Task, hosted: ScriptedModel, make_bench: Any, fit_on: Any
) -> None:
    bench = make_bench(choice_task, hosted)
    shown = {}
    for select in ("random", "nearest"):
        for seed in (0, 1):
            system = fit_on(bench, PromptAdapter(shots=3, select=select), seed=seed, folder=f"{select}{seed}").system
            shown[select, seed] = [draft.demonstrations for draft in system.drafts(choice_task.test)]
    assert shown["random", 0] != shown["random", 1]
    assert shown["nearest", 0] == shown["nearest", 1]
    assert PromptAdapter().seeded
    assert not PromptAdapter(select="nearest").seeded
    assert not PromptAdapter(shots=0).seeded


def test_a_template_of_its_own_goes_with_the_strategy(
    choice_task: Task, hosted: ScriptedModel, make_bench: Any, fit_on: Any, tmp_path: Any
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nsystem: ''\npassages: ''\nuser: 'Said: {{ inputs.message }}'\n", encoding="utf-8")
    adapter = PromptAdapter(shots=1, template=str(path))
    (draft, *_) = fit_on(make_bench(choice_task, hosted), adapter).system.drafts(choice_task.test)
    assert draft.messages()[-1].content.startswith("Said: test question")
    assert draft.messages()[1].content.startswith("Said: ")
    before = adapter.content()
    path.write_text(path.read_text(encoding="utf-8").replace("Said", "They said"), encoding="utf-8")
    assert adapter.content() != before


def test_what_cannot_work_on_a_task_is_said_before_anything_is_computed(choice_task: Task, text_task: Task) -> None:
    assert PromptAdapter(shots=4).check(choice_task.without_test()) == []
    assert "train has 13" in PromptAdapter(shots=13).check(choice_task.without_test())[0]
    assert "4 labels" in PromptAdapter(shots=3, select="balanced").check(choice_task.without_test())[0]
    assert "choice task" in PromptAdapter(shots=2, select="balanced").check(text_task.without_test())[0]
    assert "no corpus" in RetrieveAdapter().check(choice_task.without_test())[0]
    assert "choice task" in NearestNeighbourAdapter().check(text_task.without_test())[0]
    with pytest.raises(ValidationError):
        PromptAdapter.model_validate({"shots": -1})


def test_retrieval_shows_the_nearest_passages_best_first(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    fitted = fit_on(make_bench(text_task, tiny_model), RetrieveAdapter(top_k=3, **SMALL))
    outputs = fitted.system.answer(text_task.test[:2])
    for example, output in zip(text_task.test, outputs, strict=False):
        assert output.retrieved[0].document == example.id
        assert [item.rank for item in output.retrieved] == [1, 2, 3]
        scores = [item.score for item in output.retrieved]
        assert scores == sorted(scores, reverse=True)
        assert output.usage.prompt_tokens["passages"] > 0
    assert fitted.facts[0]["chunks"] >= 6
    assert fitted.facts[0]["index_bytes"] > 0


def test_the_oracle_shows_the_gold_passage_first_and_as_many_as_retrieval(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    # A question that shares no word with its own document: only the spans can lead there.
    far = replace(text_task.test[0], inputs={"question": "battery store seven opens gate"})
    bench = make_bench(text_task, tiny_model)
    found = fit_on(bench, RetrieveAdapter(top_k=2, **SMALL), folder="r").system.answer([far])[0].retrieved
    gold = fit_on(bench, OracleAdapter(top_k=2, **SMALL), folder="o").system.answer([far])[0].retrieved
    assert found[0].document != "buoy"
    assert gold[0].document == "buoy"
    assert covered_share([(gold[0].document, gold[0].start, gold[0].end)], _span(far)) == 1
    assert gold[1].document == found[0].document
    assert len(gold) == len(found)
    assert [item.rank for item in gold] == [1, 2]


def test_the_oracle_shows_all_chunks_that_a_long_span_lies_in(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    assert text_task.corpus is not None
    text = " ".join(f"word{number}" for number in range(40))
    (text_task.corpus / "long.txt").write_text(text, encoding="utf-8")
    start, end = text.index("word12"), text.index("word35")
    span = replace(text_task.test[0].spans[0], document="long", start=start, end=end)
    example = replace(text_task.test[0], spans=(span,))
    oracle = fit_on(make_bench(text_task, tiny_model), OracleAdapter(top_k=4, **SMALL)).system
    found = [(item.document, item.start, item.end) for item in oracle.answer([example])[0].retrieved]
    assert covered_share(found[:1], ("long", start, end)) < 1
    assert covered_share([place for place in found if place[0] == "long"], ("long", start, end)) > 0.95
    assert {place[0] for place in found[:3]} == {"long"}


def test_questions_longer_than_the_embedder_reads_are_told(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    class Narrow(HashingEncoder):
        max_tokens = 40

    told: list[str] = []

    def listener(name: str, fields: Any) -> None:
        if name == "notice":
            told.append(fields["text"])

    long = replace(text_task.train[0], inputs={"question": "why " * 50})
    for train, expected in (((long, *text_task.train[1:]), 1), (text_task.train, 0)):
        task = replace(text_task, train=train)
        bench = make_bench(task, tiny_model, embedder=Narrow, meter=Meter(listener))
        fit_on(bench, RetrieveAdapter(top_k=2, **SMALL))
        assert len(told) == expected
        questions = len(task.train) + len(task.validation)
        told = [text for text in told if not text.startswith(f"1 of {questions} questions are longer than the 40 tok")]
        assert told == []


def test_the_oracle_never_passes_another_passage_off_as_gold(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    bench = make_bench(text_task, tiny_model)
    lost = replace(text_task.test[0], spans=(replace(text_task.test[0].spans[0], document="no such document"),))
    with pytest.raises(DataError, match="no such document"):
        fit_on(bench, OracleAdapter(top_k=2, **SMALL)).system.answer([lost])


def test_an_oracle_without_spans_is_plain_retrieval(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    bench, example = make_bench(text_task, tiny_model), text_task.test[2]
    found = fit_on(bench, RetrieveAdapter(top_k=2, **SMALL), folder="r").system.answer([example])[0].retrieved
    assert fit_on(bench, OracleAdapter(top_k=2, **SMALL), folder="o").system.answer([example])[0].retrieved == found


def test_random_passages_follow_the_seed_and_the_example_not_the_question_or_company(
    text_task: Task, tiny_model: LocalModel, make_bench: Any, fit_on: Any
) -> None:
    bench, adapter = make_bench(text_task, tiny_model), RandomPassagesAdapter(top_k=3, **SMALL)
    first, other = (fit_on(bench, adapter, seed=seed, folder=f"{seed}").system for seed in (0, 1))

    def drawn(system: Any, examples: Any) -> list[Any]:
        return [[(item.document, item.start) for item in output.retrieved] for output in system.answer(examples)]

    together = drawn(first, text_task.test)
    assert drawn(first, text_task.test[::-1]) == together[::-1]
    assert drawn(first, text_task.test[1:2]) == together[1:2]
    assert drawn(other, text_task.test) != together
    assert all(len(set(row)) == 3 for row in together)
    assert adapter.seeded


def test_the_nearest_neighbour_answers_without_the_model(
    choice_task: Task, make_bench: Any, fit_on: Any, renderer: Renderer
) -> None:
    def refuse(prompt: Any) -> str:
        raise AssertionError("the model was asked")

    bench = make_bench(choice_task, ScriptedModel(refuse, renderer=renderer))
    system = fit_on(bench, NearestNeighbourAdapter(neighbours=3)).system
    outputs = system.answer(choice_task.test)
    assert [output.answer for output in outputs] == [example.targets[0] for example in choice_task.test]
    assert all(0 < (output.confidence or 0) <= 1 for output in outputs)
    assert all(len(output.trace) == 3 for output in outputs)


def test_the_nearest_neighbour_of_a_training_example_is_another_one(
    choice_task: Task, hosted: ScriptedModel, make_bench: Any, fit_on: Any
) -> None:
    system = fit_on(make_bench(choice_task, hosted), NearestNeighbourAdapter()).system
    by_id = {example.id: example for example in choice_task.train}
    for example, output in zip(choice_task.train, system.answer(choice_task.train), strict=True):
        assert not shows_itself(example, by_id[output.trace[0]], False)


def test_controls_are_named_as_such() -> None:
    for adapter in (OracleAdapter(), RandomPassagesAdapter(), NearestNeighbourAdapter()):
        assert Strategy("s", (NamedAdapter("x", adapter),)).control
    assert not Strategy("s", (NamedAdapter("x", RetrieveAdapter()), NamedAdapter("y", PromptAdapter()))).control


class Uses(PromptAdapter):
    names: tuple[str, ...]

    def uses(self) -> tuple[str, ...]:
        return self.names


def using(name: str, *names: str) -> Strategy:
    return Strategy(name, (NamedAdapter("uses", Uses(names=names)),))


def test_strategies_come_after_those_they_use_and_keep_their_order_otherwise() -> None:
    a, b, c, d = using("a", "c"), using("b"), using("c", "d", "b"), using("d")
    assert [item.name for item in in_order_of_use([a, b, c, d])] == ["d", "b", "c", "a"]
    assert [item.name for item in in_order_of_use([b, d, using("e")])] == ["b", "d", "e"]


def test_circles_and_missing_names_are_recipe_errors() -> None:
    with pytest.raises(RecipeError, match="circle: a -> b -> c -> a"):
        in_order_of_use([using("a", "b"), using("b", "c"), using("c", "a")])
    with pytest.raises(RecipeError, match="circle: a -> a"):
        in_order_of_use([using("a", "a")])
    with pytest.raises(RecipeError, match=r"'a' uses 'smal', which is not there.*did you mean 'small'"):
        in_order_of_use([using("a", "smal"), using("small")])


def test_the_question_is_all_inputs_in_their_order() -> None:
    assert question_of(Example("a", {"q": "Why?", "year": 2030, "tags": ["x"]})) == "Why?\n2030\n['x']"


def _span(example: Example) -> tuple[str, int, int]:
    span = example.spans[0]
    return span.document, span.start, span.end
