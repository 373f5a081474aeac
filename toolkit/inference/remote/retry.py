"""How long to wait before a request is repeated."""

from __future__ import annotations

from datetime import timezone
from email.utils import parsedate_to_datetime

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0
LONGEST_ASKED_SECONDS = 900.0
"""A server that asks to be left alone for longer is not waited for."""


def retry_after_seconds(header: str | None, now: float) -> float | None:
    """What a Retry-After header asks for, given as seconds or as an HTTP date (RFC 9110, 10.2.3); None if nothing."""
    if header is None:
        return None
    text = header.strip()
    try:
        return max(0.0, float(text)) if text.replace(".", "", 1).isdigit() else max(0.0, _timestamp(text) - now)
    except (TypeError, ValueError, OverflowError):
        return None


def _timestamp(date: str) -> float:
    """An HTTP date is in GMT, also where it does not say so."""
    found = parsedate_to_datetime(date)
    return (found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)).timestamp()


def asked_seconds(seconds: float, jitter: float) -> float:
    """A little longer than a server asks for, so that not all come back at once."""
    return seconds + 0.25 * jitter


def backoff_seconds(repeated: int, asked: float | None, jitter: float) -> float:
    """The wait before the next attempt: doubling from one second to a minute, and at least what the server asks for.

    A server may ask for too little: for no time at all, or for a time of its clock that has passed on ours.

    Args:
        repeated: attempts before this one, from 0.
        jitter: in [0, 1). Clients that failed together must not come back together.
    """
    own = min(LONGEST_SECONDS, FIRST_SECONDS * 2**repeated) * (0.5 + 0.5 * jitter)
    return float(own if asked is None else max(own, asked_seconds(asked, jitter)))
