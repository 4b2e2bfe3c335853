"""From text to the token ids that a text encoder reads."""

from .chunks import Chunk
from .clip import ClipTokenizer
from .editing import PromptPlan

__all__ = ["Chunk", "ClipTokenizer", "PromptPlan"]
