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
from mlx_sd.convert import convert

BOUND = 33  # dB
REQUEST = replace(make_pictures.BASE, width=128, height=128)
GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    kind: str
    prediction: str | None = None  # None: both programs find out that it is eps


CASES = {"sd2": Case("SD 2.x"), "sd2_v": Case("SD 2.x", "v"), "sdxl": Case("SDXL")}


def write(kind: str, folder: Path) -> Path:
    """A single file in float16, with the names of the family's authors.

    SDXL's is a GGUF file in q8_0 instead, for stable-diffusion.cpp's memory. And as
    that applies OpenCLIP's text projection the wrong way round, it is symmetric here.
    """
    shapes, symmetric = names.ldm(kind), {}
    if (name := names.PREFIXES["sdxl"]["clip_g"] + "text_projection") in shapes:
        matrix = seeded.tensor(name, shapes.pop(name))
        symmetric[name] = (matrix + matrix.T) / np.float32(np.sqrt(2))
    path = folder / "model.safetensors"
    seeded.save(path, shapes, "F16", symmetric)
    if not symmetric:
        return path
    quantised = folder / "model.gguf"
    convert(path, quantised, type="q8_0", tensor_type_rules="text_projection=f32")
    path.unlink()
    return quantised


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
        path, kind = Path(folder), ""
        for name in wanted or CASES:
            case = CASES[name]
            if kind != case.kind:
                kind, path = case.kind, write(case.kind, Path(folder))
            found = f"{decibels(name, path):.1f} dB"
            print(f"| {case.kind} | {case.prediction or 'eps'} | {found} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
