"""The bundled model paints from pictures: what is asked for is seen in the result."""

import numpy as np
import pictures_sheet
import pytest

from mlx_sd import Request, load
from mlx_sd.demo.score import Found, read

FEW = {"steps": 10, "sampling_method": "dpm++2m", "scheduler": "karras"}


@pytest.fixture(scope="module")
def paint():
    pipeline = load(dtype="f32")

    def picture(prompt: str, **fields) -> np.ndarray:
        (image,) = pipeline(Request(prompt, **{**FEW, **fields}))
        return np.asarray(image)

    return picture


def houses(things: list[Found]) -> list[Found]:
    return [thing for thing in things if thing.kind == "house"]


def test_a_sketch_of_a_house_becomes_a_house(paint):
    sketch = pictures_sheet.sketch()
    found = paint(pictures_sheet.HOUSE, init_img=sketch, strength=0.6)
    sky, ground, things = read(found)
    assert (sky, ground) == ("day", "grass")
    (house,) = houses(things)
    assert house.colour == "red" and abs(house.x - 64) < 10  # where it was drawn
    # The flat wall has got windows: light spots that the sketch lacks.
    wall = found[64:96, 42:86].astype(int)
    assert (wall.min(axis=2) > 170).sum() > 20
    assert not (np.asarray(sketch)[64:96, 42:86].min(axis=2) > 170).any()


def test_a_hole_is_repainted_and_nothing_else(paint):
    before = paint(pictures_sheet.TREE, seed=3)
    mask = np.asarray(pictures_sheet.HOLE)
    fields = {"init_img": before, "mask": mask, "strength": 1, "paste_back": True}
    after = paint(pictures_sheet.BOTH, **fields)
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask == 255] != before[mask == 255]).any(axis=1).mean() > 0.5
    assert not houses(read(before)[2])
    (house,) = houses(read(after)[2])
    assert house.colour == "red" and house.x < 64


@pytest.mark.slow
def test_a_picture_goes_on_beyond_its_edges(paint):
    before = paint(pictures_sheet.NIGHT, seed=5)
    wider = {"init_img": before, "extend": (0, 0, 64, 0), "strength": 0.9}
    after = paint(pictures_sheet.NIGHT, **wider, paste_back=True)
    assert after.shape == (128, 192, 3)
    assert (after[:, :128] == before).all()
    sky, ground, _ = read(np.ascontiguousarray(after[:, 64:]))
    assert (sky, ground) == ("night", "snow")
    # No seam: the new columns go on as smoothly as the old ones do.
    steps = np.abs(np.diff(after.astype(int), axis=1)).mean(axis=(0, 2))
    assert steps[127] < 3 * np.median(steps) + 3
