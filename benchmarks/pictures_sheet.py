"""Pictures made from pictures by the bundled model, on one labelled sheet.

Run: python benchmarks/pictures_sheet.py [--output FILE]
A sketch becomes a house, a hole is repainted, a picture goes on beyond its edges.
"""

import argparse

from PIL import Image, ImageDraw
from sampler_sheet import sheet

import mlx_sd

HOUSE = "a red house on grass under a blue sky"
TREE = "a green tree on the right on grass under a blue sky"
BOTH = "a red house on the left and a green tree on the right on grass under a blue sky"
NIGHT = "a white house on snow at night"
SETTINGS = {"steps": 20, "sampling_method": "dpm++2m", "scheduler": "karras"}


def sketch() -> Image.Image:
    """A house as a child would draw it: 128x128, flat and crooked."""
    image = Image.new("RGB", (128, 128), (150, 200, 240))
    draw = ImageDraw.Draw(image)
    draw.polygon([(0, 92), (128, 86), (128, 128), (0, 128)], (110, 180, 90))
    draw.polygon([(38, 58), (88, 61), (90, 101), (36, 99)], (205, 50, 45))
    draw.polygon([(30, 62), (62, 30), (97, 63)], (120, 60, 50))
    draw.polygon([(57, 80), (69, 79), (70, 101), (56, 100)], (90, 55, 40))
    return image


def block(left: int, top: int, right: int, bottom: int) -> Image.Image:
    """A mask of 128x128 that is white there."""
    mask = Image.new("L", (128, 128))
    mask.paste(255, (left, top, right, bottom))
    return mask


HOLE = block(0, 40, 72, 116)


def rows(pipeline: mlx_sd.Pipeline) -> list[dict[str, Image.Image]]:
    """Pictures by their labels."""

    def paint(prompt: str, **fields) -> Image.Image:
        (image,) = pipeline(mlx_sd.Request(prompt, **{**SETTINGS, **fields}))
        return image

    def repainted(**fields) -> Image.Image:
        return paint(BOTH, init_img=tree, mask=HOLE, strength=1, **fields)

    drawn, tree, night = sketch(), paint(TREE, seed=3), paint(NIGHT, seed=5)
    grey = Image.new("RGB", tree.size, "gray")
    wider = paint(NIGHT, init_img=night, extend=(32, 0, 32, 0), mask_blur=4)
    strengths = {
        f"--strength {strength}": paint(HOUSE, init_img=drawn, strength=strength)
        for strength in (0.4, 0.6, 0.8)
    }
    return [
        {"a sketch": drawn, **strengths},
        {
            "a tree": tree,
            "its mask": Image.composite(grey, tree, HOLE),
            "--paste-back": repainted(paste_back=True),
            "--mask-blur 4": repainted(mask_blur=4),
        },
        {"a house": night, "--extend 32,0,32,0": wider},
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", default="pictures.png")
    path = parser.parse_args().output
    parts = [sheet(row) for row in rows(mlx_sd.load(dtype="f32"))]
    size = max(part.width for part in parts), sum(part.height for part in parts)
    whole, top = Image.new("RGB", size, "white"), 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    whole.save(path, optimize=True)
    print(f"{len(parts)} rows: {path}")


if __name__ == "__main__":
    main()
