"""Golden pictures of full-size SD 2.x and SDXL by stable-diffusion.cpp.

Run: python tests/golden/make_sdcpp_families.py (stable-diffusion-cpp-python; 9 GB of
memory, 7 GB of disk, 10 min).
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from make_pictures import SdCpp
from PIL import Image
from provenance import FOLDER, record

sys.path.insert(0, str(Path(__file__).parents[1]))
from full_families import CASES, REQUEST, write

PACKAGES = "stable-diffusion-cpp-python", "numpy", "pillow"


def main(wanted: list[str]):
    with tempfile.TemporaryDirectory() as folder:
        path, kind = Path(folder) / "model.safetensors", ""
        for name in wanted or CASES:
            case = CASES[name]
            if kind != case.kind:
                kind = case.kind
                write(kind, path)
            painter = SdCpp(path, prediction=case.prediction or "default")
            picture = painter.paint(REQUEST)
            del painter
            Image.fromarray(picture).save(FOLDER / f"sdcpp_{name}.png", optimize=True)
            print(name, picture.shape, round(float(np.std(picture)), 1), flush=True)
    settings = ", ".join(f"{k} {v!r}" for k, v in asdict(REQUEST).items())
    notes = (
        "`sdcpp_<case>.png`: its picture of each case of `full_families.py`, from the\n"
        f"same full-size file.\n\nRequest: {settings}."
    )
    record("make_sdcpp_families.py", PACKAGES, notes)


if __name__ == "__main__":
    main(sys.argv[1:])
