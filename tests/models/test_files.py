"""A model's files are checked: what was fetched by the hub's digests, what is named by where it lies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from toolkit.errors import ModelError
from toolkit.models.files import check_inside, check_snapshot


def snapshot(root: Path, large: bytes, small: bytes) -> Path:
    """A hub cache's folders: links to blobs that are named by their content."""
    blobs, folder = root / "blobs", root / "snapshots" / "commit"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    names = {
        "model.safetensors": (hashlib.sha256(large).hexdigest(), large),
        "config.json": (hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest(), small),
    }
    for name, (blob, data) in names.items():
        (blobs / blob).write_bytes(data)
        (folder / name).symlink_to(Path("../../blobs") / blob)
    return folder


def test_a_snapshot_as_it_came_is_believed(tmp_path: Path) -> None:
    check_snapshot(snapshot(tmp_path, b"weights" * 1000, b"{}"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"x" + data[1:]])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, change: object) -> None:
    folder = snapshot(tmp_path, b"weights" * 1000, b"{}")
    assert callable(change)
    (folder / name).resolve().write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(ModelError, match=rf"{name} is not what the model hub has.*delete"):
        check_snapshot(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/outside.safetensors", "a/../../b", "..\\b", "C:x"])
def test_what_lies_outside_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="lies outside it"):
        check_inside(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}, {"path": name}]))
    with pytest.raises(ModelError, match="lies outside it"):
        check_inside(tmp_path)


def test_what_lies_inside_is_none_of_it(tmp_path: Path) -> None:
    parts = {"a": "model-00001-of-00002.safetensors", "b": "deep/model.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}]))
    check_inside(tmp_path)
    (tmp_path / "modules.json").write_text("no JSON")
    check_inside(tmp_path)
