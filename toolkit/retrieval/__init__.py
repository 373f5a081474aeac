"""Retrieval engine: documents to chunks, chunks to vectors, exact search. Usable alone.

    retriever = Retriever.build(read_folder("manuals/"), Chunking(size_tokens=160), Encoder.load("all-minilm-l6-v2"))
    hits = retriever.search(["How is the pump primed?"], top_k=4)[0]

Importing this package loads neither torch nor faiss.
"""

from toolkit.retrieval.chunking import Chunk, Chunking, chunk_documents
from toolkit.retrieval.documents import Document, corpus_digest, read_corpus, read_folder
from toolkit.retrieval.encoder import Encoder, HashingEncoder, SentenceEncoder
from toolkit.retrieval.index import FlatIndex
from toolkit.retrieval.manifest import Manifest
from toolkit.retrieval.retriever import Hit, Retriever
from toolkit.retrieval.spans import Span, covered_share, covers, recall_at_k, reciprocal_rank

__all__ = [
    "Chunk",
    "Chunking",
    "Document",
    "Encoder",
    "FlatIndex",
    "HashingEncoder",
    "Hit",
    "Manifest",
    "Retriever",
    "SentenceEncoder",
    "Span",
    "chunk_documents",
    "corpus_digest",
    "covered_share",
    "covers",
    "read_corpus",
    "read_folder",
    "recall_at_k",
    "reciprocal_rank",
]
