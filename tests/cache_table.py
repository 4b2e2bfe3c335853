"""Caches over steps beside stable-diffusion.cpp's: PSNR of the pictures.

Run: python tests/cache_table.py FOLDER   FOLDER gets the checkpoint and its pictures.
It needs stable-diffusion-cpp-python, 2 GB of disk and 8 GB of memory. Both programs
read the full-size seeded SD 1.5 checkpoint of tests/seeded.py and paint the same
request.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import seeded

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import make_pictures

from mlx_sd import Request, load

# A name, our settings, and stable-diffusion-cpp-python's.
SETTINGS = {
    "none": ((None, ""), {}),
    "ucache": (("ucache", ""), {"cache_mode": "ucache"}),
    "ucache, threshold=0.3": (
        ("ucache", "threshold=0.3"),
        {"cache_mode": "ucache", "cache_reuse_threshold": 0.3},
    ),
    "ucache, reset=0": (
        ("ucache", "reset=0"),
        {"cache_mode": "ucache", "cache_reset_error_on_compute": False},
    ),
    "spectrum": (("spectrum", ""), {"cache_mode": "spectrum"}),
    "deepcache": (("deepcache", ""), None),  # which it lacks
    "deepcache, cache_interval=2": (("deepcache", "cache_interval=2"), None),
}
BASE = make_pictures.BASE
COMMON = {"width": 128, "height": 128, "seed": BASE.seed, "cfg_scale": 7.0}
STEPS = 16


def sdcpp(checkpoint: Path, folder: Path) -> None:
    import stable_diffusion_cpp

    model = stable_diffusion_cpp.StableDiffusion(
        model_path=str(checkpoint), n_threads=2, rng_type="cuda", verbose=False
    )
    for name, (_, settings) in SETTINGS.items():
        if settings is None:
            continue
        images = model.generate_image(
            prompt=BASE.prompt,
            negative_prompt=BASE.negative,
            sample_steps=STEPS,
            sample_method="euler",
            scheduler="discrete",
            **COMMON,
            **settings,
        )
        np.save(folder / f"{name}.sdcpp.npy", np.asarray(images[0].convert("RGB")))


def ours(checkpoint: Path, folder: Path) -> None:
    pipeline = load(checkpoint, dtype="f32")
    for name, ((mode, option), _) in SETTINGS.items():
        request = Request(
            prompt=BASE.prompt,
            negative_prompt=BASE.negative,
            steps=STEPS,
            sampling_method="euler",
            cache_mode=mode,
            cache_option=option,
            **COMMON,
        )
        np.save(folder / f"{name}.ours.npy", np.asarray(pipeline(request)[0]))


def table(folder: Path) -> str:
    rows = [
        "| cache | ours beside theirs, dB | ours as uncached | theirs as uncached |"
    ]
    rows.append("|---|---|---|---|")
    plain = {who: np.load(folder / f"none.{who}.npy") for who in ("ours", "sdcpp")}
    for name, (_, settings) in SETTINGS.items():
        mine = np.load(folder / f"{name}.ours.npy")
        theirs = mine if settings is None else np.load(folder / f"{name}.sdcpp.npy")
        pairs = (mine, theirs), (mine, plain["ours"]), (theirs, plain["sdcpp"])
        cells = [f"{make_pictures.psnr(*pair):.1f}" for pair in pairs]
        if settings is None:
            cells[0] = cells[2] = "–"
        rows.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(rows)


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    checkpoint = folder / "sd15.safetensors"
    if not checkpoint.exists():
        partial = checkpoint.with_suffix(".partial")
        seeded.save(partial, seeded.sd1_shapes(), "F16", seeded.extra_buffers())
        partial.rename(checkpoint)
    for painter in ("sdcpp", "ours"):
        subprocess.run([sys.executable, __file__, folder, painter], check=True)
    print(table(folder))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        place = Path(sys.argv[1])
        {"sdcpp": sdcpp, "ours": ours}[sys.argv[2]](place / "sd15.safetensors", place)
    else:
        main(Path(sys.argv[1]))
