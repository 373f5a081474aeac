"""Seeds: one integer a replicate; every consumer derives its own, so none disturbs another."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one named purpose, independent of every other purpose of the same replicate."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_name(seed: int | None) -> str:
    """`seed-0`; a strategy that runs once is `seed-none`."""
    return "seed-none" if seed is None else f"seed-{seed}"
