"""The parts of the report: rows, figures, the headline's cases, flips, charts."""

import json
import re

import pytest

from toolkit.report import as_texts, figures, headings, verdict_table
from toolkit.report.charts import Mark, forest, in_characters
from toolkit.report.costs import break_evens
from toolkit.report.facts import retrieval_of
from toolkit.report.flips import found_flips
from toolkit.report.headline import headline, standing
from toolkit.report.markdown import escaped
from toolkit.report.read import read_run
from toolkit.report.sides import between, seen_from


def test_rows_run_from_the_best_to_the_worst_with_controls_last(tmp_path, fake_run):
    comparison = fake_run().write(tmp_path)
    rows = verdict_table(comparison, {})
    scores = [row.score for row in rows if not row.control]
    assert scores == sorted(scores, reverse=True)
    assert [row.strategy for row in rows if row.control] == ["oracle"]
    assert rows[-1].word == "control"
    assert rows[-1].score > rows[0].score  # a control above all candidates is still no winner
    assert standing(comparison).best == rows[0].strategy


def test_a_row_without_a_ledger_entry_has_dashes(tmp_path, fake_run):
    comparison = fake_run().write(tmp_path)
    row = verdict_table(comparison, {})[0]
    texts = as_texts(row)
    assert len(texts) == len(headings(comparison))
    assert [text for text, _ in texts[6:]] == [figures.NOTHING] * 3


def test_the_baseline_and_the_uncompared_have_words_of_their_own(tmp_path, fake_run):
    comparison = fake_run(plans=(("rag", "zero_shot"),)).write(tmp_path)
    words = {row.strategy: row.word for row in verdict_table(comparison, {})}
    assert words == {
        "lora_rag": "not compared",
        "rag": "BETTER",
        "lora": "not compared",
        "few_shot": "not compared",
        "zero_shot": "baseline",
        "oracle": "control",
    }


def test_a_contrast_declared_the_other_way_round_is_turned():
    contrast = {
        "a": "base",
        "b": "rag",
        "metric": "accuracy",
        "difference": -0.2,
        "interval": [-0.3, -0.1],
        "verdict": "WORSE",
        "p_holm": 0.01,
        "resolvable_difference": 0.1,
        "refused": None,
    }
    side = between({"metric": "accuracy", "contrasts": [contrast]}, "rag", "base")
    assert (side.difference, side.interval, side.word) == (0.2, (0.1, 0.3), "BETTER")
    assert seen_from(contrast, "base").word == "WORSE"
    assert between({"metric": "exact_match", "contrasts": [contrast]}, "rag", "base") is None


def test_the_winner_needs_a_direct_contrast_with_the_next_best(tmp_path, fake_run):
    fake_run(plans=(("lora_rag", "zero_shot"),)).write(tmp_path)
    said = headline(read_run(tmp_path))
    assert said.answer.startswith("lora_rag leads: ")
    assert said.answer.endswith("not tested against rag, lora and few_shot.")
    assert any("add `contrasts: [{a: lora_rag, b: rag}" in line for line in said.support)


def test_without_any_contrast_there_is_no_answer_yet(tmp_path, fake_run):
    fake_run(plans=()).write(tmp_path)
    assert headline(read_run(tmp_path)).answer.startswith("No answer yet: lora_rag scores highest")


def test_what_is_not_resolved_from_the_best_is_named(tmp_path, fake_run):
    fake_run(names=("few_shot", "lora"), plans=(("few_shot", "lora"),), baseline=None, n=60, groups=30).write(tmp_path)
    said = headline(read_run(tmp_path))
    assert re.fullmatch(r"No single winner: \w+ scores highest, but not resolved from \w+\.", said.answer)
    assert re.search(r"gap \+[\d.]+ \[.*\], where this test set resolves [\d.]+ or more", said.support[0])


def test_controls_alone_give_no_answer(tmp_path, fake_run):
    fake_run(names=("oracle",), plans=(), baseline=None).write(tmp_path)
    assert headline(read_run(tmp_path)).answer.startswith("No answer: only controls")


def test_what_is_dearer_once_and_cheaper_each_time_breaks_even(tmp_path, fake_run):
    fake_run().write(tmp_path)
    lines = break_evens(read_run(tmp_path))
    assert lines == [
        "lora has taken less time than zero_shot in all from about 13,744 queries on (6.9 min more once, "
        "30 ms less a query, on this machine)."
    ]


def test_flips_come_widest_first_then_by_name():
    found = found_flips({"d": 0.5, "b": 1.0, "a": 1.0, "c": 0.0, "x": 1.0}, {"d": 0.0, "b": 0.0, "a": 0.0, "c": 1.0})
    assert found.a_higher == ("a", "b", "d")
    assert found.b_higher == ("c",)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0004, "<.001"), (0.012, ".012"), (0.05, ".050"), (1.0, "1.000"), (None, "–")]
)
def test_p_values(value, shown):
    assert figures.p_value(value) == shown


def test_shares_are_points_and_counts_are_not():
    assert figures.amount(0.2415, "token_f1", signed=True) == "+24.1"
    assert figures.amount(-0.06, "token_f1") == "−6.0"
    assert figures.amount(-0.0001, "token_f1", signed=True) == "0.0"
    assert figures.amount(12.34, "answer_tokens") == "12.3"
    assert figures.interval((0.18, 0.302), "token_f1").split() == ["[18.0,", "30.2]"]
    assert figures.interval((None, None), "token_f1") == "–"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.0001, "<1 ms"),
        (0.31, "310 ms"),
        (61.0, "61.0 s"),
        (412.3, "6.9 min"),
        (9000, "2.5 h"),
    ],
)
def test_seconds(value, shown):
    assert figures.seconds(value) == shown


def test_the_forest_tells_verdicts_by_shape_and_by_word():
    words = ("BETTER", "WORSE", "EQUIVALENT", "UNRESOLVED", "SMOKE")
    marks = [Mark(f"a{word} $x", 1.0, (0.0, 2.0), word, "+1.0", word) for word in words]
    svg = forest([*marks, Mark("c", None, (None, None), "refused", "", "refused")], "points", "Differences")
    assert all(f">{word}</text>" in svg for word in (*words, "refused"))
    shapes = re.findall(r'<path id="differences-m[0-9a-f]+" d="([^"]+)"', svg)
    assert len({shape for shape in shapes if shape.count("\n") > 2}) >= len(words)
    assert "aBETTER $x" in svg
    assert forest(marks, "points", "Differences") == forest(marks, "points", "Differences")


def test_the_chart_in_characters_marks_zero_and_the_value():
    line = in_characters([Mark("a − b", 0.5, (0.25, 1.0), "BETTER", "+0.5", "BETTER")], zero=True, width=9)
    assert line == "a − b  | ├─●───┤  +0.5 BETTER"


def test_retrieval_is_exact_unless_an_index_says_otherwise():
    assert retrieval_of([{"retrieve": {"top_k": 3}}], has_index=True) == "exact"
    assert retrieval_of([{"retrieve": {"index": "hnsw"}}], has_index=True) == "approximate (hnsw)"
    assert retrieval_of([{"tune": {"rank": 16}}], has_index=False) == "–"


def test_markdown_in_data_is_shown_as_it_is():
    assert escaped("lora_rag") == "lora_rag"
    assert escaped("a|b *c* <i> [x](y) `d`") == r"a\|b \*c\* &lt;i> [x\](y) \`d\`"
    assert escaped("# no heading") == r"\# no heading"


def test_equivalent_is_not_called_unresolved(tmp_path, fake_run):
    fake_run(names=("few_shot", "lora"), plans=(("few_shot", "lora"),), baseline=None, n=60, groups=30).write(tmp_path)
    path = tmp_path / "comparison.json"
    comparison = json.loads(path.read_text())
    comparison["contrasts"][0] |= {"verdict": "EQUIVALENT", "margin": 0.5}
    path.write_text(json.dumps(comparison))
    said = headline(read_run(tmp_path))
    assert re.fullmatch(r"No single winner: \w+ scores highest, but equivalent to \w+\.", said.answer)


def test_a_test_set_that_resolves_nothing_says_so(tmp_path, fake_run):
    fake_run(names=("few_shot", "lora"), plans=(("few_shot", "lora"),), baseline=None, n=60, groups=5).write(tmp_path)
    run = read_run(tmp_path)
    (contrast,) = run.comparison["contrasts"]
    assert contrast["resolvable_difference"] is None
    assert contrast["sentence"].endswith("5 independent groups of examples are too few to resolve any difference.")
    assert headline(run).support[0].endswith("where this test set resolves no difference.")
