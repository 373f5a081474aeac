"""Encoders: one contract for both, a tiny random model built in memory, and MiniLM where it is on the disk."""

import json
import os
import shutil

import numpy as np
import pytest

from toolkit.errors import DataError, ModelError
from toolkit.retrieval import Chunking, Document, Encoder, HashingEncoder, Retriever, SentenceEncoder

WORDS = ["the", "pump", "fan", "lamp", "valve", "is", "red", "open", "close", "prime", "clean", ".", ",", "##s"]
MINILM = os.environ.get("TOOLKIT_TEST_EMBEDDER", "")


def save_tiny_model(folder, seed=0, prompts=None):
    """A random BERT of 2 layers that reads 16 tokens, saved as a sentence-transformers folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    source = folder / "source"
    source.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (source / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(source / "vocab.txt"), model_max_length=16).save_pretrained(source)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(source)
    transformer = Transformer(str(source), max_seq_length=16)
    model = SentenceTransformer(modules=[transformer, Pooling(16)], prompts=prompts, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return Encoder.load(tiny_folder)


@pytest.fixture(params=["hashing", "sentence"])
def encoder(request):
    return HashingEncoder(64) if request.param == "hashing" else request.getfixturevalue("tiny")


def test_vectors_are_normalised_float32_of_the_dimension(encoder):
    texts = ["The pump is red.", "clean", "open the valve , close the fan"]
    for encode in (encoder.encode_passages, encoder.encode_queries):
        vectors = encode(texts)
        assert (vectors.dtype, vectors.shape) == (np.float32, (3, encoder.dimension))
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert encode([]).shape == (0, encoder.dimension)


def test_encoding_is_deterministic_and_follows_the_order_of_the_texts(encoder):
    texts = ["pump", "open the red valve and close the lamp", "fan"]
    vectors = encoder.encode_passages(texts)
    np.testing.assert_array_equal(vectors, encoder.encode_passages(texts))
    np.testing.assert_allclose(vectors[::-1], encoder.encode_passages(texts[::-1]), atol=1e-5)


def test_token_counts_are_of_each_text_without_special_tokens(encoder):
    assert encoder.count_tokens(["pump fan .", "", "lamp"]) == [3, 0, 1]


def test_the_engine_works_with_either_encoder(encoder, tmp_path):
    documents = [Document("a", "The pump is red. Prime the pump."), Document("b", "Clean the fan. Close the valve.")]
    retriever = Retriever.build(documents, Chunking(12, 4), encoder)
    retriever.save(tmp_path)
    queries = ["Clean the fan.", "prime pump"]
    assert Retriever.load(tmp_path, encoder).search(queries, 3) == retriever.search(queries, 3)


def test_loading_gives_a_sentence_encoder_that_reads_what_special_tokens_leave(tiny):
    assert isinstance(tiny, SentenceEncoder)
    assert (tiny.dimension, tiny.max_tokens) == (16, 14)


def test_a_passage_that_would_be_cut_is_refused_and_a_query_is_counted(tiny):
    with pytest.raises(DataError, match="passage 1 has 15 tokens, the encoder reads 14"):
        tiny.encode_passages(["pump", "pump " * 15])
    tiny.encode_queries(["pump " * 15, "pump " * 14, "fan " * 99])
    assert tiny.truncated == 2
    tiny.encode_queries(["pump"])
    assert tiny.truncated == 0
    with pytest.raises(DataError, match="size_tokens is 15, the encoder reads 14"):
        Retriever.build([Document("a", "pump")], Chunking(15, 0), tiny)


def test_prompts_of_the_model_are_applied_and_taken_off_the_limit(tiny, tmp_path):
    prompted = Encoder.load(save_tiny_model(tmp_path, prompts={"query": "open the ", "document": "clean "}))
    assert prompted.max_tokens == 12
    np.testing.assert_allclose(prompted.encode_queries(["pump"]), tiny.encode_queries(["open the pump"]), atol=1e-6)
    np.testing.assert_allclose(prompted.encode_passages(["pump"]), tiny.encode_passages(["clean pump"]), atol=1e-6)
    assert prompted.digest != tiny.digest


def test_the_digest_is_of_the_content_and_not_of_the_place(tiny, tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / "README.md").write_text("other words")
    assert Encoder.load(copy).digest == tiny.digest
    assert Encoder.load(save_tiny_model(tmp_path / "other", seed=1)).digest != tiny.digest
    assert HashingEncoder(64).digest == HashingEncoder(64).digest != HashingEncoder(65).digest


def test_half_precision_weights_are_computed_in_float32(tiny_folder, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(tiny_folder, tmp_path / "half")
    (weights,) = copy.rglob("*.safetensors")
    settings = json.loads((weights.parent / "config.json").read_text())
    (weights.parent / "config.json").write_text(json.dumps({**settings, "dtype": "bfloat16"}))
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    vectors = Encoder.load(copy).encode_passages(["the pump is red"])
    assert np.abs(np.linalg.norm(vectors) - 1) < 1e-6  # bfloat16 would be off by about 1e-3


def test_pickled_weights_missing_models_and_bad_settings_are_refused(tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "pickled")
    (weights,) = copy.rglob("*.safetensors")
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match="pickled"):
        Encoder.load(copy)
    with pytest.raises(ModelError, match="neither a folder nor a model name"):
        Encoder.load(tmp_path / "missing")
    with pytest.raises(ModelError, match="batch_size is 0"):
        Encoder.load(tiny_folder, batch_size=0)
    with pytest.raises(ModelError, match="dimension is 0"):
        HashingEncoder(0)


def test_related_texts_are_nearer_than_others_for_the_hashing_encoder():
    query = HashingEncoder().encode_queries(["how is the pump primed"])
    near, far = HashingEncoder().encode_passages(["The pump is primed by hand.", "Lamps use forty watts."])
    assert float(query[0] @ near) > float(query[0] @ far)
    assert not HashingEncoder().encode_queries(["..."]).any()


def test_a_name_that_cannot_be_fetched_is_refused(monkeypatch):
    import huggingface_hub

    def refuse(repository, **options):
        raise OSError(f"no network for {repository}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match="no network for sentence-transformers/all-minilm-l6-v2"):
        Encoder.load("all-minilm-l6-v2")


@pytest.mark.skipif(not MINILM, reason="TOOLKIT_TEST_EMBEDDER names no folder of all-MiniLM-L6-v2")
def test_minilm_finds_meaning_where_no_word_is_shared():
    encoder = Encoder.load(MINILM)
    assert (encoder.dimension, encoder.max_tokens) == (384, 254)
    documents = [
        Document("cat", "A kitten slept on the sofa all afternoon."),
        Document("car", "The automobile needs new brakes before winter."),
        Document("tax", "Income must be declared by the end of May."),
    ]
    retriever = Retriever.build(documents, Chunking(), encoder)
    found = retriever.search(["young feline resting", "vehicle repair", "when to report earnings"], top_k=1)
    assert [hits[0].document for hits in found] == ["cat", "car", "tax"]
