"""Settings as trackers may see them: flat, and without passwords, tokens and keys. Messages lose those too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

from toolkit.tracking.tracker import Setting

HIDDEN = "[hidden]"

_SECRET_NAME = re.compile(r"(^|[._-])(api_?key|key|token|password|passphrase|secret|credentials?)$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")
_USER_IN_URL = re.compile(r"(?<=://)[^/\s]+(?=@)")
_SECRET_IN_QUERY = re.compile(r"(?<=[?&])((?:api_?)?key|token|password|secret)=[^&\s]+", re.IGNORECASE)
_SHORTEST_CHARACTERS = 6
"""A shorter value of a variable is a word that may stand anywhere."""


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, Setting]:
    """Settings as plain values under `prefix`; lists and mappings among them as JSON, without secrets in it."""
    return {
        prefix + name: value if isinstance(value, (str, int, float)) else json.dumps(_hidden(value), default=str)
        for name, value in settings.items()
    }


def _hidden(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: HIDDEN if _SECRET_NAME.search(str(name)) else _hidden(inner) for name, inner in value.items()}
    return [_hidden(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def without_secrets(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Settings with what looks like a secret, by its name or inside a URL, taken out."""
    return {
        name: HIDDEN if _SECRET_NAME.search(name) else redacted(value) if isinstance(value, str) else value
        for name, value in settings.items()
    }


def redacted(text: str) -> str:
    """A text without users and passwords of URLs, and without what environment variables hold as secrets."""
    text = _SECRET_IN_QUERY.sub(rf"\1={HIDDEN}", _USER_IN_URL.sub(HIDDEN, text))
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_CHARACTERS:
            text = text.replace(value, HIDDEN)
    return text
