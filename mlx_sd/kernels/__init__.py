"""The operations that the networks consist of, each as fast as the device can.

Every operation is written once in plain MLX, in reference.py, which fixes what it
computes; faster variants serve a backend, and those arguments that they are made for.
This table is the one place that chooses between them.
"""

from . import reference
from .dispatch import Operation

attention = Operation(reference.attention)
conv = Operation(reference.conv)
geglu = Operation(reference.geglu)
gelu = Operation(reference.gelu)
group_norm = Operation(reference.group_norm)
layer_norm = Operation(reference.layer_norm)
linear = Operation(reference.linear)
quick_gelu = Operation(reference.quick_gelu)
silu = Operation(reference.silu)
upsample_conv = Operation(reference.upsample_conv)

OPERATIONS = {
    name: operation
    for name, operation in globals().items()
    if isinstance(operation, Operation)
}
