"""load(low_memory=True): the same picture, by fewer arrays at a time."""

import gc
import weakref

import numpy as np
import pytest

from mlx_sd import Request, load
from mlx_sd.models.unet import UNet
from mlx_sd.pipeline import Picture

REQUEST = Request("a red house", width=64, height=64, steps=2)


class Watched:
    """What became of the UNets of one request."""

    def __init__(self, monkeypatch, keep=True, **loading):
        self.batches, networks = [], []
        call = UNet.__call__

        def watch(unet, x, t, context, *args, **kwargs):
            self.batches.append(len(context))
            networks.append(weakref.ref(unet))
            return call(unet, x, t, context, *args, **kwargs)

        monkeypatch.setattr(UNet, "__call__", watch)
        # In float32: in the 16 bits of a GPU, one text at a time rounds otherwise.
        for event in load(dtype="f32", **loading).stream(REQUEST, keep):
            if isinstance(event, Picture):
                gc.collect()
                self.alive = any(network() is not None for network in networks)
                self.pixels = np.asarray(event.image, float)
        monkeypatch.setattr(UNet, "__call__", call)


@pytest.fixture
def usual(monkeypatch):
    return Watched(monkeypatch)


def test_one_text_at_a_time_and_no_unet_while_decoding(monkeypatch, usual):
    low = Watched(monkeypatch, low_memory=True)
    assert usual.batches == [2, 2] and usual.alive
    assert low.batches == [1, 1, 1, 1] and not low.alive
    assert np.abs(low.pixels - usual.pixels).max() <= 1


def test_the_last_request_lets_go_of_the_unet(monkeypatch, usual):
    last = Watched(monkeypatch, keep=False)
    assert last.batches == [2, 2] and not last.alive
    assert np.array_equal(last.pixels, usual.pixels)
