"""Picture files: their formats, A1111's text in them, and that they are whole."""

import logging
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from mlx_sd import SDError
from mlx_sd.errors import ConfigError
from mlx_sd.image import save

TEXT = "a house\nNegative prompt: rain\nSteps: 20, Sampler: Euler a, Seed: 7"
TEXTS = {
    "ascii": TEXT,
    "latin-1": f"café, naïve {TEXT}",
    "latin-1 that is UTF-8 as well": f"Ã© {TEXT}",
    "beyond": f"赤い家 🏠 שלום {TEXT}",
}
USER_COMMENT, EXIF_DIRECTORY = 0x9286, 0x8769


@pytest.fixture
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 32 * 24).reshape(24, 32, 1)
    return Image.fromarray(np.repeat(ramp, 3, axis=2).astype(np.uint8))


def opened(path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.png", "PNG"),
        ("a.jpg", "JPEG"),
        ("a.JPEG", "JPEG"),
        ("a.jpe", "JPEG"),
        ("a.webp", "WEBP"),
    ],
)
def test_suffix_chooses_the_format(picture, name, format, tmp_path):
    save(picture, tmp_path / name, TEXT)
    image = opened(tmp_path / name)
    assert (image.format, image.mode, image.size) == (format, "RGB", (32, 24))
    difference = np.asarray(image).astype(int) - np.asarray(picture)
    assert np.abs(difference).max() <= (0 if format == "PNG" else 16)


def test_jpeg_is_of_quality_90(picture, tmp_path):
    save(picture, tmp_path / "a.jpg")
    # Scaled as libjpeg does, (200 - 2·90) %, the luminance table of ITU-T T.81, K.1.
    assert opened(tmp_path / "a.jpg").quantization[0][:8] == [3, 2, 2, 3, 5, 8, 10, 12]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_png_text_is_read_by_pillow(picture, text, tmp_path):
    save(picture, tmp_path / "a.png", text)
    assert opened(tmp_path / "a.png").text["parameters"] == text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ascii", b"tEXt"),
        ("latin-1", b"tEXt"),
        ("latin-1 that is UTF-8 as well", b"iTXt"),
        ("beyond", b"iTXt"),
    ],
)
def test_png_text_is_itxt_where_text_would_be_misread(picture, name, kind, tmp_path):
    save(picture, tmp_path / "a.png", TEXTS[name])
    data = (tmp_path / "a.png").read_bytes()
    assert data[33 + 4 : 33 + 8] == kind  # the chunk after IHDR


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_exif_comment_is_a1111s(picture, text, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    save(picture, path, text)
    comment = opened(path).getexif().get_ifd(EXIF_DIRECTORY)[USER_COMMENT]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == text


def test_exif_does_not_turn_the_picture(picture, tmp_path):
    save(picture, tmp_path / "a.jpg", TEXT)
    image = opened(tmp_path / "a.jpg")
    assert ImageOps.exif_transpose(image).size == image.size


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_no_text_is_written_unless_given(picture, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    save(picture, path)
    image = opened(path)
    assert not image.getexif() and not getattr(image, "text", None)


def test_text_too_long_for_a_jpeg_is_left_out_with_a_warning(picture, tmp_path, caplog):
    long = "x" * 33_000  # two bytes each
    with caplog.at_level(logging.WARNING, "mlx_sd"):
        save(picture, tmp_path / "a.jpg", long)
    assert not opened(tmp_path / "a.jpg").getexif()
    assert "without its settings" in caplog.text and ".webp" in caplog.text
    save(picture, tmp_path / "a.webp", long)
    exif = opened(tmp_path / "a.webp").getexif().get_ifd(EXIF_DIRECTORY)
    assert len(exif[USER_COMMENT]) == 8 + 2 * 33_000


def test_longest_text_that_a_jpeg_holds_is_written(picture, tmp_path):
    # 65,533 bytes less "Exif", directories and the comment's encoding.
    text = "x" * ((65_533 - 6 - 44 - 8) // 2)
    save(picture, tmp_path / "a.jpg", text)
    exif = opened(tmp_path / "a.jpg").getexif().get_ifd(EXIF_DIRECTORY)
    assert exif[USER_COMMENT][8:].decode("utf-16-be") == text
    data = (tmp_path / "a.jpg").read_bytes()
    (length,) = struct.unpack_from(">H", data, data.index(b"\xff\xe1") + 2)
    assert length > 65_530


def test_unknown_suffix_names_the_known_ones(picture, tmp_path):
    with pytest.raises(ConfigError, match=r"a\.gif: unknown .*\.png.*\.webp"):
        save(picture, tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_old_picture_and_no_part(picture, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save(picture, path)
    before = path.read_bytes()

    def fail(self, file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(SDError, match=r"a\.png: cannot write: No space left"):
        save(picture, path, TEXT)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_sides_beyond_the_format_are_an_error(tmp_path):
    with pytest.raises(SDError, match=r"a\.webp: cannot write: .*WebP"):
        save(Image.new("RGB", (16_384, 1)), tmp_path / "a.webp")
    assert list(tmp_path.iterdir()) == []
