"""Point 5: fitting to the context drops the last passage first, then the last demonstration, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from toolkit.errors import OverLengthError
from toolkit.inference import LocalModel
from toolkit.rendering import Draft, Template
from toolkit.runs.reopen import reopen
from toolkit.tasks.load import load_task

NEW_TOKENS = 3
RETRIEVE = "retrieve: {top_k: 3, size_tokens: 64, overlap_tokens: 0}"  # as the shipped recipe has it
BOTH = f"strategies={{zero_shot: [], both: [prompt: {{shots: 4}}, {RETRIEVE}]}}"
QUICK = ("contrasts=[]", "metrics=[token_f1]", "limit=12")


@pytest.mark.parametrize(("context", "passages", "demonstrations"), [(330, {0, 1, 2}, {4}), (230, {0}, {1, 2, 3, 4})])
def test_the_last_passage_goes_first_then_the_last_demonstration(
    tiny_shipped: Any, whole_runs: Any, outputs: Any, context: int, passages: set[int], demonstrations: set[int]
) -> None:
    roomy = reopen(whole_runs("handbook").folder)
    test = {example.id: example for example in roomy.prepared.task.test}
    tokenizer = roomy.system("rag").renderer.tokenizer
    tight = tiny_shipped.run("handbook", BOTH, *QUICK, f"model={tiny_shipped.models.with_context(context)}")
    found = []
    for output in outputs(tight.folder, "both"):
        asked = [test[output["example_id"]]]
        draft = roomy.system("few_shot").drafts(asked)[0].with_passages(roomy.system("rag").drafts(asked)[0].passages)
        assert (len(draft.passages), len(draft.demonstrations), draft.dropped_passages) == (3, 4, ())
        kept = _longest_that_fits(tokenizer, draft, context - NEW_TOKENS)
        found.append((len(kept.passages), len(kept.demonstrations)))
        assert output["prompt_token_ids"] == _ids(tokenizer, kept)
        used = [passage["used"] for passage in output["retrieved"]]
        assert used == [True] * len(kept.passages) + [False] * (3 - len(kept.passages))
        assert [(item["document"], item["start"], item["rank"]) for item in output["retrieved"]] == [
            (item.document, item.start, item.rank) for item in draft.passages
        ]
        gone = [shown.id for shown in draft.demonstrations[len(kept.demonstrations) :]]
        assert output["dropped_demonstrations"] == gone
    assert {kept for kept, _ in found} <= passages
    assert {kept for _, kept in found} <= demonstrations
    assert len(set(found)) > 1


def test_training_and_answering_are_fitted_alike(tiny_shipped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.tuning import train

    seen: list[Any] = []

    def recorded(module: Any, sequences: Any, *args: Any, **options: Any) -> Any:
        seen.extend(sequences)
        return train(module, sequences, *args, **options)

    monkeypatch.setattr("toolkit.tuning.train", recorded)
    context = 560
    stack = "strategies={zero_shot: [], all: [prompt: {shots: 4}, retrieve: {top_k: 3}, tune: {rank: 2, max_steps: 1}]}"
    tokens = 24  # as shipped: room for every target, too

    def forty(rows: dict[str, list[dict[str, Any]]]) -> None:
        del rows["train"][40:]

    task = f"task={tiny_shipped.task('handbook', forty)}"
    model = f"model={tiny_shipped.models.with_context(context)}"
    common = ("contrasts=[]", "metrics=[token_f1]", "limit=1", f"decoding.max_new_tokens={tokens}")
    result = tiny_shipped.run("handbook", stack, model, task, *common)
    finished = reopen(result.folder)
    examples = finished.prepared.task.train
    drafts = finished.system("all").drafts(examples)
    assert sum(bool(draft.dropped_passages) for draft in drafts) > 20
    openings = [list(sequence.token_ids[: sequence.supervised.index(True)]) for sequence in seen]
    assert openings == [_ids(finished.system("all").renderer.tokenizer, draft) for draft in drafts]
    assert max(map(len, openings)) <= context - tokens
    asked = finished.system("all").answer(examples[:6])
    assert [list(output.prompt_token_ids or ()) for output in asked] == openings[:6]


class Counted:
    """A loader whose model notes every prompt it is asked about."""

    def __init__(self, here: Any) -> None:
        self.here, self.asked = here, 0

    def __call__(self, name: str) -> LocalModel:
        model = self.here.loader(name)
        for method in ("generate", "score"):
            setattr(model, method, self._counting(getattr(model, method)))
        return model

    def _counting(self, call: Any) -> Any:
        def counted(prompts: Sequence[Any], *rest: Any) -> Any:
            self.asked += len(prompts)
            return call(prompts, *rest)

        return counted


@pytest.mark.parametrize(("recipe", "split"), [("handbook", "test"), ("handbook", "train"), ("tickets", "validation")])
def test_an_over_long_example_is_refused_before_any_model_call(tiny_shipped: Any, recipe: str, split: str) -> None:
    named: list[str] = []

    def plant_giant(rows: dict[str, list[dict[str, Any]]]) -> None:
        row = rows[split][-1]
        row["inputs"] = dict.fromkeys(row["inputs"], "and why " * 600)
        named.append(row["id"])

    counted = Counted(tiny_shipped)
    folder = tiny_shipped.task(recipe, plant_giant)
    model = f"model={tiny_shipped.models.with_context(560)}"
    bare = ("strategies={zero_shot: [], few_shot: [prompt: {shots: 16}]}", "contrasts=[]", "limit=2", model)
    error = tiny_shipped.refusal(recipe, f"task={folder}", *bare, load=counted)
    assert isinstance(error, OverLengthError)
    assert str(error).startswith(f"example '{named[0]}': instruction and inputs take ")
    assert str(error).endswith("; shorten the example or set `over_length: score_as_error`")
    assert counted.asked == 0
    assert not (tiny_shipped.last / "systems").exists()
    tiny_shipped.run(recipe, *bare, load=counted)  # the dataset as shipped goes through, and the counter counts
    assert counted.asked >= 4


def test_the_room_kept_for_an_answer_by_likelihood_is_the_longest_label(tiny_shipped: Any) -> None:
    """However short generated answers may be: what would stop a run half way is refused before it starts."""

    def few_short_ones(rows: dict[str, list[dict[str, Any]]]) -> None:
        for items in rows.values():
            del items[40:]

    folder = tiny_shipped.task("tickets", few_short_ones)
    stack = ("strategies={zero_shot: []}", "contrasts=[]", f"task={folder}", "decoding.max_new_tokens=1")
    renderer = tiny_shipped.loader(str(tiny_shipped.models.model)).renderer
    task = load_task(folder)
    examples = (*task.train, *task.validation, *task.test)
    longest = max(renderer.length(Draft(item, Template.load("answer"), task.contract)) for item in examples)
    room = max(len(ids) for ids in renderer.continuations(task.contract.labels))
    assert room > 2
    fits = tiny_shipped.models.with_context(longest + room)
    assert tiny_shipped.run("tickets", *stack, "limit=1", f"model={fits}").comparison["n"] == 1
    counted = Counted(tiny_shipped)
    tight = tiny_shipped.models.with_context(longest + room - 1)
    error = tiny_shipped.refusal("tickets", *stack, "limit=1", f"model={tight}", load=counted)
    assert isinstance(error, OverLengthError)
    assert counted.asked == 0


def test_score_as_error_goes_on_and_scores_the_over_long_example_worst(tiny_shipped: Any, outputs: Any) -> None:
    def plant_giant(rows: dict[str, list[dict[str, Any]]]) -> None:
        del rows["test"][3:]
        rows["test"][1]["inputs"] = {"question": "and why " * 600}
        assert all(row["targets"] for row in rows["test"][1:2])

    folder = tiny_shipped.task("handbook", plant_giant)
    result = tiny_shipped.run(
        "quickstart",
        f"task={folder}",
        f"model={tiny_shipped.models.with_context(560)}",
        "over_length=score_as_error",
        "strategies={zero_shot: [], rag: [retrieve: {top_k: 3}]}",
        "metrics=[token_f1, contains, exact_match]",
    )
    for name in ("zero_shot", "rag"):
        found = outputs(result.folder, name)
        assert [item["status"] == "error" for item in found] == [False, True, False]
        assert found[1]["error"].startswith(f"example '{found[1]['example_id']}': instruction and inputs take ")
        assert (found[1]["answer"], found[1]["text"], found[1]["prompt_token_ids"]) == (None, "", None)
        facts = result.comparison["strategies"][name]
        assert (facts["n"], facts["statuses"]["error"]) == (3, 1)
        assert all(facts["metrics"][metric]["n"] == 3 for metric in ("token_f1", "contains", "exact_match"))
        values = _values(result.folder, name, found[1]["example_id"])
        assert {metric: values[metric] for metric in ("token_f1", "contains", "exact_match")} == {
            "token_f1": 0.0,
            "contains": 0.0,
            "exact_match": 0.0,
        }


def _values(folder: Any, strategy: str, example_id: str) -> dict[str, float]:
    from toolkit.evaluation import read_scores

    rows = read_scores(folder / "scores.parquet")
    return {row.metric: row.value for row in rows if (row.strategy, row.example_id) == (strategy, example_id)}


def _ids(tokenizer: Any, draft: Draft) -> list[int]:
    """The prompt by transformers alone."""
    said = [{"role": message.role, "content": message.content} for message in draft.messages()]
    text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _longest_that_fits(tokenizer: Any, draft: Draft, budget: int) -> Draft:
    """Brute force over how many passages, then how many demonstrations, may stay."""
    passages, shown = draft.passages, draft.demonstrations
    kept = [(count, len(shown)) for count in range(len(passages), -1, -1)]
    kept += [(0, count) for count in range(len(shown) - 1, -1, -1)]
    bare = draft.without_passages().without_demonstrations()
    tried = (bare.with_passages(passages[:p]).with_demonstrations(shown[:d]) for p, d in kept)
    return next(item for item in tried if len(_ids(tokenizer, item)) <= budget)
