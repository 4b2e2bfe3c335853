"""Plots with logarithmic axes."""

import math

from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b")
SIZE, LEFT, RIGHT, TOP, BOTTOM = (1280, 760), 80, 820, 40, 700

Curve = list[tuple[float, float]]


def chart(title: str, curves: dict[str, Curve]) -> Image.Image:
    """Named curves over the same range, each with its name beside its end."""
    image = Image.new("RGB", SIZE, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    xs = sorted({x for curve in curves.values() for x, _ in curve})
    ys = [y for curve in curves.values() for _, y in curve]
    bottom, top = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def across(x: float) -> float:
        part = math.log(x / xs[0]) / math.log(xs[-1] / xs[0])
        return LEFT + part * (RIGHT - LEFT)

    def down(y: float) -> float:
        part = (math.log10(y) - bottom) / (top - bottom)
        return BOTTOM - part * (BOTTOM - TOP)

    for decade in range(bottom, top + 1):
        y = down(10.0**decade)
        draw.line([(LEFT, y), (RIGHT, y)], "#dddddd")
        draw.text((LEFT - 8, y), f"{10.0**decade:g}", "black", font, anchor="rm")
    for x in xs[1::2] if len(xs) > 8 else xs:
        draw.line([(across(x), TOP), (across(x), BOTTOM)], "#dddddd")
        draw.text((across(x), BOTTOM + 8), f"{x:g}", "black", font, anchor="mt")
    draw.text((LEFT, TOP - 12), title, "black", font, anchor="ls")
    label = float(TOP)
    for i, (name, curve) in enumerate(
        sorted(curves.items(), key=lambda item: -item[1][-1][1])
    ):
        colour = COLOURS[i % len(COLOURS)]
        points = [(across(x), down(y)) for x, y in curve]
        draw.line(points, colour, 2)
        label = max(label + 18, points[-1][1])
        draw.line([points[-1], (RIGHT + 30, label)], colour)
        draw.text((RIGHT + 36, label), name, colour, font, anchor="lm")
    return image
