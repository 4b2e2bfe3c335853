"""Names of a tiny autoencoder's tensors, which are numbers of layers in a sequence.

Its authors count what has no weights too: activations, upsampling, and the clamp that
the decoder begins with. Diffusers leaves the clamp out.
"""

from collections.abc import Iterator

from ..layouts import CONV, POINT, SAME
from .rule import Rule, Rules, under

_STAGES, _BLOCKS = 3, 3
_STRIDE = 4  # a stage's blocks and its convolution, in the encoder
_CLAMP = 1

_BLOCK = (
    *((f"conv.{2 * i}", f"convs.{i}", CONV) for i in range(3)),
    ("pool.0", "pool.widen", POINT),
    ("pool.1", "pool.norm", SAME),
    ("pool.3", "pool.narrow", POINT),
)


def _encoder(prefix: str) -> Iterator[Rule]:
    def conv(layer: int, ours: str) -> Rule:
        return Rule(f"{prefix}{layer}.{{p}}", f"encoder.{ours}.{{p}}", CONV)

    yield conv(0, "conv_in")
    yield from under(f"{prefix}1", "encoder.block", _BLOCK)
    for i in range(_STAGES):
        first, ours = 2 + _STRIDE * i, f"stages.{i}"
        yield conv(first, f"{ours}.resample")
        for j in range(_BLOCKS):
            block = f"encoder.{ours}.blocks.{j}"
            yield from under(f"{prefix}{first + 1 + j}", block, _BLOCK)
    yield conv(2 + _STRIDE * _STAGES, "conv_out")


def _decoder(prefix: str, start: int) -> Iterator[Rule]:
    """The decoder's layers, the first convolution being number `start`."""

    def conv(layer: int, ours: str) -> Rule:
        return Rule(f"{prefix}{start + layer}.{{p}}", f"decoder.{ours}.{{p}}", CONV)

    yield conv(0, "conv_in")
    stride = _BLOCKS + 2  # upsampling too
    for i in range(_STAGES):
        first, ours = 2 + stride * i, f"stages.{i}"
        for j in range(_BLOCKS):
            block = f"decoder.{ours}.blocks.{j}"
            yield from under(f"{prefix}{start + first + j}", block, _BLOCK)
        yield conv(first + _BLOCKS + 1, f"{ours}.resample")
    last = 2 + stride * _STAGES
    yield from under(f"{prefix}{start + last}", "decoder.block", _BLOCK)
    yield conv(last + 1, "conv_out")


DIFFUSERS = Rules(_encoder("encoder.layers."), _decoder("decoder.layers.", start=0))
OTHERS = (
    Rules(_encoder("encoder."), _decoder("decoder.", _CLAMP)),  # both, as its authors
    Rules(_encoder("taesd_encoder."), _decoder("taesd_decoder.", _CLAMP)),  # ComfyUI
    Rules(_encoder("")),  # one of the two in a file by itself
    Rules(_decoder("", _CLAMP)),
)
