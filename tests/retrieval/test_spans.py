"""Gold spans: every value computed by hand."""

import pytest

from toolkit.errors import DataError
from toolkit.retrieval import covered_share, covers, recall_at_k, reciprocal_rank

GOLD = [("a", 10, 20), ("b", 0, 5)]


@pytest.mark.parametrize(
    ("passage", "expected"),
    [
        (("a", 10, 20), True),
        (("a", 0, 99), True),
        (("a", 11, 20), False),
        (("a", 10, 19), False),
        (("b", 10, 20), False),
    ],
)
def test_a_passage_covers_a_span_it_holds_whole(passage, expected):
    assert covers(passage, ("a", 10, 20)) is expected


@pytest.mark.parametrize(
    ("passages", "expected"),
    [
        ([], 0.0),
        ([("a", 0, 15)], 0.5),
        ([("a", 15, 30), ("a", 0, 15)], 1.0),
        ([("a", 12, 14), ("a", 13, 16), ("a", 12, 13)], 0.4),  # 12..16, the overlap counted once
        ([("a", 0, 14), ("a", 15, 20)], 0.9),
        ([("b", 10, 20)], 0.0),
    ],
)
def test_covered_share_is_the_union_in_the_same_document(passages, expected):
    assert covered_share(passages, ("a", 10, 20)) == expected


def test_recall_counts_spans_that_the_union_of_the_first_k_covers():
    passages = [("a", 0, 15), ("b", 0, 8), ("a", 14, 40)]
    assert [recall_at_k(passages, GOLD, k) for k in (1, 2, 3, 9)] == [0.0, 0.5, 1.0, 1.0]


def test_nearly_covered_is_not_covered():
    assert recall_at_k([("a", 10, 19)], [("a", 10, 20)], 1) == 0.0
    assert recall_at_k([("a", 10, 14), ("a", 15, 20)], [("a", 10, 20)], 2) == 0.0


def test_reciprocal_rank_is_of_the_first_single_passage_with_a_whole_span():
    assert reciprocal_rank([("a", 0, 15), ("a", 15, 30), ("b", 0, 5)], GOLD) == 1 / 3
    assert reciprocal_rank([("a", 5, 25), ("b", 0, 5)], GOLD) == 1.0
    assert reciprocal_rank([("c", 0, 99)], GOLD) == 0.0
    assert reciprocal_rank([], GOLD) == 0.0


def test_what_has_no_meaning_is_refused():
    with pytest.raises(DataError, match="no gold span"):
        recall_at_k([("a", 0, 1)], [], 1)
    with pytest.raises(DataError, match="no gold span"):
        reciprocal_rank([("a", 0, 1)], [])
    with pytest.raises(DataError, match="k is 0"):
        recall_at_k([], GOLD, 0)
    with pytest.raises(DataError, match="5:5"):
        recall_at_k([], [("a", 5, 5)], 1)
    with pytest.raises(DataError, match="-1:4"):
        covers(("a", -1, 4), ("a", 0, 2))
