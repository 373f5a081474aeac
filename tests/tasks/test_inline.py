"""Tasks written into a recipe: files of three formats, columns, keep, make, and hub data."""

import csv
import json
import sys
import types
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from toolkit.errors import DataError
from toolkit.tasks.doctor import examine
from toolkit.tasks.example import Span
from toolkit.tasks.load import load_task, load_task_with_sources
from toolkit.tasks.schema import InlineTask

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
THINGS = [
    "anchor",
    "bridge",
    "candle",
    "dragon",
    "engine",
    "falcon",
    "garden",
    "harbour",
    "island",
    "jacket",
    "kettle",
    "lantern",
]
VERBS = ["paint", "lift", "borrow", "mend", "carry", "weigh", "sell", "polish", "fold", "count", "bury", "trace"]
PLACES = ["behind the mill", "under wet sand", "near our chapel", "past two gates", "inside old barns"]


def sentence(number):
    """Texts of which no two are near-duplicates."""
    thing, verb = THINGS[number % 12], VERBS[(number // 12) % 12]
    return f"{verb} {thing} w{chr(97 + number % 26)}q {PLACES[number % 5]} {thing}{verb} {verb}{PLACES[number % 5][:3]}"


def table(count=120):
    return [
        {"key": number, "words": sentence(number), "label": ["up", "down", "level"][number % 3], "house": number // 4}
        for number in range(count)
    ]


def task(**changes):
    keys = {
        "name": "moods",
        "kind": "choice",
        "data": {"files": "rows.jsonl"},
        "columns": {"inputs": {"message": "words"}, "target": "label", "id": "key"},
        "make": {"train": 60, "validation": 20, "test": 30},
    }
    return InlineTask.model_validate({key: value for key, value in (keys | changes).items() if value is not None})


def write(folder, rows, name="rows"):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, table())
    return tmp_path


def refusal(inline, beside=None):
    with pytest.raises(DataError) as caught:
        load_task(inline, beside)
    return str(caught.value)


def ids(examples):
    return {example.id for example in examples}


def test_one_file_becomes_three_stratified_disjoint_splits(here):
    made = load_task(task())
    assert [len(split) for split in (made.train, made.validation, made.test)] == [60, 20, 30]
    assert len(ids(made.train) | ids(made.validation) | ids(made.test)) == 110
    for split in (made.train, made.validation, made.test):
        shares = [sum(example.targets == (label,) for example in split) for label in made.contract.labels]
        assert max(shares) - min(shares) <= 1
    assert not examine(made).errors


def test_splits_follow_the_seed_alone(here):
    assert load_task(task()).digest == load_task(task()).digest
    other = load_task(task(make={"train": 60, "validation": 20, "test": 30, "seed": 1}))
    assert ids(other.test) != ids(load_task(task()).test)


def test_the_test_split_does_not_depend_on_the_other_sizes(here):
    smaller = load_task(task(make={"train": 20, "validation": 10, "test": 30}))
    assert ids(smaller.test) == ids(load_task(task()).test)


def test_jsonl_csv_and_parquet_give_the_same_task(here):
    columns = {"inputs": {"message": "words"}, "target": "label", "id": "key", "group": "house"}
    made = [load_task(task(data={"files": f"rows.{end}"}, columns=columns)) for end in ("jsonl", "csv", "parquet")]
    assert made[0].digest == made[1].digest == made[2].digest
    assert made[0].train[0].group is not None


def test_sources_name_the_line_of_each_format(here):
    whole = {"train": "rows.csv", "validation": "v.jsonl", "test": "t.parquet"}
    write(here, [row | {"key": f"v{row['key']}"} for row in table(9)], "v")
    write(here, [row | {"key": f"t{row['key']}"} for row in table(9)], "t")
    text = (here / "rows.csv").read_text().replace(sentence(1), f'"{sentence(1)}\nsecond line"', 1)
    (here / "rows.csv").write_text(text)
    _, sources = load_task_with_sources(task(data={"files": whole}, make=None))
    assert (sources["0"], sources["1"], sources["2"]) == ("rows.csv:2", "rows.csv:3", "rows.csv:5")
    assert (sources["v0"], sources["t0"]) == ("v.jsonl:1", "t.parquet:1")


def test_groups_are_never_cut(here):
    columns = {"inputs": {"message": "words"}, "target": "label", "group": "house"}
    made = load_task(task(columns=columns, make={"train": 50, "validation": 18, "test": 30, "by": "group"}))
    groups = [{example.group for example in split} for split in (made.train, made.validation, made.test)]
    assert [len(split) for split in (made.train, made.validation, made.test)] == [50, 18, 30]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_a_group_of_the_test_file_is_kept_out_of_train(here):
    write(here, [{"key": 900, "words": "quite another thing", "label": "up", "house": 3}], "t")
    columns = {"inputs": {"message": "words"}, "target": "label", "group": "house"}
    made = load_task(
        task(data={"files": {"train": "rows.jsonl", "test": "t.jsonl"}}, columns=columns, make={"validation": 10})
    )
    assert "3" not in {example.group for example in (*made.train, *made.validation)}
    assert len(made.train) == 120 - 4 - 12  # validation takes two whole groups and half of a third


def test_a_split_with_its_own_file_is_sampled_from_it(here):
    write(
        here,
        [
            row | {"key": f"t{row['key']}", "words": f"{row['words']} extra tail {row['label']}"}
            for row in reversed(table())
        ],
        "t",
    )
    made = load_task(
        task(
            data={"files": {"train": "rows.jsonl", "test": "t.jsonl"}},
            make={"train": 30, "validation": 9, "test": 12, "distinct": False},
        )
    )
    assert all(example.id.startswith("t") for example in made.test)
    assert not any(example.id.startswith("t") for example in (*made.train, *made.validation))
    assert [len(split) for split in (made.train, made.validation, made.test)] == [30, 9, 12]


def test_train_without_a_number_is_what_remains(here):
    assert len(load_task(task(make={"validation": 20, "test": 30})).train) == 70


def test_a_rare_label_reaches_train_and_test(here):
    rows = table()
    for row in rows[:2]:
        row["label"] = "rare"
    write(here, rows)
    made = load_task(task())
    assert [sum(e.targets == ("rare",) for e in split) for split in (made.train, made.test)] == [1, 1]


def test_distinct_drops_repeats_and_keeps_near_duplicates_in_one_split(here):
    rows = table(60) + [row | {"key": row["key"] + 500} for row in table(20)]
    near = [row | {"key": row["key"] + 900, "words": f"{row['words']} again"} for row in table(60)]
    write(here, rows + near)
    sizes = {"validation": 15, "test": 15}
    assert not examine(load_task(task(make=sizes))).errors
    assert examine(load_task(task(make=sizes | {"distinct": False}))).errors


def test_too_few_rows_are_counted(here):
    assert refusal(task(make={"train": 60, "validation": 20, "test": 130})).startswith(
        "task 'moods': make.test: 130 rows are wanted and 120 are there, after `keep`"
    )
    assert "make.train: 80 rows are wanted and 70 are there" in refusal(
        task(make={"train": 80, "validation": 20, "test": 30})
    )


def test_a_split_needs_a_file_or_a_number(here):
    assert "make.validation: there is no file for validation, so it needs a number" in refusal(task(make={"test": 30}))
    assert "there is no data for validation and test; name it in `data.files`" in refusal(
        task(data={"files": {"train": "rows.jsonl"}}, make=None)
    )


def test_keep_filters_rows_and_refuses_values_that_are_nowhere(here):
    kept = load_task(task(keep={"label": ["up", "down"]}, make={"train": 20, "validation": 10, "test": 10}))
    assert kept.contract.labels == ("down", "up")
    assert load_task(
        task(
            keep={"house": 7},
            make={"train": 1, "validation": 1, "test": 1},
            data={"files": "rows.csv"},
            labels=["up", "down", "level"],
        )
    ).train
    assert "keep.label: no row has 'upp' (did you mean 'up'?)" in refusal(task(keep={"label": ["upp", "up"]}))


def test_a_column_that_is_not_there_names_the_nearest(here):
    message = refusal(task(columns={"inputs": {"message": "word"}, "target": "label"}))
    assert message == (
        "task 'moods': rows.jsonl:1: no column 'word' (did you mean 'words'?); allowed: house, key, label, words"
    )


def test_files_are_sought_beside_the_recipe(here, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load_task(task(), beside=here / "recipe.yaml").train
    assert load_task(task(), beside=here).train
    assert load_task(task(data={"files": str(here / "rows.csv")})).train
    assert "rows.jsonl: the file is missing" in refusal(task())


def test_other_formats_are_refused(here):
    (here / "rows.xml").write_text("<a/>")
    assert "rows.xml: '.xml' is not read; allowed: .jsonl, .csv, .parquet" in refusal(task(data={"files": "rows.xml"}))


def test_a_broken_file_is_named_with_its_line(here):
    (here / "rows.csv").write_text("key,words,label,house\n1,a,up\n")
    assert "rows.csv:2: 3 cells under 4 columns" in refusal(task(data={"files": "rows.csv"}))
    (here / "rows.csv").write_text("key,key\n1,a\n")
    assert "rows.csv:1: columns named more than once: key" in refusal(task(data={"files": "rows.csv"}))
    (here / "rows.parquet").write_text("no")
    assert "rows.parquet: not Parquet" in refusal(task(data={"files": "rows.parquet"}))


def test_an_empty_cell_is_an_abstention_for_a_target_and_an_error_for_an_input(here):
    rows = table()
    rows[0]["label"] = None
    write(here, rows)
    for end in ("jsonl", "csv", "parquet"):
        inline = task(
            kind="text", abstention="none of these", data={"files": f"rows.{end}"}, make={"test": 5, "validation": 5}
        )
        examples = load_task(inline)
        assert [e.targets for e in (*examples.train, *examples.validation, *examples.test) if e.id == "0"] == [()]
    rows[4]["words"] = None
    write(here, rows)
    assert "rows.csv:6: the input 'message' is empty" in refusal(
        task(
            kind="text",
            abstention="none",
            data={"files": {"train": "rows.csv"}},
            make={"test": 5, "validation": 5, "distinct": False},
        )
    )


def test_lists_hold_accepted_answers_and_slices_and_spans_are_read(here):
    rows = [
        {"words": sentence(n), "answers": [f"a{n}", f"b{n}"], "doc": "d", "from": 2, "to": 5, "kinds": ["old", "long"]}
        for n in range(12)
    ]
    write_to = here / "qa.jsonl"
    write_to.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {
        "inputs": {"question": "words"},
        "target": "answers",
        "spans": {"document": "doc", "start": "from", "end": "to"},
        "slices": "kinds",
    }
    made = load_task(task(kind="text", data={"files": "qa.jsonl"}, columns=columns, make={"validation": 3, "test": 3}))
    first = made.train[0]
    number = first.id.removeprefix("row-")
    assert first.targets == (f"a{int(number) - 1}", f"b{int(number) - 1}")
    assert (first.spans, first.slices) == ((Span("d", 2, 5),), ("old", "long"))


def test_spans_kept_as_floats_and_cells_of_a_whole_document_are_read(here):
    rows = [{"words": sentence(n), "answer": "a", "doc": "d", "from": 2.0, "to": 5.0} for n in range(12)]
    rows[0]["words"] = "long " * 40_000
    write(here, rows)
    columns = {"inputs": {"question": "words"}, "target": "answer"}
    columns["spans"] = {"document": "doc", "start": "from", "end": "to"}
    for end in ("csv", "parquet", "jsonl"):
        made = load_task(
            task(kind="text", data={"files": f"rows.{end}"}, columns=columns, make={"validation": 3, "test": 3})
        )
        examples = (*made.train, *made.validation, *made.test)
        assert max(len(one.inputs["question"]) for one in examples) >= 199_999
        assert {one.spans for one in examples} == {(Span("d", 2, 5),)}


def test_json_answers_are_one_value_in_every_format(here):
    rows = [{"words": sentence(n), "record": {"n": n, "tags": ["x"]}} for n in range(9)]
    (here / "j.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (here / "j.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["words", "record"])
        writer.writerows([row["words"], json.dumps(row["record"])] for row in rows)
    as_text = [{**row, "record": json.dumps(row["record"])} for row in rows]
    (here / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in as_text))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(as_text), here / "j.parquet")
    columns = {"inputs": {"text": "words"}, "target": "record"}
    made = [
        load_task(task(kind="json", data={"files": name}, columns=columns, make={"validation": 2, "test": 2}))
        for name in ("j.jsonl", "j.csv", "t.jsonl", "j.parquet")
    ]
    for one in made:
        assert [e.targets for e in one.train] == [e.targets for e in made[0].train]
        assert isinstance(one.train[0].targets[0], dict)
    (here / "j.csv").write_text("words,record\nabc,{oops\n")
    assert "j.csv:2: column 'record' is not JSON, found '{oops'" in refusal(
        task(kind="json", data={"files": "j.csv"}, columns=columns, make={"validation": 2, "test": 2})
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"files": "a.csv", "hub": "x/y", "revision": "1"}}, "needs exactly one of `hub` and `files`"),
        ({"data": {"hub": "x/y"}}, "`hub` needs a `revision`"),
        ({"data": {"files": {"test": "a.csv"}}}, "`files` is one path, or names `train`"),
        ({"make": None}, "one file for all splits needs `make"),
        ({"make": {"train": 5, "by": "group"}}, "`make.by: group` needs `columns.group`"),
        ({"kind": "text", "make": {"train": 5, "by": "label"}}, "`make.by: label` belongs to kind choice"),
        ({"make": {"train": 0}}, "greater than or equal to 1"),
        ({"corpsu": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_is_refused_by_the_schema(changes, message):
    with pytest.raises(ValidationError) as caught:
        task(**changes)
    assert message in str(caught.value)


def test_a_missing_corpus_is_refused(here):
    assert "is neither a folder nor a .jsonl file" in refusal(task(corpus="nowhere"))


class FakeTable(list):
    """Rows with features, as the library gives them."""

    def __init__(self, rows, **features):
        super().__init__(rows)
        self.features = features


class ClassLabel:
    names = ("down", "up")


def hub(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_rows_are_asked_for_by_revision_and_class_labels_get_their_names(monkeypatch):
    asked = {}
    rows = [{"text": sentence(n), "label": n % 2} for n in range(30)]

    def load_dataset(dataset, **settings):
        asked.update(settings, id=dataset)
        return {
            "train": FakeTable(rows, text=object(), label=ClassLabel()),
            "test": FakeTable([{"text": "something of its own", "label": 1}], label=ClassLabel()),
        }

    hub(monkeypatch, load_dataset)
    inline = task(
        data={"hub": "owner/moods", "revision": "abc"},
        columns={"inputs": {"message": "text"}, "target": "label"},
        make={"validation": 6},
    )
    made, sources = load_task_with_sources(inline)
    assert asked == {"id": "owner/moods", "name": None, "revision": "abc", "split": None}
    assert made.contract.labels == ("down", "up")
    assert made.test[0].targets == ("up",)
    assert sources["test-1"] == "hub:owner/moods[test]:1"
    assert len(made.train) == 24


def test_hub_data_without_the_library_says_what_to_install(monkeypatch):
    # A folder named `datasets` on the path imports as an empty namespace: that is not the library.
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    inline = task(data={"hub": "owner/moods", "revision": "abc"})
    assert 'pip install "adaptation-toolkit[hub]"' in refusal(inline)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert 'pip install "adaptation-toolkit[hub]"' in refusal(inline)


def test_a_hub_that_cannot_be_reached_is_one_clear_message(monkeypatch):
    def load_dataset(dataset, **settings):
        raise ConnectionError("no route")

    hub(monkeypatch, load_dataset)
    message = refusal(task(data={"hub": "owner/moods", "revision": "abc"}))
    assert message == "hub dataset 'owner/moods' at revision 'abc' cannot be read: ConnectionError: no route"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
def test_banking77_runs_from_yaml_alone_and_passes_the_doctor():
    names = ["card_arrival", "card_linking", "lost_or_stolen_card", "card_not_working", "card_swallowed"]
    inline = InlineTask.model_validate(
        {
            "name": "banking77",
            "kind": "choice",
            "data": {"files": {part: str(SHARED / f"banking77/{part}.jsonl") for part in ("train", "test")}},
            "columns": {"inputs": {"message": "text"}, "target": "category", "id": "id"},
            "keep": {"category": names},
            "labels": {"write": {name: name.replace("_", " ") for name in names}},
            "make": {"train": 100, "validation": 25, "test": 100},
        }
    )
    made, sources = load_task_with_sources(inline)
    assert [len(split) for split in (made.train, made.validation, made.test)] == [100, 25, 100]
    assert made.contract.write("card_arrival") == "card arrival"
    assert not examine(made, sources).errors


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is absent")
def test_xquad_runs_from_yaml_alone_and_passes_the_doctor():
    folder = SHARED / "xquad_en"
    inline = InlineTask.model_validate(
        {
            "name": "xquad",
            "kind": "text",
            "data": {"files": str(folder / "questions.jsonl")},
            "columns": {
                "inputs": {"question": "question"},
                "target": "answers",
                "id": "id",
                "group": "article",
                "spans": {"document": "document", "start": "start", "end": "end"},
            },
            "corpus": str(folder / "documents.jsonl"),
            "make": {"train": 500, "validation": 150, "test": 400, "by": "group"},
        }
    )
    made, sources = load_task_with_sources(inline)
    documents = [(row["id"], row["text"]) for row in map(json.loads, (folder / "documents.jsonl").open())]
    assert [len(split) for split in (made.train, made.validation, made.test)] == [500, 150, 400]
    assert not examine(made, sources, documents).errors
