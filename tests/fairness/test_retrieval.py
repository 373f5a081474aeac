"""Point 8: retrieval is exact, and an index that says it is another kind is not used as an exact one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.errors import DataError
from toolkit.retrieval import Retriever
from toolkit.runs.reopen import reopen
from toolkit.strategies.adapter import FitContext, Part
from toolkit.strategies.retrieve import RetrieveAdapter


def test_the_shipped_retriever_equals_brute_force(whole_runs: Any, outputs: Any) -> None:
    whole = whole_runs("handbook")
    finished = reopen(whole.folder)
    bench = finished.prepared.benches["rag"]
    (part,) = finished.system("rag").parts
    retriever: Retriever = part._retriever
    questions = [str(example.inputs["question"]) for example in finished.prepared.task.test]
    texts = list(dict.fromkeys(chunk.text for chunk in retriever.chunks))
    vectors = dict(zip(texts, bench.encoder.encode_passages(texts), strict=True))
    pool = np.stack([vectors[chunk.text] for chunk in retriever.chunks]).astype(np.float64)
    queries = bench.encoder.encode_queries(questions).astype(np.float64)
    scores = (queries @ pool.T).astype(np.float32)
    assert len(pool) > 60
    assert len(questions) == 210
    best = {}
    for question, row, hits in zip(questions, scores, retriever.search(questions, top_k=3), strict=True):
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))[:3]
        expected = [(retriever.chunks[place].document, retriever.chunks[place].start) for place in order]
        assert [(hit.document, hit.start) for hit in hits] == expected
        assert np.allclose([hit.score for hit in hits], row[order], rtol=0, atol=1e-6)
        best[question] = expected
    by_id = {example.id: str(example.inputs["question"]) for example in finished.prepared.task.test}
    for output in outputs(whole.folder, "rag"):
        assert [(p["document"], p["start"]) for p in output["retrieved"]] == best[by_id[output["example_id"]]]
        assert [p["rank"] for p in output["retrieved"]] == [1, 2, 3]


def _claims_hnsw(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "index_type": "hnsw"}))


def _is_hnsw(folder: Path) -> None:
    """The manifest says flat, and its checksums are right, but what lies there is approximate."""
    import faiss

    flat = faiss.deserialize_index(np.fromfile(folder / "index.faiss", dtype=np.uint8))
    approximate = faiss.IndexHNSWFlat(flat.d, 8, faiss.METRIC_INNER_PRODUCT)
    approximate.add(flat.reconstruct_n(0, flat.ntotal))
    content = faiss.serialize_index(approximate).tobytes()
    (folder / "index.faiss").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["index.faiss"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


REFUSED = {
    _claims_hnsw: "manifest.json: index_type is 'hnsw'; this version reads 'flat'",
    _is_hnsw: "index.faiss: found a FAISS IndexHNSWFlat; expected IndexFlatIP",
}


@pytest.mark.parametrize("damage", list(REFUSED))
def test_a_run_refuses_an_index_of_another_type(tiny_shipped: Any, plant: Any, damage: Any) -> None:
    class SavingAnother(Part):
        def __init__(self, inner: Part) -> None:
            self.inner = inner

        def save(self, folder: Path) -> None:
            self.inner.save(folder)
            damage(folder)

    class ApproximateAdapter(RetrieveAdapter):
        def fit(self, context: FitContext) -> Part:
            return SavingAnother(super().fit(context))

    plant(approximate=ApproximateAdapter)
    error = tiny_shipped.refusal("quickstart", "strategies={zero_shot: [], odd: [approximate: {top_k: 3}]}", "limit=1")
    assert isinstance(error, DataError)
    assert str(error).endswith(REFUSED[damage])
    assert "odd" in str(error)
    assert not (tiny_shipped.last / "outputs" / "odd").exists()


@pytest.mark.parametrize("damage", list(REFUSED))
def test_an_edited_index_of_a_finished_run_is_refused_on_load(tiny_shipped: Any, damage: Any) -> None:
    result = tiny_shipped.run(
        "quickstart", "strategies={zero_shot: [], rag: [retrieve: {top_k: 3}]}", "limit=1", "metrics=[token_f1]"
    )
    encoder = reopen(result.folder).prepared.benches["rag"].encoder
    folder = result.folder / "systems" / "rag" / "seed-none" / "1-retrieve"
    assert Retriever.load(folder, encoder).search(["What does the winch lift?"], top_k=1)[0]
    damage(folder)
    with pytest.raises(DataError) as caught:
        Retriever.load(folder, encoder)
    assert str(caught.value).endswith(REFUSED[damage])
