"""Point 2: one slot for passages, and training ids that are the prompt's, the answer's and the stop."""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import DataError
from toolkit.rendering import Draft
from toolkit.runs.reopen import FinishedRun, reopen
from toolkit.tasks.contract import AnswerContract
from toolkit.tasks.example import Example

TRAINED = ("lora", "lora_rag", "few_shot_lora", "sft_then_rag")
AS_ASKED = TRAINED[:3]  # in the last one, what is retrieved comes after the tuning


@pytest.mark.parametrize("part", ["system", "user"])
def test_a_template_that_names_passages_outside_their_slot_is_refused(
    tiny_shipped: Any, tmp_path: Path, part: str
) -> None:
    texts = {"system": "{{ instruction }}", "passages": "{{ passages[0].text }}\n", "user": "{{ inputs.question }}"}
    texts[part] += "{% if passages %} Use the passages.{% endif %}"
    path = tmp_path / "leaky.yaml"
    path.write_text("name: leaky\n" + "".join(f"{name}: {text!r}\n" for name, text in texts.items()))
    error = tiny_shipped.refusal("quickstart", f"template={path}")
    assert isinstance(error, DataError)
    allowed = {"system": "instruction, labels", "user": "inputs, labels"}[part]
    assert str(error) == f"template 'leaky', {part}: 'passages' is not available here; allowed: {allowed}"
    assert not (tiny_shipped.last / "outputs").exists()


@pytest.mark.parametrize("name", ["rag", "lora_rag", "sft_then_rag", "oracle", "random_passages"])
def test_without_passages_the_text_is_the_same_with_one_slot_cut_out(whole_runs: Any, name: str) -> None:
    finished = reopen(whole_runs("handbook").folder)
    task = finished.prepared.task
    drafts = finished.system(name).drafts([*task.train[:40], *task.test[:40]])
    for draft in drafts:
        whole, bare = _text(finished, draft), _text(finished, draft.without_passages())
        start = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(whole, bare, strict=False))))
        size = len(whole) - len(bare)
        assert whole[:start] + whole[start + size :] == bare
        shown = "".join(f"Passage {number}: {passage.text}\n" for number, passage in enumerate(draft.passages, 1))
        assert whole[start : start + size] == shown.encode()
        assert len(draft.passages) == 3


@pytest.fixture
def trained_on(tiny_shipped: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[FinishedRun, dict[str, list[Any]]]:
    """A handbook run of four tuned stacks, and the sequences each was trained on."""
    from toolkit.tuning import train

    seen: list[list[Any]] = []

    def recorded(module: Any, sequences: Any, *args: Any, **options: Any) -> Any:
        seen.append(list(sequences))
        return train(module, sequences, *args, **options)

    monkeypatch.setattr("toolkit.tuning.train", recorded)
    tune = "tune: {rank: 4, max_steps: 1}"
    result = tiny_shipped.run(
        "handbook",
        f"strategies={{zero_shot: [], lora: [{tune}], lora_rag: [retrieve: {{top_k: 3}}, {tune}], "
        f"few_shot_lora: [prompt: {{shots: 4}}, {tune}], sft_then_rag: [{tune}, retrieve: {{top_k: 3}}]}}",
        "contrasts=[]",
        "metrics=[token_f1]",
        "limit=1",
    )
    finished = reopen(result.folder)
    by_name = dict(zip(AS_ASKED, seen, strict=True))
    return finished, {**by_name, "sft_then_rag": by_name["lora"]}  # tuned alike, so its adapter came from the Store


def test_training_ids_are_the_prompt_the_written_target_and_the_stop(
    trained_on: tuple[FinishedRun, dict[str, list[Any]]],
) -> None:
    finished, sequences = trained_on
    task, tokenizer = finished.prepared.task, finished.system("zero_shot").renderer.tokenizer
    stop = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    for name in AS_ASKED:
        drafts = finished.system(name).drafts(task.train)
        assert len(sequences[name]) == len(task.train) == 186
        for example, draft, sequence in zip(task.train, drafts, sequences[name], strict=True):
            opening = tokenizer(_text(finished, draft).decode(), add_special_tokens=False)["input_ids"]
            taught = tokenizer(_target(task.contract, example), add_special_tokens=False)["input_ids"] + stop
            assert list(sequence.token_ids) == opening + taught
            assert list(sequence.supervised) == [False] * len(opening) + [True] * len(taught)
    # What was trained on is what is asked: the same prompts, byte for byte, are sent when answering.
    for name in AS_ASKED:
        asked = finished.system(name).answer(task.train[:8])
        assert [output.prompt_token_ids for output in asked] == [
            sequence.token_ids[: sequence.supervised.index(True)] for sequence in sequences[name][:8]
        ]
    with_passages = finished.system("lora_rag").drafts(task.train)
    assert {len(draft.passages) for draft in with_passages} == {3}
    assert {len(draft.demonstrations) for draft in finished.system("few_shot_lora").drafts(task.train)} == {4}


def test_what_a_run_shows_of_its_training_is_what_it_was_trained_on(
    trained_on: tuple[FinishedRun, dict[str, list[Any]]],
) -> None:
    finished, sequences = trained_on
    shown = finished.training(5)
    assert [(item.strategy, item.name) for item in shown] == [
        (name, example.id) for name in TRAINED for example in finished.prepared.task.train[:5]
    ]
    assert [item.sequence for item in shown] == [sequence for name in TRAINED for sequence in sequences[name][:5]]
    (asked,) = {output["example_id"] for output in _outputs(finished, "lora")}
    trained = {item.strategy: item.trained for item in finished.show(asked)}
    assert trained["sft_then_rag"] == trained["lora"] != trained["lora_rag"]


def _text(finished: FinishedRun, draft: Draft) -> bytes:
    """The conversation as the model's own chat template writes it, by transformers alone."""
    tokenizer = finished.system("zero_shot").renderer.tokenizer
    said = [{"role": message.role, "content": message.content} for message in draft.messages()]
    return str(tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)).encode()


def _outputs(finished: FinishedRun, strategy: str) -> list[dict[str, Any]]:
    (path,) = (finished.folder.root / "outputs" / strategy).glob("*.jsonl")
    return [json.loads(line)["output"] for line in path.read_text(encoding="utf-8").splitlines()]


def _target(contract: AnswerContract, example: Example) -> str:
    return contract.write(example.targets[0]) if example.targets else str(contract.abstention)
