"""Who takes part: what launchers say, and how a step is shared out."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from toolkit.errors import ModelError, RunError
from toolkit.tuning.parallel.launch import start_processes, started_alone
from toolkit.tuning.parallel.processes import ALONE, Processes
from toolkit.tuning.parallel.shares import chance_seed, check_same_start, own_rows, shares


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": ""}])
def test_without_a_launcher_a_process_is_alone(variables: dict[str, str]) -> None:
    assert start_processes(variables=variables) is ALONE


def test_half_of_a_launchers_variables_are_refused() -> None:
    with pytest.raises(RunError, match=r"WORLD_SIZE is 2 but MASTER_ADDR, MASTER_PORT is not set: .*torchrun"):
        start_processes(variables={"WORLD_SIZE": "2", "RANK": "0"})


def test_being_started_alone_where_several_were_asked_for_is_noticed() -> None:
    on_cpus = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert "torchrun" in (started_alone(on_cpus) or "")
    assert started_alone({**on_cpus, "WORLD_SIZE": "2"}) is None
    assert started_alone({"ACCELERATE_USE_CPU": "True"}) is None
    assert started_alone({"MASTER_ADDR": "127.0.0.1"}) is None


def test_a_process_alone_exchanges_nothing() -> None:
    assert ALONE.sum_(None, 0.1) == 0.1  # type: ignore[arg-type]
    assert ALONE.from_main("text") == "text"
    assert ALONE.texts("text") == ["text"]
    assert ALONE.is_main


def test_asking_for_processes_imports_nothing_heavy() -> None:
    script = "import sys; from toolkit.tuning.parallel import launch, helpers; launch.start_processes(variables={});"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script + "print(*{'torch', 'peft', 'transformers'} & set(sys.modules))"],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == ""


LENGTHS = some.lists(some.integers(1, 500), min_size=1, max_size=40)


@given(LENGTHS, some.integers(1, 9), some.randoms())
def test_every_row_of_a_step_is_in_one_share_and_shares_weigh_alike(lengths: list[int], count: int, order: Any) -> None:
    rows = list(range(len(lengths)))
    order.shuffle(rows)
    step = tuple(rows[: order.randint(1, len(rows))])
    found = shares(step, lengths, count)
    assert len(found) == count
    assert sorted(row for part in found for row in part) == sorted(step)
    assert all(part == tuple(row for row in step if row in part) for part in found)
    weights = [sum(lengths[row] for row in part) for part in found]
    assert max(weights) - min(weights) <= max(lengths[row] for row in step)
    assert max(map(len, found)) <= 1 or min(weights) > 0  # nobody is idle while another has two
    assert found == shares(step, lengths, count)


def test_the_longest_sequence_stands_against_all_others() -> None:
    assert shares((4, 0, 1, 2, 3), [2, 3, 2, 2, 9], 2) == [(4,), (0, 1, 2, 3)]
    assert shares((0, 1), [5, 5], 3) == [(0,), (1,), ()]


class Third(Processes):
    rank, count = 2, 3


def test_a_process_takes_its_own_share_and_its_own_chances() -> None:
    assert own_rows((2, 0, 1), [4, 4, 4], Third()) == (1,)
    assert own_rows((2, 0, 1), [4, 4, 4], ALONE) == (2, 0, 1)
    seeds = {chance_seed(seed, number, who) for seed in (0, 1) for number in (0, 1) for who in (ALONE, Third())}
    assert len(seeds) == 8


class OnDevices(Third):
    """Three processes that are on `places`."""

    def __init__(self, *places: str) -> None:
        self.places = list(places)

    def texts(self, text: str) -> list[str]:
        return self.places


def test_a_cuda_device_belongs_to_one_process() -> None:
    def start(processes: Processes, device: str) -> None:
        check_same_start(processes, SimpleNamespace(device=torch.device(device)), "key", "by hand", torch.zeros(2))

    start(OnDevices("cuda:0 of a", "cuda:1 of a", "cuda:0 of b"), "cuda:1")
    start(OnDevices("cpu of a", "cpu of a", "cpu of a"), "cpu")
    with pytest.raises(ModelError, match=r"2 of 3 processes are on cuda:1 of a: .*`device: cuda`"):
        start(OnDevices("cuda:0 of a", "cuda:1 of a", "cuda:1 of a"), "cuda:1")
    with pytest.raises(ModelError, match="not on 'mps'"):
        start(Third(), "mps")
