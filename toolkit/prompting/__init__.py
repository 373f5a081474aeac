"""The prompt-template engine's selectors; templates and rendering are in `toolkit.rendering`."""

from toolkit.prompting.selection import rank_nearest, select_balanced, select_random, shows_itself

__all__ = ["rank_nearest", "select_balanced", "select_random", "shows_itself"]
