"""`mlx-sd generate` from pictures, with the model that comes along."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from loaded import bundled
from PIL import Image

from mlx_sd import Request
from mlx_sd.cli import main
from mlx_sd.image import save
from mlx_sd.metadata import parameters, read, repeat

SMALL = ["-p", "a red house", "--steps", "4"]
pytestmark = pytest.mark.usefixtures("loaded_once")


def run(*args):
    return CliRunner().invoke(main, ["generate", *map(str, args)])


def painted(path, *args) -> np.ndarray:
    done = run(*SMALL, "-o", path, *args)
    assert done.exit_code == 0, done.output
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A smooth picture of 64x64, and a mask whose left half is white."""
    folder = tmp_path_factory.mktemp("files")
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.dstack([*np.meshgrid(ramp, ramp), np.full((64, 64), 99, np.uint8)])
    Image.fromarray(pixels).save(folder / "start.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder / "start.png", folder / "mask.png", pixels, mask


def test_strength_says_how_far_the_picture_is_left(files, tmp_path):
    start, *_, pixels, _ = files
    distances = []
    for strength in (0, 0.5, 1):
        found = painted(tmp_path / "a.png", "-i", start, "--strength", strength)
        assert found.shape == (64, 64, 3)
        distances.append(np.abs(found.astype(int) - pixels).mean())
    assert distances[0] < distances[1] < distances[2]


def test_flags_are_the_fields_of_a_request(files, tmp_path):
    start, mask, pixels, _ = files
    flags = ["--paste-back", "--invert-mask", "--extend", "0,0,8,8", "--mask-blur", "1"]
    found = painted(tmp_path / "a.png", "-i", start, "--mask", mask, *flags)
    request = Request(
        "a red house",
        steps=4,
        init_img=start,
        mask=Image.open(mask),
        paste_back=True,
        invert_mask=True,
        extend=(0, 0, 8, 8),
        mask_blur=1,
    )
    (image,) = bundled()(request)
    assert (found == np.asarray(image)).all() and found.shape == (72, 72, 3)
    assert (found[:48, :24] == pixels[:48, :24]).all()


def test_full_res_returns_the_whole_picture(files, tmp_path):
    start, mask, pixels, white = files
    flags = ["--inpaint-full-res", "--inpaint-full-res-padding", "0"]
    found = painted(
        tmp_path / "a.png", "-i", start, "--mask", mask, *flags, "-W", 64, "-H", 128
    )
    assert (found[white == 0] == pixels[white == 0]).all()
    assert (found[white == 255] != pixels[white == 255]).mean() > 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strength", "0.5"], "strength: has no effect without init_img"),
        (["--mask", "mask.png"], "mask: has no effect without init_img"),
        (["-i", "none.png"], "none.png: not a picture that can be read: No such file"),
        (["-i", "{start}", "--mask", "none.png"], "none.png: not a picture that can"),
        (["-i", "{start}", "--extend", "1,2"], "extend 1,2: must be left,top,right"),
        (["-i", "{start}", "--extend", "1,2,3,x"], "extend '1,2,3,x': must be"),
        (["-i", "{start}", "--extend", "3,0,0,0"], "67x64, which are no multiples"),
        (["-i", "{start}", "--resize-mode", "fill"], "unknown resize_mode 'fill'"),
        (["-r", "{start}"], "ref_image: .* is no model for editing"),
        (["-i", "{start}", "--mask", "{black}"], "mask: nothing of it is white"),
    ],
)
def test_misuse_is_one_line_and_writes_nothing(flags, message, files, tmp_path):
    black = tmp_path / "black.png"
    Image.new("L", (64, 64)).save(black)
    flags = [flag.format(start=files[0], black=black) for flag in flags]
    done = run(*SMALL, "-q", "-o", tmp_path / "a.png", *flags)
    assert done.exit_code == (1 if "none.png" in flags else 2)  # failure, misuse
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr)
    assert not (tmp_path / "a.png").exists()


def test_the_pictures_are_named_but_not_kept_and_repeat_when_given(files, tmp_path):
    start, mask, *_ = files
    path, again = tmp_path / "a.png", tmp_path / "b.png"
    pictures = ["-i", start, "--mask", mask]
    first = painted(path, *pictures, "--strength", "0.6", "--mask-blur", "2")
    recipe = read(path).recipe
    assert recipe.pictures == ("init_img", "mask")
    assert str(start.parent).encode() not in path.read_bytes()
    labels = {"Denoising strength": "0.6", "Mask blur": "2"}
    assert labels.items() <= recipe.settings.items()
    shown = CliRunner().invoke(main, ["metadata", str(path)]).stdout.splitlines()
    assert shown[-2:] == [
        "made from a picture: init_img",
        "made from a picture: mask",
    ]

    done = run("--from-image", path, "-o", again, *pictures)
    assert done.exit_code == 0 and "give" not in done.stderr
    assert again.read_bytes() == path.read_bytes() and first.any()

    done = run("--from-image", path, "-o", again, "-i", start)
    assert "give them again: --mask FILE" in done.stderr
    assert "cannot be repeated: mask_blur: 2" in done.stderr
    done = run("--from-image", path, "-o", again)
    assert done.exit_code == 0
    assert "give them again: --init-img FILE --mask FILE" in done.stderr
    assert "cannot be repeated: strength: 0.6" in done.stderr
    fields, _ = repeat(path)
    assert Request(**fields).init_img is None


def test_full_res_settings_are_a1111s_and_come_back(files):
    start, mask, *_ = files
    request = Request(
        "x",
        width=64,
        height=64,
        scheduler="karras",
        init_img=start,
        mask=mask,
        strength=0.6,
        invert_mask=True,
        mask_blur=4,
        inpaint_full_res=True,
        inpaint_full_res_padding=48,
        extend=(0, 0, 8, 8),
        resize_mode="fit",
    )
    text = parameters(request, "model", "1")
    for entry in (
        "Denoising strength: 0.6",
        "Mask blur: 4",
        "Mask mode: Inpaint not masked",
        "Inpaint area: Only masked",
        "Masked area padding: 48",
    ):
        assert f" {entry}," in text
    path = start.parent / "full_res.png"
    save(Image.new("RGB", (8, 8)), path, text)
    fields, lost = repeat(path, {"init_img", "mask"})
    assert lost == [] and Request(**fields, init_img=start, mask=mask) == request


A1111 = (
    "a house\nSteps: 4, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, "
    "Denoising strength: 0.75, Mask blur: 4, Inpaint area: Whole picture"
)


def test_a1111s_img2img_repeats_when_its_pictures_are_given(files, tmp_path):
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", A1111)
    fields, lost = repeat(tmp_path / "a.png", {"init_img", "mask"})
    assert lost == [] and fields["strength"] == 0.75 and fields["mask_blur"] == 4
    fields, lost = repeat(tmp_path / "a.png")
    assert sorted(lost) == ["Denoising strength: 0.75", "Mask blur: 4"]
    assert not fields.keys() & {"strength", "mask_blur"}
    done = run("--from-image", tmp_path / "a.png", "-o", tmp_path / "b.png", "-q")
    assert done.exit_code == 0
    hires = A1111.replace("Mask blur: 4", "Hires upscale: 2")
    save(Image.new("RGB", (8, 8)), tmp_path / "a.png", hires)
    fields, lost = repeat(tmp_path / "a.png", {"init_img"})
    assert "Denoising strength: 0.75" in lost and "strength" not in fields


def test_batch_files_name_pictures(files, tmp_path):
    start, mask, pixels, white = files
    entries = [
        {"prompt": "a tree", "init_img": str(start), "strength": 0.5},
        {"prompt": "a cat", "init_img": str(start), "extend": [0, 0, 8, 0]},
        {
            "prompt": "a boat",
            "init_img": str(start),
            "mask": str(mask),
            "paste_back": True,
        },
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    done = run(
        "--batch-file", tmp_path / "list.json", "--steps", 2, "-o", tmp_path / "a.png"
    )
    assert done.exit_code == 0, done.output
    sizes = []
    for i in range(3):
        with Image.open(tmp_path / f"a_{i}.png") as image:
            sizes.append(image.size)
    assert sizes == [(64, 64), (72, 64), (64, 64)]
    with Image.open(tmp_path / "a_2.png") as image:
        assert (np.asarray(image)[white == 0] == pixels[white == 0]).all()
