"""What can go wrong with one request, and whether asking again may help."""

from __future__ import annotations


class Fault(Exception):
    """No answer to one request.

    Args:
        reason: what happened, for a person; never with the key in it.
        advice: what to do about it.
        wait_seconds: how long the server asks to be left alone; None where it says nothing.
        said: what the server said of it, as it came: it may hold the key.
    """

    def __init__(self, reason: str, advice: str = "", wait_seconds: float | None = None, said: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        self.wait_seconds = wait_seconds
        self.said = said


class Passing(Fault):
    """Asking again may help: a full, slow or broken server, or half an answer."""


class Busy(Passing):
    """The server turns requests away, this one as it would any other: it is full, or was asked too often."""


class Refused(Fault):
    """This model will not answer this request, however often it is asked; another model may."""


class Unknown(Refused):
    """The server has no such model: it need not be asked for it again."""


class Forbidden(Refused):
    """The key may not ask this model for anything."""


class Hopeless(Fault):
    """No model of this server will answer, however often it is asked: a wrong key, a redirection."""


class GivenUp(Exception):
    """Another request of the batch failed for good, or the run was interrupted: nothing more is sent."""
