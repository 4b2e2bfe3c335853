"""Golden blocks of gguf's quantiser, and how far ggml's K types are from the values.

Run: python tests/golden/make_quantizers.py (gguf, stable-diffusion-cpp-python).
"""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import FOLDER, record
from rows import edge_rows, rms, weights

ROUNDED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
NOTES = """
`quantizers.npz`: `<type>` of 32 values: the bytes that gguf writes for `edge_rows()` of
`tests/rows.py`; `<type>_K`: for each of its `weights()`, the RMS error of what
stable-diffusion.cpp's convert writes (ggml_quantize_chunk, every column of importance
1) and of what ggml writes without importance, as gguf decodes both.
"""


def quantize(values: np.ndarray, name: str) -> np.ndarray:
    """(rows, columns) → (rows, bytes) by the gguf package."""
    with np.errstate(all="ignore"):
        return gguf.quants.quantize(values, GGMLQuantizationType[name])


def dequantize(raw: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, GGMLQuantizationType[name])


def quantize_by_ggml(values: np.ndarray, name: str, importance: bool) -> np.ndarray:
    """By the ggml within stable-diffusion.cpp."""
    kind = GGMLQuantizationType[name]
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    raw = np.empty((rows, columns // block * size), np.uint8)
    ones = np.ones(columns, np.float32)
    chunk = _ggml().ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    counts = (ctypes.c_int64(count) for count in (0, rows, columns))
    places = (ctypes.c_void_p(array.ctypes.data) for array in (values, raw))
    written = chunk(
        ctypes.c_int(kind),
        *places,
        *counts,
        ctypes.c_void_p(ones.ctypes.data if importance else None),
    )
    assert written == raw.nbytes
    return raw


def _ggml() -> ctypes.CDLL:
    folder = Path(find_spec("stable_diffusion_cpp").origin).parent / "lib"
    return ctypes.CDLL(str(next(folder.glob("libstable-diffusion.*"))))


def errors(name: str) -> list[list[float]]:
    return [
        [
            rms(dequantize(quantize_by_ggml(values, name, importance), name), values)
            for importance in (True, False)
        ]
        for values in weights().values()
    ]


def main():
    np.savez_compressed(
        FOLDER / "quantizers.npz",
        **{name: quantize(edge_rows(), name) for name in ROUNDED},
        **{name: errors(name) for name in SEARCHED},
    )
    packages = ("gguf", "stable-diffusion-cpp-python", "numpy")
    record("make_quantizers.py", packages, NOTES)


if __name__ == "__main__":
    main()
