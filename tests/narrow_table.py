"""Narrow models of every family, from every kind of file, beside diffusers: measured.

Run: python tests/narrow_table.py [CASE …]   prints the table (3 GB, 10 minutes on two
cores). A cell has the error of the last latent and the PSNR of the picture; diffusers'
are golden, see golden/make_families.py.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import small_families
from small_families import CASES, HEIGHT, PROMPT, SEED, WIDTH, Case

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import make_pictures

import mlx_sd
from mlx_sd.convert import convert
from mlx_sd.tokenizers.clip import ClipTokenizer

GOLDEN = Path(__file__).parent / "golden/families.npz"
LATENT = 1e-3  # relative; each of 10 steps magnifies what rounding left
DECIBELS = 50
FORMATS = "folder", "safetensors", "GGUF f16", "parts"
PARTS = {  # option → folder
    "diffusion_model": "unet",
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "vae": "vae",
}


def request(case: Case) -> mlx_sd.Request:
    return mlx_sd.Request(
        PROMPT,
        case.negative,
        WIDTH,
        HEIGHT,
        case.steps,
        case.cfg,
        SEED,
        sampling_method=case.sampler,
        scheduler=case.schedule,
        rng=case.rng,
    )


def write(case: Case, path: Path) -> Path:
    parts = small_families.shapes(case.kind)
    return small_families.write_folder(path, parts, case.prediction, case.zero_snr)


def opened(case: Case, folder: Path, form: str = "folder") -> mlx_sd.Pipeline:
    """The case's model, which lies in a folder, by way of another kind of file."""
    model, parts = folder, {}
    if form == "parts":
        parts = {o: folder / p for o, p in PARTS.items() if (folder / p).is_dir()}
        model = None
    elif form != "folder":
        model = folder.with_suffix(".gguf" if "GGUF" in form else ".safetensors")
        convert(folder, model)
    pipeline = mlx_sd.load(model, **parts, dtype="f32", prediction=case.prediction)
    if form != "folder":
        # Only a folder brings the tokenizer of so small a vocabulary.
        own = next(folder.glob("tokenizer*"))
        pipeline.source.tokenizer = ClipTokenizer.from_folder(own)
    return pipeline


def measured(pipeline: mlx_sd.Pipeline, name: str) -> tuple[float, float]:
    """The last latent's relative error, and the picture's PSNR, of a case."""
    golden, latents = np.load(GOLDEN), []
    (image,) = pipeline(request(CASES[name]), lambda p: latents.append(p.latent))
    expected = golden[f"{name}_latent"].transpose(0, 2, 3, 1)
    picture = golden[f"{name}_picture"]
    return error(latents[-1], expected), make_pictures.psnr(np.asarray(image), picture)


def error(found, expected: np.ndarray) -> float:
    return np.linalg.norm(np.array(found) - expected) / np.linalg.norm(expected)


def main(wanted: list[str]) -> None:
    print(f"| case | kind | {' | '.join(FORMATS)} |")
    print("|---" * (len(FORMATS) + 2) + "|")
    for name in wanted or CASES:
        case, cells = CASES[name], []
        with tempfile.TemporaryDirectory() as folder:
            path = write(case, Path(folder) / "model")
            # Parts alone do not say that they were trained down to a signal of zero.
            for form in FORMATS[:-1] if case.zero_snr else FORMATS:
                latent, decibels = measured(opened(case, path, form), name)
                cells.append(f"{latent:.0e}, {decibels:.0f} dB")
        cells += ["–"] * (len(FORMATS) - len(cells))
        print(f"| `{name}` | {case.kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
