"""Plots: curves with logarithmic axes, and bars."""

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
    label, names = float(TOP), list(curves)
    for name, curve in sorted(curves.items(), key=lambda item: -item[1][-1][1]):
        colour = COLOURS[names.index(name) % len(COLOURS)]
        points = [(across(x), down(y)) for x, y in curve]
        draw.line(points, colour, 2)
        label = max(label + 18, points[-1][1])
        draw.line([points[-1], (RIGHT + 30, label)], colour)
        draw.text((RIGHT + 36, label), name, colour, font, anchor="lm")
    return image


def bars(title: str, rows: dict[str, dict[str, float]]) -> Image.Image:
    """For each row a bar of each name, as long as its share of the row's largest."""
    names = list({name: None for row in rows.values() for name in row})
    height, left, full = 20, 330, 760
    lines = sum(len(row) for row in rows.values())
    image = Image.new("RGB", (SIZE[0], 70 + lines * height + 14 * len(rows)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    draw.text((10, 10), title, "black", font)
    y = 44
    for what, row in rows.items():
        draw.text((left - 10, y + height / 2), what, "black", font, anchor="rm")
        for name, value in row.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            end = left + full * value / max(row.values())
            draw.rectangle([(left, y + 2), (end, y + height - 2)], colour)
            label = f"{name} {value:.3g}"
            draw.text((end + 6, y + height / 2), label, "black", font, anchor="lm")
            y += height
        y += 14
    return image
