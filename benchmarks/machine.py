"""Every benchmark of speed that is for the machine at hand, one after the other."""

import subprocess
import sys
from pathlib import Path

from mlx_sd.kernels.dispatch import backend

SCRIPTS = {
    "cpu": ("bench_cpu", "bench_growth", "bench_cache", "bench_tiling"),
    "cuda": ("bench_cuda", "bench_growth", "growth_cuda"),
    "metal": ("bench_unet", "bench_vae", "bench_image", "bench_growth"),
}

for name in SCRIPTS[backend()]:
    print(f"\n# {name}\n", flush=True)
    script = Path(__file__).with_name(f"{name}.py")
    subprocess.run([sys.executable, str(script)], check=True)
