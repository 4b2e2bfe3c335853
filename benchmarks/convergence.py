"""How fast each sampler's error falls as steps are added, noise left out.

The data are a mixture of two normal distributions: its denoiser and the end of its
probability flow are exact (tests/mixture.py). Prints a table of fitted orders and saves
a plot with logarithmic axes.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b")
SIZE, LEFT, RIGHT, TOP, BOTTOM = (1280, 760), 80, 820, 40, 700


def plot(found: dict[str, list[float]]) -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    low, high = (f(f(e) for e in found.values()) for f in (min, max))
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def across(count: float) -> float:
        part = math.log(count / COUNTS[0]) / math.log(COUNTS[-1] / COUNTS[0])
        return LEFT + part * (RIGHT - LEFT)

    def down(value: float) -> float:
        part = (math.log10(value) - bottom) / (top - bottom)
        return BOTTOM - part * (BOTTOM - TOP)

    for decade in range(bottom, top + 1):
        y = down(10.0**decade)
        draw.line([(LEFT, y), (RIGHT, y)], "#dddddd")
        draw.text((LEFT - 8, y), f"1e{decade}", "black", font, anchor="rm")
    for count in COUNTS[1::2]:
        x = across(count)
        draw.line([(x, TOP), (x, BOTTOM)], "#dddddd")
        draw.text((x, BOTTOM + 8), str(count), "black", font, anchor="mt")
    draw.text((LEFT, TOP - 12), "error, by steps", "black", font, anchor="ls")
    label = float(TOP)
    for i, (names, errors) in enumerate(found.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = [(across(c), down(e)) for c, e in zip(COUNTS, errors, strict=True)]
        draw.line(points, colour, 2)
        label = max(label + 18, points[-1][1])
        draw.line([points[-1], (RIGHT + 30, label)], colour)
        first, *others = names.split(", ")
        text = names if len(others) < 3 else f"{first} and {len(others)} more"
        draw.text((RIGHT + 36, label), text, colour, font, anchor="lm")
    return image


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
    plot(found).save(path)
    print(f"\nplot: {path}")


if __name__ == "__main__":
    main()
