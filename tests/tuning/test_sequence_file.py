"""Sequences on disk are the sequences that were written, or an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import DataError
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import SequenceFile, TuneSettings, train, write_sequences
from toolkit.tuning import sequence_file as module
from toolkit.tuning.amounts import Measured, content_digest, lengths, supervised_counts
from toolkit.tuning.progress import StepReport

FILES = ["manifest.json", "offsets.i64", "supervised.bits", "token_ids.i32"]

tokens = st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.booleans()), max_size=20)


def sequence(marked: list[tuple[int, bool]]) -> TrainingSequence:
    return TrainingSequence(tuple(token for token, _ in marked), tuple(kept for _, kept in marked))


some = st.lists(tokens.map(sequence), min_size=1, max_size=12).filter(lambda rows: any(row.token_ids for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sequences") / "file"


@settings(deadline=None, max_examples=60)
@given(some, st.sampled_from([1, 8, 13, 1 << 16]))
def test_what_is_read_is_what_was_written(folder: Path, rows: list[TrainingSequence], block: int) -> None:
    """Also where blocks end within a byte of the mask, and with sequences that hold nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_TOKENS", block)
        found = write_sequences(folder, iter(rows))
        assert list(found) == rows
        assert found.lengths()[:] == found.lengths()
        assert list(found.supervised_counts()) == [sum(row.supervised[1:]) for row in rows]
        found.verify()
    assert len(found) == len(rows)
    assert [found[place] for place in range(len(rows))] == rows
    assert [found[place - len(rows)] for place in range(len(rows))] == rows
    assert found[1:-1] == rows[1:-1]
    assert found[::-2] == rows[::-2]
    for place in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            found[place]
    assert list(found.lengths()) == [len(row.token_ids) for row in rows]
    assert found.tokens == sum(found.lengths())
    assert found.supervised_tokens == sum(found.supervised_counts())


def test_a_file_and_a_list_know_the_same_amounts(rows: Any, tmp_path: Path) -> None:
    listed = rows(9)
    filed = write_sequences(tmp_path / "f", listed)
    assert isinstance(filed, Measured)
    assert not isinstance(listed, Measured)
    for measure in (lengths, supervised_counts):
        assert list(measure(filed)) == list(measure(listed))
        assert {type(amount) for amount in measure(filed)} == {int}  # a summary in JSON takes no other
    assert content_digest(filed) == content_digest(listed)
    assert type(filed[0].token_ids[0]) is int
    assert type(filed[0].supervised[0]) is bool


def test_the_digest_follows_ids_masks_and_where_a_sequence_ends() -> None:
    one, two = TrainingSequence((1, 2), (False, True)), TrainingSequence((3,), (True,))
    others = [
        [two, one],
        [TrainingSequence((1, 2, 3), (False, True, True))],
        [TrainingSequence((1, 2), (True, True)), two],
        [TrainingSequence((1, 4), (False, True)), two],
    ]
    assert len({content_digest(rows) for rows in ([one, two], *others)}) == 5


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_an_error_when_it_is_opened(rows: Any, tmp_path: Path, file: str) -> None:
    write_sequences(tmp_path / "f", rows(9))
    path = tmp_path / "f" / file
    path.write_bytes(path.read_bytes()[:-1])
    if file == "manifest.json":  # its last byte is the end of the line
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=file):
        SequenceFile(tmp_path / "f")
    path.unlink()
    with pytest.raises(DataError, match=file):
        SequenceFile(tmp_path / "f")


@pytest.mark.parametrize("file", FILES[1:])
def test_an_altered_file_of_the_same_size_is_found_on_request(rows: Any, tmp_path: Path, file: str) -> None:
    write_sequences(tmp_path / "f", rows(9))
    SequenceFile(tmp_path / "f", verify=True)
    path = tmp_path / "f" / file
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(bytes(content))
    SequenceFile(tmp_path / "f")
    with pytest.raises(DataError, match="write"):
        SequenceFile(tmp_path / "f", verify=True)


@pytest.mark.parametrize("change", [{"digest": "0"}, {"supervised_tokens": 1}])
def test_an_altered_manifest_is_found_on_request(rows: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    write_sequences(tmp_path / "f", rows(9))
    path = tmp_path / "f" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="not those of manifest"):
        SequenceFile(tmp_path / "f", verify=True)


@pytest.mark.parametrize("change", [{"format": 2}, {"tokens": -1}, {"sequences": "9"}, {"digest": None}])
def test_a_manifest_of_another_kind_is_refused(rows: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    write_sequences(tmp_path / "f", rows(9))
    path = tmp_path / "f" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="does not tell of sequences in format 1"):
        SequenceFile(tmp_path / "f")


def test_writing_that_fails_leaves_what_was_there(rows: Any, tmp_path: Path) -> None:
    before = rows(9)
    write_sequences(tmp_path / "f", before)

    def failing() -> Iterator[TrainingSequence]:
        yield before[0]
        raise KeyError("the source")

    with pytest.raises(KeyError):
        write_sequences(tmp_path / "f", failing())
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert list(SequenceFile(tmp_path / "f", verify=True)) == before


def test_sequences_are_replaced_even_by_a_part_of_themselves(rows: Any, tmp_path: Path) -> None:
    found = write_sequences(tmp_path / "f", rows(9))
    kept = write_sequences(tmp_path / "f", (row for row in found if len(row.token_ids) > 9))
    assert 0 < len(kept) < 9
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_nothing_but_sequences_is_written_over(rows: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    write_sequences(tmp_path / "f", rows(9))
    (tmp_path / "f" / "notes.txt").write_text("mine")
    for name in ("notes.txt", "run", "f"):
        with pytest.raises(DataError, match="something else than sequences"):
            write_sequences(tmp_path / name, rows(9))
    (tmp_path / "empty").mkdir()
    assert len(write_sequences(tmp_path / "empty", rows(9))) == 9


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "0 sequences without a token"),
        ([TrainingSequence((), ())], "1 sequences without a token"),
        ([TrainingSequence((1,), (True,)), TrainingSequence((1, 2), (True,))], "sequence 1: 2 tokens with 1 marks"),
        ([TrainingSequence((2**31,), (True,))], "sequence 0: a token id of more than 32 bits"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, rows: list[TrainingSequence], said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_sequences(tmp_path / "f", rows)
    assert list(tmp_path.iterdir()) == []


SMALL = TuneSettings(rank=4, epochs=2, effective_batch_size=4, learning_rate=1e-2, checkpoint_every=2)


@pytest.mark.parametrize("change", [{}, {"rank": "auto"}, {"micro_batch_size": 2}, {"max_steps": 3}], ids=str)
def test_training_from_a_file_gives_the_bytes_of_training_from_a_list(
    llama: Callable[..., Any], rows: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    listed, small = rows(10), SMALL.model_copy(update=change)
    first = train(llama(), listed, small, tmp_path / "list")
    second = train(llama(), write_sequences(tmp_path / "f", listed), small, tmp_path / "file")
    assert first.losses == second.losses
    for path in (tmp_path / "list").iterdir():
        assert path.read_bytes() == (tmp_path / "file" / path.name).read_bytes(), path.name


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_from_a_file_of_the_same_sequences_only(
    llama: Callable[..., Any], rows: Any, tmp_path: Path
) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 3:
            raise Killed

    for name, source, first in (("same", rows(10), 3), ("other", rows(10, seed=1), 1)):
        with pytest.raises(Killed):
            train(llama(), rows(10), SMALL, tmp_path / name, on_step=kill)
        reports: list[StepReport] = []
        filed = write_sequences(tmp_path / "f", source)
        train(llama(), filed, SMALL, tmp_path / name, on_step=reports.append)
        assert reports[0].step == first, name


def test_what_is_wrong_with_a_files_sequences_is_told(llama: Callable[..., Any], rows: Any, tmp_path: Path) -> None:
    wrong = [*rows(3), TrainingSequence((1, 2), (False, False)), TrainingSequence((1, 64), (False, True))]
    with pytest.raises(DataError, match=r"(?s)sequence 3: none of its 2 tokens.*sequence 4: token id 64"):
        train(llama(), write_sequences(tmp_path / "f", wrong), SMALL, tmp_path / "a")


MEMORY = """
import random, sys
sys.path.insert(0, {tests!r})
from conftest import tiny_llama
from toolkit.rendering.prompt import TrainingSequence
from toolkit.tuning import SequenceFile, TuneSettings, train, write_sequences

def megabytes(name):
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) / 1024 for line in stream if line.startswith(name))

def rows(count):
    draw = random.Random(0)
    for _ in range(count):
        ids = tuple(draw.randrange(64) for _ in range(draw.randint(8, 24)))
        yield TrainingSequence(ids, (False,) * 4 + (True,) * (len(ids) - 4))

def trained(name):
    found = []
    settings = TuneSettings(rank=2, max_steps=2, effective_batch_size=4)
    def on_step(*_):
        found.append(megabytes("VmRSS"))
    train(module, SequenceFile({folder!r} + name), settings, {folder!r} + "/adapter", on_step=on_step)
    return found[-1]

module = tiny_llama()
write_sequences({folder!r} + "/small", rows(20_000))  # several blocks of reading and writing
trained("/small")
before, top = trained("/small"), megabytes("VmHWM")
assert top - before < 3, "a peak before would hide one that comes"
write_sequences({folder!r} + "/large", rows(200_000))
written = megabytes("VmHWM") - top
after = trained("/large")
highest, held = megabytes("VmHWM") - top, megabytes("VmRSS")
kept = list(SequenceFile({folder!r} + "/large"))
print(written, after - before, highest, megabytes("VmRSS") - held)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """200,000 sequences, planned and trained on for two steps, cost a few megabytes; as a list, far more."""
    script = MEMORY.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], check=True, env=environment, capture_output=True, text=True
    )
    written, training, highest, listed = map(float, done.stdout.split())
    assert listed > 60
    assert written < 4
    assert training < 8
    assert highest < 10
