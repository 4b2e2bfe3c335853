"""Recordings of networks, on NVIDIA GPUs; elsewhere on an emulated one."""

import gc
import random
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from recorded import BOUNDS, TYPES, close, normal, wide

from mlx_sd.cuda.arrays import Arena, Snapshot, addresses, gather
from mlx_sd.cuda.driver import CudaError, patience
from mlx_sd.cuda.recorder import Recorder
from mlx_sd.cuda.recording import Recording
from mlx_sd.cuda.unet import FastUNet, Weights, arrays
from mlx_sd.cuda.vae import FastDecoder
from mlx_sd.models.unet import UNet, UNetConfig
from mlx_sd.models.vae import AutoencoderKL, CoderConfig, VaeConfig

UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    widths=(64, 128),
    heads=(2, 4),
    context_width=96,
    time_width=256,
    down=((1,), (1,)),
    mid=(1, 0),
    up=((1, 1), (0, 1)),
    vector_width=None,
    guidance_width=None,
    linear_projections=False,
    only_cross=(False, True),
)


pytestmark = pytest.mark.usefixtures("emulated")


def test_arena_gives_no_place_twice():
    chance, arena, held = random.Random(3), Arena(), []
    for _ in range(2000):
        if held and chance.random() < 0.5:
            arena.give(*held.pop(chance.randrange(len(held))))
        else:
            size = 256 * chance.randint(1, 40)
            held.append((arena.take(size), size))
        placed = sorted(held)
        assert all(
            a + n <= b for (a, n), (b, _) in zip(placed, placed[1:], strict=False)
        )
        assert all(start + size <= arena.top for start, size in held)


def test_arena_uses_what_was_given_back():
    arena = Arena()
    first, second = arena.take(512), arena.take(512)
    arena.give(first, 512)
    arena.give(second, 512)
    assert arena.take(1024) == first
    assert arena.top == 1024


def test_snapshot_notices_what_is_exchanged_added_or_taken():
    def changed(change):
        unet = UNet(UNET)
        snapshot = Snapshot(unet)
        assert snapshot.unchanged()
        change(unet)
        return not snapshot.unchanged()

    def exchange(unet):
        unet.mid[0].attn.layers[0].cross_attn.v.weight = mx.zeros((128, 96))

    def replace(unet):
        unet.down[1].blocks[0].res.emb = nn.Linear(256, 128)

    def rename(unet):
        unet.conv_in.scales = unet.conv_in.pop("bias")

    assert changed(rename)
    assert changed(exchange)
    assert changed(replace)
    assert changed(lambda unet: setattr(unet.conv_in, "more", mx.zeros(3)))
    assert changed(lambda unet: unet.conv_in.pop("bias"))
    assert changed(lambda unet: unet.down.pop())


def test_two_lengths_of_text_that_take_turns_are_recorded_once_each(monkeypatch):
    made = []

    class Recorded:
        def __init__(self, weights, x, context):
            made.append(context.shape[1])
            if context.shape[1] == 231:
                raise RuntimeError("[cuda] out of memory")

        def serves(self, x, context):
            return True

        def __call__(self, x, t, context, vector):
            return context.shape[1]

    for name, value in {
        "RecordedUNet": Recorded,
        "Weights": lambda unet: SimpleNamespace(unchanged=lambda: True),
        "fits": lambda unet, x: True,
    }.items():
        monkeypatch.setattr(f"mlx_sd.cuda.unet.{name}", value)
    fast, x = FastUNet(lambda *_: "operations", wait=1), mx.zeros((2, 8, 8, 4))

    def call(length):
        return fast(x, mx.zeros(2), mx.zeros((2, length, 96)))

    assert [call(n) for n in (77, 154) * 3] == ["operations"] * 2 + [77, 154] * 2
    assert made == [77, 154]
    assert [call(231) for _ in range(3)] == ["operations"] * 3
    assert made == [77, 154, 231]  # which is not tried again, nor keeps others from it
    assert [call(154), call(77), call(77)][::2] == [154, 77]


def test_recording_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("MLX_SD_RECORDING", "off")
    assert patience(50) > 1e9
    monkeypatch.delenv("MLX_SD_RECORDING")
    assert patience(50) == 50


EXITS = """
from mlx_sd.cuda.driver import when_gone
class Owner: pass
gone, stays = Owner(), Owner()
when_gone(gone, print, "gone")
when_gone(stays, print, "at exit")
del gone
"""
# A plan of cuDNN's and a graph, which are still there at the end.
RECORDS = """
import emulated_gpu
import mlx.core as mx
import pytest
if not mx.cuda.is_available():
    emulated_gpu.install(pytest.MonkeyPatch())
from mlx_sd.cuda.recording import Recording
weight = mx.zeros((8, 3, 3, 8), dtype=mx.float16)
mx.eval(weight)
def work(r):
    x = r.array(1, 8, 8, 8)
    return {"x": x, "out": r.conv(x, weight)}
recording = Recording(mx.float16, [weight], work)
recording.run(x=mx.zeros((1, 8, 8, 8), dtype=mx.float16))
mx.eval(recording.out())
"""


@pytest.mark.parametrize("code, said", [(EXITS, "gone\n"), (RECORDS, "")])
def test_nothing_is_done_or_said_at_exit(code, said):
    command, here = [sys.executable, "-c", code], Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)


def test_runs_may_be_begun_before_others_have_ended():
    def work(r):
        x = r.array(64)
        return {"x": x, "out": r.add(x, x)}

    recording, outs = Recording(mx.float16, [], work), []
    x = mx.ones((64,), dtype=mx.float16)
    for _ in range(8):  # each begins with what the one before it gives
        recording.run(x=x)
        x = recording.out()
        outs.append(x)
    assert [out[5].item() for out in outs] == [2.0**i for i in range(1, 9)]


def test_arrays_of_more_than_31_bits_are_not_recorded():
    recorder = Recorder(mx.float16, {})
    recorder.array(1, 1 << 15, 1 << 15)
    with pytest.raises(CudaError, match="too large to record"):
        recorder.array(2, 1 << 15, 1 << 15)


def test_a_result_that_was_not_asked_for_is_not_the_next_ones():
    recording = Recording(
        mx.float16, [], lambda r: {"x": (x := r.array(64)), "out": r.add(x, x)}
    )
    for value in (1.0, 2.0):
        recording.run(x=mx.full((64,), value, dtype=mx.float16))
    assert recording.out()[5].item() == 4


def test_a_recording_that_goes_is_waited_for(monkeypatch):
    recording, waited = Recording(mx.float16, [], lambda r: {"out": r.array(64)}), []
    stream = type(recording._stream)
    monkeypatch.setattr(stream, "synchronize", lambda self: waited.append(self))
    del recording
    gc.collect()
    assert len(waited) == 1


def filled(model: nn.Module, dtype: mx.Dtype) -> nn.Module:
    model.update(tree_map(lambda a: a.astype(dtype), model.parameters()))
    mx.eval(model.parameters())
    return model


LIKE_XL = replace(UNET, vector_width=40, linear_projections=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("config", [UNET, LIKE_XL], ids=["plain", "with a vector"])
def test_recorded_unet_is_the_network(config, dtype):
    mx.random.seed(1)
    unet = filled(UNet(config), dtype)
    exact = UNet(config)
    exact.update(tree_map(lambda a: a.astype(mx.float32), unet.parameters()))
    fast = FastUNet(unet, wait=0)
    for size, batch, texts in (((12, 12), 2, 1), ((6, 10), 1, 3), ((12, 12), 2, 1)):
        for scale in (1.0, 2.0):
            x, t = normal(batch, *size, 4, dtype=dtype), mx.full((batch,), 321.0)
            given = [normal(texts * batch, 77, 96, dtype=dtype, scale=scale)]
            if config.vector_width is not None:
                given.append(normal(texts * batch, 40, dtype=dtype, scale=scale))
            each = (mx.concatenate([a] * texts) for a in (x, t))
            expected = exact(*wide(*each, *given))
            close(fast(x, t, *given), expected, 10 * BOUNDS[dtype])


def test_recorded_unet_notices_new_weights(monkeypatch):
    unet = filled(UNet(UNET), mx.float16)
    fast, t = FastUNet(unet, wait=0), mx.array([5.0])
    x = normal(1, 8, 8, 4, dtype=mx.float16)
    first = fast(x, t, normal(1, 77, 96, dtype=mx.float16))
    fast(x[:, :4], t, normal(1, 77, 96, dtype=mx.float16))  # another recording
    old, make, gone = weakref.ref(fast._weights), Weights, []

    def anew(unet):
        gone.append(old() is None)
        return make(unet)

    monkeypatch.setattr("mlx_sd.cuda.unet.Weights", anew)
    unet.mid[0].attn.layers[0].cross_attn.v.weight *= 2
    unet.conv_out.weight = unet.conv_out.weight * 2
    context = normal(1, 77, 96, dtype=mx.float16)
    second = fast(x, t, context)
    close(second, unet(x, t, context), 1e-2)
    assert not mx.allclose(first, second, rtol=0.1)
    assert gone == [True]  # or they would be in memory twice


def test_recorded_unet_notices_memory_that_moved(emulated):
    unet = filled(UNet(UNET), mx.float16)
    fast, t = FastUNet(unet, wait=0), mx.array([5.0])
    x, contexts = normal(1, 8, 8, 4, dtype=mx.float16), []
    made = []
    for read in (False, False, True):
        if read and emulated is None:
            np.array(unet.conv_in.weight)  # with what shares its memory
        elif read:
            emulated.move(fast._weights.memory[-1])
        contexts.append(normal(1, 77, 96, dtype=mx.float16))
        out = fast(x, t, contexts[-1])
        close(out, unet(x, t, contexts[-1]), 1e-2)
        made.append(fast._recorded[x.shape, contexts[-1].shape])
    assert made[0] is made[1] is not made[2]
    looked_at = sum(array.size for array in fast._weights.memory)
    assert looked_at >= sum(array.size for _, array in tree_flatten(unet.parameters()))


@pytest.mark.parametrize("together", [1 << 20, 1 << 30])  # bytes; of 8.2 MB
def test_gathered_arrays_stay_what_they_are(together, monkeypatch):
    monkeypatch.setattr("mlx_sd.cuda.arrays._TOGETHER", together)
    unet = filled(UNet(UNET), mx.float16)
    before, kept = unet.parameters(), unet.mid[0].res.emb.weight
    memory = gather(unet, stay=[kept])
    assert unet.mid[0].res.emb.weight is kept
    assert not any(array is kept for array in memory)
    named = dict(tree_flatten(before))
    for name, array in tree_flatten(unet.parameters()):
        assert mx.array_equal(array, named[name]), name
    space = 256 * len(named)
    assert max(array.nbytes for array in memory) <= together + space
    assert (len(memory) == 1) == (together > 1 << 20)


def test_gathering_keeps_no_memory_of_what_arrays_lay_in():
    unet = filled(UNet(UNET), mx.float16)
    size = sum(array.nbytes for array in arrays(unet))
    before = mx.get_active_memory()
    memory = gather(unet)
    assert mx.get_cache_memory() < size / 100
    space = sum(array.nbytes for array in memory) - size
    assert mx.get_active_memory() - before < space + size / 100


def test_where_memory_ends_arrays_are_not_gathered(monkeypatch):
    unet = filled(UNet(UNET), mx.float16)
    before = arrays(unet)

    def fail(*_):
        raise RuntimeError("[malloc] Unable to allocate")

    monkeypatch.setattr("mlx_sd.cuda.arrays.mx.eval", fail)
    with pytest.raises(RuntimeError, match="malloc"):
        gather(unet)
    assert all(a is b for a, b in zip(arrays(unet), before, strict=True))


def test_gathered_arrays_are_aligned_in_their_memory():
    unet = filled(UNet(UNET), mx.float16)
    (memory,) = gather(unet)
    if mx.cuda.is_available():
        first, *places = addresses([memory, *arrays(unet)])
    else:
        seen = [np.array(a, copy=False) for a in (memory, *arrays(unet))]
        first, *places = (a.ctypes.data for a in seen)
    assert all((place - first) % 256 == 0 for place in places)
    assert first <= min(places) and max(places) < first + memory.nbytes


def test_a_decoder_that_is_recorded_stays_so(emulated):
    decoder = CoderConfig((32, 64), blocks=1)
    vae = filled(AutoencoderKL(VaeConfig(3, 4, None, decoder, quant=True)), mx.float16)
    fast, z = FastDecoder(vae, wait=1), normal(1, 8, 8, 4, dtype=mx.float16)
    there = []
    for may_record in (False, False, True, True, True, False):
        fast(z, may_record)
        there.append(fast._recorded)
    assert there[:3] == [None] * 3
    assert there[3] is not None and there[3:] == [there[3]] * 3


@pytest.mark.parametrize("dtype", TYPES)
def test_recorded_decoder_is_the_network(dtype):
    mx.random.seed(2)
    decoder = CoderConfig((32, 64, 128), blocks=2)
    config = VaeConfig(3, 4, None, decoder, quant=True)
    vae = filled(AutoencoderKL(config), dtype)
    exact = AutoencoderKL(config)
    exact.update(tree_map(lambda a: a.astype(mx.float32), vae.parameters()))
    fast = FastDecoder(vae, wait=0)
    for size in ((8, 8), (16, 6)):
        z = normal(1, *size, 4, dtype=dtype)
        close(fast(z), exact.decode(*wide(z)), 10 * BOUNDS[dtype])
