"""`mlx-sd bench`: real sizes, and one table."""

import checkpoints
import mlx.core as mx
import names
import pytest
from click.testing import CliRunner

from mlx_sd import backend, bench
from mlx_sd.cli import main
from mlx_sd.opening import open_source


@pytest.mark.parametrize(
    ("kind", "unet"), [("SD 1.x", bench.SD1_UNET), ("SDXL", bench.SDXL_UNET)]
)
def test_networks_are_those_of_real_checkpoints(kind, unet, tmp_path):
    source = open_source(checkpoints.hollow(tmp_path / "x.st", names.ldm(kind)))
    assert source.config("unet") == unet
    assert source.config("vae").decoder == bench.VAE.decoder
    if kind == "SD 1.x":
        assert source.config("clip_l") == bench.CLIP_L


def test_a_row_gives_the_median_and_the_peak(monkeypatch):
    def make(dtype: mx.Dtype):
        return lambda: mx.eval(mx.ones(1 << 20, dtype=dtype) + 1)

    monkeypatch.setattr(bench, "WORK", {"a million": make})
    done = CliRunner().invoke(main, ["bench", "--runs", "2"])
    assert done.exit_code == 0
    *facts, head, rule, row = done.stdout.splitlines()
    assert backend.device_name() in facts[0] and "median of 2 runs" in facts[2]
    work, time, peak = (cell.strip() for cell in row.strip("|").split("|"))
    assert work == "a million" and time.endswith(" ms") and peak.endswith(" GB")


def test_large_work_is_added_when_asked_for(monkeypatch):
    monkeypatch.setattr(bench, "WORK", {"small": lambda dtype: lambda: None})
    monkeypatch.setattr(bench, "LARGE", {"large": lambda dtype: lambda: None})
    assert [timing.work for timing in bench.bench(1, large=True)] == ["small", "large"]
    assert [timing.work for timing in bench.bench(1, large=False)] == ["small"]
