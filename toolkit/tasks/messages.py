"""Messages: what a conversation is before any text exists for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One turn. `supervise` marks the assistant turns a trainer learns from."""

    role: Role
    content: str
    supervise: bool = False
