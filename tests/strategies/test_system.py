"""System: one output an example, in order, blind to targets; parts extend and wrap in the order of the stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from toolkit.errors import FairnessError, OverLengthError, RecipeError
from toolkit.inference import LocalModel, Sampling, ScriptedModel, Weights
from toolkit.rendering import Draft, Passage, Prompt, Renderer
from toolkit.strategies.adapter import Adapter, Part, Responder
from toolkit.strategies.strategy import NamedAdapter, Strategy
from toolkit.strategies.system import Conditions, Likelihood, System
from toolkit.tasks.contract import TextContract
from toolkit.tasks.example import Example, Span
from toolkit.tasks.messages import Message
from toolkit.tasks.output import Output
from toolkit.tasks.task import Task

PLAIN = Strategy("plain", ())


class Control(Adapter):
    control = True


CONTROL = Strategy("oracle", (NamedAdapter("control", Control()),))


class Shows(Part):
    """Shows fixed demonstrations and passages; notes what it saw."""

    def __init__(self, demonstrations: Sequence[Example] = (), passages: Sequence[Passage] = ()) -> None:
        self.demonstrations, self.passages = demonstrations, passages
        self.seen: list[Example] = []

    def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
        self.seen += [draft.example for draft in drafts]
        return [draft.with_demonstrations(self.demonstrations).with_passages(self.passages) for draft in drafts]


class Says(Part):
    """Signs outputs on the way out."""

    def __init__(self, name: str) -> None:
        self.name = name

    def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
        return [replace(output, trace=(*output.trace, self.name)) for output in answer(drafts)]


@pytest.fixture
def system(text_task: Task, template: Any, tiny_model: LocalModel) -> Callable[..., System]:
    def make(*parts: Part, strategy: Strategy = PLAIN, model: Any = tiny_model, **changes: Any) -> System:
        conditions = Conditions(template, text_task.contract, "generation", Sampling(6))
        return System(strategy, parts, model, replace(conditions, **changes))

    return make


def scripted(reply: Callable[[str], str], **settings: Any) -> ScriptedModel:
    return ScriptedModel(lambda prompt: reply(prompt.messages[-1].content), **settings)


def test_answers_are_read_by_the_contract(system: Callable[..., System], text_task: Task) -> None:
    said = {"buoy": "40 kilograms\nand more", "tide": "I do not know.", "fence": "  "}
    model = scripted(lambda text: next(answer for word, answer in said.items() if word in text))
    outputs = system(model=model).answer(text_task.test)
    assert [(output.status, output.answer) for output in outputs] == [
        ("answered", "40 kilograms"), ("abstained", None), ("unparsable", None)
    ]  # fmt: skip
    assert [output.example_id for output in outputs] == [example.id for example in text_task.test]


def test_answering_without_targets_and_spans_gives_the_same_bytes(
    system: Callable[..., System], text_task: Task
) -> None:
    part = Shows()
    answering = system(part)
    labelled = answering.answer(text_task.test)
    bare = [example.unlabelled() for example in text_task.test]
    assert answering.answer(bare) == labelled
    assert repr(answering.answer(bare)).encode() == repr(labelled).encode()
    assert all(example.targets is None and example.spans == () and example.rejected == () for example in part.seen)


def test_only_controls_see_gold_spans_and_not_even_they_see_targets(
    system: Callable[..., System], text_task: Task
) -> None:
    part = Shows()
    system(part, strategy=CONTROL).answer(text_task.test)
    assert [example.spans for example in part.seen] == [example.spans for example in text_task.test]
    assert all(example.targets is None for example in part.seen)


def test_training_drafts_are_blind_as_well(system: Callable[..., System], text_task: Task) -> None:
    part = Shows()
    drafts = system(part).drafts(text_task.train)
    assert [draft.example for draft in drafts] == [example.unlabelled() for example in text_task.train]


@pytest.mark.parametrize(
    "planted",
    [
        Example("buoy", {"question": "another"}, ("x",)),
        Example("other", {"question": "What does the buoy weigh?"}, ("40 kilograms",)),
        Example("other", {"question": "another"}, ("x",), group="buoy"),
    ],
    ids=["its id", "its content", "its group"],
)
def test_a_part_that_shows_an_example_to_itself_is_refused(
    system: Callable[..., System], text_task: Task, planted: Example
) -> None:
    bad = system(Shows([planted]))
    for road in (bad.answer, bad.drafts):
        with pytest.raises(FairnessError, match=f"'plain' shows example 'buoy' .*{planted.id}"):
            road(text_task.test)


def test_a_shared_group_may_be_shown_where_the_task_says_so(system: Callable[..., System], text_task: Task) -> None:
    shown = Example("other", {"question": "another"}, ("x",), group="buoy")
    assert len(system(Shows([shown]), shared_groups=True).answer(text_task.test)) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda outputs: outputs[:-1],
        lambda outputs: outputs[::-1],
        lambda outputs: [*outputs, outputs[-1]],
        lambda outputs: [outputs[0], outputs[0], outputs[2]],
        lambda outputs: [],
    ],
    ids=["dropped", "reversed", "twice", "repeated", "none"],
)
def test_a_part_that_does_not_give_one_output_a_draft_in_order_is_refused(
    system: Callable[..., System], text_task: Task, spoil: Any
) -> None:
    class Spoils(Part):
        def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
            return spoil(answer(drafts))

    with pytest.raises(FairnessError, match="exactly one output a draft, in order"):
        system(Spoils()).answer(text_task.test)


@pytest.mark.parametrize(
    "spoil", [lambda drafts: drafts[:-1], lambda drafts: drafts[::-1]], ids=["dropped", "reversed"]
)
def test_a_part_that_does_not_give_one_draft_an_example_in_order_is_refused(
    system: Callable[..., System], text_task: Task, spoil: Any
) -> None:
    class Spoils(Part):
        def extend(self, drafts: Sequence[Draft]) -> list[Draft]:
            return spoil(list(drafts))

    with pytest.raises(FairnessError, match="exactly one draft an example, in order"):
        system(Spoils()).answer(text_task.test)


def test_parts_extend_in_order_and_a_later_part_wraps_an_earlier_one(
    system: Callable[..., System], text_task: Task
) -> None:
    first, second = (Passage("a", 0, 1, "a", rank=1),), (Passage("b", 0, 1, "b", rank=2),)
    (draft, *_) = system(Shows(passages=first), Shows(passages=second)).drafts(text_task.test)
    assert draft.passages == (*first, *second)
    (output, *_) = system(Says("inner"), Says("outer")).answer(text_task.test)
    assert output.trace == ("inner", "outer")


def test_a_stack_takes_one_part_with_weights_at_most(system: Callable[..., System], tmp_path: Any) -> None:
    class Tuned(Part):
        weights = Weights(tmp_path, "digest")

    with pytest.raises(RecipeError, match="two parts offer weights"):
        system(Tuned(), Says("x"), Tuned())


def test_a_stack_with_weights_answers_under_them(
    system: Callable[..., System], tiny_model: LocalModel, tmp_path: Any
) -> None:
    class Tuned(Part):
        weights = Weights(tmp_path, "digest")

    asked = []

    class Adapts(ScriptedModel):
        def adapted(self, weights: Weights, merged: bool = False) -> Any:
            asked.append((weights, merged))
            return tiny_model

    tuned = system(Tuned(), model=Adapts(lambda prompt: ""))
    assert tuned.weights is not None
    assert tuned.model is tiny_model
    assert asked == [(Tuned.weights, False)]
    assert system().weights is None


def test_likelihood_picks_the_best_choice_and_says_how_sure(
    choice_task: Task, template: Any, tiny_model: LocalModel
) -> None:
    conditions = Conditions(template, choice_task.contract, "likelihood")
    outputs = System(PLAIN, [], tiny_model, conditions).answer(choice_task.test)
    for output in outputs:
        scores = output.choice_scores
        assert scores is not None
        best = max(range(4), key=lambda place: scores[place])
        assert output.answer == output.text == choice_task.contract.labels[best]
        assert output.termination == "scored"
        import math

        assert output.confidence == pytest.approx(math.exp(scores[best]) / sum(map(math.exp, scores)))
        assert output.usage.completion_tokens == sum(
            len(ids) for ids in tiny_model.renderer.continuations(choice_task.contract.labels)
        )


def test_a_chunks_prompts_and_choices_are_tokenised_once(
    choice_task: Task, template: Any, tiny_model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer(tiny_model.renderer.tokenizer)
    model = LocalModel(tiny_model.module, renderer, "tiny", "", tiny_model.context_tokens)
    shown = Shows(choice_task.train[:2])
    conditions = Conditions(template, choice_task.contract, "likelihood", Sampling(8))
    asked, chat = [], renderer.chat
    assert chat is not None
    monkeypatch.setattr(chat, "_ids", lambda piece, ids=chat._ids: asked.append(piece) or ids(piece))
    examples = [replace(example, id=f"{example.id} {n}") for n in range(3) for example in choice_task.test]
    System(PLAIN, [shown], model, conditions).answer(examples)
    with_and_without = 2 * len({str(example.inputs) for example in examples})
    assert len(asked) == with_and_without + len(choice_task.contract.labels)
    assert len(set(asked)) == len(asked)


def test_an_examples_own_choices_are_scored_in_their_order(
    choice_task: Task, template: Any, tiny_model: LocalModel
) -> None:
    system = System(PLAIN, [], tiny_model, Conditions(template, choice_task.contract, "likelihood"))
    (whole,) = system.answer(choice_task.test[:1])
    (some,) = system.answer([replace(choice_task.test[0], choices=("top up", "card"))])
    assert whole.choice_scores is not None
    assert some.choice_scores == pytest.approx((whole.choice_scores[3], whole.choice_scores[1]), abs=1e-4)
    assert some.answer in ("top up", "card")


def scores_by(task: Task, template: Any, model: LocalModel, likelihood: Likelihood) -> list[tuple[float, ...]]:
    conditions = Conditions(template, task.contract, "likelihood", likelihood=likelihood)
    return [output.choice_scores or () for output in System(PLAIN, [], model, conditions).answer(task.test)]


def test_likelihoods_by_token_and_by_byte(choice_task: Task, template: Any, tiny_model: LocalModel) -> None:
    labels = choice_task.contract.labels
    sums = scores_by(choice_task, template, tiny_model, Likelihood())
    tokens = [len(ids) for ids in tiny_model.renderer.continuations(labels)]
    for found, row in zip(scores_by(choice_task, template, tiny_model, Likelihood("tokens")), sums, strict=True):
        assert found == pytest.approx([score / size for score, size in zip(row, tokens, strict=True)])
    for found, row in zip(scores_by(choice_task, template, tiny_model, Likelihood("bytes")), sums, strict=True):
        assert found == pytest.approx([score / len(label) for score, label in zip(row, labels, strict=True)])


def test_the_unconditional_likelihood_is_that_of_the_same_prompt_about_nothing(
    choice_task: Task, template: Any, tiny_model: LocalModel
) -> None:
    blank = Example("blank", dict.fromkeys(choice_task.test[0].inputs, "N/A"))
    conditions = Conditions(template, choice_task.contract, "likelihood")
    (anyway,) = System(PLAIN, [], tiny_model, conditions).answer([blank])
    sums = scores_by(choice_task, template, tiny_model, Likelihood())
    corrected = scores_by(choice_task, template, tiny_model, Likelihood(correct="unconditional"))
    for found, row in zip(corrected, sums, strict=True):
        assert found == pytest.approx([a - b for a, b in zip(row, anyway.choice_scores or (), strict=True)], abs=1e-4)
    conditions = replace(conditions, likelihood=Likelihood(correct="unconditional"))
    (paid,) = System(PLAIN, [], tiny_model, conditions).answer(choice_task.test[:1])
    assert paid.usage.calls == 2
    assert paid.usage.completion_tokens == 2 * anyway.usage.completion_tokens


def test_an_input_with_a_shape_keeps_it_when_it_is_blanked(choice_task: Task, template: Any) -> None:
    inputs = {"row": {"name": "x", "tags": ["a", "b"]}, "note": "text"}
    blank = Draft(Example("shaped", inputs), template, choice_task.contract).content_free()
    assert blank.example.inputs == {"row": {"name": "N/A", "tags": ["N/A", "N/A"]}, "note": "N/A"}


def test_the_margin_is_between_the_best_two_choices() -> None:
    assert Output("a", "answered", choice_scores=(-3.0, -1.0, -1.5)).margin == 0.5
    assert Output("a", "answered", choice_scores=(-3.0,)).margin is None
    assert Output("a", "answered").margin is None


def test_samples_stand_in_the_output_and_are_all_paid_for(
    text_task: Task, template: Any, tiny_model: LocalModel
) -> None:
    sampling = Sampling(6, temperature=1.0, samples=3, seed=1)
    conditions = Conditions(template, text_task.contract, "generation", sampling)
    for output in System(PLAIN, [], tiny_model, conditions).answer(text_task.test):
        assert len(output.samples) == 3
        assert output.samples[0] == output.text
        assert output.usage.calls == 3
    prompt = tiny_model.renderer.prompt(Draft(text_task.test[0], template, text_task.contract))
    (drawn,) = tiny_model.generate([prompt], sampling)
    tokens = sum(len(one.token_ids) for one in (drawn, *drawn.alternatives))
    assert System(PLAIN, [], tiny_model, conditions).answer(text_task.test[:1])[0].usage.completion_tokens == tokens


def short_of(renderer: Renderer, tokens: int) -> ScriptedModel:
    return ScriptedModel(lambda prompt: "x", renderer=renderer, context_tokens=tokens)


def test_over_long_examples_stop_or_become_error_outputs_in_their_places(
    system: Callable[..., System], renderer: Renderer, text_task: Task
) -> None:
    long = Example("long", {"question": "word " * 200}, ("x",))
    examples = [text_task.test[0], long, text_task.test[1], long]
    model = short_of(renderer, 200)
    with pytest.raises(OverLengthError, match="example 'long'"):
        system(model=model).answer(examples)
    outputs = system(model=model, over_length="score_as_error").answer(examples)
    assert [output.status for output in outputs] == ["answered", "error", "answered", "error"]
    assert [output.example_id for output in outputs] == ["buoy", "long", "gauge", "long"]
    assert "leaves 194 for the prompt" in outputs[1].error


def test_dropped_passages_are_on_the_output_as_unused(
    system: Callable[..., System], renderer: Renderer, text_task: Task
) -> None:
    passages = [Passage(f"d{rank}", 0, 9, "some words " * 5, 0.5, rank) for rank in (1, 2, 3)]
    (whole,) = system(Shows(passages=passages), model=short_of(renderer, 2000)).answer(text_task.test[:1])
    assert [item.used for item in whole.retrieved] == [True] * 3
    assert whole.prompt_token_ids is not None
    (cut,) = system(Shows(passages=passages), model=short_of(renderer, len(whole.prompt_token_ids))).answer(
        text_task.test[:1]
    )
    assert [(item.document, item.rank, item.used) for item in cut.retrieved] == [
        ("d1", 1, True),
        ("d2", 2, True),
        ("d3", 3, False),
    ]
    assert cut.prompt_token_ids is not None
    assert len(cut.prompt_token_ids) <= len(whole.prompt_token_ids) - 6


def test_room_is_left_for_the_answer_by_cap_or_by_the_longest_choice(
    choice_task: Task, template: Any, renderer: Renderer
) -> None:
    example = choice_task.test[0].unlabelled()
    size = renderer.length(Draft(example, template, choice_task.contract))
    longest = max(len(ids) for ids in renderer.continuations(choice_task.contract.labels))
    for answer_by, room in (("likelihood", longest), ("generation", 7)):
        conditions = Conditions(template, choice_task.contract, answer_by, Sampling(7))
        assert len(System(PLAIN, [], short_of(renderer, size + room), conditions).answer([example])) == 1
        with pytest.raises(OverLengthError):
            System(PLAIN, [], short_of(renderer, size + room - 1), conditions).answer([example])


class AddsTurns(Part):
    def respond(self, drafts: Sequence[Draft], answer: Responder) -> list[Output]:
        answer(drafts)
        return answer(
            [draft.with_turns([Message("assistant", "CALL"), Message("user", "word " * 30)]) for draft in drafts]
        )


def test_turns_added_while_responding_are_fitted_to_the_context_too(
    system: Callable[..., System], renderer: Renderer, text_task: Task
) -> None:
    lengths = []

    def note(prompt: Prompt) -> str:
        lengths.append(len(prompt.token_ids or ()))
        return "x"

    passages = [Passage("d", 0, 9, "some words " * 10)]
    parts = Shows(passages=passages), AddsTurns()
    roomy = ScriptedModel(note, renderer=renderer, context_tokens=5000)
    system(*parts, model=roomy).answer(text_task.test[:1])
    once, twice = lengths
    tight = ScriptedModel(note, renderer=renderer, context_tokens=twice + 5)
    (output,) = system(*parts, model=tight).answer(text_task.test[:1])
    assert [item.used for item in output.retrieved] == [False]
    assert lengths[-2] == once
    assert lengths[-1] <= twice - 1
    tiny = ScriptedModel(note, renderer=renderer, context_tokens=once + 6)
    with pytest.raises(OverLengthError):
        system(*parts, model=tiny).answer(text_task.test[:1])
    (failed,) = system(*parts, model=tiny, over_length="score_as_error").answer(text_task.test[:1])
    assert failed.status == "error"


def test_the_exact_ids_sent_are_on_the_output(
    system: Callable[..., System], renderer: Renderer, text_task: Task, template: Any
) -> None:
    outputs = system().answer(text_task.test)
    for example, output in zip(text_task.test, outputs, strict=True):
        prompt = renderer.prompt(Draft(example.unlabelled(), template, text_task.contract))
        assert (output.prompt_token_ids, output.prompt_digest) == (prompt.token_ids, prompt.digest)
        assert output.usage.prompt_tokens == prompt.tokens_by_origin
        assert output.usage.completion_tokens == len(output.token_ids)


def test_spans_and_rejected_answers_are_stripped_with_the_targets() -> None:
    example = Example("a", {}, ("x",), spans=(Span("d", 0, 1),), rejected=("y",), group="g", slices=("s",))
    assert example.unlabelled() == Example("a", {}, group="g")
    assert example.unlabelled(keep_spans=True).spans == example.spans
    assert TextContract().kind == "text"
