"""The operations that the networks consist of, each as fast as the device can.

Every operation is written once in plain MLX, in reference.py, which fixes what it
computes; faster variants serve a backend, and those arguments that they are made for.
This table is the one place that chooses between them.
"""

import mlx.core as mx

from . import chunked, cpu, cuda, metal, packed, plain, reference
from .dispatch import BACKENDS, Operation, Variant, always
from .packed import Weight

attention = Operation(
    reference.attention,
    Variant("cpu", cpu.attention_fits, cpu.attention),
    Variant("cpu", plain.attention_fits, plain.attention),
    Variant("metal", metal.attention_pads, metal.padded_attention),
    Variant("metal", chunked.fits, chunked.attention),
    Variant("cuda", chunked.fits, chunked.attention),
)
conv = Operation(
    reference.conv,
    Variant("cpu", cpu.conv_fits, cpu.conv),
    Variant("cpu", plain.ready, plain.conv),
    Variant("cuda", cuda.is_exact, cuda.exact_conv),
    Variant("cuda", cuda.conv_fits, cuda.conv),
)
geglu = Operation(
    reference.geglu,
    Variant("cpu", cpu.ready, cpu.geglu),
    Variant("cpu", plain.ready, plain.geglu),
)
gelu = Operation(
    reference.gelu,
    Variant("cpu", cpu.ready, cpu.gelu),
    Variant("cpu", plain.ready, plain.gelu),
)
group_norm = Operation(
    reference.group_norm,
    Variant("cpu", cpu.ready, cpu.group_norm),
    Variant("cpu", plain.ready, plain.group_norm),
    Variant("cuda", cuda.group_norm_fits, cuda.group_norm),
    Variant("metal", metal.group_norm_fits, metal.group_norm),
)
layer_norm = Operation(reference.layer_norm, Variant("cpu", cpu.ready, cpu.layer_norm))
linear = Operation(
    reference.linear,
    Variant("cpu", cpu.linear_fits, cpu.linear),
    Variant("metal", packed.packed_linear_fits, packed.packed_linear),
)
quick_gelu = Operation(
    reference.quick_gelu,
    Variant("cpu", cpu.ready, cpu.quick_gelu),
    Variant("cpu", plain.ready, plain.quick_gelu),
)
silu = Operation(
    reference.silu,
    Variant("cpu", cpu.ready, cpu.silu),
    Variant("cpu", plain.ready, plain.silu),
)
upsample_conv = Operation(
    reference.upsample_conv,
    Variant("cpu", cpu.upsample_conv_fits, cpu.upsample_conv),
    Variant("cpu", plain.ready, plain.upsample_conv),
    Variant("cuda", cuda.is_exact, cuda.exact_upsample_conv),
    Variant("cuda", cuda.upsample_conv_fits, cuda.upsample_conv),
)


def _affine_conv(
    x: mx.array, table: mx.array, weight: Weight, bias: mx.array | None
) -> mx.array:
    """By the operations above, in x's type."""
    scale, shift = (part[:, None] for part in mx.split(table, 2, axis=1))
    y = silu(x.astype(mx.float32) * scale + shift)
    return conv(y.astype(x.dtype), weight, bias)


def _norm_conv(
    x: mx.array,
    weight: Weight,
    bias: mx.array | None,
    scale: mx.array,
    shift: mx.array,
    groups: int,
    eps: float,
) -> mx.array:
    """By the operations above."""
    return conv(group_norm(x, scale, shift, groups, eps, silu=True), weight, bias)


affine_conv = Operation(
    reference.affine_conv,
    Variant("cpu", cpu.affine_conv_fits, cpu.affine_conv),
    *(Variant(here, always, _affine_conv) for here in BACKENDS),
)
moments = Operation(reference.moments, Variant("cpu", cpu.ready, cpu.moments))
norm_conv = Operation(
    reference.norm_conv,
    Variant("cpu", cpu.norm_conv_fits, cpu.norm_conv),
    *(Variant(here, always, _norm_conv) for here in BACKENDS),
)

OPERATIONS = {
    name: operation
    for name, operation in globals().items()
    if isinstance(operation, Operation)
}
