"""What scored pictures come to: one line of numbers, one sheet to look at."""

from collections import Counter
from collections.abc import Sequence

from PIL import Image, ImageDraw

from .captions import Attribute, Caption
from .scenes import Scene

Result = dict[tuple[Attribute, int], bool]


def summary(results: Sequence[Result]) -> str:
    """ "92.1 % of 1234 (sky 99.0, ground ...)" """
    asked: Counter[Attribute] = Counter()
    found: Counter[Attribute] = Counter()
    for result in results:
        for (name, _), ok in result.items():
            asked[name] += 1
            found[name] += ok
    parts = [f"{name} {100 * found[name] / asked[name]:.1f}" for name in asked]
    share = 100 * found.total() / max(asked.total(), 1)
    return f"{share:.1f} % of {asked.total()} ({', '.join(parts)})"


def contact_sheet(
    images: Sequence[Image.Image],
    asked: Sequence[tuple[Scene, Caption]],
    results: Sequence[Result],
    columns: int = 8,
) -> Image.Image:
    """Pictures with their prompts below; what is missing is printed in red."""
    side, text = images[0].width, 46
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + 6), rows * (side + text)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, (_, caption), result) in enumerate(
        zip(images, asked, results, strict=False)
    ):
        x, y = i % columns * (side + 6), i // columns * (side + text)
        sheet.paste(image, (x, y))
        lines = [caption.text[at : at + 22] for at in range(0, 66, 22)]
        draw.text((x, y + side), "\n".join(lines), "black", spacing=0)
        missing = ",".join(name for (name, _), ok in result.items() if not ok)
        draw.text((x, y + side + 33), missing, "red")
    return sheet
