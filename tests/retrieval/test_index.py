"""Exact search against brute force, ties, batches, and bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import DataError, ModelError
from toolkit.retrieval import FlatIndex


def unit_vectors(rows, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(vectors, queries, top_k):
    """Scores in float64 rounded to float32, equal ones by position: one pair at a time, no library search."""
    scores = np.array([[np.sum(q.astype(np.float64) * v.astype(np.float64)) for v in vectors] for q in queries]).astype(
        np.float32
    )
    order = [sorted(range(len(vectors)), key=lambda n: (-row[n], n))[:top_k] for row in scores]
    return np.take_along_axis(scores, np.array(order), axis=1), np.array(order)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 120),
    dimension=st.integers(1, 24),
    queries=st.integers(1, 30),
    top_k=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    copies=st.integers(1, 6),
)
def test_search_equals_brute_force_with_ties_by_position(rows, dimension, queries, top_k, seed, copies):
    vectors = unit_vectors(rows, dimension, seed)
    vectors = vectors[np.random.default_rng(seed).permutation(np.repeat(np.arange(rows), copies))]  # many exact ties
    asked = unit_vectors(queries, dimension, seed + 1)
    scores, positions = FlatIndex(vectors).search(asked, top_k)
    expected_scores, expected_positions = brute_force(vectors, asked, top_k)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_array_equal(scores, expected_scores)


def test_more_ties_than_candidates_are_still_ordered_by_position():
    vectors = np.repeat(unit_vectors(2, 8, 0), [5, 700], axis=0)
    _, positions = FlatIndex(vectors).search(vectors[-1:], 4)
    assert positions.tolist() == [[5, 6, 7, 8]]


def test_passages_nearer_than_float32_can_sum_are_in_their_true_order():
    noise, centre = np.random.default_rng(6), unit_vectors(1, 384, 5)
    near = centre + noise.normal(scale=1e-7, size=(400, 384))
    asked = centre + noise.normal(scale=0.02, size=(25, 384))
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    queries = (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)
    scores, positions = FlatIndex(vectors).search(queries, 3)
    expected_scores, expected_positions = brute_force(vectors, queries, 3)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_query_has_the_same_result_alone_and_in_a_batch():
    vectors, queries = unit_vectors(3000, 64, 1), unit_vectors(70, 64, 2)
    index = FlatIndex(vectors)
    scores, positions = index.search(queries, 10)
    for row in range(len(queries)):
        alone_scores, alone_positions = index.search(queries[row : row + 1], 10)
        np.testing.assert_array_equal(alone_scores[0], scores[row])
        np.testing.assert_array_equal(alone_positions[0], positions[row])


def test_more_than_all_gives_all_and_a_zero_query_gives_positions_in_order():
    index = FlatIndex(unit_vectors(20, 4, 0))
    scores, positions = index.search(np.zeros((1, 4), dtype=np.float32), 50)
    assert positions.tolist() == [list(range(20))]
    assert not scores.any()


def test_bytes_are_equal_for_equal_vectors_and_load_back():
    vectors, queries = unit_vectors(50, 8, 3), unit_vectors(5, 8, 4)
    content = FlatIndex(vectors).to_bytes()
    assert content == FlatIndex(vectors.copy()).to_bytes()
    loaded = FlatIndex.from_bytes(content)
    assert (len(loaded), loaded.dimension, loaded.size_bytes) == (50, 8, 1600)
    for ours, theirs in zip(FlatIndex(vectors).search(queries, 7), loaded.search(queries, 7), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_bytes_are_refused():
    with pytest.raises(DataError, match="not a FAISS index"):
        FlatIndex.from_bytes(b"nonsense" * 10)
    import faiss

    with pytest.raises(DataError, match="IndexFlatIP"):
        FlatIndex.from_bytes(faiss.serialize_index(faiss.IndexFlatL2(4)).tobytes())


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones((2, 2), dtype=np.float32), "length 1.4142"),
        (np.array([[1, 0], [np.nan, 0]], dtype=np.float32), "vector 1 holds values that are not finite"),
        (np.ones((1, 1)), "float64"),
        (np.ones(3, dtype=np.float32), "1 dimensions"),
    ],
)
def test_vectors_that_break_cosine_are_refused(vectors, words):
    with pytest.raises(ModelError, match=words):
        FlatIndex(vectors)


def test_no_vectors_and_no_results_are_refused():
    with pytest.raises(DataError, match="empty"):
        FlatIndex(np.zeros((0, 3), dtype=np.float32))
    index = FlatIndex(unit_vectors(2, 3, 0))
    with pytest.raises(DataError, match="top_k is 0"):
        index.search(unit_vectors(1, 3, 0), 0)
    with pytest.raises(ModelError, match="queries have dimension 4, the index has 3"):
        index.search(unit_vectors(1, 4, 0), 1)
