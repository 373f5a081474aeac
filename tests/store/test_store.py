"""Store: folders appear whole or not at all, whatever happens on the way."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from toolkit.errors import RunError
from toolkit.seeds import derive
from toolkit.store import SEAL, Store, folder_digest, key_of, write_atomically

KEY = key_of({"a": 1})


def build(text: str = "built", calls: list[str] | None = None):
    def make(folder: Path) -> None:
        if calls is not None:
            calls.append(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "file.txt").write_text(text, encoding="utf-8")

    return make


def read(folder: Path) -> str:
    return (folder / "deep" / "file.txt").read_text(encoding="utf-8")


def test_a_key_is_its_content_whatever_the_order() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert len({key_of({"a": 1}), key_of({"a": 2}), key_of({"a": "1"}), key_of({"b": 1}), key_of({})}) == 5
    assert len(KEY) == 32


def test_a_folder_is_built_once_and_found_by_another_process_later(tmp_path: Path) -> None:
    calls: list[str] = []
    store = Store(tmp_path)
    assert store.get(KEY) is None
    first = store.folder(KEY, build("one", calls))
    assert store.folder(KEY, build("two", calls)) == first
    assert Store(tmp_path).folder(KEY, build("three", calls)) == first
    assert (read(first), calls) == ("one", ["one"])
    assert (store.hits, store.misses) == (1, 2)


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(folder: Path) -> None:
        build()(folder)
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        store.folder(KEY, fails)
    assert store.get(KEY) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert read(store.folder(KEY, build())) == "built"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "deep" / "file.txt").write_text("poison", encoding="utf-8"),
        lambda folder: (folder / "deep" / "file.txt").write_text("buil", encoding="utf-8"),
        lambda folder: (folder / "deep" / "file.txt").unlink(),
        lambda folder: (folder / "more.txt").write_text("planted", encoding="utf-8"),
        lambda folder: (folder / "deep" / "file.txt").rename(folder / "deep" / "moved.txt"),
        lambda folder: (folder / SEAL).unlink(),
        lambda folder: (folder / SEAL).write_text("[", encoding="utf-8"),
        lambda folder: (folder / SEAL).write_text("[]", encoding="utf-8"),
    ],
    ids=["poisoned", "truncated", "missing", "planted", "renamed", "unsealed", "broken seal", "empty seal"],
)
def test_a_changed_folder_is_detected_and_built_again(tmp_path: Path, damage) -> None:
    folder = Store(tmp_path).folder(KEY, build())
    damage(folder)
    store = Store(tmp_path)
    assert store.get(KEY) is None
    assert read(store.folder(KEY, build("again"))) == "again"
    assert sorted(path.name for path in folder.rglob("*")) == ["deep", "file.txt", SEAL]
    assert Store(tmp_path).get(KEY) == folder


def test_fresh_ignores_what_is_there_replaces_it_and_then_reads_its_own(tmp_path: Path) -> None:
    Store(tmp_path).folder(KEY, build("old"))
    calls: list[str] = []
    fresh = Store(tmp_path, read=False)
    assert fresh.get(KEY) is None
    assert read(fresh.folder(KEY, build("new", calls))) == "new"
    assert read(fresh.folder(KEY, build("newer", calls))) == "new"
    assert calls == ["new"]
    assert read(Store(tmp_path).folder(KEY, build("newest"))) == "new"


def test_a_slower_builder_keeps_what_the_faster_one_built(tmp_path: Path) -> None:
    slow = Store(tmp_path)

    def overtaken(folder: Path) -> None:
        Store(tmp_path).put(KEY, build("faster"))
        build("slower")(folder)

    assert read(slow.put(KEY, overtaken)) == "faster"
    assert [path.name for path in (tmp_path / KEY[:2]).iterdir()] == [KEY]


def test_what_another_process_is_removing_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, []

    def overtaken(source: str, target: str) -> None:
        if not calls:
            Path(target).mkdir()
            build("half removed")(Path(target))
        calls.append(source)
        real(source, target)

    monkeypatch.setattr("toolkit.store.os.replace", overtaken)
    assert read(Store(tmp_path).put(KEY, build("whole"))) == "whole"
    assert [path.name for path in (tmp_path / KEY[:2]).iterdir()] == [KEY]
    assert Store(tmp_path).get(KEY) is not None


def race(root: str, fresh: bool, number: int, gate, results) -> None:
    store = Store(Path(root), read=not fresh)

    def slow(folder: Path) -> None:
        for part in range(5):
            (folder / f"{part}.txt").write_text(f"{number}" * 1000, encoding="utf-8")
            time.sleep(0.001)

    gate.wait()
    seen = []
    for turn in range(10):
        folder = store.folder(key_of({"turn": turn}), slow)
        if not fresh:
            seen.append({(folder / f"{part}.txt").read_text(encoding="utf-8")[0] for part in range(5)})
    store.count_scoring("d" * 64, f"run {number}")
    results.put(all(len(one) == 1 for one in seen))


@pytest.mark.parametrize("fresh", [False, True], ids=["shared", "fresh"])
def test_processes_that_race_do_no_harm(tmp_path: Path, fresh: bool) -> None:
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=race, args=(str(tmp_path), fresh, n, gate, results)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert all(results.get(timeout=5) for _ in workers)
    after = Store(tmp_path)
    for turn in range(10):
        folder = after.get(key_of({"turn": turn}))
        assert folder is not None
        assert len({path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}) == 1
    assert not list(tmp_path.rglob(".building-*"))
    assert after.count_scoring("d" * 64, "run 0") == 3


def test_scorings_are_counted_once_a_run_and_by_test_set(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert [store.count_scoring("t" * 64, run) for run in ("a", "a", "b", "a", "c\n", "c\n")] == [1, 1, 2, 2, 3, 3]
    assert store.count_scoring("u" * 64, "a") == 1
    assert Store(tmp_path, read=False).count_scoring("t" * 64, "d") == 4
    (file,) = [path for path in (tmp_path / "scorings").iterdir() if path.name.startswith("t")]
    assert len(file.read_text(encoding="utf-8").splitlines()) == 4


def test_a_store_whose_place_is_taken_by_a_file_says_so(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.write_text("a file", encoding="utf-8")
    with pytest.raises(RunError, match=f"{root} cannot be written"):
        Store(root).folder(KEY, build())
    with pytest.raises(RunError, match=f"{root} cannot be written"):
        Store(root).count_scoring("t", "run")
    with pytest.raises(RunError, match="cannot be written"):
        write_atomically(root / "x", b"")


def test_others_may_read_what_is_stored(tmp_path: Path) -> None:
    folder = Store(tmp_path).folder(KEY, build())
    assert folder.stat().st_mode & 0o055 == 0o055


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, torn, done = tmp_path / "f", [], threading.Event()
    whole = {bytes([65 + n]) * 200_000 for n in range(2)}
    write_atomically(path, min(whole))

    def reads() -> None:
        while not done.is_set():
            if path.read_bytes() not in whole:
                torn.append(1)

    reader = threading.Thread(target=reads)
    reader.start()
    for _ in range(15):
        for data in whole:
            write_atomically(path, data)
    done.set()
    reader.join()
    assert torn == []
    assert [item.name for item in tmp_path.iterdir()] == ["f"]


def test_a_folders_digest_follows_names_and_bytes(tmp_path: Path) -> None:
    digests = []
    for number, (name, text) in enumerate([("a", "x"), ("a", "x"), ("b", "x"), ("a", "y")]):
        folder = tmp_path / str(number)
        write_atomically(folder / name, text.encode())
        digests.append(folder_digest(folder))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_seeds_of_different_purposes_and_replicates_differ() -> None:
    seeds = [derive(seed, purpose) for seed in range(20) for purpose in ("fit", "demonstrations", "1/fit")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive(7, "fit") == 7162288957168675371


def test_what_killed_builders_left_is_removed_and_a_build_that_goes_on_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = store.put("ab" + "0" * 30, lambda folder: (folder / "file").write_text("x"))
    left, going_on = (kept.parent / f".building-{name}" for name in ("left", "going-on"))
    for folder in (left, going_on):
        folder.mkdir()
        (folder / "half").write_text("x")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (long_ago, long_ago))
    store.put("ab" + "1" * 30, lambda folder: (folder / "file").write_text("x"))
    assert not left.exists()
    assert going_on.exists()
    assert store.get("ab" + "0" * 30) == kept


def test_a_folder_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    Store(tmp_path).folder(KEY, build("old"))
    store, found = Store(tmp_path), []

    def take(folder: Path) -> str:
        if not found:
            Store(tmp_path, read=False).put(KEY, build("new"))
            found.append(folder)
            raise FileNotFoundError(folder)  # as reading would, had it begun before
        return read(folder)

    assert store.taking(KEY, take) == "new"
    assert store.taking(key_of({"never": "built"}), read) is None


def test_large_files_are_sealed_without_being_read_whole(tmp_path: Path) -> None:
    import tracemalloc

    size = 64 << 20

    def large(folder: Path) -> None:
        with (folder / "weights").open("wb") as file:
            file.truncate(size)

    tracemalloc.start()
    Store(tmp_path).put(KEY, large)
    assert Store(tmp_path).get(KEY) is not None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 8
