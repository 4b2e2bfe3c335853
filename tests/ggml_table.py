"""Every ggml type both ways between us and stable-diffusion.cpp, measured.

Run: python tests/ggml_table.py [TYPE …]   prints the table; it needs
stable-diffusion-cpp-python and gguf, 10 GB of disk for a while, and about two minutes
for each type on two cores. Each program converts one full-size seeded SD 1.5
checkpoint to the types that it writes, and both paint the same request from each file.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import seeded
from process import peak

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import make_pictures

from mlx_sd.convert.type_rules import TYPES

# dB: its kernels on a CPU round activations to 8 bits beside quantised weights.
BOUNDS = {
    "f32": 45,
    "f16": 45,
    "bf16": 45,
    "q8_0": 35,
    "q6_K": 35,
    "q5_0": 35,
    "q5_1": 35,
    "q5_K": 35,
    "q4_0": 30,
    "q4_1": 30,
    "q4_K": 30,
    "q3_K": 30,
    "q2_K": 30,
    # What stable-diffusion.cpp writes and we only read. Asked for q8_1, q8_K, f64 or an
    # integer type, it ends the process.
    "iq4_nl": 30,
    "iq4_xs": 30,
    "mxfp4": 30,
    "nvfp4": 30,
    "iq3_s": 30,
    "iq3_xxs": 30,
    "iq2_s": 30,
    "iq2_xs": 30,
    "iq2_xxs": 30,
    "tq2_0": 30,
    "tq1_0": 30,
    "iq1_m": 30,
    "iq1_s": 30,
}
REQUEST = replace(make_pictures.BASE, width=128, height=128)
COLUMNS = (
    "type",
    "file by",
    "GB",
    "converted in, s",
    "peak GB",
    "largest load error",
    "PSNR, dB",
    "bound",
)


def convert_sdcpp(source: str, target: str, kind: str) -> None:
    from stable_diffusion_cpp import GGML_TYPE_MAP
    from stable_diffusion_cpp.stable_diffusion_cpp import convert

    (wanted,) = (GGML_TYPE_MAP[k] for k in GGML_TYPE_MAP if k.lower() == kind.lower())
    if not convert(source.encode(), b"", target.encode(), wanted, b"", False):
        raise SystemExit("stable-diffusion.cpp could not convert")


def convert_ours(source: str, target: str, kind: str) -> None:
    from mlx_sd.convert import convert

    convert(source, target, type=kind)


def paint_sdcpp(checkpoint: str, result: str) -> None:
    np.save(result, make_pictures.SdCpp(Path(checkpoint)).paint(REQUEST))


def paint_ours(checkpoint: str, result: str) -> None:
    import mlx_sd

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
    np.save(result, np.asarray(mlx_sd.load(checkpoint, dtype="f32")(request)[0]))


def load_error(checkpoint: str, result: str) -> None:
    """Largest ‖ours - gguf's‖ / ‖gguf's‖ over the tensors, as the model holds them."""
    import gguf
    import mlx.core as mx

    from mlx_sd.convert.ggml import GGML
    from mlx_sd.convert.ggml.packed import PACKABLE, pack
    from mlx_sd.convert.readers import read_file

    entries, worst = read_file(Path(checkpoint)), 0.0
    for tensor in gguf.GGUFReader(checkpoint).tensors:
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        theirs = np.asarray(theirs, np.float32).ravel()
        entry = entries[tensor.name]
        if entry.dtype in PACKABLE and len(entry.shape) == 2:
            ours = unpacked(pack(entry.dtype, entry.raw(), entry.shape))
        else:
            held = mx.float16 if entry.dtype in GGML else mx.float32
            ours = np.array(entry.read().astype(held).astype(mx.float32))
        difference = np.linalg.norm(ours.ravel() - theirs)
        worst = max(worst, float(difference / max(np.linalg.norm(theirs), 1e-30)))
    Path(result).write_text(json.dumps(worst))


def unpacked(packed) -> np.ndarray:
    import mlx.core as mx

    scales, biases = (a.astype(mx.float32) for a in (packed.scales, packed.biases))
    weight = mx.array(packed.weight)
    return np.array(
        mx.dequantize(weight, scales, biases, group_size=32, bits=packed.bits)
    )


JOBS = {
    job.__name__: job
    for job in (convert_sdcpp, convert_ours, paint_sdcpp, paint_ours, load_error)
}


def run(job: str, *arguments: str | Path) -> tuple[float, float]:
    """Seconds and peak GB of a job in a process of its own, start-up included."""
    command = [sys.executable, __file__, "--job", job, *map(str, arguments)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-2000:]}")
    return seconds, float(done.stdout.splitlines()[-1]) / 1e9


def main(kinds: list[str]) -> None:
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "sd15.safetensors"
        seeded.save(source, seeded.sd1_shapes(), "F16", seeded.extra_buffers())
        for kind in kinds:
            for writer in ("sdcpp", "ours") if kind in TYPES else ("sdcpp",):
                row = measure(source, Path(folder), kind, writer)
                print("| " + " | ".join(row) + " |", flush=True)


def measure(source: Path, folder: Path, kind: str, writer: str) -> list[str]:
    file, result = folder / f"{writer}.gguf", folder / "result"
    file.unlink(missing_ok=True)
    seconds, most = run(f"convert_{writer}", source, file, kind)
    size = file.stat().st_size / 1e9
    run("load_error", file, result)
    worst = json.loads(result.read_text())
    pictures = []
    for painter in ("ours", "sdcpp"):
        run(f"paint_{painter}", file, result.with_suffix(".npy"))
        pictures.append(np.load(result.with_suffix(".npy")))
    note = ""
    if not pictures[1].std():  # not a picture: the source has the same numbers in bf16
        note = ", to its picture of the source, as it paints one colour from this"
        run("paint_sdcpp", source, result.with_suffix(".npy"))
        pictures[1] = np.load(result.with_suffix(".npy"))
    decibels = make_pictures.psnr(*pictures)
    figures = f"{size:.2f}", f"{seconds:.1f}", f"{most:.2f}", f"{worst:.1e}"
    bound = BOUNDS[kind]
    verdict = ("passed" if decibels >= bound else "MISSED") + note
    return [kind, writer, *figures, f"{decibels:.1f}", f"{bound}: {verdict}"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        JOBS[sys.argv[2]](*sys.argv[3:])
        print(f"\n{peak()}")
    else:
        main(sys.argv[1:] or list(BOUNDS))
