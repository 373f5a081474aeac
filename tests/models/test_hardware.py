from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toolkit.errors import ModelError
from toolkit.models.hardware import (
    computing_dtype,
    cpu_flags,
    cpu_name,
    describe,
    prepared_bytes,
    resolve_device,
    resolve_dtype,
    tune_cpu,
)


@pytest.mark.parametrize(
    ("cpuinfo", "dtype", "reason"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16\n", "bfloat16", "avx512_bf16"),
        ("flags\t\t: fpu amx_bf16 avx512_bf16\n", "bfloat16", "amx_bf16"),
        ("Features\t: fp asimd bf16\n", "bfloat16", "bf16"),
        ("flags\t\t: fpu avx2 avx512f\n", "float32", "none of"),
        ("", "float32", "none of"),
    ],
)
def test_auto_follows_the_processor_flags(tmp_path: Path, cpuinfo: str, dtype: str, reason: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{cpuinfo}")
    resolved = resolve_dtype("auto", "cpu", tmp_path / "cpuinfo")
    assert resolved.name == dtype
    assert reason in resolved.reason


def test_a_system_without_cpuinfo_computes_in_float32(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "absent") == frozenset()
    assert resolve_dtype("auto", "cpu", tmp_path / "absent").name == "float32"


def test_an_explicit_dtype_is_kept(tmp_path: Path) -> None:
    assert resolve_dtype("bfloat16", "cpu", tmp_path / "absent").name == "bfloat16"
    with pytest.raises(ModelError, match="did you mean 'bfloat16'"):
        resolve_dtype("bfloat1", "cpu")


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_a_gpu_asks_for_native_bfloat16(monkeypatch: pytest.MonkeyPatch, native: bool, dtype: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    assert resolve_dtype("auto", "cuda").name == dtype


def test_devices_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(ModelError, match="has 0 CUDA devices"):
        resolve_device("cuda:1")
    with pytest.raises(ModelError, match="did you mean 'cuda'"):
        resolve_device("cud")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"


def test_the_description_names_the_machine() -> None:
    described = describe()
    assert described["torch"] == torch.__version__
    assert isinstance(described["cores"], int)
    assert described["cores"] >= 1


def test_tuning_leaves_products_in_true_float32_and_the_generator_alone() -> None:
    state = torch.get_rng_state()
    tuned = tune_cpu()
    assert set(tuned) == {"prepared_products", "fp32_products", "malloc"}
    left, right = torch.randn(300, 576), torch.randn(576, 80)
    torch.set_rng_state(state)
    assert float((left @ right - left.double() @ right.double()).abs().max()) < 1e-3


MANY_SHAPES = """
import random, torch
from toolkit.models.hardware import tune_cpu
said = tune_cpu()["prepared_products"]

def code() -> int:
    size = 0
    for line in open("/proc/self/maps"):
        span, rights, *rest = line.split()
        if "x" in rights and len(rest) == 3:  # nobody's file: written by the process itself
            start, end = (int(bound, 16) for bound in span.split("-"))
            size += end - start
    return size

weight, x = torch.randn(576, 576), torch.randn(1500, 576)
x @ weight
before = code()
for rows in random.Random(0).sample(range(700, 1500), 800):
    x[:rows] @ weight
print(said, code() - before, sep="|")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has written for itself stands in /proc")
def test_fewer_products_are_kept_prepared_unless_somebody_said_how_many() -> None:
    def grown(**asked: str) -> tuple[str, int]:
        caches = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
        environment = {key: value for key, value in os.environ.items() if key not in caches} | asked
        made = subprocess.run(
            [sys.executable, "-c", MANY_SHAPES], env=environment, capture_output=True, text=True, check=True
        )
        said, taken = made.stdout.split("|")
        return said, int(taken)

    few, many = grown(), grown(ONEDNN_PRIMITIVE_CACHE_CAPACITY="2000", LRU_CACHE_CAPACITY="2000")
    assert (few[0], many[0]) == ("of 256 shapes", "of 2000 shapes")
    if "avx512f" in cpu_flags():  # for others oneDNN writes next to nothing
        assert few[1] < 0.5 * many[1]


@pytest.mark.parametrize(
    ("flags", "bound", "most"),
    [("avx512f", "256", 256), ("avx512f", "64", 64), ("avx512f", None, 900), ("avx2", "256", 0)],
)
def test_prepared_products_take_room_up_to_their_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, bound: str | None, most: int
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    if bound is not None:
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", bound)
    assert prepared_bytes(900, tmp_path / "cpuinfo") == 600_000 * most
    assert prepared_bytes(10, tmp_path / "cpuinfo") == 600_000 * min(10, most)


def test_the_switch_is_taken_back_where_it_would_round(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has no switch")
    from toolkit.models import hardware

    monkeypatch.setattr(hardware, "_FP32_ERROR", 0.0)
    before = matmul.fp32_precision
    assert "rounds to bf16" in tune_cpu()["fp32_products"]
    assert matmul.fp32_precision == before


@pytest.mark.parametrize(("flags", "computing"), [("avx512_bf16", "bfloat16"), ("avx2", "float32")])
def test_4_bits_compute_in_what_auto_would_be(tmp_path: Path, flags: str, computing: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    resolved = resolve_dtype("nf4", "cpu", tmp_path / "cpuinfo")
    assert resolved.name == "nf4"
    assert f"computing in {computing}" in resolved.reason
    assert computing_dtype(resolved, "cpu") == resolve_dtype("auto", "cpu").name
    assert computing_dtype(resolve_dtype("float16", "cpu"), "cpu") == "float16"


def test_4_bits_are_refused_on_a_device_they_were_never_tried_on() -> None:
    with pytest.raises(ModelError, match=r"dtype 'nf4' needs the device cuda or cpu, and this is mps; take dtype"):
        resolve_dtype("nf4", "mps")


def test_two_generations_of_one_name_are_told_apart(tmp_path: Path) -> None:
    place = tmp_path / "cpuinfo"
    place.write_text("processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nmodel\t: 18\n")
    assert cpu_name(place) == "AMD EPYC, family 25, model 17"
    place.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert cpu_name(place) == cpu_name(tmp_path / "absent")
