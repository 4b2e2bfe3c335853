"""Operations of recordings beside their references; on an emulated GPU elsewhere."""

import mlx.core as mx
import pytest
from recorded import BOUNDS, TYPES, close, normal, recorded, wide

from mlx_sd.cuda import recorder
from mlx_sd.cuda.recording import Recording
from mlx_sd.kernels import reference
from mlx_sd.nn.embed import timestep_embedding
from mlx_sd.nn.resample import nearest

pytestmark = pytest.mark.usefixtures("emulated")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(8, 320, 72), (2, 1280, 640), (77, 768, 328)])
def test_linear_is_the_reference(dtype, shape):
    rows, inside, outside = shape
    x, add = normal(rows, inside, dtype=dtype), normal(rows, outside, dtype=dtype)
    w, b = normal(outside, inside, dtype=dtype), normal(outside, dtype=dtype)
    out = recorded(
        dtype, {"x": x, "y": add}, [w, b], lambda r, x, y: r.linear(x, w, b, add=y)
    )
    wx, ww, wb, wa = wide(x, w, b, add)
    close(out, reference.linear(wx, ww, wb) + wa, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 9, 7, 64, 72, 1),
        (1, 8, 8, 4, 64, 1),
        (2, 10, 6, 32, 4, 1),
        (1, 7, 9, 64, 64, 2),
    ],
)
def test_conv_is_the_reference(dtype, shape):
    B, H, W, inside, outside, stride = shape
    x = normal(B, H, W, inside, dtype=dtype)
    w = normal(outside, 3, 3, inside, dtype=dtype)
    out = recorded(dtype, {"x": x}, [w], lambda r, x: r.conv(x, w, stride))
    close(out, reference.conv(*wide(x, w), None, stride), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 64, 64, 320),
        (2, 16, 16, 1280),
        (3, 5, 7, 96),
        (1, 33, 31, 128),
        (1, 256, 130, 64),
    ],
)
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_is_the_reference(dtype, shape, silu):
    x, shift = normal(*shape, dtype=dtype) + 3, normal(shape[0], shape[-1], dtype=dtype)
    w, b = normal(shape[-1], dtype=dtype), normal(2, shape[-1], dtype=dtype)[1]
    out = recorded(
        dtype,
        {"x": x.astype(dtype), "s": shift},
        [w, b],
        lambda r, x, s: r.group_norm(x, w, b, 32, 1e-5, silu, s),
    )
    wx, ww, wb, ws = wide(x.astype(dtype), w, b, shift)
    expected = reference.group_norm(wx + ws[:, None, None], ww, wb, 32, 1e-5, silu)
    close(out, expected, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 50, 320), (1, 7, 1280), (3, 33, 72)])
def test_layer_norm_is_the_reference(dtype, shape):
    x, w = normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype)
    out = recorded(dtype, {"x": x}, [w], lambda r, x: r.layer_norm(x, w, w, 1e-5))
    wx, ww = wide(x, w)
    close(out, reference.layer_norm(wx, ww, ww, 1e-5), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape",  # B, heads, L, M, width of a head
    [
        (2, 8, 256, 77, 160),
        (2, 8, 1024, 1024, 40),
        (1, 3, 67, 45, 24),
        (2, 5, 1030, 77, 64),
        (1, 2, 1500, 1500, 80),
    ],
)
def test_attention_is_the_reference(dtype, shape):
    B, heads, L, M, width = shape
    q = normal(B, L, heads * width, dtype=dtype)
    k = normal(B, M, heads * width, dtype=dtype)
    v = normal(B, M, heads * width + 1, dtype=dtype)[..., 1:]
    out = recorded(
        dtype,
        {"q": q, "k": k, "v": mx.contiguous(v)},
        [],
        lambda r, q, k, v: r.attention(q, k, v, heads),
    )
    close(out, reference.attention(*wide(q, k, v), heads), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", TYPES)
def test_wide_attention_is_the_reference(dtype):
    q, k, v = (normal(2, n, 512, dtype=dtype) for n in (96, 136, 136))
    out = recorded(
        dtype,
        {"q": q, "k": k, "v": v},
        [],
        lambda r, q, k, v: r.wide_attention(q, k, v),
    )
    close(out, reference.attention(*wide(q, k, v), 1), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "shape",  # B, L, K, D
    [
        (2, 1024, 320, 1280),
        (1, 333, 72, 136),
        (8, 2048, 64, 640),
        (3, 900, 640, 640),
        (2, 64, 128, 512),
    ],
)
def test_gated_product_is_the_reference(dtype, shape, monkeypatch):
    B, L, K, D = shape
    x, w = normal(B, L, K, dtype=dtype), normal(2 * D, K, dtype=dtype) * K**-0.5
    b = normal(2, 2 * D, dtype=dtype)[1]
    w, seen, describe = w.astype(dtype), [], recorder.matrix

    def matrix(*given):
        seen.append(given)
        return describe(*given)

    monkeypatch.setattr(recorder, "matrix", matrix)
    out = recorded(dtype, {"x": x}, [w, b], lambda r, x: r.gated(x, w, b))
    wx, ww, wb = wide(x, w, b)
    close(out, reference.geglu(wx @ ww.T + wb), BOUNDS[dtype])
    assert bool(seen) == (recorder._generation() == 9 and B * L >= 256)


@pytest.mark.parametrize("dtype", TYPES)
def test_small_operations_are_the_reference(dtype):
    x, y = normal(2, 6, 8, 64, dtype=dtype), normal(2, 6, 8, 24, dtype=dtype)
    b, bound, run = normal(64, dtype=dtype), BOUNDS[dtype], recorded
    out = run(dtype, {"x": x}, [], lambda r, x: r.geglu(x))
    close(out, reference.geglu(*wide(x)), bound)
    out = run(dtype, {"x": x}, [], lambda r, x: r.silu(x))
    close(out, reference.silu(*wide(x)), bound)
    out = run(dtype, {"x": x}, [b], lambda r, x: r.add(x, x, b))
    close(out, wide(x)[0] * 2 + b, bound)
    out = run(dtype, {"x": x, "y": y}, [], lambda r, x, y: r.concat(x, y))
    assert mx.array_equal(out, mx.concatenate([x, y], axis=-1))
    out = run(dtype, {"x": x}, [], lambda r, x: r.nearest(x, 11, 16))
    assert mx.array_equal(out, nearest(x, 11, 16))


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("shape", [(2, 6, 8, 64), (2, 5, 3)])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_bias_is_added_in_place_or_elsewhere(dtype, shape, in_place):
    x, b = normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype)

    def add(r, x):
        return r.add_channel(x, b, x if in_place else r.array(*shape))

    close(recorded(dtype, {"x": x}, [b], add), wide(x)[0] + b, BOUNDS[dtype])


def test_timesteps_are_the_reference():
    t = mx.array([0.0, 1.0, 499.5, 999.0])

    def work(r):
        places = r.array(4, bytes=4)
        return {"t": places, "out": r.timesteps(places, 320)}

    recording = Recording(mx.float16, [], work)
    recording.run(t=t)
    close(recording.out(), timestep_embedding(t, 320), 1e-3)
