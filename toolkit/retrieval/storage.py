"""A retriever's folder: manifest.json, chunks.jsonl and index.faiss, each written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from toolkit.errors import DataError
from toolkit.retrieval.chunking import Chunk
from toolkit.retrieval.index import FlatIndex
from toolkit.retrieval.manifest import MANIFEST_FILE, Manifest

CHUNKS_FILE = "chunks.jsonl"
INDEX_FILE = "index.faiss"


def save_index(folder: Path, manifest: Manifest, chunks: Sequence[Chunk], index: FlatIndex) -> None:
    """Write the three files, the manifest last. Equal content gives equal bytes: no clock, no path, no pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(chunk), ensure_ascii=False, sort_keys=True) + "\n" for chunk in chunks]
    contents = {CHUNKS_FILE: "".join(lines).encode("utf-8"), INDEX_FILE: index.to_bytes()}
    for name, content in contents.items():
        _write(folder / name, content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    _write(folder / MANIFEST_FILE, replace(manifest, files=files).to_json().encode("utf-8"))


def load_index(folder: Path, manifest: Manifest) -> tuple[list[Chunk], FlatIndex]:
    """Chunks [n] and index of a folder whose manifest was read.

    Raises:
        DataError: a file is missing, is not the one the manifest speaks of, or does not fit the others.
    """
    chunks = _parse_chunks(folder / CHUNKS_FILE, _read(folder, CHUNKS_FILE, manifest))
    content = _read(folder, INDEX_FILE, manifest)
    try:
        index = FlatIndex.from_bytes(content)
    except DataError as error:
        raise DataError(f"{folder / INDEX_FILE}: {error}") from None
    if not len(chunks) == len(index) == manifest.chunk_count or index.dimension != manifest.dimension:
        raise DataError(
            f"{folder}: {len(chunks)} chunks and {len(index)} vectors of dimension {index.dimension}; the manifest "
            f"says {manifest.chunk_count} and {manifest.dimension}"
        )
    return chunks, index


def _write(path: Path, content: bytes) -> None:
    """Into a file beside the target, then renamed over it: whoever reads sees the old or the new file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives 0600, which nobody else on a shared disk could read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(folder: Path, name: str, manifest: Manifest) -> bytes:
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.files.get(name):
        raise DataError(f"{path}: sha256 is {found}, the manifest says {manifest.files.get(name)}; build it again")
    return content


def _parse_chunks(path: Path, content: bytes) -> list[Chunk]:
    chunks: list[Chunk] = []
    for number, line in enumerate(content.decode("utf-8").split("\n")[:-1], start=1):
        try:
            chunks.append(Chunk(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number}: not a chunk ({error})") from None
    return chunks
