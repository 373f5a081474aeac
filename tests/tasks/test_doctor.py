"""The doctor: a sound task passes, and each planted violation is found with its file and line."""

from types import SimpleNamespace

import pytest

from toolkit.tasks.doctor import examine
from toolkit.tasks.load import load_task_with_sources

TEXT = "name: geese\nkind: text\nabstention: not in the handbook\n"
CHOICE = "name: mood\nkind: choice\n"


@pytest.fixture
def found(folder):
    """(severity, where, message) of everything the doctor says about rows."""

    def look(rows, keys=TEXT, **more):
        task, sources = load_task_with_sources(folder(rows, keys))
        return [(item.severity, item.where, item.message) for item in examine(task, sources, **more).findings]

    return look


class Chat:
    """A chat format of words; opens with as many BOS as asked."""

    tokenizer = SimpleNamespace(bos_token_id=1)

    def __init__(self, openings):
        self.openings = openings

    def token_ids(self, messages, opens_answer):
        return [1] * self.openings + [2] * sum(len(message.content.split()) for message in messages)

    def control_tokens_in(self, text):
        return ["<|end|>"] if "<|end|>" in text else []


def renderer(openings=1):
    return SimpleNamespace(chat=Chat(openings), count=lambda text: 10 * len(text.split()))


def choice_rows():
    texts = {
        "train": ["geese fly over wet roofs", "nobody polished this brass bell"],
        "validation": ["lanterns hang along old quays"],
        "test": ["our cook burns every pie", "seven barges wait behind locks"],
    }
    return {
        split: [
            {"id": f"{split}{at}", "inputs": {"t": text}, "target": ["up", "down"][at]} for at, text in enumerate(said)
        ]
        for split, said in texts.items()
    }


def test_a_sound_task_has_no_findings(found, rows):
    assert found(rows, documents=[("d", "Nothing of it stands here.")], renderer=renderer()) == []
    assert found(choice_rows(), CHOICE) == []


def test_the_same_content_across_splits_is_an_error(found, rows):
    rows["test"][1]["inputs"] = {"question": "where do the  geese land"}
    assert found(rows) == [("error", "task/test.jsonl:2", "the same content as task/train.jsonl:1 (train)")]


def test_the_same_content_within_a_split_is_an_error(found, rows):
    rows["train"][1]["inputs"] = rows["train"][0]["inputs"]
    assert found(rows) == [("error", "task/train.jsonl:2", "the same content as task/train.jsonl:1")]


def test_a_near_duplicate_across_splits_is_an_error(found, rows):
    rows["train"][0]["inputs"] = {"question": "How long does the ferry to Tern Island take on 3 May?"}
    rows["test"][0]["inputs"] = {"question": "How long does the ferry to Hesk take on 14 June?"}
    assert found(rows) == [
        (
            "error",
            "task/test.jsonl:1",
            "a near-duplicate of task/train.jsonl:1 (train): masked word 3-grams agree to 1.00",
        )
    ]


def test_a_near_duplicate_within_a_split_is_a_note(found, rows):
    rows["train"][1]["inputs"] = {"question": "Where do the geese land now?"}
    assert found(rows) == [
        ("note", "task/train.jsonl:2", "a near-duplicate of task/train.jsonl:1: masked word 3-grams agree to 0.75")
    ]


def test_a_row_may_repeat_one_in_its_split_and_one_in_another(found, rows):
    rows["test"][0]["inputs"] = rows["test"][1]["inputs"] = rows["train"][0]["inputs"]
    assert [(severity, where) for severity, where, _ in found(rows)] == [
        ("error", "task/test.jsonl:1"),
        ("error", "task/test.jsonl:2"),
        ("error", "task/test.jsonl:2"),
        ("note", "task/train.jsonl:1"),
    ]


def test_a_sentence_used_more_than_twice_is_a_note(found, rows):
    for row, tail in zip([*rows["train"], *rows["validation"]], ("geese", "roofs", "bells"), strict=True):
        row["inputs"] = {
            "question": f"My name is Anna {tail.title()}. {tail} are what this long thing is about: {tail} {tail}"
        }
    findings = [item for item in found(rows) if "is used" in item[2]]
    assert findings == [
        (
            "note",
            "task/train.jsonl:1",
            'the sentence "my name is X" (X a name, 0 a number) is used 3 times: '
            "task/train.jsonl:1, task/train.jsonl:2, task/validation.jsonl:1",
        )
    ]


def test_an_abstention_phrase_that_is_not_read_as_one_is_an_error(found, rows):
    keys = 'name: geese\nkind: text\nabstention: "no\\nanswer"\n'
    assert found(rows, keys) == [
        ("error", "task 'geese'", r"the abstention phrase 'no\nanswer' is read back as 'no', not as abstaining")
    ]


def test_a_label_missing_in_train_or_test_is_an_error(found):
    rows = choice_rows()
    assert found(rows, CHOICE + "labels: [up, down, level]\n") == [
        ("error", "train", "no example has the label 'level'"),
        ("error", "test", "no example has the label 'level'"),
    ]
    rows["test"].pop()
    assert found(rows, CHOICE) == [("error", "test", "no example has the label 'down'")]


def test_a_group_in_two_splits_is_an_error_unless_the_task_says_why(found, rows):
    for split in ("train", "test"):
        for row in rows[split]:
            row["group"] = "doc-1"
    assert found(rows) == [
        (
            "error",
            "task/test.jsonl:1",
            "the group 'doc-1' is in test and, at task/train.jsonl:1, in train: "
            "split by group, or say why with `shared_groups: <why>`",
        )
    ]
    assert found(rows, TEXT + "shared_groups: one handbook\n") == []


def test_two_bos_are_an_error(found, rows):
    findings = found(rows, renderer=renderer(openings=2))
    assert len(findings) == 3
    assert findings[0][:2] == ("error", "task/train.jsonl:1")
    assert "the prompt starts with two BOS tokens (id 1)" in findings[0][2]


def test_control_tokens_in_rows_and_documents_are_errors(found, rows):
    rows["validation"][0]["inputs"] = {"question": "Who mends <|end|> the clock?"}
    rows["test"][1]["targets"] = ["a key<|end|>"]
    message = "holds control tokens of the model: <|end|>"
    assert found(rows, renderer=renderer(), documents=[("a", "x"), ("b", "y <|end|>")]) == [
        ("error", "task/validation.jsonl:1", message),
        ("error", "task/test.jsonl:2", message),
        ("error", "document 'b'", message),
    ]


def test_a_test_question_in_the_corpus_is_an_error(found, rows):
    documents = [
        ("a", "Where do the geese land? is a train question and may stand here."),
        ("b", "Asked often: how long may a visitor\nstay OVERNIGHT. See below. What opens it?"),
    ]
    assert found(rows, documents=documents) == [
        ("error", "task/test.jsonl:1", "the question stands word for word in the corpus, document 'b'")
    ]
    rows["validation"][0]["inputs"] = {"question": "How late may it be?"}
    assert found(rows, documents=[("a", "How late may it be? Not very.")]) == [
        ("error", "task/validation.jsonl:1", "the question stands word for word in the corpus, document 'a'")
    ]


def test_a_gold_span_must_hold_its_target(found, rows):
    document = "The geese land on the Eastern Pier."
    rows["train"][0] |= {"targets": ["the eastern pier"], "spans": [{"document": "d", "start": 22, "end": 34}]}
    assert found(rows, documents=[("d", document)]) == []
    rows["train"][0]["spans"] = [{"document": "d", "start": 4, "end": 14}]
    rows["train"][1]["spans"] = [{"document": "e", "start": 4, "end": 9}]
    rows["test"][0]["spans"] = [{"document": "d", "start": 30, "end": 36}]
    assert found(rows, documents=[("d", document)]) == [
        ("error", "task/train.jsonl:1", "the gold span reads 'geese land', which holds no target: 'the eastern pier'"),
        ("error", "task/train.jsonl:2", "the gold span's document 'e' is not in the corpus"),
        ("error", "task/test.jsonl:1", "the gold span [30, 36) leaves 'd', which has 35 characters"),
    ]


def test_statistics_count_words_or_the_models_tokens(folder, rows):
    rows["test"][1]["targets"] = []
    task, _ = load_task_with_sources(folder(rows))
    plain, counted = examine(task).statistics, examine(task, renderer=renderer()).statistics
    assert (plain.unit, counted.unit) == ("words", "tokens")
    test = plain.splits["test"]
    assert (test.examples, test.groups, test.unanswerable) == (2, 2, 0.5)
    assert (test.inputs.p50, test.inputs.p95, test.inputs.p100) == (5, 7, 7)
    assert (test.answers.p50, test.answers.p100) == (3, 4)
    assert counted.splits["test"].inputs.p100 == 70


def test_statistics_count_labels(folder):
    task, _ = load_task_with_sources(folder(choice_rows(), CHOICE))
    assert examine(task).statistics.splits["validation"].labels == {"down": 0, "up": 1}


def test_places_fall_back_to_ids(folder, rows):
    rows["train"][1]["inputs"] = rows["train"][0]["inputs"]
    task, _ = load_task_with_sources(folder(rows))
    assert examine(task).errors[0].where == "example 'train-1'"
    assert str(examine(task).errors[0]) == "example 'train-1': the same content as example 'train-0'"
