"""Encoders: texts to normalised vectors, and the token counts of the tokenizer that reads them."""

from __future__ import annotations

import hashlib
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DataError, ModelError
from toolkit.models.files import check_inside, check_snapshot
from toolkit.store import file_digest

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]

# What of a model folder decides its vectors: weights, tokenizer, pooling and prompts. Read-me files, training notes
# and exports to other back-ends do not.
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
_NOT_MODEL = frozenset({"data_config.json", "train_script.py"})
_COUNT_BATCH = 4096  # texts tokenised at once: the tokenizer's own records of a text are far larger than the text


class Encoder(ABC):
    """What retrieval needs of an embedding model. Vectors are float32 of length 1, so inner product is cosine.

    Attributes:
        truncated: how many queries of the latest `encode_queries` call were longer than the encoder reads.
    """

    truncated: int = 0

    @classmethod
    def load(cls, folder_or_name: str | os.PathLike[str], device: str = "cpu", batch_size: int = 32) -> SentenceEncoder:
        """A `SentenceEncoder` from a model folder or a sentence-transformers name; see there."""
        return SentenceEncoder.load(folder_or_name, device=device, batch_size=batch_size)

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length D of a vector."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """The most tokens a passage may have; special tokens and the model's own prompts are taken off already."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """sha256 (hex) of everything that decides the vectors."""

    @abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens [B] of each text, without special tokens and without truncation."""

    @abstractmethod
    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """Passages [B] to vectors [B, D].

        Raises:
            DataError: a passage has more than `max_tokens`; its end would be lost without a sign.
        """

    @abstractmethod
    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Queries [B] to vectors [B, D]. Longer queries are cut at their end and counted in `truncated`."""


class _Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used."""

    model_max_length: int

    def __call__(self, text: list[str], **options: Any) -> Any: ...

    def num_special_tokens_to_add(self) -> int: ...


class SentenceEncoder(Encoder):
    """A sentence-transformers model in float32. Sorting by length and batching are the library's own.

    The model's own query and document prompts are applied where it has them (`encode_query`, `encode_document`).
    """

    def __init__(self, model: SentenceTransformer, digest: str, batch_size: int = 32) -> None:
        """Wrap a loaded model; `load` does so from a folder.

        Raises:
            ModelError: the batch size is below 1, or the model has no text tokenizer.
        """
        if batch_size < 1:
            raise ModelError(f"batch_size is {batch_size}; allowed is 1 or more")
        if not callable(model.tokenizer):
            raise ModelError(
                f"a {type(model.tokenizer).__name__} tokenizer cannot count tokens; use a transformer model"
            )
        self._model = model
        self._tokenizer: _Tokenizer = model.tokenizer
        self._digest = digest
        self._batch_size = batch_size
        self._dimension: int = int(self._vectors(model.encode, ["a"]).shape[1])
        limit = model.max_seq_length or self._tokenizer.model_max_length
        # The longest of all prompts: which of them the library picks for passages is its own business.
        prompt_tokens = max(self.count_tokens([prompt for prompt in model.prompts.values() if prompt]), default=0)
        self._max_tokens: int = int(limit) - self._tokenizer.num_special_tokens_to_add() - prompt_tokens

    @classmethod
    def load(cls, folder_or_name: str | os.PathLike[str], device: str = "cpu", batch_size: int = 32) -> SentenceEncoder:
        """Load from a local folder, or by name from the Hugging Face cache or hub ("all-MiniLM-L6-v2").

        Args:
            folder_or_name: model folder, or name; a name without "/" is one of the sentence-transformers organisation.
            device: "cpu", "cuda", "cuda:1", "mps" ...
            batch_size: texts encoded at once.

        Raises:
            ModelError: it is not found, is damaged, holds no safetensors weights (pickled ones are not read), or does
            not load.
        """
        folder = _locate(folder_or_name)
        check_inside(folder)
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        except Exception as error:  # the library raises whatever the broken file makes it raise
            raise ModelError(f"{folder}: sentence-transformers cannot load it: {error}") from error
        # Checkpoints in half precision would be computed in it: slow on many processors, and tied top scores.
        return cls(model.float().eval(), _digest_of(folder), batch_size)

    @property
    def dimension(self) -> int:
        """Length D of a vector."""
        return self._dimension

    @property
    def max_tokens(self) -> int:
        """`max_seq_length` less special tokens and the longest prompt of the model."""
        return self._max_tokens

    @property
    def digest(self) -> str:
        """sha256 (hex) over names and bytes of the weights, tokenizer and settings files of the folder."""
        return self._digest

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens [B] of each text, without special tokens and without truncation."""
        counts: list[int] = []
        for start in range(0, len(texts), _COUNT_BATCH):
            batch = list(texts[start : start + _COUNT_BATCH])
            ids = self._tokenizer(batch, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            counts.extend(len(row) for row in ids)
        return counts

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """Passages [B] to vectors [B, D].

        Raises:
            DataError: a passage has more than `max_tokens`.
        """
        _refuse_long(self, texts)
        return self._vectors(self._model.encode_document, texts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Queries [B] to vectors [B, D]. Longer queries are cut at their end and counted in `truncated`."""
        self.truncated = sum(tokens > self._max_tokens for tokens in self.count_tokens(texts))
        return self._vectors(self._model.encode_query, texts)

    def _vectors(self, encode: Any, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        vectors = encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


class HashingEncoder(Encoder):
    """Signed hashed bag of words and word pairs, for tests and machines without a model.

    Words are hashed into D signed buckets (Weinberger et al. 2009, "Feature hashing"), counts are damped by
    1 + log. Deterministic on every machine; it knows no synonyms. A text without words has the zero vector.
    """

    def __init__(self, dimension: int = 256) -> None:
        """`dimension` is D.

        Raises:
            ModelError: it is below 1.
        """
        if dimension < 1:
            raise ModelError(f"dimension is {dimension}; allowed is 1 or more")
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        """Length D of a vector."""
        return self._dimension

    @property
    def max_tokens(self) -> int:
        """A bag of words reads texts of any length; this is only a large number."""
        return 2**31 - 1

    @property
    def digest(self) -> str:
        """sha256 (hex) of the method, its version and D."""
        return hashlib.sha256(f"hashing encoder 1, dimension {self._dimension}".encode()).hexdigest()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words and punctuation marks [B] of each text."""
        return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """Passages [B] to vectors [B, D]."""
        vectors = np.zeros((len(texts), self._dimension), dtype=np.float64)
        for row, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            counts: dict[str, int] = {}
            for feature in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
                counts[feature] = counts.get(feature, 0) + 1
            for feature, times in counts.items():
                code = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
                vectors[row, (code >> 1) % self._dimension] += (1 if code & 1 else -1) * (1 + math.log(times))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Queries [B] to vectors [B, D]; none is ever cut."""
        return self.encode_passages(texts)


def _refuse_long(encoder: Encoder, texts: Sequence[str]) -> None:
    for position, tokens in enumerate(encoder.count_tokens(texts)):
        if tokens > encoder.max_tokens:
            raise DataError(
                f"passage {position} has {tokens} tokens, the encoder reads {encoder.max_tokens}: its end would be "
                f"lost ({texts[position][:60]!r} ...)"
            )


def _locate(folder_or_name: str | os.PathLike[str]) -> Path:
    """The model folder, from the disk or the Hugging Face cache or hub."""
    folder = Path(folder_or_name)
    if not folder.is_dir():
        name = os.fspath(folder_or_name)
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise ModelError(f"{name}: neither a folder nor a model name")
        from huggingface_hub import snapshot_download

        repository = name if "/" in name else f"sentence-transformers/{name}"
        try:
            folder = Path(snapshot_download(repository, allow_patterns=list(_MODEL_FILES)))
        except Exception as error:  # network, proxy, cache and access errors share no base class
            raise ModelError(f"{name}: not a folder, and {repository} cannot be fetched: {error}") from error
        check_snapshot(folder)
    if not any(folder.rglob("*.safetensors")):
        raise ModelError(f"{folder}: holds no .safetensors weights; pickled weights are not read")
    for pickled in folder.rglob("pytorch_model.bin"):
        if not any(pickled.parent.glob("*.safetensors")):
            raise ModelError(f"{pickled}: pickled weights are not read; convert them to safetensors")
    return folder


def _digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    files = {file for pattern in _MODEL_FILES for file in folder.rglob(pattern) if file.name not in _NOT_MODEL}
    for file in sorted(files, key=lambda file: file.relative_to(folder).as_posix()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file_digest(file)}\n".encode())
    return digest.hexdigest()
