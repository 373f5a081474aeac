"""Rendering: the seam under all engines, the only place where text becomes token ids."""

from toolkit.rendering.draft import Draft, Passage
from toolkit.rendering.prompt import Preference, Prompt, TrainingSequence
from toolkit.rendering.renderer import Renderer
from toolkit.rendering.template import Template

__all__ = ["Draft", "Passage", "Preference", "Prompt", "Renderer", "Template", "TrainingSequence"]
