"""Every metric against hand-computed values: what is right, what scores the worst value, what is absent."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from toolkit.errors import DataError
from toolkit.evaluation import METRICS, metrics_for, primary_value, score_outputs
from toolkit.tasks.contract import ChoiceContract, JsonContract, TextContract
from toolkit.tasks.example import Example, Span
from toolkit.tasks.output import Output, RetrievedPassage, Usage

LABELS = ("card", "cash", "loan")
CHOICE = ChoiceContract(LABELS, abstention="none of these")
TEXT = TextContract(abstention="I do not know")
JSON = JsonContract()
ANSWER_METRICS = [
    ("accuracy", CHOICE, "card"),
    ("macro_f1", CHOICE, "card"),
    ("exact_match", TEXT, "Paris"),
    ("exact_match", JSON, {"a": 1}),
    ("token_f1", TEXT, "Paris"),
    ("contains", TEXT, "Paris"),
    ("answered_contains", TEXT, "Paris"),
    ("answerable_f1", TEXT, "Paris"),
    ("abstention_precision", TEXT, "Paris"),
    ("abstention_recall", TEXT, "Paris"),
]


def example(*targets, spans=(), name="e"):
    return Example(name, {"question": "?"}, targets=targets, spans=spans)


def said(answer, text=None, name="e", **more):
    return Output(name, "answered", answer=answer, text=str(answer) if text is None else text, **more)


def failed(status, name="e"):
    return Output(name, status, text="" if status == "error" else "Paris?!")


ABSTAINED = Output("e", "abstained", text="I do not know")
UNKNOWN = Example("e", {"question": "?"})


def value(metric, item, output, contract):
    assert METRICS[metric].applies(item, output, contract)
    return METRICS[metric].score(item, output, contract).value


def figure(metric, items, outputs, contract):
    return primary_value(items, outputs, METRICS[metric], contract)


def test_a_choice_is_right_when_it_is_any_target():
    assert value("accuracy", example("card", "cash"), said("cash"), CHOICE) == 1
    assert value("accuracy", example("card", "cash"), said("loan"), CHOICE) == 0
    assert value("accuracy", example("card"), ABSTAINED, CHOICE) == 0
    assert value("accuracy", example(), ABSTAINED, CHOICE) == 1
    assert value("accuracy", example(), said("card"), CHOICE) == 0


def test_exact_match_is_of_normalised_text():
    assert value("exact_match", example("London", "The Hague"), said("the hague."), TEXT) == 1
    assert value("exact_match", example("The Hague"), said("Hague city"), TEXT) == 0
    assert value("exact_match", example("“Paris”"), said("Paris"), TEXT) == 1
    assert value("exact_match", example("A"), said("B"), TEXT) == 0
    assert value("exact_match", example("A"), said("The"), TEXT) == 0
    assert value("exact_match", example(), ABSTAINED, TEXT) == 1
    assert value("exact_match", example(), said("Paris"), TEXT) == 0
    assert value("exact_match", example("Paris"), ABSTAINED, TEXT) == 0


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ({"a": [1, 2], "b": None}, {"b": None, "a": [1, 2]}, 1),
        ({"a": 1}, {"a": 1.0}, 1),
        ({"a": 1}, {"a": True}, 0),
        ([0], [False], 0),
        ([1, 2], [2, 1], 0),
        ([1], [1, 2], 0),
        ({"a": 1}, {"a": 1, "b": 2}, 0),
        ("The a", "the a", 0),
        (None, None, 1),
        (None, False, 0),
    ],
)
def test_exact_match_of_json_is_equality_of_values(answer, target, right):
    assert value("exact_match", example("other", target), said(answer), JSON) == right


def test_token_f1_takes_the_best_target():
    item = example("Lyon", "the city of Paris")
    assert value("token_f1", item, said("Paris city"), TEXT) == pytest.approx(4 / 5)
    assert value("token_f1", item, said("lyon!"), TEXT) == 1
    assert value("token_f1", item, ABSTAINED, TEXT) == 0
    assert value("token_f1", example(), ABSTAINED, TEXT) == 1
    assert value("token_f1", example(), said("Paris"), TEXT) == 0


def test_containment_reads_all_the_model_said():
    item = example("New York")
    assert value("contains", item, said("Well", text="Well\nit is the new york, I think"), TEXT) == 1
    assert value("contains", item, said("Well", text="Well\nit is York"), TEXT) == 0
    assert value("contains", item, said("in New York", text=""), TEXT) == 1
    assert value("contains", item, Output("e", "abstained", text="I do not know\nNew York"), TEXT) == 0
    assert value("contains", example(), ABSTAINED, TEXT) == 1
    assert value("contains", example(), said("New York"), TEXT) == 0


@pytest.mark.parametrize("name", ["answered_contains", "answerable_f1"])
def test_answerable_variants_leave_out_what_has_no_answer(name):
    assert value(name, example("Paris"), said("Paris"), TEXT) == 1
    assert value(name, example("Paris"), ABSTAINED, TEXT) == 0
    assert not METRICS[name].applies(example(), ABSTAINED, TEXT)
    assert not METRICS[name].applies(UNKNOWN, said("Paris"), TEXT)


@pytest.mark.parametrize(("name", "contract", "answer"), ANSWER_METRICS)
@pytest.mark.parametrize("status", ["error", "unparsable"])
def test_errors_and_unparsable_answers_score_the_worst_value(name, contract, answer, status):
    metric = METRICS[name]
    scored = metric.score(example(answer), failed(status), contract)
    assert scored.value == metric.worst == 0
    if metric.is_mean:
        assert scored.statistics == (0, 1)
    if not name.startswith("answer"):
        assert metric.score(example(), failed(status), contract).value == 0


@pytest.mark.parametrize(("name", "contract", "answer"), ANSWER_METRICS)
def test_metrics_of_answers_are_absent_where_targets_are_unknown(name, contract, answer):
    assert not METRICS[name].applies(UNKNOWN, said(answer), contract)
    assert not METRICS[name].applies(UNKNOWN, failed("error"), contract)


def abstention_case():
    """Of 6: 2 right abstentions, 1 wrong, 1 missed, 1 unanswerable in error, 1 right answer."""
    items = [Example(str(place), {"q": ""}, targets=()) for place in range(4)]
    items += [Example(str(place), {"q": ""}, targets=("Paris",)) for place in range(4, 6)]
    outputs = [Output("0", "abstained"), Output("1", "abstained"), said("Paris", name="2"), failed("error", "3")]
    return items, [*outputs, Output("4", "abstained"), said("Paris", name="5")]


def test_abstention_precision_and_recall():
    items, outputs = abstention_case()
    assert figure("abstention_precision", items, outputs, TEXT) == pytest.approx(2 / 3)
    assert figure("abstention_recall", items, outputs, TEXT) == pytest.approx(2 / 4)
    pairs = list(zip(items, outputs, strict=True))
    assert [value("abstention_precision", *pair, TEXT) for pair in pairs] == [1, 1, 0, 0, 0, 1]
    assert [METRICS["abstention_recall"].score(*pair, TEXT).statistics for pair in pairs] == [
        *[(1, 1)] * 2,
        *[(0, 1)] * 2,
        *[(0, 0)] * 2,
    ]


def test_abstention_figures_without_a_denominator_are_the_worst_value():
    assert figure("abstention_precision", [example("Paris")], [said("Paris")], TEXT) == 0
    assert figure("abstention_recall", [example("Paris")], [said("Paris")], TEXT) == 0


def test_abstention_is_measured_only_where_the_task_can_abstain():
    assert not METRICS["abstention_recall"].applies(example("Paris"), said("Paris"), TextContract())


def test_json_validity_and_parsed_need_no_target():
    for name in ("json_validity", "parsed"):
        assert value(name, UNKNOWN, said({}), JSON) == 1
        assert value(name, UNKNOWN, failed("unparsable"), JSON) == 0
        assert value(name, UNKNOWN, failed("error"), JSON) == 0
    assert value("json_validity", UNKNOWN, ABSTAINED, JSON) == 0
    assert value("parsed", UNKNOWN, ABSTAINED, TEXT) == 1


def passage(document, start, end, rank, used=True):
    return RetrievedPassage(document, start, end, 1.0 / (rank + 1), rank, used)


def test_retrieval_is_measured_over_all_passages_by_rank():
    item = example("x", spans=(Span("d", 10, 20), Span("e", 0, 5)))
    found = (passage("d", 15, 40, 3), passage("d", 0, 15, 2), passage("z", 0, 9, 0), passage("e", 9, 20, 1))
    output = said("x", retrieved=found)
    assert value("recall_at_k", item, output, TEXT) == 0.5
    assert value("mrr", item, output, TEXT) == 0
    dropped = said("x", retrieved=(*found, passage("e", 0, 8, 4, used=False)))
    assert value("recall_at_k", item, dropped, TEXT) == 1
    assert value("mrr", item, dropped, TEXT) == pytest.approx(1 / 5)
    last_first = said("x", retrieved=dropped.retrieved[::-1])
    assert value("mrr", item, last_first, TEXT) == pytest.approx(1 / 5)


@pytest.mark.parametrize("name", ["recall_at_k", "mrr"])
def test_retrieval_is_measured_with_gold_spans_whatever_was_answered(name):
    spans, found = (Span("d", 0, 5),), (passage("d", 0, 9, 0),)
    assert not METRICS[name].applies(example("x"), said("x", retrieved=found), TEXT)
    unparsable = Output("e", "unparsable", retrieved=found)
    assert value(name, example("x", spans=spans), unparsable, TEXT) == 1
    assert value(name, example("x", spans=spans), Output("e", "error"), TEXT) == 0


@pytest.mark.parametrize("name", ["recall_at_k", "mrr"])
def test_retrieval_is_measured_for_every_output_of_strategies_that_retrieve_and_of_no_other(name):
    items = [replace(example("x", spans=(Span("d", 0, 5),)), id=item) for item in ("one", "two")]
    failed_one = [replace(said("x", retrieved=(passage("d", 0, 9, 0),)), example_id="one"), Output("two", "error")]
    rows = score_outputs("rag", "m", "generation", None, items, failed_one, [METRICS[name]], TEXT)
    assert [row.value for row in rows] == [1, 0]
    closed_book = [replace(said("x"), example_id=item.id) for item in items]
    assert not score_outputs("zero", "m", "generation", None, items, closed_book, [METRICS[name]], TEXT)


def test_answer_tokens_are_of_generated_answers():
    generated = said("x", termination="length", usage=Usage({}, 24, 1))
    assert value("answer_tokens", UNKNOWN, generated, TEXT) == 24
    scored = said("x", termination="scored", usage=Usage({}, 24, 1))
    assert not METRICS["answer_tokens"].applies(UNKNOWN, scored, TEXT)


def test_macro_f1_by_hand():
    """card: tp 1 fp 1 fn 1 -> 1/2; cash: tp 0 fp 1 fn 2 -> 0; loan does not occur."""
    gold = [("card",), ("card",), ("cash",), ("cash",), (), ()]
    outputs = [said("card"), failed("error"), said("card"), ABSTAINED, said("cash"), ABSTAINED]
    metric = METRICS["macro_f1"]
    scored = [metric.score(example(*targets), output, CHOICE) for targets, output in zip(gold, outputs, strict=True)]
    assert [item.value for item in scored] == [1, 0, 0, 0, 0, 1]
    sums = np.sum([item.statistics for item in scored], axis=0)
    assert sums.tolist() == [1, 1, 1, 0, 1, 2, 0, 0, 0]
    assert metric.aggregate(sums) == pytest.approx((0.5 + 0) / 2)


def test_macro_f1_counts_the_target_that_was_predicted():
    assert METRICS["macro_f1"].score(example("card", "loan"), said("loan"), CHOICE).statistics[6:] == (1, 0, 0)
    assert METRICS["macro_f1"].score(example("card", "loan"), said("cash"), CHOICE).statistics[:3] == (0, 0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_that_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels = tuple(f"label {place}" for place in range(7))
    contract = ChoiceContract(labels)
    gold, predicted = generator.choice(labels[:6], size=(2, 40))
    items = [Example(str(place), {"q": ""}, targets=(str(label),)) for place, label in enumerate(gold)]
    outputs = [said(str(label), name=str(place)) for place, label in enumerate(predicted)]
    assert figure("macro_f1", items, outputs, contract) == pytest.approx(f1_score(gold, predicted, average="macro"))


def test_macro_f1_of_nothing_is_the_worst_value():
    assert METRICS["macro_f1"].aggregate(np.zeros((2, 9))).tolist() == [0, 0]


def test_macro_f1_refuses_a_target_outside_the_labels():
    with pytest.raises(DataError, match=r"'carde' is not one of the task's labels \(did you mean 'card'"):
        METRICS["macro_f1"].score(example("carde"), said("card"), CHOICE)


def test_text_metrics_refuse_other_values():
    with pytest.raises(DataError, match="text target"):
        METRICS["token_f1"].score(example(3), said("3"), TEXT)
    with pytest.raises(DataError, match="text answer"):
        METRICS["exact_match"].score(example("3"), said(3), TEXT)


@pytest.mark.parametrize("name", ["macro_f1", "accuracy", "abstention_precision"])
def test_aggregation_takes_any_leading_shape(name):
    metric = METRICS[name]
    pairs = [(example("card"), said("card")), (example("cash"), said("card")), (example(), ABSTAINED)]
    statistics = np.array([metric.score(*pair, CHOICE).statistics for pair in pairs])
    weights = np.random.default_rng(0).integers(0, 4, size=(2, 5, 3)).astype(float)
    weights[0, 0] = 0
    figures = metric.aggregate(weights @ statistics)
    assert figures.shape == (2, 5)
    assert figures[0, 0] == metric.worst
    assert figures[1, 3] == metric.aggregate(weights[1, 3] @ statistics)


def test_statistics_of_parts_add_up_to_the_figure_of_the_whole():
    generator = np.random.default_rng(1)
    gold, predicted = generator.choice(LABELS, size=(2, 30))
    for name in ("accuracy", "macro_f1"):
        metric = METRICS[name]
        items = [Example(str(place), {"q": ""}, targets=(str(label),)) for place, label in enumerate(gold)]
        outputs = [said(str(label), name=str(place)) for place, label in enumerate(predicted)]
        statistics = np.array([metric.score(*pair, CHOICE).statistics for pair in zip(items, outputs, strict=True)])
        parts = statistics[:11].sum(axis=0) + statistics[11:].sum(axis=0)
        assert metric.aggregate(parts) == figure(name, items, outputs, CHOICE)


def test_figures_do_not_depend_on_the_order_of_examples():
    items = [Example(str(place), {"q": ""}, targets=("red fox jumps",)) for place in range(60)]
    outputs = [said("red" + " ox" * place, name=str(place)) for place in range(60)]
    values = [value("token_f1", *pair, TEXT) for pair in zip(items, outputs, strict=True)]
    orders = [np.random.default_rng(seed).permutation(60) for seed in range(20)]
    assert len({sum(values[place] for place in order) for order in orders}) > 1, "plain sums would differ"
    figures = {figure("token_f1", [items[place] for place in order], outputs, TEXT) for order in orders}
    assert len(figures) == 1


def test_every_metric_is_registered_under_its_own_name_and_bounded():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.bounds[0] <= metric.worst <= metric.bounds[1]
        assert metric.version


def test_secondary_metrics_are_not_repeated():
    assert [metric.name for metric in metrics_for(["parsed", "mrr"], TEXT)] == ["parsed", "mrr", "recall_at_k"]


def test_all_problems_of_metric_names_are_told_at_once():
    with pytest.raises(DataError) as caught:
        metrics_for(["acuracy", "token_f1", "token_f1", "abstention_recall"], ChoiceContract(LABELS))
    message = str(caught.value)
    assert "did you mean 'accuracy'" in message
    assert "'token_f1' does not suit choice answers" in message
    assert "'token_f1' is named more than once" in message
    assert "needs a task that can abstain" in message


def test_a_primary_metric_is_needed_and_ranks():
    with pytest.raises(DataError, match="none is named; for choice tasks: accuracy"):
        metrics_for([], CHOICE)
    with pytest.raises(DataError, match="ranks nothing"):
        metrics_for(["answer_tokens"], TEXT)
    assert metrics_for(["token_f1", "answer_tokens"], TEXT)[1].informational


def test_a_figure_of_unlabelled_examples_is_refused():
    with pytest.raises(DataError, match="applies to none of the 1 examples"):
        figure("token_f1", [UNKNOWN], [said("x")], TEXT)
