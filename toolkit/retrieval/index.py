"""Exact search by inner product over normalised vectors: FAISS finds candidates, float64 settles their order.

This is the only module that imports faiss.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DataError, ModelError

if TYPE_CHECKING:
    from toolkit.retrieval.encoder import Vectors

_SPARE_CANDIDATES = 8
_GATHERED_VALUES = 2**24  # candidate vectors are gathered in blocks of 64 MiB


class FlatIndex:
    """All vectors [n, D], searched exactly (FAISS `IndexFlatIP`). No training, no recall to tune.

    FAISS sums in another order for one query than for many, so scores differ in the last bits and equal passages come
    in any order. Here the candidates' scores are summed again in float64 and rounded to float32, and equal scores are
    ordered by position: a query has the same result alone and in any batch.
    """

    def __init__(self, vectors: Vectors) -> None:
        """Index vectors [n, D], float32, each of length 1 (or 0: it matches nothing).

        Raises:
            DataError: there is no vector.
            ModelError: the array is not finite, two-dimensional and float32, or a vector is not normalised.
        """
        _check_vectors(vectors)
        if not len(vectors):
            raise DataError("an index of no vectors was asked for; the corpus is empty")
        self._index = _faiss().IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors))

    @classmethod
    def from_bytes(cls, content: bytes) -> FlatIndex:
        """The index that `to_bytes` wrote.

        Raises:
            DataError: the bytes are not an exact inner-product index of FAISS.
        """
        faiss = _faiss()
        try:
            loaded = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
        except RuntimeError as error:
            raise DataError(f"not a FAISS index: {str(error).strip().splitlines()[-1]}") from None
        if not isinstance(loaded, faiss.IndexFlat) or loaded.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise DataError(f"found a FAISS {type(loaded).__name__}; expected IndexFlatIP")
        index = cls.__new__(cls)
        index._index = loaded
        return index

    def to_bytes(self) -> bytes:
        """FAISS's own file format; equal vectors give equal bytes."""
        content: bytes = _faiss().serialize_index(self._index).tobytes()
        return content

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Length D of a vector."""
        return int(self._index.d)

    @property
    def size_bytes(self) -> int:
        """Memory of the vectors."""
        return len(self) * self.dimension * 4

    def search(self, queries: Vectors, top_k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """The best passages of each query, best first, equal scores by position.

        Args:
            queries: [B, D], float32, normalised.
            top_k: how many; more than n gives all n.

        Returns:
            Scores [B, K] float32 and positions [B, K], K = min(top_k, n).

        Raises:
            DataError: `top_k` is below 1.
            ModelError: the queries are not finite normalised float32 of dimension D.
        """
        if top_k < 1:
            raise DataError(f"top_k is {top_k}; allowed is 1 or more")
        _check_vectors(queries)
        if queries.shape[1] != self.dimension:
            raise ModelError(f"queries have dimension {queries.shape[1]}, the index has {self.dimension}")
        queries = np.ascontiguousarray(queries)
        kept = min(top_k, len(self))
        scores = np.empty((len(queries), kept), dtype=np.float32)
        positions = np.empty((len(queries), kept), dtype=np.int64)
        # Bound on the rounding error of a float32 inner product of two vectors of length 1.
        tolerance = self.dimension * np.finfo(np.float32).eps
        open_rows, width = np.arange(len(queries)), min(len(self), kept + _SPARE_CANDIDATES)
        while len(open_rows):
            rough, found = self._index.search(queries[open_rows], width)
            exact = self._exact_scores(queries[open_rows], found)
            order = np.lexsort((found, -exact))[:, :kept]
            scores[open_rows] = np.take_along_axis(exact, order, axis=1)
            positions[open_rows] = np.take_along_axis(found, order, axis=1)
            # A passage that was not found scores at most the worst one found. While that could still tie with the
            # last one kept, look further.
            unsettled = rough[:, -1] >= scores[open_rows, -1] - tolerance
            open_rows = open_rows[unsettled] if width < len(self) else open_rows[:0]
            width = min(len(self), 4 * width)
        return scores, positions

    def _exact_scores(self, queries: Vectors, found: NDArray[np.int64]) -> Vectors:
        """Inner products [B, C] of queries [B, D] and their candidates [B, C], independent of B and C."""
        scores = np.empty(found.shape, dtype=np.float32)
        rows = max(1, _GATHERED_VALUES // (found.shape[1] * self.dimension))
        for start in range(0, len(found), rows):
            block = found[start : start + rows]
            vectors = self._index.reconstruct_batch(block.reshape(-1)).reshape(*block.shape, self.dimension)
            # Products of two float32 are exact in float64, and the sum is rounded to float32 only once.
            scores[start : start + rows] = np.einsum(
                "bcd,bd->bc", vectors, queries[start : start + rows], dtype=np.float64, casting="same_kind"
            )
        return scores


def faiss_version() -> str:
    """Version of the installed faiss."""
    return str(_faiss().__version__)


def _faiss() -> Any:
    # torch and faiss each bring an OpenMP runtime. Loading faiss first has crashed the process when torch came later
    # (sentence-transformers #2473, pytorch #149201, faiss-wheels #73), so torch, where installed, is always first.
    # With torch 2.13 and faiss 1.15 on Linux both orders work; macOS is where it bites.
    with suppress(ImportError):
        import torch  # noqa: F401
    import faiss

    return faiss


def _check_vectors(vectors: Vectors) -> None:
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise ModelError(f"vectors are {vectors.dtype} of {vectors.ndim} dimensions; expected float32 [n, D]")
    if not np.isfinite(vectors).all():
        raise ModelError(f"vector {int(np.argmin(np.isfinite(vectors).all(axis=1)))} holds values that are not finite")
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = (lengths != 0) & (np.abs(lengths - 1) > 1e-3)
    if wrong.any():
        position = int(np.argmax(wrong))
        raise ModelError(f"vector {position} has length {lengths[position]:.4f}; expected 1 (normalised)")
