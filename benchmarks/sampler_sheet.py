"""One prompt and seed under every sampler, by the bundled model, on one labelled sheet.

Run: python benchmarks/sampler_sheet.py [--output FILE]
"""

import argparse

from PIL import Image, ImageDraw, ImageFont

import mlx_sd
from mlx_sd.sampling.samplers import SAMPLERS

PROMPT = "a red house and a green tree under a night sky"
COLUMNS, GAP, LABEL = 7, 8, 20  # pixels, the latter two


def sheet(pictures: dict[str, Image.Image]) -> Image.Image:
    """The pictures, with their names below, on a grid of the largest one's size."""
    width, height = (max(p.size[i] for p in pictures.values()) for i in (0, 1))
    across, down = width + GAP, height + LABEL
    columns = min(len(pictures), COLUMNS)
    rows = -(-len(pictures) // columns)
    image = Image.new("RGB", (columns * across + GAP, rows * down + GAP), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for i, (name, picture) in enumerate(pictures.items()):
        left, top = GAP + i % columns * across, GAP + i // columns * down
        image.paste(picture, (left + (width - picture.width) // 2, top))
        middle = left + width / 2, top + height + 2
        draw.text(middle, name, "black", font, anchor="mt")
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="samplers.png")
    path = parser.parse_args().output
    pipeline = mlx_sd.load(dtype="f32")
    pictures = {}
    for name in SAMPLERS:
        request = mlx_sd.Request(prompt=PROMPT, steps=20, sampling_method=name)
        (pictures[name],) = pipeline(request)
    sheet(pictures).save(path, optimize=True)
    print(f"{len(pictures)} samplers: {path}")


if __name__ == "__main__":
    main()
