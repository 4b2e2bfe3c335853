"""Fuzz the GGUF reader: see README.md."""

from oracle import fuzz

fuzz(bytes, beside={})
