"""From text to the token ids that a text encoder reads."""

from .clip import ClipTokenizer

__all__ = ["ClipTokenizer"]
