"""What the machine can do: device, dtype, and process settings that make CPU inference and training faster or smaller.

The dtype `auto` is decided by processor flags and device, never by a clock, so that the same machine always decides
the same.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

from toolkit.errors import ModelError, nearest
from toolkit.models.four_bit import NF4

DTYPES = ("auto", "float32", "bfloat16", "float16", NF4)
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")  # x86 tiles, x86 vectors, Arm
_CPUINFO = Path("/proc/cpuinfo")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_PREPARED_PRODUCTS, _PREPARED_UNBOUND, _PREPARED_BYTES = 256, 1024, 600_000
"""For AVX-512 oneDNN writes code for every shape it multiplies, and keeps it for 1,024 shapes, torch for as many again:
more than half of what a small training takes. A pass has some hundred shapes, each of them in every layer."""
_PREPARED_BY = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # oneDNN's cache, and torch's in front of it
_FP32_ERROR = 1e-3  # true fp32 stays below 2e-4 on the probe, bf16 is near 1e-1


class Dtype(NamedTuple):
    """What weights are kept in, by name (a torch dtype, or `nf4`), and why it was taken."""

    name: str
    reason: str


def resolve_device(requested: str) -> str:
    """`auto` is the first CUDA device, else the CPU; anything else must exist on this machine.

    Raises:
        ModelError: torch does not know the device, or the machine does not have it.
    """
    import torch

    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        known = ("auto", "cpu", "cuda", "mps")
        raise ModelError(f"device '{requested}' is unknown{nearest(requested, known)}; {', '.join(known)}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device '{requested}': this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device 'mps' is not available on this machine")
    return str(device)


def resolve_dtype(requested: str, device: str, cpuinfo: Path = _CPUINFO) -> Dtype:
    """The dtype to load weights in, by name, and the reason.

    `auto` is bfloat16 where the processor multiplies it natively, else float32. `nf4` computes in what `auto` would be.

    Raises:
        ModelError: the dtype is none of `DTYPES`, or not to be had on the device.
    """
    if requested not in DTYPES:
        raise ModelError(f"dtype '{requested}' is unknown{nearest(requested, DTYPES)}; allowed: {', '.join(DTYPES)}")
    if requested == NF4:
        if device != "cpu" and not device.startswith("cuda"):
            raise ModelError(f"dtype '{NF4}' needs the device cuda or cpu, and this is {device}; take dtype: float32")
        computing = resolve_dtype("auto", device, cpuinfo)
        return Dtype(NF4, f"as asked for, computing in {computing.name} ({computing.reason})")
    if requested != "auto":
        return Dtype(requested, "as asked for")
    if device.startswith("cuda"):
        import torch

        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Dtype("bfloat16", f"auto: {torch.cuda.get_device_name(torch.device(device))} computes in bfloat16")
        return Dtype("float32", f"auto: {torch.cuda.get_device_name(torch.device(device))} has no native bfloat16")
    if device != "cpu":
        return Dtype("float32", f"auto: always float32 on {device}")
    native = _bf16_flags(cpuinfo)
    if native:
        return Dtype("bfloat16", f"auto: the processor has {native[0]}")
    return Dtype("float32", f"auto: the processor has none of {', '.join(_BF16_FLAGS)}")


def multiplies_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    return bool(_bf16_flags(cpuinfo))


def _bf16_flags(cpuinfo: Path) -> list[str]:
    flags = cpu_flags(cpuinfo)
    return [flag for flag in _BF16_FLAGS if flag in flags]


def computing_dtype(chosen: Dtype, device: str) -> str:
    """The torch dtype, by name, that weights of a dtype compute in."""
    return resolve_dtype("auto", device).name if chosen.name == NF4 else chosen.name


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The processor's feature flags, empty where the system does not list them."""
    for line in _cpuinfo_lines(cpuinfo):
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def describe() -> dict[str, str | int | list[str]]:
    """The machine for a manifest: processor, cores, memory, threads, GPUs, system, torch."""
    import torch

    return {
        "cpu": cpu_name(),
        "cpu_bf16_flags": sorted(_bf16_flags(_CPUINFO)),
        "cores": _usable_cores(),
        "memory_bytes": _memory_bytes(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def tune_cpu() -> dict[str, str]:
    """Faster fp32 products, fewer of them kept prepared, and a malloc that keeps large blocks; says what was set.

    Nothing here changes what is computed beyond the rounding of true fp32, and all lasts for the process only.
    """
    kept = _keep_fewer_products_prepared()  # first: the caches ask for it when they are first used
    return {"prepared_products": kept, "fp32_products": _use_onednn_for_fp32(), "malloc": _keep_freed_memory()}


def _keep_fewer_products_prepared() -> str:
    """Bounds both caches of prepared products, where nobody has and the process has not multiplied yet."""
    kept = [os.environ.setdefault(name, str(_PREPARED_PRODUCTS)) for name in _PREPARED_BY]
    return f"of {' and '.join(dict.fromkeys(kept))} shapes"


def prepared_bytes(shapes: int, cpuinfo: Path = _CPUINFO) -> int:
    """What a CPU's memory holds of products of so many shapes once they were computed, within the bound that is set."""
    bound = os.environ.get(_PREPARED_BY[0], "")
    kept = min(shapes, int(bound) if bound.isdecimal() else _PREPARED_UNBOUND)
    return kept * _PREPARED_BYTES if "avx512f" in cpu_flags(cpuinfo) else 0


def _use_onednn_for_fp32() -> str:
    """Sends fp32 products to oneDNN: on AMD more than twice as fast as MKL.

    The switch allows bf16 inside. Processors without AMX have no use for that and stay in true fp32; whether this one
    does is asked with one product, and the switch is taken back if not.
    """
    import torch

    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None or not hasattr(matmul, "fp32_precision") or not torch.backends.mkldnn.is_available():
        return "torch default (this torch has no switch)"
    before = matmul.fp32_precision
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in ((256, 576), (576, 64)))
    matmul.fp32_precision = "bf16"
    error = float((left @ right - left.double() @ right.double()).abs().max())
    if error > _FP32_ERROR:
        matmul.fp32_precision = before
        return f"torch default (oneDNN rounds to bf16 here: error {error:.1e})"
    return "oneDNN, true fp32"


def _keep_freed_memory() -> str:
    """Stops glibc from handing every large block back to the system, which costs page faults at each step."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return "system default"
    libc = ctypes.CDLL(None)
    kept = libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    return "glibc keeps freed blocks" if kept else "system default"


def _cpuinfo_lines(cpuinfo: Path) -> list[str]:
    try:
        return cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The processor, with family and model where the system says them: several generations may share a name."""
    said: dict[str, str] = {}
    for line in _cpuinfo_lines(cpuinfo):
        key, _, value = line.partition(":")
        said.setdefault(key.strip().lower(), value.strip())
    name = said.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {said[of]}" for key, of in (("family", "cpu family"), ("model", "model")) if of in said]
    return ", ".join([name, *numbers])


def _usable_cores() -> int:
    """Cores this process may use, which under a container can be fewer than the machine's."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
