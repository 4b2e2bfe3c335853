"""How fast each sampler's error falls as steps are added, noise left out.

The data are a mixture of two normal distributions: its denoiser and the end of its
probability flow are exact (tests/mixture.py). Prints a table of fitted orders and saves
a plot with logarithmic axes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from chart import chart

from mlx_sd.sampling.levels import scaled_linear
from mlx_sd.sampling.samplers import SAMPLERS, walk

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import mixture

HIGH, LOW = 40.0, 0.5
COUNTS = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
FIT = 4  # of them, the largest, that an order is fitted to


def karras(count: int) -> list[float]:
    """Levels evenly spaced in sigma^(1/7) from HIGH to LOW, then two more."""
    ramp = np.linspace(HIGH ** (1 / 7), LOW ** (1 / 7), count + 1)
    return [*(ramp**7).tolist(), LOW * 0.9, LOW * 0.8]


def error(name: str, count: int, x: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square at LOW, which `count` steps lead to.

    The two steps beyond are there for samplers that lower their order at the end.
    """
    sampler = SAMPLERS[name]

    def denoise(x, sigma):
        x0 = mixture.denoise(x, sigma)
        return (x0, x0) if sampler.uncond else x0

    eta = None if sampler.eta is None else 0.0
    levels, table = karras(count), scaled_linear()
    steps = list(walk(name, denoise, x, levels, np.zeros, eta=eta, table=table))
    return float(np.sqrt(np.mean((steps[count - 1].x - exact) ** 2)))


def curves() -> dict[str, list[float]]:
    """Errors by names; samplers that are one without noise share a curve."""
    x = np.linspace(-2, 2, 41) * HIGH
    exact = mixture.transport(x, HIGH, LOW)
    found: dict[tuple[float, ...], tuple[list[str], list[float]]] = {}
    for name in SAMPLERS:
        if name == "lcm":  # no solver of the flow
            continue
        errors = [error(name, count, x, exact) for count in COUNTS]
        key = tuple(float(f"{e:.6g}") for e in errors)
        names = [*found[key][0], name] if key in found else [name]
        found[key] = (names, errors)
    worst_first = sorted(found.values(), key=lambda curve: -curve[1][-1])
    return {", ".join(names): errors for names, errors in worst_first}


def order(errors: list[float]) -> float:
    return -float(np.polyfit(np.log(COUNTS[-FIT:]), np.log(errors[-FIT:]), 1)[0])


def _short(names: str) -> str:
    first, *others = names.split(", ")
    return names if len(others) < 3 else f"{first} and {len(others)} more"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="convergence.png", help="of the plot")
    path = parser.parse_args().output
    found = curves()
    print("| sampler | fitted order | error, 16 steps | error, 256 steps |")
    print("|---|---|---|---|")
    for names, errors in found.items():
        cells = f"{errors[COUNTS.index(16)]:.1e} | {errors[-1]:.1e}"
        print(f"| {names} | {order(errors):.2f} | {cells} |")
    points = {name: list(zip(COUNTS, e, strict=True)) for name, e in found.items()}
    chart("error, by steps", {_short(n): p for n, p in points.items()}).save(path)
    print(f"\nplot: {path}")


if __name__ == "__main__":
    main()
