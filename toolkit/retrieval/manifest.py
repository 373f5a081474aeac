"""What a saved index says about itself, and the refusal to use it with anything else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from toolkit.errors import DataError

FORMAT = 1
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """The record beside an index. `files` are sha256 of the other files: a folder written by halves is noticed."""

    corpus_digest: str
    document_count: int
    chunk_count: int
    chunking: dict[str, int]
    encoder_digest: str
    dimension: int
    files: dict[str, str]
    versions: dict[str, str]
    metric: str = "inner_product"
    index_type: str = "flat"
    format: int = FORMAT

    def to_json(self) -> str:
        """One key a line, sorted: equal manifests are equal bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read manifest.json of a folder.

        Raises:
            DataError: it is missing, malformed, or of another format, index type or metric.
        """
        path = folder / MANIFEST_FILE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; the folder holds no saved retriever") from None
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise DataError(f"{path}: found {type(value).__name__}, expected an object")
        for key, known in (("format", FORMAT), ("index_type", "flat"), ("metric", "inner_product")):
            if value.get(key) != known:
                raise DataError(f"{path}: {key} is {value.get(key)!r}; this version reads {known!r}")
        names = {field.name for field in fields(cls)}
        if names != set(value):
            raise DataError(f"{path}: keys are missing or unknown: {', '.join(sorted(names ^ set(value)))}")
        wrong = [name for name, kind in _KINDS.items() if not isinstance(value[name], kind)]
        if wrong:
            raise DataError(f"{path}: {', '.join(wrong)} is not of the expected type")
        return cls(**value)

    def refuse_other(self, folder: Path, name: str, found: object) -> None:
        """Compare one entry with what the caller brings.

        Raises:
            DataError: they differ; both are named.
        """
        written = getattr(self, name)
        if written != found:
            what = name.removesuffix("_digest").replace("_", " ")
            raise DataError(
                f"{folder / MANIFEST_FILE}: the index was built with another {what}: {name} is {written} there and "
                f"{found} here; build it again or load it with what it was built with"
            )


_KINDS: dict[str, type] = {
    "corpus_digest": str,
    "document_count": int,
    "chunk_count": int,
    "chunking": dict,
    "encoder_digest": str,
    "dimension": int,
    "files": dict,
    "versions": dict,
}
