"""Pictures to start from: every kind of file and array that gives the same pixels."""

import base64
import io
import json
import logging
import struct
import warnings
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from mlx_sd import Request, SDError
from mlx_sd.reading import open_picture, size_of_picture

ORIENTATION = 0x0112
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 8, 3), np.uint8)
GREYS = COLOURS[..., 0]


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(pixels: np.ndarray, depth: int, kind: int, *more: bytes) -> bytes:
    """A PNG by its specification; `kind`: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(data))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def read(path, name="init_img") -> np.ndarray:
    picture = open_picture(name, path)
    assert type(picture) is Image.Image and picture.mode == "RGB"
    assert size_of_picture(name, path) == picture.size
    return np.asarray(picture)


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    levels = RNG.integers(0, 65536, (6, 8), np.uint16)
    levels[0, :4] = 0, 128, 129, 65535
    (tmp_path / "a.png").write_bytes(png(levels, 16, 0))
    expected = np.round(levels / 65535 * 255).astype(np.uint8)
    assert (read(tmp_path / "a.png") == expected[..., None]).all()
    Image.fromarray(levels).save(tmp_path / "a.tif")
    assert (read(tmp_path / "a.tif") == expected[..., None]).all()
    levels = RNG.integers(0, 65536, (6, 8, 3), np.uint16)
    (tmp_path / "b.png").write_bytes(png(levels, 16, 2))
    found = read(tmp_path / "b.png").astype(int)
    assert np.abs(found - levels / 65535 * 255).max() < 1  # Pillow cuts the low byte


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_picture(turn, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    image = Image.fromarray(np.kron(COLOURS, np.ones((8, 8, 1), np.uint8)))
    # EXIF 2.32, table 6: where row 0 and column 0 of the file are seen.
    seen = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }[turn](np.asarray(image))
    for name in ("a.png", "a.webp"):
        image.save(tmp_path / name, exif=exif, lossless=True)
        assert (read(tmp_path / name) == seen).all()


def test_transparent_parts_are_white_and_said_once(tmp_path, caplog):
    alpha = RNG.integers(0, 256, (6, 8, 1), np.uint8)
    (tmp_path / "a.png").write_bytes(png(np.dstack([COLOURS, alpha]), 8, 6))
    with caplog.at_level(logging.INFO, "mlx_sd"):
        found = read(tmp_path / "a.png").astype(int)
    share = alpha / 255
    assert np.abs(found - (COLOURS * share + 255 * (1 - share))).max() <= 1
    assert caplog.text.count("transparent parts, which are taken as white") == 1
    (tmp_path / "b.png").write_bytes(png(np.dstack([GREYS, alpha[..., 0]]), 8, 4))
    found = read(tmp_path / "b.png")[..., :1].astype(int)
    assert np.abs(found - (GREYS[..., None] * share + 255 * (1 - share))).max() <= 1


def test_transparent_parts_of_a_mask_are_black(tmp_path, caplog):
    white = np.full((6, 8, 4), 255, np.uint8)
    white[:, :3, 3] = 0
    (tmp_path / "a.png").write_bytes(png(white, 8, 6))
    with caplog.at_level(logging.INFO, "mlx_sd"):
        assert (read(tmp_path / "a.png", "mask")[..., 0] == white[..., 3]).all()
    assert "taken as black" in caplog.text


def test_opaque_alpha_is_not_worth_a_word(tmp_path, caplog):
    opaque = np.full((6, 8, 1), 255, np.uint8)
    (tmp_path / "a.png").write_bytes(png(np.dstack([COLOURS, opaque]), 8, 6))
    with caplog.at_level(logging.INFO, "mlx_sd"):
        assert (read(tmp_path / "a.png") == COLOURS).all()
    assert not caplog.text


def test_palettes_and_their_transparent_entry(tmp_path):
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) % 4, mode=None)
    image = image.convert("P")
    image.putpalette([9, 8, 7, 200, 100, 50, 1, 2, 3, 250, 0, 0])
    image.save(tmp_path / "a.png")
    palette = np.array([[9, 8, 7], [200, 100, 50], [1, 2, 3], [250, 0, 0]])
    picks = np.arange(48).reshape(6, 8) % 4
    assert (read(tmp_path / "a.png") == palette[picks]).all()
    image.save(tmp_path / "b.png", transparency=1)
    palette[1] = 255
    assert (read(tmp_path / "b.png") == palette[picks]).all()
    image.save(tmp_path / "a.gif", transparency=1)
    assert (read(tmp_path / "a.gif") == palette[picks]).all()


def test_one_bit_and_cmyk(tmp_path):
    Image.fromarray(GREYS > 99).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png")[..., 0] == 255 * (GREYS > 99)).all()
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    flat.save(tmp_path / "a.jpg", quality=95)
    red = read(tmp_path / "a.jpg").mean(axis=(0, 1))
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def swapped_profile() -> bytes:
    """sRGB's own profile with the colorants of red and blue exchanged, and its name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", data, 128)
    entries = {
        bytes(data[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)
    }
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    data[red : red + 8], data[blue : blue + 8] = (
        data[blue : blue + 8],
        data[red : red + 8],
    )
    offset, size = struct.unpack_from(">II", data, entries[b"desc"])
    text = bytes(data[offset : offset + size])
    data[offset : offset + size] = text.replace(b"s\0R\0G\0B", b"x\0y\0z\0w")
    return bytes(data)


def test_colour_profiles_are_converted_to_srgb(tmp_path):
    # Red and blue of this profile are each other's, so its pixels turn round.
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=swapped_profile())
    found = read(tmp_path / "a.png").astype(int)
    assert np.abs(found - COLOURS[..., ::-1].astype(int)).max() <= 2


def test_srgb_itself_changes_no_bit(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=profile)
    assert (read(tmp_path / "a.png") == COLOURS).all()


def test_a_broken_profile_is_left_out_with_a_warning(tmp_path, caplog):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=b"nonsense")
    assert (read(tmp_path / "a.png") == COLOURS).all()
    assert "a.png: its colour profile is not used" in caplog.text
    gray = bytearray(swapped_profile())
    gray[16:20] = b"GRAY"
    Image.fromarray(COLOURS).save(tmp_path / "b.png", icc_profile=bytes(gray))
    assert (read(tmp_path / "b.png") == COLOURS).all()
    assert "b.png: its colour profile is not used" in caplog.text


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp"])
def test_cut_and_garbled_files_end_in_one_line(name, tmp_path):
    path = tmp_path / name
    Image.fromarray(np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))).save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    broken = [data[:end] for end in range(0, len(data), max(len(data) // 40, 1))]
    for _ in range(40):
        noisy = bytearray(data)
        for spot in rng.integers(0, len(data), 8):
            noisy[spot] = rng.integers(256)
        broken.append(bytes(noisy))
    errors = 0
    for i, contents in enumerate(broken):
        file = tmp_path / f"{i}-{name}"
        file.write_bytes(contents)
        try:
            open_picture("init_img", file)
        except SDError as error:
            assert str(error).startswith(f"{file}: ") and "\n" not in str(error)
            errors += 1
    assert errors > 20


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is no picture of a kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is no picture of"),
        (b"\x89PNG\r\n\x1a\n", "or a damaged one"),
        (png(np.zeros((1, 1), np.uint8), 8, 0)[:-30], "picture"),
        (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"")),
            "exceeds limit",
        ),
    ],
)
def test_what_is_no_picture_is_said(contents, message, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(contents)
    with pytest.raises(SDError, match=message) as caught:
        open_picture("init_img", path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(SDError, match=r"none\.png: .*No such file"):
        open_picture("init_img", tmp_path / "none.png")
    with pytest.raises(SDError, match="Is a directory"):
        open_picture("init_img", tmp_path)


FLOATS = COLOURS / np.float32(255)
ARRAYS = {
    "uint8": (COLOURS, COLOURS),
    "float32": (FLOATS, COLOURS),
    "float64": (COLOURS / 255, COLOURS),
    "float16": (FLOATS.astype(np.float16), COLOURS),
    "mlx uint8": (mx.array(COLOURS), COLOURS),
    "mlx float32": (mx.array(FLOATS), COLOURS),
    "mlx float16": (mx.array(FLOATS).astype(mx.float16), COLOURS),
    "grey": (GREYS, GREYS[..., None]),
    "grey of three axes": (GREYS[..., None], GREYS[..., None]),
    "bool": (GREYS > 99, 255 * (GREYS > 99)[..., None]),
    "RGBA": (np.dstack([COLOURS, np.full((6, 8), 255, np.uint8)]), COLOURS),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_pictures(name):
    array, expected = ARRAYS[name]
    assert (read(array) == expected).all()


def test_bfloat16_is_as_near_as_it_can_be():
    found = read(mx.array(FLOATS).astype(mx.bfloat16)).astype(int)
    assert np.abs(found - COLOURS.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), r"\[2, 8, 8, 3\] is no picture"),
        (np.zeros((8, 8, 5), np.uint8), r"\[8, 8, 5\] is no picture"),
        (np.zeros((0, 8, 3), np.uint8), "is no picture"),
        (np.zeros((8, 8, 3), np.int64), "int64 of shape"),
        (np.full((8, 8, 3), 2.0), "must be from 0 to 1"),
        (np.full((8, 8, 3), np.nan), "must be from 0 to 1"),
        (np.zeros((8, 8), np.uint16), "uint16; give uint8"),
        ("data:image/png;base64,@@", "no base64"),
        ("data:image/png;base64,AAAA", "ref_image: is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_a_request(array, message):
    with pytest.raises(SDError, match=message) as caught:
        Request("x", ref_image=array)
    assert str(caught.value).startswith("ref_image: ")


def encoded(image: Image.Image, format: str) -> str:
    file = io.BytesIO()
    image.save(file, format=format)
    text = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{format.lower()};base64,{text}"


def pictures():
    rgba = np.dstack([COLOURS, GREYS])
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, format="PNG", exif=exif)
    yield from ("a.png", Path("folder/a.png"), COLOURS, FLOATS, GREYS, GREYS > 99, rgba)
    yield from (mx.array(FLOATS), Image.fromarray(COLOURS), Image.fromarray(rgba))
    yield from (Image.open(file), Image.fromarray(GREYS).convert("P"))
    yield from (encoded(Image.fromarray(COLOURS), kind) for kind in ("PNG", "JPEG"))


@pytest.mark.parametrize("picture", list(pictures()), ids=lambda p: type(p).__name__)
def test_a_request_with_a_picture_comes_back_from_json(picture):
    request = Request("x", init_img=picture, mask=picture)
    values = json.loads(json.dumps(request.to_dict()))
    assert Request(**values) == request
    assert Request("x", init_img=picture, mask=picture) == request
    if str(picture).endswith("a.png"):
        assert values["mask"] == str(picture)


def test_a_request_does_not_see_later_changes_of_its_picture():
    image, array = Image.fromarray(COLOURS), COLOURS.copy()
    requests = Request("x", init_img=image), Request("x", init_img=array)
    image.putpixel((0, 0), (1, 2, 3))
    array[:] = 0
    assert all((np.asarray(r.init_img) == COLOURS).all() for r in requests)


def test_pictures_turned_by_exif_are_turned_in_memory_too():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(COLOURS).save(file, format="PNG", exif=exif)
    opened = Image.open(file)
    assert read(opened).shape == (8, 6, 3)
    assert (read(opened) == np.asarray(ImageOps.exif_transpose(opened))).all()


def test_warnings_of_pillow_are_kept_from_the_user(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            open_picture("init_img", tmp_path / "a.tif")
        except SDError as error:
            assert "a.tif" in str(error)
