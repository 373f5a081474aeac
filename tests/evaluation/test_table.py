"""The score and usage tables: rows, files and arrays."""

import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolkit.errors import DataError
from toolkit.evaluation import (
    METRICS,
    arrays,
    metrics_for,
    read_scores,
    read_usage,
    score_outputs,
    usage_rows,
    write_scores,
    write_usage,
)
from toolkit.tasks.contract import ChoiceContract
from toolkit.tasks.example import Example
from toolkit.tasks.output import Output, Usage

CONTRACT = ChoiceContract(("card", "cash"))
EXAMPLES = (
    Example("b", {"q": "1"}, targets=("card",), group="bank", slices=("short", "new")),
    Example("a", {"q": "2"}, targets=("cash",), group="bank"),
    Example("c", {"q": "3"}),
)
OUTPUTS = (
    Output("b", "answered", answer="card", text="card"),
    Output("a", "error", error="too long"),
    Output("c", "answered", answer="cash", text="cash"),
)


def rows_of(strategy="rag", seed=None, outputs=OUTPUTS):
    metrics = metrics_for(["accuracy", "macro_f1"], CONTRACT)
    return score_outputs(strategy, "smol", "generation", seed, EXAMPLES, outputs, metrics, CONTRACT)


def test_every_example_that_a_metric_applies_to_gives_a_row():
    rows = rows_of(seed=3)
    assert [(row.metric, row.example_id, row.value) for row in rows] == [
        ("accuracy", "b", 1),
        ("accuracy", "a", 0),
        ("macro_f1", "b", 1),
        ("macro_f1", "a", 0),
        ("parsed", "b", 1),
        ("parsed", "a", 0),
        ("parsed", "c", 1),
    ]
    first, last = rows[2], rows[-1]
    assert (first.strategy, first.model, first.answer_by, first.seed) == ("rag", "smol", "generation", 3)
    assert (first.group, first.slices, first.metric_version) == ("bank", ("short", "new"), METRICS["macro_f1"].version)
    assert first.statistics == (1, 0, 0, 0, 0, 0)
    assert last.group == "c"


def test_outputs_are_matched_by_id_in_any_order():
    assert rows_of(outputs=OUTPUTS[::-1]) == rows_of()


@pytest.mark.parametrize(
    ("outputs", "fact"),
    [
        (OUTPUTS[:2], "without an output: 'c'"),
        ((*OUTPUTS, Output("z", "error")), "outputs of no example: 'z'"),
        ((*OUTPUTS, OUTPUTS[0]), "repeated outputs: 'b'"),
    ],
)
def test_every_example_needs_exactly_one_output(outputs, fact):
    with pytest.raises(DataError, match=fact):
        rows_of(outputs=outputs)


def test_a_repeated_example_is_refused():
    with pytest.raises(DataError, match="repeated examples: 'b'"):
        score_outputs("s", "m", "generation", None, (*EXAMPLES, EXAMPLES[0]), OUTPUTS, [], CONTRACT)


def test_scores_come_back_as_they_were_written(tmp_path):
    rows = [*rows_of(), *rows_of("lora", 0), *rows_of("lora", 1)]
    write_scores(rows, tmp_path / "new" / "scores.parquet")
    found = read_scores(tmp_path / "new" / "scores.parquet")
    assert len(found) == len(rows)
    assert set(found) == set(rows)
    assert [row.example_id for row in found[:2]] == ["a", "b"]
    assert [item.name for item in (tmp_path / "new").iterdir()] == ["scores.parquet"]


def test_the_same_rows_in_any_order_give_the_same_bytes(tmp_path):
    rows = [*rows_of(), *rows_of("lora", 10), *rows_of("lora", 9), *rows_of("lora")]
    write_scores(rows, tmp_path / "one.parquet")
    random.Random(0).shuffle(rows)
    write_scores(rows, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    seeds = [row.seed for row in read_scores(tmp_path / "two.parquet") if row.strategy == "lora"]
    assert seeds == [None] * 7 + [9] * 7 + [10] * 7


def test_the_schema_does_not_depend_on_the_rows(tmp_path):
    write_scores([], tmp_path / "none.parquet")
    write_scores(rows_of(), tmp_path / "some.parquet")
    assert pq.read_schema(tmp_path / "none.parquet").equals(pq.read_schema(tmp_path / "some.parquet"))
    assert read_scores(tmp_path / "none.parquet") == []


def test_a_score_cannot_stand_twice(tmp_path):
    with pytest.raises(DataError, match="two scores of strategy 'rag', seed None, metric 'accuracy', example 'b'"):
        write_scores([*rows_of(), rows_of()[0]], tmp_path / "scores.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_table(tmp_path):
    path = tmp_path / "scores.parquet"
    write_scores(rows_of(), path)
    before = path.read_bytes()
    with pytest.raises(pa.ArrowException):
        write_scores([replace(rows_of()[0], statistics=("one",))], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_breaks_off_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "scores.parquet"
    write_scores(rows_of(), path)
    before = path.read_bytes()

    def break_off(table, where, **settings):
        where.write_bytes(b"PAR1 half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", break_off)
    with pytest.raises(OSError, match="no space"):
        write_scores(rows_of("lora"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_written_by_another_tool_is_read(tmp_path):
    write_scores(rows_of(), tmp_path / "ours.parquet")
    table = pq.read_table(tmp_path / "ours.parquet")
    plain = pa.table({name: pa.array(table.column(name).to_pylist()) for name in reversed(table.column_names)})
    seeds = pa.nulls(len(plain), pa.int64())
    plain = plain.set_column(plain.column_names.index("seed"), "seed", seeds).append_column("note", seeds)
    pq.write_table(plain, tmp_path / "theirs.parquet", row_group_size=2)
    assert read_scores(tmp_path / "theirs.parquet") == read_scores(tmp_path / "ours.parquet")


def test_what_is_no_score_table_is_told(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_scores(tmp_path / "scores.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a table of this kind"):
        read_scores(tmp_path / "text.parquet")
    write_usage([], tmp_path / "usage.parquet")
    with pytest.raises(DataError, match="columns are missing: model, answer_by"):
        read_scores(tmp_path / "usage.parquet")
    write_scores(rows_of(), tmp_path / "ours.parquet")
    table = pq.read_table(tmp_path / "ours.parquet")
    for name, wrong in (("value", None), ("statistics", [None]), ("statistics", None)):
        column = pa.array([wrong] * len(table), type=pa.float64() if name == "value" else pa.list_(pa.float64()))
        damaged = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(damaged, tmp_path / "damaged.parquet")
        with pytest.raises(DataError, match="not a table of this kind"):
            read_scores(tmp_path / "damaged.parquet")


def test_arrays_are_of_one_strategy_metric_and_seed_in_the_order_of_ids():
    rows = [*rows_of("lora", 0), *rows_of("lora", 1, (OUTPUTS[0], Output("a", "answered", "cash"), OUTPUTS[2]))]
    found = arrays(rows, "lora", "macro_f1", seed=1)
    assert found.example_ids == ("a", "b")
    assert found.values.tolist() == [1, 1]
    assert found.statistics.tolist() == [[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert found.groups == ("bank", "bank")
    assert arrays(rows, "lora", "accuracy", seed=0).values.tolist() == [0, 1]
    shuffled = random.Random(0).sample(rows, len(rows))
    assert np.array_equal(arrays(shuffled, "lora", "macro_f1", 1).statistics, found.statistics)


def test_what_the_table_does_not_hold_is_told():
    rows = rows_of("lora", 0)
    with pytest.raises(DataError, match=r"no scores of strategy 'lorra' \(did you mean 'lora'\?\); there are: lora"):
        arrays(rows, "lorra", "accuracy", 0)
    with pytest.raises(DataError, match=r"no scores of metric 'acuracy' \(did you mean 'accuracy'"):
        arrays(rows, "lora", "acuracy", 0)
    with pytest.raises(DataError, match="has no seed None; there are: 0"):
        arrays(rows, "lora", "accuracy")


def test_arrays_of_repeated_or_mixed_rows_are_refused():
    rows = rows_of()
    with pytest.raises(DataError, match="more than once: 'a', 'b'"):
        arrays([*rows, *rows], "rag", "accuracy")
    mixed = [replace(rows[0], metric_version="0"), *rows[1:]]
    with pytest.raises(DataError, match="several versions"):
        arrays(mixed, "rag", "accuracy")


def test_usage_counts_tokens_by_origin(tmp_path):
    tokens = {"question": 30, "demonstrations": 20, "passages": 10, "turns": 4, "tools": 1}
    spent = Output("b", "answered", answer="card", termination="stop", usage=Usage(tokens, 3, 2))
    rows = usage_rows("rag", 1, [spent, Output("a", "error")])
    first, second = rows
    assert (first.question, first.demonstrations, first.passages, first.other) == (30, 20, 10, 5)
    assert (first.prompt_tokens, first.completion_tokens, first.calls) == (65, 3, 2)
    assert (first.status, first.termination, first.price) == ("answered", "stop", None)
    assert (second.prompt_tokens, second.calls, second.status, second.termination) == (0, 0, "error", "none")
    priced = [replace(first, seed=None, price=0.25), *rows]
    write_usage(priced, tmp_path / "one.parquet")
    write_usage(priced[::-1], tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert read_usage(tmp_path / "one.parquet") == [priced[0], second, first]


def test_a_usage_cannot_stand_twice(tmp_path):
    rows = usage_rows("rag", None, OUTPUTS)
    with pytest.raises(DataError, match="two usages of strategy 'rag', seed None, example 'b'"):
        write_usage([*rows, rows[0]], tmp_path / "usage.parquet")


def test_importing_evaluation_loads_no_heavy_library():
    import subprocess
    import sys

    code = "import sys, toolkit.evaluation; print(sorted({'numpy', 'pyarrow', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
