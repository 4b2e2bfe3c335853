"""A tensor of a file that is known to be one of our parameters."""

from dataclasses import dataclass

import mlx.core as mx

from .layouts import Layout, Shape
from .readers import Entry


@dataclass(frozen=True)
class Parameter:
    """A tensor of a file, or its own rows of a tensor, as one of our parameters."""

    entry: Entry
    layout: Layout

    @property
    def shape(self) -> Shape:
        return self.layout.shape(self.entry.shape)

    def read(self) -> mx.array:
        return self.layout.ours(self.entry.read())


Parameters = dict[str, Parameter]  # by our name
