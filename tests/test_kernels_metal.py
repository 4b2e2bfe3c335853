"""Apple GPU variants, as far as they can be followed without one."""

import mlx.core as mx
import pytest

from mlx_sd.kernels import metal, reference


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.mark.parametrize("width", [40, 24, 88])
@pytest.mark.parametrize("mask", [None, "causal"])
def test_padded_attention_is_the_reference(width, mask):
    q, k, v = (
        normal(2, 33, 3 * width),
        normal(2, 33, 3 * width),
        normal(2, 33, 3 * width),
    )
    out = metal.padded_attention(q, k, v, 3, mask)
    assert mx.allclose(out, reference.attention(q, k, v, 3, mask), atol=2e-5)


def test_heads_are_padded_to_the_next_fused_width():
    widths = 40, 64, 72, 88, 128, 160, 512
    assert [metal.padding(width) for width in widths] == [24, 0, 0, 8, 0, 0, 0]


@pytest.mark.parametrize("trouble", [RuntimeError("no compiler"), None])
def test_norm_kernel_that_fails_its_test_is_not_used(monkeypatch, caplog, trouble):
    def broken(x, *others):
        if trouble:
            raise trouble
        return x

    metal._proven.cache_clear()
    monkeypatch.setenv("MLX_SD_METAL_NORM", "1")
    monkeypatch.setattr(metal, "group_norm", broken)
    x, w = normal(1, 4, 4, 64), normal(64)
    assert not metal.group_norm_fits(x, w, w, 32, 1e-5)
    assert "MLX_SD_METAL_NORM" in caplog.text
    metal._proven.cache_clear()


def test_norm_kernel_is_only_used_if_asked_for(monkeypatch):
    monkeypatch.delenv("MLX_SD_METAL_NORM", raising=False)
    x, w = normal(1, 4, 4, 64), normal(64)
    assert not metal.group_norm_fits(x, w, w, 32, 1e-5)
