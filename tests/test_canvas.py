"""From a request's pictures to what is painted, and back: sizes, masks, extensions."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mlx_sd import ConfigError, Request, load
from mlx_sd.canvas import canvas, size_of
from mlx_sd.resize import RESIZE_MODES, resized

RNG = np.random.default_rng(5)
ROWS, COLUMNS = np.mgrid[:48, :64]
# Red says the column, green the row: where a pixel is from can be read from it.
PLACES = np.dstack([COLUMNS * 4, ROWS * 4, np.zeros_like(ROWS)]).astype(np.uint8)
NOISE = RNG.integers(0, 256, (48, 64, 3), np.uint8)


def hole(left, top, right, bottom, size=(64, 48)) -> np.ndarray:
    mask = np.zeros(size[::-1], np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def request(**fields) -> Request:
    fields = {"init_img": PLACES, "width": 64, "height": 48, **fields}
    return Request("x", **fields)


def painted(board, colour=(255, 0, 255)) -> np.ndarray:
    return np.asarray(board.finished(Image.new("RGB", board.picture.size, colour)))


# Sizes


def test_crop_keeps_the_middle_in_shape():
    found = np.asarray(resized(Image.fromarray(PLACES), (32, 48), "crop"))
    assert found.shape == (48, 32, 3)
    assert (found == PLACES[:, 16:48]).all()


def test_fit_shows_everything_and_repeats_the_edges():
    found = np.asarray(resized(Image.fromarray(PLACES), (64, 64), "fit"))
    assert (found[8:56] == PLACES).all()
    assert (found[:8] == PLACES[0]).all() and (found[56:] == PLACES[-1]).all()
    found = np.asarray(resized(Image.fromarray(PLACES), (80, 48), "fit"))
    assert (found[:, 8:72] == PLACES).all()
    assert (found[:, :8] == PLACES[:, :1]).all()
    assert (found[:, 72:] == PLACES[:, -1:]).all()


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [(32, 24), (64, 64), (8, 200), (200, 8), (65, 47)])
def test_every_mode_gives_the_size_and_fills_it(mode, size):
    grey = Image.new("RGB", (64, 48), (9, 99, 199))
    found = resized(grey, size, mode)
    assert found.size == size and (np.asarray(found) == (9, 99, 199)).all()


def test_resizing_is_lanczos():
    image = Image.fromarray(NOISE)
    expected = image.resize((32, 24), Image.Resampling.LANCZOS)
    for mode in RESIZE_MODES:
        assert resized(image, (32, 24), mode) == expected


def test_a_picture_of_the_size_is_untouched():
    board = canvas(request(init_img=NOISE))
    assert (np.asarray(board.picture) == NOISE).all() and board.mask is None
    assert painted(board).tolist() == np.full((48, 64, 3), (255, 0, 255)).tolist()


def test_mask_and_picture_are_fitted_alike():
    for mode in RESIZE_MODES:
        fields = {"width": 48, "height": 64, "resize_mode": mode}
        mask = np.where(PLACES[..., 0] > 100, 255, 0).astype(np.uint8)
        board = canvas(request(mask=mask, **fields))
        white = np.asarray(board.mask) == 255
        red = np.asarray(board.picture)[..., 0]
        assert np.mean(white == (red > 102)) > 0.97


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 48), (64, 48)), ((71, 49), (64, 48)), ((8, 9), (8, 8))]
)
def test_the_size_is_the_pictures_in_multiples_of_eight(size, expected, caplog):
    with caplog.at_level(logging.INFO, "mlx_sd"):
        found = size_of(Request("x", init_img=Image.new("RGB", size)), 8)
    assert found == expected
    assert ("is painted at" in caplog.text) == (size != expected)


def test_a_picture_too_small_is_an_error():
    with pytest.raises(ConfigError, match="init_img: of 7x30 pixels is smaller"):
        size_of(Request("x", init_img=Image.new("RGB", (7, 30))), 8)


def test_sizes_that_are_given_or_the_models_own_take_precedence():
    pipeline = load()
    start = {"init_img": np.zeros((40, 72, 3), np.uint8)}
    found = pipeline.resolve(Request("x", **start))
    assert (found.width, found.height) == (72, 40)
    found = pipeline.resolve(Request("x", width=64, **start))
    assert (found.width, found.height) == (64, 40)
    mask = np.full((40, 72), 255, np.uint8)
    part = Request("x", mask=mask, inpaint_full_res=True, **start)
    found = pipeline.resolve(part)
    assert (found.width, found.height) == (128, 128)


# Masks


def test_white_is_lighter_than_middle_grey():
    mask = np.zeros((48, 64), np.uint8)
    mask[0, :4] = 127, 128, 1, 254
    board = canvas(request(mask=mask))
    assert np.asarray(board.mask)[0, :4].tolist() == [0, 255, 0, 255]
    inverse = canvas(request(mask=mask, invert_mask=True))
    assert (np.asarray(inverse.mask) == 255 - np.asarray(board.mask)).all()


@pytest.mark.parametrize("full_res", [False, True])
def test_a_mask_without_white_is_an_error(full_res):
    mask = np.full((48, 64), 100, np.uint8)
    with pytest.raises(ConfigError, match="nothing of it is white.*invert_mask"):
        canvas(request(mask=mask, inpaint_full_res=full_res))


@pytest.mark.parametrize("full_res", [False, True])
def test_a_mask_that_is_all_white_repaints_everything(full_res):
    mask = np.full((48, 64), 255, np.uint8)
    board = canvas(request(mask=mask, inpaint_full_res=full_res, paste_back=True))
    assert (painted(board) == (255, 0, 255)).all()


def test_paste_back_leaves_every_pixel_outside_the_mask():
    mask = hole(8, 16, 40, 32)
    board = canvas(request(init_img=NOISE, mask=mask, paste_back=True))
    found = painted(board)
    assert (found[mask == 0] == NOISE[mask == 0]).all()
    assert (found[mask == 255] == (255, 0, 255)).all()
    alone = canvas(request(init_img=NOISE, mask=mask))
    assert (painted(alone) == (255, 0, 255)).all()


def test_blur_makes_a_soft_edge_and_leaves_what_is_beyond():
    mask = hole(8, 16, 40, 32)
    board = canvas(request(init_img=NOISE, mask=mask, mask_blur=2))
    assert (np.asarray(board.mask) == mask).all()  # what is repainted has a hard edge
    blurred = Image.fromarray(mask).filter(ImageFilter.GaussianBlur(2))
    share = np.asarray(blurred)[..., None] / 255
    found = painted(board)
    beyond = share[..., 0] == 0
    assert 0.5 < beyond.mean() < (mask == 0).mean()
    assert (found[beyond] == NOISE[beyond]).all()
    expected = share * np.array((255, 0, 255)) + (1 - share) * NOISE
    assert np.abs(found - expected).max() <= 1
    # The edge itself is half way, as with a Gaussian.
    assert 0.4 < share[24, 39, 0] and share[24, 40, 0] < 0.6


# A part at full size


def test_full_res_paints_the_surroundings_and_pastes_them_back():
    picture = RNG.integers(0, 256, (300, 500, 3), np.uint8)
    mask = hole(200, 100, 232, 132, (500, 300))
    fields = {"mask": mask, "inpaint_full_res": True, "inpaint_full_res_padding": 16}
    board = canvas(request(init_img=picture, width=128, height=128, **fields))
    assert board.paste.box == (184, 84, 248, 148)
    assert board.picture.size == board.mask.size == (128, 128)
    part = Image.fromarray(picture[84:148, 184:248])
    assert board.picture == part.resize((128, 128), Image.Resampling.LANCZOS)
    assert np.asarray(board.mask).mean() / 255 == pytest.approx(1 / 4, abs=0.01)
    found = painted(board)
    assert (found[mask == 0] == picture[mask == 0]).all()
    assert (found[mask == 255] == (255, 0, 255)).all()


@pytest.mark.parametrize(
    ("spot", "size", "box"),
    [
        ((10, 10, 20, 20), (64, 64), (0, 0, 52, 52)),  # padding ends at the border
        ((480, 280, 500, 300), (64, 64), (448, 248, 500, 300)),
        ((200, 100, 220, 110), (128, 64), (158, 68, 262, 142)),
        ((10, 100, 490, 110), (64, 64), (0, 0, 500, 300)),  # cannot be square
    ],
)
def test_the_surroundings_have_the_shape_to_paint(spot, size, box):
    width, height = size
    board = canvas(
        request(
            init_img=np.zeros((300, 500, 3), np.uint8),
            mask=hole(*spot, (500, 300)),
            inpaint_full_res=True,
            width=width,
            height=height,
        )
    )
    left, top, right, bottom = found = board.paste.box
    assert left <= spot[0] and top <= spot[1] and right >= spot[2]
    assert bottom >= spot[3]
    if box == (0, 0, 500, 300):
        assert found == box
    else:
        assert (right - left) / (bottom - top) == pytest.approx(
            width / height, rel=0.02
        )


def test_a_part_that_cannot_have_the_shape_is_not_squeezed():
    picture = np.kron(RNG.integers(0, 256, (6, 40, 3), np.uint8), np.ones((8, 8, 1)))
    picture = picture.astype(np.uint8)  # 320x48
    mask = hole(0, 0, 320, 48, (320, 48))
    fields = {"mask": mask, "inpaint_full_res": True, "width": 64, "height": 64}
    board = canvas(request(init_img=picture, **fields))
    back = np.asarray(board.finished(board.picture)).astype(int)
    shrunk = Image.fromarray(picture).resize((64, 10), Image.Resampling.LANCZOS)
    expected = np.asarray(shrunk.resize((320, 48), Image.Resampling.LANCZOS))
    assert np.abs(back - expected).mean() < 6


def test_what_full_res_does_not_change_comes_back_as_it_was():
    mask = hole(20, 12, 36, 28)
    fields = {"mask": mask, "inpaint_full_res": True, "inpaint_full_res_padding": 8}
    board = canvas(request(init_img=PLACES, width=128, height=128, **fields))
    back = np.asarray(board.finished(board.picture)).astype(int)
    assert np.abs(back - PLACES).max() <= 2  # a smooth picture, enlarged and back


# Extensions


def test_extend_adds_the_edges_and_masks_them():
    fields = {"extend": (8, 0, 16, 24), "width": None, "height": None}
    wanted = request(**fields)
    assert size_of(wanted, 8) == (88, 72)
    board = canvas(request(extend=(8, 0, 16, 24), width=88, height=72))
    found, white = np.asarray(board.picture), np.asarray(board.mask)
    assert (found[:48, 8:72] == PLACES).all() and not white[:48, 8:72].any()
    assert (white[48:] == 255).all() and (white[:, :8] == 255).all()
    assert (white[:, 72:] == 255).all()
    assert (found[48:, 8:72] == PLACES[-1]).all()
    assert (found[:48, :8] == PLACES[:, :1]).all()
    assert board.paste is None


def test_extend_goes_with_a_mask_and_pastes_back():
    mask = hole(0, 0, 16, 16)
    fields = {"extend": (0, 8, 0, 0), "mask": mask, "paste_back": True}
    board = canvas(request(init_img=NOISE, **fields, height=56))
    white = np.asarray(board.mask)
    assert (white[:8] == 255).all() and (white[8:] == mask).all()
    found = painted(board)
    assert (found[8:][mask == 0] == NOISE[mask == 0]).all()
    assert (found[white == 255] == (255, 0, 255)).all()


def test_a_soft_edge_of_an_extension_shows_nothing_of_the_filling():
    fields = {"extend": (0, 0, 32, 0), "mask_blur": 4}
    board = canvas(request(init_img=NOISE, width=96, **fields))
    alpha = np.asarray(board.paste.alpha)
    assert alpha[:, 64:].min() > 240  # of 255, on the first new column
    assert (np.asarray(board.mask)[:, 56:] == 255).all()
    kept = alpha == 0
    assert (painted(board)[kept] == np.asarray(board.paste.whole)[kept]).all()
    assert kept[:, :40].all()


def test_a_blur_wider_than_the_picture_keeps_nothing_of_it():
    board = canvas(request(extend=(8, 0, 8, 0), width=80, mask_blur=40))
    assert (np.asarray(board.mask) == 255).all()


def test_extend_and_full_res_paint_the_new_part_alone():
    fields = {"extend": (0, 0, 16, 0), "inpaint_full_res": True}
    board = canvas(
        request(init_img=NOISE, **fields, height=64, inpaint_full_res_padding=8)
    )
    left, _, right, _ = board.paste.box
    assert right == 80 and left > 0
    assert painted(board).shape == (48, 80, 3)
    assert (painted(board)[:, :64] == NOISE).all()


def test_an_extended_size_that_is_no_multiple_of_eight_names_the_next():
    wanted = request(extend=(3, 0, 16, 20), width=None, height=None)
    with pytest.raises(ConfigError, match=r"83x68, which .* of 8; give 3,0,21,24"):
        size_of(wanted, 8)
    assert size_of(request(extend=(3, 0, 21, 24), width=None, height=None), 8) == (
        88,
        72,
    )
    assert size_of(request(extend=(3, 0, 16, 20)), 8) == (83, 68)  # -W and -H decide


# What a request takes

MASK = hole(0, 0, 8, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strength": 0.5}, "strength: has no effect without init_img"),
        ({"mask": MASK}, "mask: has no effect without init_img"),
        ({"extend": (8, 0, 0, 0)}, "extend: has no effect without init_img"),
        ({"resize_mode": "fit"}, "resize_mode: .* without init_img or ref_image"),
        ({"init_img": PLACES, "mask_blur": 4}, "mask_blur: .* without mask or extend"),
        ({"init_img": PLACES, "invert_mask": True}, "invert_mask: .* without mask"),
        ({"init_img": PLACES, "paste_back": True}, "paste_back: .* mask or extend"),
        ({"init_img": PLACES, "inpaint_full_res": True}, "inpaint_full_res: .*extend"),
        (
            {"init_img": PLACES, "mask": MASK, "inpaint_full_res_padding": 8},
            "inpaint_full_res_padding: .* without inpaint_full_res",
        ),
        ({"init_img": PLACES, "extend": (1, 2, 3)}, "extend 1,2,3: must be left,top"),
        ({"init_img": PLACES, "extend": (1, 2, 3, -4)}, "extend 1,2,3,-4: must be"),
        ({"init_img": PLACES, "extend": (1, 2, 3, 4.5)}, "extend 1,2,3,4.5: must be"),
        ({"init_img": PLACES, "resize_mode": "Fit in"}, "unknown resize_mode"),
        ({"init_img": PLACES, "mask": MASK, "mask_blur": -1}, "mask_blur -1: must be"),
        (
            {"init_img": PLACES, "mask": MASK, "mask_blur": float("nan")},
            "mask_blur nan: must be",
        ),
    ],
)
def test_what_has_no_effect_or_no_sense_is_an_error(fields, message):
    with pytest.raises(ConfigError, match=message):
        Request("x", **fields)


def test_an_extension_by_nothing_is_none():
    assert Request("x", init_img=PLACES, extend=(0, 0, 0, 0)).extend is None
