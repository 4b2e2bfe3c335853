"""Digests of torch's normal numbers on a CPU, one stream per seed.

Run: python tests/golden/make_noise.py (torch, on an x86 processor with AVX2).
"""

import hashlib
import json

import numpy as np
from provenance import FOLDER, record

SEEDS = (0, 42, 2**32 - 1, 2**32 + 42, 2**63 + 5)
# Drawn one after the other: below 16 numbers torch goes another way, and pairs span
# calls; from there on it works in blocks of 16.
COUNTS = (*range(1, 41), 255, 256, 3, 4096, 1, 65_536, 15, 16, 17, 4097, 5, 65_537)
NOTES = """
`noise.json`: seed → what `digest()` makes of each `torch.randn` of `COUNTS` numbers,
drawn one after the other from one generator.
"""


def digest(numbers: np.ndarray) -> str:
    """Of the bits of float32 numbers."""
    return hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest()[:16]


def torch_stream(seed: int) -> list[np.ndarray]:
    import torch  # the tests use the rest of this script without it

    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(count, generator=generator).numpy() for count in COUNTS]


def main():
    found = {seed: [digest(drawn) for drawn in torch_stream(seed)] for seed in SEEDS}
    (FOLDER / "noise.json").write_text(json.dumps(found, indent=1) + "\n")
    record("make_noise.py", ("torch", "numpy"), NOTES)


if __name__ == "__main__":
    main()
