"""Each sampler and schedule beside stable-diffusion.cpp's: PSNR of the pictures.

Run: python tests/sampler_table.py FOLDER   paints what FOLDER lacks, prints the table.
It needs stable-diffusion-cpp-python, 2 GB of disk and 8 GB of memory, and takes an hour
on two cores. Both programs read the full-size seeded SD 1.5 checkpoint of
tests/seeded.py, whose predicted noise has unit size, and paint the same requests.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import seeded

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import make_pictures

from mlx_sd import Request, load
from mlx_sd.sampling.samplers import SAMPLERS
from mlx_sd.sampling.schedules import SCHEDULES

STEPS = 1, 2, 7, 20
BOUND = 40  # dB
PAINTERS = "sdcpp", "ours"
CRASH = "gits", 1  # schedule and steps at which stable-diffusion.cpp ends the process


@dataclass(frozen=True)
class Row:
    """Pictures that differ in their steps alone."""

    sampler: str
    schedule: str
    cfg: float = 1
    args: str = ""  # ours alone, for stable-diffusion.cpp's formula

    def name(self, steps: int) -> str:
        return f"{self.sampler}{self.args}-{self.schedule}-{self.cfg:g}-{steps}"


def rows() -> Iterator[Row]:
    """What stable-diffusion.cpp has, one with its own formula, three with guidance."""
    from stable_diffusion_cpp.stable_diffusion import SAMPLE_METHOD_MAP, SCHEDULER_MAP

    for name, sampler in SAMPLERS.items():
        if name in SAMPLE_METHOD_MAP:
            yield Row(name, sampler.scheduler or "discrete")
    for name in SCHEDULES:
        if name in SCHEDULER_MAP and name != "discrete":
            yield Row("euler", name)
    yield Row("ipndm_v", "discrete", args="variable_order=2")
    yield Row("euler", "discrete", 7)
    yield Row("euler_a", "karras", 7)
    yield Row("dpm++2m", "karras", 7)


def paint(painter: str, checkpoint: str, folder: str) -> None:
    """Every picture that the folder lacks; those that tell most first."""
    picture = {"sdcpp": sdcpp, "ours": ours}[painter](checkpoint)
    for steps in 7, 20, 2, 1:
        for row in rows():
            file = Path(folder) / f"{row.name(steps)}.{painter}.npy"
            crashes = painter == "sdcpp" and (row.schedule, steps) == CRASH
            if file.exists() or crashes:
                continue
            start = time.perf_counter()
            np.save(file, picture(row, steps))
            print(f"{time.perf_counter() - start:6.1f} s {file.name}", flush=True)


def sdcpp(checkpoint: str):
    painter = make_pictures.SdCpp(Path(checkpoint))

    def picture(row: Row, steps: int) -> np.ndarray:
        request = replace(
            make_pictures.BASE,
            width=128,
            height=128,
            steps=steps,
            cfg=row.cfg,
            sampler=row.sampler,
            schedule=row.schedule,
        )
        return painter.paint(request, eta=SAMPLERS[row.sampler].eta or 0)

    return picture


def ours(checkpoint: str):
    pipeline, base = load(checkpoint, dtype="f32"), make_pictures.BASE

    def picture(row: Row, steps: int) -> np.ndarray:
        request = Request(
            prompt=base.prompt,
            negative_prompt=base.negative,
            width=128,
            height=128,
            steps=steps,
            cfg_scale=row.cfg,
            seed=base.seed,
            sampling_method=row.sampler,
            scheduler=row.schedule,
            extra_sample_args=row.args,
        )
        return np.asarray(pipeline(request)[0])

    return picture


def table(folder: Path) -> str:
    """Markdown. A picture of one colour comes of values that are no numbers."""
    head = ("sampler", "schedule", "cfg", *map(str, STEPS))
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows():
        sampler = f"`{row.sampler}`" + (f", `{row.args}`" if row.args else "")
        cells = [sampler, f"`{row.schedule}`", f"{row.cfg:g}"]
        cells += [cell(folder / row.name(steps)) for steps in STEPS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(stem: Path) -> str:
    files = [stem.with_name(f"{stem.name}.{painter}.npy") for painter in PAINTERS]
    if not all(file.exists() for file in files):
        return "–"
    theirs, mine = map(np.load, files)
    if not theirs.std():
        return "NaN"
    decibels = make_pictures.psnr(theirs, mine)
    return f"{decibels:.1f}" if decibels >= BOUND else f"**{decibels:.1f}**"


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    checkpoint = folder / "sd15.safetensors"
    if not checkpoint.exists():
        shapes, buffers = seeded.sd1_shapes(), seeded.extra_buffers()
        partial = checkpoint.with_suffix(".partial")
        seeded.save(partial, shapes, "F16", buffers)
        partial.rename(checkpoint)
    for painter in PAINTERS:
        job = [sys.executable, __file__, "--paint", painter, checkpoint, folder]
        subprocess.run(job, check=True)
    print(table(folder))


if __name__ == "__main__":
    if sys.argv[1] == "--paint":
        paint(*sys.argv[2:])
    elif sys.argv[1] == "--table":
        print(table(Path(sys.argv[2])))
    else:
        main(Path(sys.argv[1]))
