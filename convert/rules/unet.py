"""Names of UNet tensors in LDM (A1111, civitai) and diffusers files.

LDM numbers all blocks in one row: three to a level, of which the last resamples and,
on the way down, `input_blocks.0` comes before the first level.
"""

from collections.abc import Iterator

from ..layouts import CONV, POINT, SAME
from .rule import Rule, Rules, under

_LEVELS = 4  # the most that any model has

_RES_LDM = (
    ("in_layers.0", "norm1", SAME),
    ("in_layers.2", "conv1", CONV),
    ("emb_layers.1", "emb", SAME),
    ("out_layers.0", "norm2", SAME),
    ("out_layers.3", "conv2", CONV),
    ("skip_connection", "skip", POINT),
)
_RES_DIFFUSERS = (
    ("norm1", "norm1", SAME),
    ("conv1", "conv1", CONV),
    ("time_emb_proj", "emb", SAME),
    ("norm2", "norm2", SAME),
    ("conv2", "conv2", CONV),
    ("conv_shortcut", "skip", POINT),
)
_TRANSFORMER = (  # both alike
    ("norm", "norm", SAME),
    ("proj_in", "proj_in", POINT),
    ("proj_out", "proj_out", POINT),
    *(
        (f"transformer_blocks.{{k}}.{theirs}", f"layers.{{k}}.{ours}", SAME)
        for theirs, ours in (
            ("norm1", "norm1"),
            ("norm2", "norm2"),
            ("norm3", "norm3"),
            *(
                (f"{attn}.{part}", f"{name}.{part[3:4]}")
                for attn, name in (("attn1", "self_attn"), ("attn2", "cross_attn"))
                for part in ("to_q", "to_k", "to_v")
            ),
            ("attn1.to_out.0", "self_attn.out"),
            ("attn2.to_out.0", "cross_attn.out"),
            ("ff.net.0.proj", "ff.proj_in"),
            ("ff.net.2", "ff.proj_out"),
        )
    ),
)


def _ldm() -> Iterator[Rule]:
    yield Rule("input_blocks.0.0.{p}", "conv_in.{p}", CONV)
    yield Rule("time_embed.0.{p}", "time.layers.0.{p}")
    yield Rule("time_embed.2.{p}", "time.layers.1.{p}")
    # LCM's has no name of LDM's own; converters keep diffusers', or its beginning.
    for time in ("time_embed", "time_embedding"):
        yield Rule(f"{time}.cond_proj.{{p}}", "guidance.{p}")
    yield Rule("label_emb.0.0.{p}", "vector.layers.0.{p}")
    yield Rule("label_emb.0.2.{p}", "vector.layers.1.{p}")
    yield Rule("out.0.{p}", "norm_out.{p}")
    yield Rule("out.2.{p}", "conv_out.{p}", CONV)
    for level in range(_LEVELS):
        for j in range(3):
            down, up = (
                f"input_blocks.{3 * level + j + 1}",
                f"output_blocks.{3 * level + j}",
            )
            yield from _ldm_block(up, f"up.{level}.blocks.{j}")
            if j < 2:
                yield from _ldm_block(down, f"down.{level}.blocks.{j}")
            else:
                yield Rule(
                    f"{down}.0.op.{{p}}", f"down.{level}.downsample.conv.{{p}}", CONV
                )
                # Behind the transformer if there is one, else in its place.
                for place in (2, 1):
                    yield Rule(
                        f"{up}.{place}.conv.{{p}}",
                        f"up.{level}.upsample.conv.{{p}}",
                        CONV,
                    )
    yield from _ldm_block("middle_block", "mid.0")
    yield from under("middle_block.2", "mid.1.res", _RES_LDM)


def _ldm_block(theirs: str, ours: str) -> Iterator[Rule]:
    yield from under(f"{theirs}.0", f"{ours}.res", _RES_LDM)
    yield from under(f"{theirs}.1", f"{ours}.attn", _TRANSFORMER)


def _diffusers() -> Iterator[Rule]:
    yield Rule("conv_in.{p}", "conv_in.{p}", CONV)
    yield Rule("time_embedding.linear_1.{p}", "time.layers.0.{p}")
    yield Rule("time_embedding.linear_2.{p}", "time.layers.1.{p}")
    yield Rule("time_embedding.cond_proj.{p}", "guidance.{p}")
    yield Rule("add_embedding.linear_1.{p}", "vector.layers.0.{p}")
    yield Rule("add_embedding.linear_2.{p}", "vector.layers.1.{p}")
    yield Rule("conv_norm_out.{p}", "norm_out.{p}")
    yield Rule("conv_out.{p}", "conv_out.{p}", CONV)
    for way, resample in (("down", "downsample"), ("up", "upsample")):
        theirs, ours = f"{way}_blocks.{{i}}", f"{way}.{{i}}"
        yield from under(
            f"{theirs}.resnets.{{j}}", f"{ours}.blocks.{{j}}.res", _RES_DIFFUSERS
        )
        yield from under(
            f"{theirs}.attentions.{{j}}", f"{ours}.blocks.{{j}}.attn", _TRANSFORMER
        )
        yield Rule(
            f"{theirs}.{resample}rs.0.conv.{{p}}", f"{ours}.{resample}.conv.{{p}}", CONV
        )
    yield from under("mid_block.resnets.{j}", "mid.{j}.res", _RES_DIFFUSERS)
    yield from under("mid_block.attentions.{j}", "mid.{j}.attn", _TRANSFORMER)


LDM = Rules(_ldm())
DIFFUSERS = Rules(_diffusers())
