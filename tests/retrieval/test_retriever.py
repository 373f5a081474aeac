"""The engine as a whole, with the hashing encoder: search, ties, saving, and the refusals of the manifest."""

import json
import subprocess
import sys

import pytest

from toolkit.errors import DataError
from toolkit.retrieval import Chunking, Document, HashingEncoder, Hit, Retriever, read_folder

CORPUS = [
    Document("pump", "# Pump\n\nPrime the pump before the first start. Close the drain valve.\n\nOil it once a month."),
    Document("fan", "The fan runs at two speeds. Clean its blades with a dry cloth."),
    Document("lamp", "Replace the lamp when it flickers. Use forty watts at most."),
]
CHUNKING = Chunking(size_tokens=14, overlap_tokens=0)


class CountingEncoder(HashingEncoder):
    """Remembers the size of every call; reads passages of at most 100 tokens."""

    def __init__(self):
        super().__init__(64)
        self.passages, self.queries = [], []

    @property
    def max_tokens(self):
        return 100

    def encode_passages(self, texts):
        self.passages.append(len(texts))
        return super().encode_passages(texts)

    def encode_queries(self, texts):
        self.queries.append(len(texts))
        return super().encode_passages(texts)


def build(documents=CORPUS, chunking=CHUNKING, dimension=256):
    return Retriever.build(documents, chunking, HashingEncoder(dimension))


def test_the_promised_line_works_on_a_folder(tmp_path):
    for document in CORPUS:
        (tmp_path / f"{document.id}.md").write_text(document.text)
    retriever = Retriever.build(read_folder(tmp_path), Chunking(size_tokens=160), HashingEncoder())
    hits = retriever.search(["How do I clean the blades of the fan?"], top_k=2)
    assert [hit.rank for hit in hits[0]] == [1, 2]
    assert hits[0][0].document == "fan"


def test_hits_carry_the_offsets_of_the_original_text_best_first():
    texts = {document.id: document.text for document in CORPUS}
    for hits in build().search(["prime the pump", "watts of the lamp"], top_k=3):
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert all(hit.text == texts[hit.document][hit.start : hit.end] for hit in hits)


def test_searching_together_and_one_by_one_is_the_same():
    retriever, queries = build(), ["pump", "dry cloth", "", "watts", "zzz unknown"]
    assert retriever.search(queries, 3) == [retriever.search([query], 3)[0] for query in queries]


def test_equal_passages_come_in_the_order_of_the_corpus():
    copies = [Document(f"copy-{n}", "The valve is red.") for n in range(30)]
    hits = build([Document("other", "A fan."), *copies]).search(["red valve"], top_k=5)[0]
    assert [hit.document for hit in hits] == [f"copy-{n}" for n in range(5)]
    assert len({hit.score for hit in hits}) == 1


def test_more_passages_than_there_are_gives_all():
    retriever = build()
    hits = retriever.search(["pump"], top_k=1000)[0]
    assert {(hit.document, hit.start) for hit in hits} == {(chunk.document, chunk.start) for chunk in retriever.chunks}


def test_a_corpus_of_one_document_and_an_empty_query_work():
    retriever = build([Document("only", "One sentence.")])
    assert retriever.search([""], top_k=4) == [[Hit("only", 0, 13, "One sentence.", 0.0, 1)]]
    assert retriever.search([], top_k=4) == []
    assert retriever.size_bytes == 256 * 4 + 13


def test_all_passages_and_all_queries_are_encoded_in_one_call_and_equal_texts_once():
    encoder = CountingEncoder()
    retriever = Retriever.build([*CORPUS, Document("again", CORPUS[1].text)], CHUNKING, encoder)
    assert encoder.passages == [len({chunk.text for chunk in retriever.chunks})]
    assert len(retriever.chunks) > encoder.passages[0]
    retriever.search(["a", "b", "c"], 2)
    assert encoder.queries == [3]


@pytest.mark.parametrize("documents", [[], [Document("blank", " \n")]])
def test_an_empty_corpus_is_refused(documents):
    with pytest.raises(DataError, match="corpus is empty"):
        build(documents)


def test_an_id_used_twice_is_refused():
    with pytest.raises(DataError, match="'fan' is used twice"):
        build([CORPUS[1], CORPUS[1]])


def test_chunks_longer_than_the_encoder_reads_are_refused():
    with pytest.raises(DataError, match="size_tokens is 101, the encoder reads 100"):
        Retriever.build(CORPUS, Chunking(101), CountingEncoder())


def test_a_single_string_is_not_taken_for_a_list_of_letters():
    with pytest.raises(DataError, match="one string"):
        build().search("pump", top_k=1)


def test_saving_and_loading_keeps_hits_and_bytes(tmp_path):
    first = build()
    first.save(tmp_path / "a")
    build().save(tmp_path / "b")
    loaded = Retriever.load(tmp_path / "a", HashingEncoder(), documents=CORPUS, chunking=CHUNKING)
    loaded.save(tmp_path / "c")
    first.save(tmp_path / "a")  # over what is there
    names = ["chunks.jsonl", "index.faiss", "manifest.json"]
    for folder in "abc":
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == names  # nothing temporary is left
        for name in names:
            assert (tmp_path / folder / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    queries = ["pump", "clean the fan", ""]
    assert loaded.search(queries, 4) == first.search(queries, 4)
    assert loaded.chunks == first.chunks
    assert loaded.size_bytes == first.size_bytes


def test_another_process_writes_the_same_bytes(tmp_path):
    build().save(tmp_path / "here")
    script = (
        "import sys; from toolkit.retrieval import *\n"
        f"documents = [Document(i, t) for i, t in {[(d.id, d.text) for d in CORPUS]!r}]\n"
        "Retriever.build(documents, Chunking(14, 0), HashingEncoder()).save(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "there")], check=True)
    for name in ("chunks.jsonl", "index.faiss", "manifest.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_another_encoder_corpus_or_chunking_is_refused_naming_both(tmp_path):
    retriever = build()
    retriever.save(tmp_path)
    other = HashingEncoder(128)
    with pytest.raises(DataError, match="another encoder") as caught:
        Retriever.load(tmp_path, other)
    assert retriever.encoder.digest in str(caught.value)
    assert other.digest in str(caught.value)
    with pytest.raises(DataError, match="another corpus") as caught:
        Retriever.load(tmp_path, HashingEncoder(), documents=CORPUS[:2])
    assert retriever.manifest.corpus_digest in str(caught.value)
    with pytest.raises(DataError, match=r"another chunking: .*'size_tokens': 14.* there and .*'size_tokens': 15"):
        Retriever.load(tmp_path, HashingEncoder(), chunking=Chunking(15, 0))


@pytest.mark.parametrize("name", ["chunks.jsonl", "index.faiss"])
def test_a_damaged_or_missing_file_is_refused(tmp_path, name):
    build().save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-2] + b"x\n")
    with pytest.raises(DataError, match=f"{name}: sha256 is"):
        Retriever.load(tmp_path, HashingEncoder())
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name}: No such file"):
        Retriever.load(tmp_path, HashingEncoder())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format is 2; this version reads 1"),
        ({"metric": "l2"}, "metric is 'l2'"),
        ({"index_type": "ivf"}, "index_type is 'ivf'"),
        ({"extra": 1}, "keys are missing or unknown: extra"),
        ({"dimension": "256"}, "dimension is not of the expected type"),
        ({"chunk_count": 1}, "the manifest says 1"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, words):
    build().save(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        Retriever.load(tmp_path, HashingEncoder())


@pytest.mark.parametrize(
    ("content", "words"), [(None, "holds no saved retriever"), ("{", "not JSON"), ("[]", "found list")]
)
def test_a_missing_or_broken_manifest_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=words):
        Retriever.load(tmp_path, HashingEncoder())


def test_importing_the_engine_loads_neither_torch_nor_faiss():
    script = "import sys, toolkit.retrieval; print([m for m in ('torch', 'faiss', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
