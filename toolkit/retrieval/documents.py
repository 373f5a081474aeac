"""Documents of a corpus: reading a folder of text, Markdown, HTML and JSON lines, and the digest of what was read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import DataError, listing
from toolkit.retrieval.html_text import html_to_text

READABLE = (".txt", ".md", ".html", ".jsonl")
# Leaving one of these out without a word would turn "not in the corpus" into "not retrieved".
REFUSED = (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".ppt", ".pptx", ".htm", ".markdown", ".rst", ".json")


@dataclass(frozen=True)
class Document:
    """One text of the corpus. All offsets (chunks, gold spans) count characters of `text`.

    Raises:
        DataError: the id is empty, or the text holds half a surrogate pair, which no tokenizer can read.
    """

    id: str
    text: str

    def __post_init__(self) -> None:
        if not self.id:
            raise DataError("a document has an empty id")
        try:
            (self.id + self.text).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"document {self.id!a} cannot be written as UTF-8: {error.reason}") from None


def read_folder(path: str | os.PathLike[str]) -> list[Document]:
    """Read every .txt, .md, .html and .jsonl file below `path`, sorted by relative path.

    The id of a file is its relative path without the suffix ("guides/pump"); a row of a .jsonl file is
    {"id": ..., "text": ...} and keeps its own id. Line ends stay as they are in the file, so offsets count the
    original characters; those of HTML count the extracted text. Hidden files and other suffixes are passed over,
    except document formats that would be missed (PDF, Word, ...), which are refused.

    Raises:
        DataError: the folder is missing or holds nothing to read, or any file is not UTF-8, empty, malformed,
            repeats an id or is a link that leaves the folder. All problems are named at once, with file and line.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: not a folder")
    problems: list[str] = []
    return _read(root, _files(root, problems), problems)


def read_corpus(path: str | os.PathLike[str]) -> list[Document]:
    """Read a folder as `read_folder` does, or a single file of those it reads.

    Raises:
        DataError: as `read_folder`; or there is no such file, or it is of another kind.
    """
    file = Path(path)
    if not file.is_file():
        return read_folder(file)
    if file.suffix.lower() not in READABLE:
        raise DataError(f"{file}: {file.suffix or 'a file without suffix'} is not read; read are {', '.join(READABLE)}")
    return _read(file.parent, [file], [])


def _read(root: Path, files: Sequence[Path], problems: list[str]) -> list[Document]:
    documents: list[Document] = []
    places: dict[str, str] = {}
    for file in files:
        for place, document in _read_file(root, file, problems):
            if document.id in places:
                problems.append(f"{place}: id {document.id!r} is already used by {places[document.id]}")
                continue
            places[document.id] = place
            documents.append(document)
    if problems:
        raise DataError(listing(problems, str(root)))
    if not documents:
        raise DataError(f"{root}: holds no document; read are {', '.join(READABLE)}")
    return documents


def corpus_digest(documents: Sequence[Document]) -> str:
    """sha256 (hex) of ids and texts in order; the order counts because it breaks ties between equal scores."""
    digest = hashlib.sha256()
    for document in documents:
        for part in (document.id, document.text):
            content = part.encode("utf-8")
            digest.update(len(content).to_bytes(8, "big"))  # the length keeps ("ab", "c") and ("a", "bc") apart
            digest.update(content)
    return digest.hexdigest()


def _files(root: Path, problems: list[str]) -> list[Path]:
    """Readable files below `root` in the order of their relative posix path; adds refusals to `problems`."""
    inside = root.resolve()
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".")]
        links = [Path(folder, name) for name in names if Path(folder, name).is_symlink()]
        wanted = [Path(folder, name) for name in files if not name.startswith(".")]
        for file in wanted:
            if file.suffix.lower() in REFUSED:
                problems.append(f"{_name(root, file)}: {file.suffix} is not read; convert it to {', '.join(READABLE)}")
            elif file.suffix.lower() in READABLE:
                found.append(file)
                links.extend([file] if file.is_symlink() else [])
        for link in links:
            # A link to a folder inside is not followed: its files are read where they are.
            if not link.resolve().is_relative_to(inside):
                problems.append(f"{_name(root, link)}: links to {link.resolve()}, outside the folder")
                found = [file for file in found if file != link]
    return sorted(found, key=lambda file: _name(root, file))


def _name(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _read_file(root: Path, file: Path, problems: list[str]) -> Iterator[tuple[str, Document]]:
    """(place, document) of each document in one file; what cannot be read is added to `problems`."""
    name = _name(root, file)
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")  # a byte order mark is not text and would shift every offset by one
    except OSError as error:
        problems.append(f"{name}: {error.strerror}")
        return
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(f"{name}:{line}: not UTF-8 ({error.reason} at byte {error.start})")
        return
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        yield from _read_rows(name, text, problems)
        return
    if suffix == ".html":
        text = html_to_text(text)
    if not text.strip():
        problems.append(f"{name}: holds no text")
        return
    yield name, Document(id=name[: -len(suffix)], text=text)


def _read_rows(name: str, text: str, problems: list[str]) -> Iterator[tuple[str, Document]]:
    # Not splitlines(): a JSON string may hold U+2028 and other line ends that splitlines() would cut at.
    rows = [(number, row) for number, row in enumerate(text.split("\n"), start=1) if row.strip()]
    if not rows:
        problems.append(f"{name}: holds no row")
    for number, row in rows:
        place = f"{name}:{number}"
        try:
            value = json.loads(row)
        except json.JSONDecodeError as error:
            problems.append(f"{place}: not JSON ({error.msg} at column {error.colno})")
            continue
        if not isinstance(value, dict):
            problems.append(f'{place}: found {type(value).__name__}, expected an object {{"id": ..., "text": ...}}')
            continue
        wrong = [key for key in ("id", "text") if not isinstance(value.get(key), str) or not value[key].strip()]
        if wrong:
            problems.append(f"{place}: {' and '.join(wrong)} must be a non-empty string; keys are {sorted(value)}")
            continue
        try:
            yield place, Document(id=value["id"], text=value["text"])
        except DataError as error:
            problems.append(f"{place}: {error}")
