"""Names of AutoencoderKL tensors in LDM and diffusers files.

LDM numbers the decoder's levels from the finest, as we do, and diffusers in running
order.
"""

from collections.abc import Iterator

from ..layouts import CONV, LINEAR, POINT, SAME
from .rule import Rule, Rules, under

_LEVELS = 4  # an eighth of the picture's size: three halvings

_RES = (
    ("norm1", "norm1", SAME),
    ("conv1", "conv1", CONV),
    ("norm2", "norm2", SAME),
    ("conv2", "conv2", CONV),
)


def _common() -> Iterator[Rule]:
    yield Rule("quant_conv.{p}", "quant.{p}", POINT)
    yield Rule("post_quant_conv.{p}", "post_quant.{p}", POINT)
    for coder in ("encoder", "decoder"):
        yield Rule(f"{coder}.conv_in.{{p}}", f"{coder}.conv_in.{{p}}", CONV)
        yield Rule(f"{coder}.conv_out.{{p}}", f"{coder}.conv_out.{{p}}", CONV)


def _ldm() -> Iterator[Rule]:
    res = (*_RES, ("nin_shortcut", "skip", POINT))
    mid = (("norm", "norm", SAME), ("proj_out", "attn.out", POINT)) + tuple(
        (part, f"attn.{part}", POINT) for part in "qkv"
    )
    for coder, way, resample in (
        ("encoder", "down", "downsample"),
        ("decoder", "up", "upsample"),
    ):
        yield Rule(f"{coder}.norm_out.{{p}}", f"{coder}.norm_out.{{p}}")
        theirs, ours = f"{coder}.{way}.{{i}}", f"{coder}.levels.{{i}}"
        yield from under(f"{theirs}.block.{{j}}", f"{ours}.res.{{j}}", res)
        yield Rule(
            f"{theirs}.{resample}.conv.{{p}}", f"{ours}.resample.conv.{{p}}", CONV
        )
        for i in range(2):
            yield from under(f"{coder}.mid.block_{i + 1}", f"{coder}.mid.res.{i}", res)
        yield from under(f"{coder}.mid.attn_1", f"{coder}.mid", mid)


def _diffusers() -> Iterator[Rule]:
    res = (*_RES, ("conv_shortcut", "skip", POINT))
    mid = (("group_norm", "norm", SAME),) + tuple(
        (theirs, f"attn.{ours}", LINEAR)
        for theirs, ours in (
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "out"),
            ("query", "q"),  # names before diffusers 0.15
            ("key", "k"),
            ("value", "v"),
            ("proj_attn", "out"),
        )
    )
    for i in range(_LEVELS):
        for theirs, ours, resample in (
            (f"encoder.down_blocks.{i}", f"encoder.levels.{i}", "downsamplers"),
            (
                f"decoder.up_blocks.{_LEVELS - 1 - i}",
                f"decoder.levels.{i}",
                "upsamplers",
            ),
        ):
            yield from under(f"{theirs}.resnets.{{j}}", f"{ours}.res.{{j}}", res)
            yield Rule(
                f"{theirs}.{resample}.0.conv.{{p}}", f"{ours}.resample.conv.{{p}}", CONV
            )
    for coder in ("encoder", "decoder"):
        yield Rule(f"{coder}.conv_norm_out.{{p}}", f"{coder}.norm_out.{{p}}")
        theirs = f"{coder}.mid_block"
        yield from under(f"{theirs}.resnets.{{j}}", f"{coder}.mid.res.{{j}}", res)
        yield from under(f"{theirs}.attentions.0", f"{coder}.mid", mid)


LDM = Rules(_common(), _ldm())
DIFFUSERS = Rules(_common(), _diffusers())
