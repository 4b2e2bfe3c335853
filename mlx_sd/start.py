"""From pictures to what sampling starts from and what the UNet is shown of them."""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from PIL import Image

from .canvas import Canvas, reference
from .codec import Codec, Draw
from .errors import ConfigError
from .image import to_pixels
from .reading import size_of_picture
from .request import PICTURES, Request
from .sampling.prediction import EdmV
from .source import Source


@dataclass(frozen=True)
class Start:
    """What a picture gives to its repainting, each (1, h, w, …) float32."""

    latent: mx.array | None = None  # of the picture; None: noise is all there is
    keep: mx.array | None = None  # (1, h, w, 1) 1 where the latent stays; None: nowhere
    concat: mx.array | None = None  # channels that the UNet sees behind its own
    blind: mx.array | None = None  # the same without the picture, for its guidance

    def blend(self, x0: mx.array) -> mx.array:
        """The prediction of the clean latent, where it may differ from the picture."""
        if self.latent is None or self.keep is None:
            return x0
        return x0 + self.keep * (self.latent - x0)


def check_pictures(request: Request, source: Source) -> None:
    """See that the request's pictures can be read and are what the model takes.

    Raises: SDError, ConfigError.
    """
    for name in PICTURES:
        if (image := getattr(request, name)) is not None:
            size_of_picture(name, image)
    task = source.kind.task
    if task == "edit" and request.ref_image is None and request.init_img is None:
        raise ConfigError(f"{source.name} edits a picture; give it as ref_image")
    if task != "edit" and request.ref_image is not None:
        raise ConfigError(
            f"ref_image: {source.name} is no model for editing; to start from a "
            "picture give it as init_img"
        )
    if not task and request.img_cfg_scale is not None:
        raise ConfigError(
            f"img_cfg_scale {request.img_cfg_scale:g}: {source.name} is not shown a "
            "picture; leave it out"
        )


def image_scale(request: Request, source: Source) -> float:
    """Of guidance.picture_cfg: where none is given, A1111's and diffusers' to edit."""
    if request.img_cfg_scale is not None:
        return request.img_cfg_scale
    return 1.5 if source.kind.task == "edit" else 1.0


def starting(
    request: Request, board: Canvas | None, source: Source, codec: Codec, draw: Draw
) -> Start:
    """What a resolved request's pictures give to sampling.

    Args:
        board: what canvas() makes of the request.
        draw: noise to encode pictures with, drawn for init_img first.

    Raises: SDError if a picture cannot be read or encoded.
    """
    latent = codec.encode(to_pixels(board.picture), draw) if board else None
    white = None if board is None or board.mask is None else _white(board.mask)
    keep = None if white is None else 1 - _in_latent(white, codec.reduction)
    start = Start(latent, keep)
    if source.kind.task == "inpaint":
        return _inpainting(start, request, board, white, codec, draw)
    if source.kind.task == "edit":
        picture = reference(request)
        if picture is None:
            assert board is not None, "check_pictures wants one of them"
            picture = board.picture
        # The mean, which diffusers scales for CosXL's editing model alone.
        scaled = source.prediction is EdmV
        seen = codec.encode(to_pixels(picture), None, scaled)
        return replace(start, concat=seen, blind=mx.zeros_like(seen))
    return start


def _inpainting(
    start: Start,
    request: Request,
    board: Canvas | None,
    white: mx.array | None,
    codec: Codec,
    draw: Draw,
) -> Start:
    """For a UNet that is shown the mask, and the picture with a grey hole in it.

    What is kept ends a latent pixel before the mask does, as in stable-diffusion.cpp.
    Without a mask there is nothing but hole, as in A1111.
    """
    size = request.width or 0, request.height or 0
    picture = to_pixels(board.picture if board else Image.new("RGB", size))
    hole = mx.ones_like(picture[..., :1]) if white is None else white
    inside = _in_latent(hole, codec.reduction)
    around = codec.encode(picture * (1 - hole), draw)
    return replace(
        start,
        keep=None if white is None else 1 - _grown(inside),
        concat=mx.concatenate([inside, around], axis=-1),
        blind=mx.concatenate([inside, mx.zeros_like(around)], axis=-1),
    )


def _white(mask: Image.Image) -> mx.array:
    """(1, H, W, 1) float32, 1 where the mask is 255 and 0 where it is 0."""
    return mx.array(np.array(mask, np.float32) / 255)[None, ..., None]


def _in_latent(white: mx.array, reduction: int) -> mx.array:
    """Latent pixels of which any pixel is white."""
    _, H, W, _ = white.shape
    blocks = white.reshape(1, H // reduction, reduction, W // reduction, reduction, 1)
    return blocks.max(axis=(2, 4))


def _grown(mask: mx.array) -> mx.array:
    """By one pixel each way, corners included."""
    _, H, W, _ = mask.shape
    padded = mx.pad(mask, [(0, 0), (1, 1), (1, 1), (0, 0)])
    shifted = [padded[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
    return mx.max(mx.stack(shifted), axis=0)
