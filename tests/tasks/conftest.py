"""Task folders written into a temporary folder, right as they stand; tests break one thing at a time."""

import json

import pytest

QUESTIONS = {
    "train": ["Where do the geese land?", "Which colour has the ferry's funnel?"],
    "validation": ["Who repairs the harbour clock?"],
    "test": ["How long may a visitor stay overnight?", "What opens the seed cupboard?"],
}


def write_rows(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def text_rows():
    return {
        split: [
            {"id": f"{split}-{number}", "inputs": {"question": text}, "targets": [f"answer {split} {number}"]}
            for number, text in enumerate(texts)
        ]
        for split, texts in QUESTIONS.items()
    }


@pytest.fixture
def rows():
    """Rows by split of a text task, to be changed and then written by `folder`."""
    return text_rows()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes a task folder `task/` below the working directory and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(rows, keys="name: geese\nkind: text\nabstention: not in the handbook\n"):
        root = tmp_path / "task"
        root.mkdir(exist_ok=True)
        (root / "task.yaml").write_text(keys, encoding="utf-8")
        for split, lines in rows.items():
            write_rows(root / f"{split}.jsonl", lines)
        return root

    return write
