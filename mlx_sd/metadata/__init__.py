"""The settings in a picture's file: written as A1111 does, read whoever wrote them."""

from .model_hash import model_hash, model_hash_later
from .parameters import parameters
from .reading import read, repeat
from .recipe import Metadata, Recipe
from .settings import to_request_fields

__all__ = [
    "Metadata",
    "Recipe",
    "model_hash",
    "model_hash_later",
    "parameters",
    "read",
    "repeat",
    "to_request_fields",
]
