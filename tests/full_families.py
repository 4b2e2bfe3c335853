"""Full-size SD 2.x and SDXL beside stable-diffusion.cpp: PSNR of the pictures.

Run: python tests/full_families.py   paints ours and prints the table (8 GB of disk, 5
minutes on two cores); stable-diffusion.cpp's are golden, made by
golden/make_sdcpp_families.py from the same files. Layers are read as they run: in
float32 SDXL's would take 10 GB.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import names
import numpy as np
import seeded
import streamed
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import make_pictures

import mlx_sd

BOUND = 33  # dB
REQUEST = replace(make_pictures.BASE, width=128, height=128)
GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    kind: str
    prediction: str | None = None  # None: both programs find out that it is eps


CASES = {"sd2": Case("SD 2.x"), "sd2_v": Case("SD 2.x", "v"), "sdxl": Case("SDXL")}


def write(kind: str, path: Path) -> Path:
    """A single file in float16, with the names of the family's authors.

    As stable-diffusion.cpp applies OpenCLIP's text projection the wrong way round,
    SDXL's is symmetric here.
    """
    shapes, symmetric = names.ldm(kind), {}
    if (name := names.PREFIXES["sdxl"]["clip_g"] + "text_projection") in shapes:
        matrix = seeded.tensor(name, shapes.pop(name))
        symmetric[name] = (matrix + matrix.T) / np.float32(np.sqrt(2))
    seeded.save(path, shapes, "F16", symmetric)
    return path


def paint(path: Path, prediction: str | None) -> np.ndarray:
    request = mlx_sd.Request(
        prompt=REQUEST.prompt,
        negative_prompt=REQUEST.negative,
        width=REQUEST.width,
        height=REQUEST.height,
        steps=REQUEST.steps,
        cfg_scale=REQUEST.cfg,
        seed=REQUEST.seed,
        sampling_method=REQUEST.sampler,
        scheduler=REQUEST.schedule,
    )
    pipeline = mlx_sd.load(path, dtype="f32", prediction=prediction)
    parts = pipeline.source.contents.parts
    for part in parts.keys() - {"vae"}:
        pipeline._models[part] = streamed.model(part, parts[part])
    return np.asarray(pipeline(request)[0])


def decibels(name: str, path: Path) -> float:
    """Of our picture from that file and stable-diffusion.cpp's."""
    with Image.open(GOLDEN / f"sdcpp_{name}.png") as image:
        theirs = np.asarray(image.convert("RGB"))
    return make_pictures.psnr(paint(path, CASES[name].prediction), theirs)


def main(wanted: list[str]) -> None:
    print("| model | prediction | PSNR |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path, kind = Path(folder) / "model.safetensors", ""
        for name in wanted or CASES:
            case = CASES[name]
            if kind != case.kind:
                kind = case.kind
                write(kind, path)
            found = f"{decibels(name, path):.1f} dB"
            print(f"| {case.kind} | {case.prediction or 'eps'} | {found} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
