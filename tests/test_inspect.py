"""`mlx-sd inspect`: right on whole models, useful on parts and on foreign files."""

import json

import pytest
import seeded
from checkpoints import hollow
from click.testing import CliRunner

from mlx_sd.cli import main

UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT


def inspect(path, *options) -> str:
    result = CliRunner().invoke(main, ["inspect", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def describe(tmp_path):
    """Shapes → what inspect prints of such a file, as text and as JSON."""

    def run(shapes):
        path = hollow(tmp_path / "x.safetensors", shapes)
        return inspect(path), json.loads(inspect(path, "--json"))

    return run


def part(prefix, bare=False):
    shapes = seeded.small_shapes().items()
    return {n[len(prefix) * bare :]: s for n, s in shapes if n.startswith(prefix)}


def test_a_whole_model_is_described(describe, tmp_path):
    shapes = {
        **seeded.small_shapes(),
        "stray.weight": (3, 3),
        "betas": (1000,),
        "model_ema.decay": (),
        "model_ema.num_updates": (),
    }
    text, facts = describe(shapes)
    path = str(tmp_path / "x.safetensors")
    assert facts["path"] == path and facts["family"] == "SD 1.x"
    assert facts["problem"] is None and facts["tensors"] == len(shapes)
    assert facts["unknown"] == ["stray.weight"]
    assert facts["ignored"].keys() == {
        "betas",
        "model_ema.decay",
        "model_ema.num_updates",
    }
    assert list(facts["parts"]) == ["unet", "vae", "clip_l"]
    unet = facts["parts"]["unet"]
    assert unet["tensors"] == 496 and unet["dtypes"] == {"F16": 496}
    assert unet["bytes"] == 2 * unet["parameters"] and unet["files"] == [path]
    assert unet["config"]["widths"] == [64, 128, 192]
    assert facts["parts"]["clip_l"]["config"]["vocabulary"] == 1000

    lines = text.splitlines()
    assert lines[0] == f"{path}: SD 1.x" and "problem" not in text
    millions = unet["parameters"] / 1e6
    assert (
        f"  unet: {millions:.1f} M parameters, {2 * millions:.1f} MB, "
        "496 tensors (496 F16)"
    ) in lines
    assert "    widths: (64, 128, 192)" in lines
    assert "  ignored: 3 tensors" in lines
    assert "    2 moving average kept for training" in lines
    assert lines[-2:] == ["  unknown: 1 tensors", "    stray.weight"]


PARTIAL = {
    "UNet alone": (part(UNET), ["unet"], "holds no vae"),
    "VAE alone": (part(VAE), ["vae"], "holds no UNet"),
    "text encoder alone": (part(TEXT), ["clip_l"], "holds no UNet"),
    "bare UNet": (part(UNET, bare=True), ["unet"], "holds no vae"),
    "bare VAE": (part(VAE, bare=True), ["vae"], "holds no UNet"),
    "LoRA": (
        {"lora_te_q.alpha": (), "lora_te_q.lora_up.weight": (8, 8)},
        [],
        "no UNet",
    ),
}


@pytest.mark.parametrize("shapes, parts, problem", PARTIAL.values(), ids=PARTIAL.keys())
def test_what_is_no_whole_model_is_described_too(shapes, parts, problem, describe):
    text, facts = describe(shapes)
    assert list(facts["parts"]) == parts and problem in facts["problem"]
    assert facts["tensors"] == len(shapes)
    assert all(about["config"] for about in facts["parts"].values())
    assert f"  problem: {facts['problem']}" in text.splitlines()
    for name in facts["unknown"]:
        assert f"    {name}" in text.splitlines()
    assert bool(facts["unknown"]) == (not parts)


def test_one_broken_part_does_not_hide_the_others(describe):
    shapes = seeded.small_shapes()
    del shapes[VAE + "decoder.conv_in.weight"]
    text, facts = describe(shapes)
    assert facts["family"] == "SD 1.x" and facts["parts"]["unet"]["config"]
    assert facts["parts"]["vae"]["config"] is None
    assert "decoder.conv_in.weight is missing" in facts["problem"]
    assert "not a model that runs" not in text and "widths: (64, 128, 192)" in text


def test_a_file_that_cannot_be_read_is_exit_code_1(tmp_path):
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "x.safetensors")])
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == f"Error: {tmp_path / 'x.safetensors'}: no such file\n"
