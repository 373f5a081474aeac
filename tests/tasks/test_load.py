"""Loading a task folder: what it gives, and every refusal with its file and line."""

import json
import re

import pytest

from toolkit.errors import DataError
from toolkit.tasks.contract import ChoiceContract, JsonContract
from toolkit.tasks.example import Span
from toolkit.tasks.load import load_task, load_task_with_sources

CHOICE = "name: mood\nkind: choice\n"


def refusal(path):
    with pytest.raises(DataError) as caught:
        load_task(path)
    return str(caught.value)


def labelled(*labels, split="train"):
    return [{"id": f"{split}{at}", "inputs": {"t": f"{split} {at}"}, "target": x} for at, x in enumerate(labels)]


def choice_rows(train=("up", "down"), validation=("up",), test=("down",)):
    named = {"train": train, "validation": validation, "test": test}
    return {split: labelled(*labels, split=split) for split, labels in named.items()}


def test_a_folder_gives_every_field_of_its_rows(folder, rows):
    rows["train"][0] |= {
        "group": "doc-1",
        "spans": [{"document": "a/b", "start": 3, "end": 9}],
        "slices": ["taught"],
        "rejected": ["a lake"],
    }
    rows["train"][1]["targets"] = []
    task = load_task(folder(rows))
    first = task.train[0]
    assert (first.id, first.inputs, first.targets) == (
        "train-0",
        {"question": "Where do the geese land?"},
        ("answer train 0",),
    )
    assert (first.group, first.spans, first.slices, first.rejected) == (
        "doc-1",
        (Span("a/b", 3, 9),),
        ("taught",),
        ("a lake",),
    )
    assert task.train[1].targets == ()
    assert (len(task.train), len(task.validation), len(task.test)) == (2, 1, 2)
    assert task.contract.abstention == "not in the handbook"
    assert task.corpus is None


def test_a_task_is_found_by_path_beside_the_recipe_and_by_name(folder, rows, tmp_path):
    root = folder(rows)
    assert load_task("task").name == "geese"
    assert load_task(root).digest == load_task("task").digest
    elsewhere = tmp_path / "recipes"
    elsewhere.mkdir()
    root.rename(elsewhere / "task")
    assert load_task("task", beside=elsewhere / "recipe.yaml").name == "geese"


def test_an_unknown_task_lists_what_is_shipped():
    with pytest.raises(DataError, match=r"'handbok' was not found \(did you mean 'handbook'\?\)"):
        load_task("handbok")


def test_sources_name_the_line_of_every_example(folder, rows):
    rows["train"].insert(1, "\n")
    _, sources = load_task_with_sources(folder(rows))
    assert sources == {
        "train-0": "task/train.jsonl:1",
        "train-1": "task/train.jsonl:3",
        "validation-0": "task/validation.jsonl:1",
        "test-0": "task/test.jsonl:1",
        "test-1": "task/test.jsonl:2",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops\n", "task/train.jsonl:2: not JSON (Expecting property name"),
        ('{"id": "x", "id": "y"}\n', "task/train.jsonl:2: not JSON (the key 'id' stands there twice)"),
        ('{"id": NaN}\n', "task/train.jsonl:2: not JSON (NaN is not a JSON number)"),
        ("[" * 5000 + "\n", "task/train.jsonl:2: not JSON ("),
        ("[1]\n", "task/train.jsonl:2: a row is a JSON object, found list"),
        (
            {"id": "x", "inputs": {"question": "q"}, "targets": ["a"], "sliced": []},
            "task/train.jsonl:2: unknown key 'sliced' (did you mean 'slices'?); allowed: id, inputs, targets, target, "
            "choices, group, spans, slices, rejected",
        ),
        ({"inputs": {"question": "q"}, "targets": ["a"]}, "task/train.jsonl:2: the key 'id' is missing"),
        (
            {"id": 7, "inputs": {"question": "q"}, "targets": ["a"]},
            "task/train.jsonl:2: id: input should be a text, found 7",
        ),
        (
            {"id": "x", "inputs": "q", "targets": ["a"]},
            "task/train.jsonl:2: inputs: input should be a mapping of names to values, found 'q'",
        ),
        (
            {"id": "x", "inputs": {"question": "q"}, "targets": "a"},
            "task/train.jsonl:2: targets: input should be a list, found 'a'",
        ),
        ({"id": "x", "inputs": {"question": "q"}}, "task/train.jsonl:2: a row has either 'targets'"),
        (
            {"id": "x", "inputs": {"question": "q"}, "target": "a", "targets": ["a"]},
            "task/train.jsonl:2: a row has either 'targets'",
        ),
        (
            {"id": "x", "inputs": {"question": "q"}, "targets": [3]},
            "task/train.jsonl:2: a text answer must be a non-empty text, found 3",
        ),
        (
            {"id": "x", "inputs": {"query": "q"}, "targets": ["a"]},
            "task/train.jsonl:2: inputs are query; every row has those of task/train.jsonl:1: question",
        ),
        (
            {"id": "x", "inputs": {"question": None}, "targets": ["a"]},
            "task/train.jsonl:2: the input 'question' is empty",
        ),
        (
            {
                "id": "x",
                "inputs": {"question": "q"},
                "targets": ["a"],
                "spans": [{"document": "d", "start": 5, "end": 5}],
            },
            "task/train.jsonl:2: spans.0: a span ends after its start, found start 5, end 5",
        ),
        (
            {"id": "train-0", "inputs": {"question": "q"}, "targets": ["a"]},
            "task/train.jsonl:2: the id 'train-0' is already used at task/train.jsonl:1",
        ),
        (
            {"id": "x", "inputs": {"question": "half \ud800"}, "targets": ["a"]},
            "task/train.jsonl:2: holds half a surrogate pair",
        ),
        (
            {"id": "x", "inputs": {"question": "q"}, "targets": ["a"], "choices": ["a"]},
            "task/train.jsonl:2: 'choices' belongs to kind choice, found kind text",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_line(folder, rows, line, message):
    rows["train"][1] = line
    assert refusal(folder(rows)).startswith(f"task task: {message}")


@pytest.mark.parametrize(
    "picture",
    [
        "data:image/png;base64,iVBORw0KGgo=",
        {"type": "image_url", "image_url": {"url": "https://example.org/geese.png"}},
        ["two geese", {"type": "input_image", "image_url": "geese.png"}],
    ],
)
def test_an_image_is_refused_with_what_to_use_instead(folder, rows, picture):
    for row in (row for split in rows.values() for row in split):
        row["inputs"]["picture"] = "none"
    rows["train"][1]["inputs"]["picture"] = picture
    said = refusal(folder(rows))
    assert "train.jsonl:2: inputs: 'picture' is an image" in said
    assert "a caption" in said
    rows["train"][1]["inputs"]["picture"] = ["the image of data:image/png", {"type": "goose"}]
    load_task(folder(rows))


def test_an_id_is_unique_across_splits(folder, rows):
    rows["test"][1]["id"] = "train-1"
    assert "task/test.jsonl:2: the id 'train-1' is already used at task/train.jsonl:2" in refusal(folder(rows))


def test_no_target_needs_a_phrase_to_abstain_with(folder, rows):
    rows["test"][0]["targets"] = []
    assert "task/test.jsonl:1: no target, and the task names no phrase to abstain with" in refusal(
        folder(rows, "name: geese\nkind: text\n")
    )


def test_a_label_outside_the_choices_names_the_nearest(folder):
    message = refusal(folder(choice_rows(test=("dwon",)), CHOICE))
    assert (
        "task/test.jsonl:1: 'dwon' is not one of the task's labels (did you mean 'down'?); allowed: down, up" in message
    )


def test_a_label_must_be_a_text(folder):
    message = refusal(folder(choice_rows(validation=(3,)), CHOICE))
    assert "task/validation.jsonl:1: the label of a choice task is a text, found 3" in message


def test_a_rows_own_choices_are_labels_and_hold_its_target(folder):
    rows = choice_rows()
    rows["train"][0]["choices"] = ["down"]
    rows["train"][1]["choices"] = ["down", "sideways"]
    message = refusal(folder(rows, CHOICE))
    assert "task/train.jsonl:1: target 'up' is not among the row's choices" in message
    assert "task/train.jsonl:2: choices: 'sideways' is not one of the task's labels" in message


def test_labels_come_sorted_from_train_or_as_named(folder):
    assert load_task(folder(choice_rows(), CHOICE)).contract.labels == ("down", "up")
    named = load_task(folder(choice_rows(), CHOICE + "labels: [up, down, level]\n")).contract
    assert named.labels == ("up", "down", "level")
    written = load_task(folder(choice_rows(), CHOICE + "labels: {write: {up: going up}}\n")).contract
    assert isinstance(written, ChoiceContract)
    assert written.write("up") == "going up"
    assert written.read("going up") == "up"


def test_no_row_is_blamed_for_labels_of_rows_that_could_not_be_read(folder):
    rows = choice_rows(train=("up", "down"), test=("up",))
    rows["train"][0] = "{oops\n"
    assert refusal(folder(rows, CHOICE)).startswith("task task: task/train.jsonl:1: not JSON")


def test_a_written_label_that_is_unknown_is_refused(folder):
    message = refusal(folder(choice_rows(), CHOICE + "labels: {write: {upp: x}}\n"))
    assert "task/task.yaml:3: `labels.write` names labels the task does not have: upp" in message


def test_json_answers_have_their_required_keys(folder, rows):
    for split in rows.values():
        for row in split:
            row["targets"] = [{"city": "Ost", "year": 3}]
    rows["test"][0] = {"id": "j", "inputs": {"question": "q"}, "target": {"city": "Ost"}}
    keys = "name: places\nkind: json\nrequired: [city, year]\n"
    assert 'task/test.jsonl:1: the answer {"city": "Ost"} lacks the keys year' in refusal(folder(rows, keys))
    rows["test"][0]["target"] = {"city": "Ost", "year": None}
    assert isinstance(load_task(folder(rows, keys)).contract, JsonContract)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "name: geese\nkind: text\nabstension: no\n",
            "task/task.yaml:3: unknown key 'abstension' (did you mean 'abstention'?); allowed: name, kind,",
        ),
        (
            "name: geese\n# a comment\nkind: txt\n",
            "task/task.yaml:3: kind: input should be 'choice', 'text' or 'json', found 'txt'",
        ),
        ("kind: text\n", "task/task.yaml:1: the key 'name' is missing"),
        (
            "name: geese\nkind: text\nlabels: [a]\n",
            "task/task.yaml:1: `labels` belongs to kind choice, found kind text",
        ),
        (
            "name: geese\nkind: choice\nlabels:\n  names: [a, b]\n  writes: {a: x}\n",
            "task/task.yaml:5: unknown key 'labels.writes' (did you mean 'write'?); allowed: names, write",
        ),
        (
            "name: geese\nkind: choice\nlabels:\n  - a\n  - 1\n",
            "task/task.yaml:5: labels.names.1: input should be a text, found 1",
        ),
        ("name: geese\nkind: [text\n", "task/task.yaml:3: not valid YAML"),
        ("name: geese\nname: ducks\n", "task/task.yaml:2: not valid YAML"),
        ("- a\n", "task/task.yaml:1: expected the keys name, kind"),
        ("name: ../x\nkind: text\n", "task/task.yaml:1: name: string should match pattern"),
        ("name: geese\nkind: text\ncorpus: ../other\n", "task/task.yaml:3: corpus: '../other' lies outside"),
        ("name: geese\nkind: text\ncorpus: /etc\n", "task/task.yaml:3: corpus: '/etc' lies outside"),
        (
            "name: geese\nkind: text\ncorpus: docs\n",
            "task/task.yaml:3: corpus: 'docs' is neither a folder nor a",
        ),
    ],
)
def test_a_bad_key_is_named_with_its_line(folder, rows, keys, message):
    assert refusal(folder(rows, keys)).startswith(f"task task: {message}")


def test_defaults_of_metrics_follow_the_kind(folder, rows):
    text = ("token_f1", "contains", "exact_match", "answered_contains")
    assert load_task(folder(rows, "name: g\nkind: text\n")).metrics == text
    assert load_task(folder(rows)).metrics == (*text, "abstention_precision", "abstention_recall")
    assert load_task(folder(choice_rows(), CHOICE)).metrics == ("accuracy", "macro_f1")
    assert load_task(folder(rows, "name: g\nkind: json\n")).metrics == ("exact_match", "json_validity")
    assert load_task(folder(rows, "name: g\nkind: text\nmetrics: [contains]\n")).metrics == ("contains",)


def test_question_and_shared_groups_are_taken_over(folder, rows):
    task = load_task(folder(rows, "name: g\nkind: text\nquestion: In three words.\nshared_groups: one handbook\n"))
    assert task.contract.instruction == "In three words."
    assert task.shared_groups == "one handbook"


def test_missing_files_are_all_named(folder, rows):
    root = folder(rows)
    (root / "validation.jsonl").unlink()
    (root / "task.yaml").unlink()
    message = refusal(root)
    assert message.startswith("task task: 2 problems")
    assert "task/task.yaml: the file is missing; a task is a folder with task.yaml, train.jsonl" in message
    assert "task/validation.jsonl: the file is missing" in message


def test_an_empty_split_is_refused(folder, rows):
    rows["validation"] = ["\n"]
    assert refusal(folder(rows)) == "task task: task/validation.jsonl: holds no rows"


def test_a_file_that_is_not_utf8_is_named_with_its_line(folder, rows):
    root = folder(rows)
    (root / "test.jsonl").write_bytes(b"\n\n\xff")
    assert "task/test.jsonl:3: not UTF-8" in refusal(root)


def test_a_file_is_no_task(folder, rows):
    assert "task/train.jsonl is a file; a task is a folder" in refusal(folder(rows) / "train.jsonl")


def test_all_problems_come_at_once_and_the_first_twenty_are_shown(folder, rows):
    rows["train"] += ["{oops\n"] * 30
    rows["test"][0]["targets"] = [""]
    message = refusal(folder(rows))
    assert message.startswith("task task: 31 problems\n")
    assert len(re.findall("^  - ", message, re.MULTILINE)) == 20
    assert message.endswith("\n  ... and 11 more")


def test_links_that_leave_the_folder_are_refused(folder, rows, tmp_path):
    root = folder(rows)
    (tmp_path / "secret.jsonl").write_text(json.dumps(rows["train"][0]) + "\n")
    (root / "train.jsonl").unlink()
    (root / "train.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (tmp_path / "outside").mkdir()
    (root / "corpus").symlink_to(tmp_path / "outside")
    message = refusal(root)
    assert re.search(r"task/train\.jsonl: links to .*secret\.jsonl, outside the task's folder", message)
    assert re.search(r"task/corpus: links to .*outside, outside the task's folder", message)


def test_a_link_inside_the_folder_is_followed(folder, rows):
    root = folder(rows)
    (root / "train.jsonl").rename(root / "first.jsonl")
    (root / "train.jsonl").symlink_to("first.jsonl")
    assert len(load_task(root).train) == 2


def test_the_corpus_folder_is_found_or_named(folder, rows):
    root = folder(rows)
    (root / "corpus").mkdir()
    assert load_task(root).corpus == root / "corpus"
    (root / "manuals").mkdir()
    assert load_task(folder(rows, "name: g\nkind: text\ncorpus: manuals\n")).corpus == root / "manuals"


def test_a_string_may_hold_line_separators(folder, rows):
    rows["train"][0] = (
        json.dumps(rows["train"][0] | {"inputs": {"question": "one\u2028two"}}, ensure_ascii=False) + "\n"
    )
    assert load_task(folder(rows)).train[0].inputs == {"question": "one\u2028two"}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("first line\nsecond line", "is written as"),
        ("Not in the documents.", "read back as abstained"),
    ],
)
def test_a_target_that_is_not_read_back_as_it_is_written_stops_before_anything_is_computed(folder, rows, target, said):
    """A model that says it to the letter would be wrong."""
    rows["train"][0]["targets"] = [target]
    message = refusal(folder(rows, "name: geese\nkind: text\nabstention: not in the documents\n"))
    assert "task/train.jsonl:1: the target" in message
    assert said in message
