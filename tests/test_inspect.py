"""`mlx-sd inspect`: right on whole models, useful on parts and on foreign files."""

import json

import names
import pytest
import seeded
from checkpoints import hollow
from click.testing import CliRunner

from mlx_sd.cli import main
from mlx_sd.defaults import Defaults

UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT


def run(*arguments):
    return CliRunner().invoke(main, ["inspect", *arguments])


def inspect(path, *options) -> str:
    result = run(str(path), *options)
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


@pytest.mark.parametrize("kind", names.KINDS)
def test_every_family_is_described_in_full(kind, describe):
    shapes = names.ldm(kind)
    text, facts = describe({**shapes, "v_pred": ()})
    base = names.KINDS[kind][0]
    assert facts["family"] == kind and facts["kind"]["base"] == base
    assert facts["parts"].keys() == names.PREFIXES[base].keys()
    assert all(about["config"] for about in facts["parts"].values())
    assert facts["tensors"] == len(shapes) + 1 and not facts["unknown"]
    assert facts["markers"] == {"v_pred": "predicts velocity"}
    lines = text.splitlines()
    assert lines[0].endswith(f"x.safetensors: {kind}")
    assert "  v_pred: predicts velocity" in lines
    assert (
        f"    context_width: {facts['parts']['unet']['config']['context_width']}"
        in lines
    )


KINDS = {  # file's name, kind of model → kind, what is predicted, defaults
    ("sd_xl_turbo_1.0", "SDXL"): (
        "Turbo, by its name",
        "eps, by what SDXL does",
        "512x512, 4 steps, cfg scale 1, euler_a, simple",
    ),
    ("v2-1", "SD 2.x"): (
        None,
        "eps or v, by what its UNet does, once it runs",
        "512x512, 20 steps, cfg scale 7, euler_a, discrete",
    ),
    ("x", "SD 1.x LCM"): (
        "LCM, by its UNet's guidance embedding",
        "eps, by what SD 1.x does",
        "768x768, 4 steps, cfg scale 8.5, lcm, lcm",
    ),
}


@pytest.mark.parametrize("name, kind", KINDS)
def test_what_is_decided_is_said_and_by_what(name, kind, tmp_path):
    path = hollow(tmp_path / f"{name}.safetensors", names.ldm(kind))
    label, predicts, usual = KINDS[name, kind]
    lines = inspect(path).splitlines()[1:4]
    shown = [f"  predicts: {predicts}", f"  defaults: {usual}"]
    assert lines[: 2 + bool(label)] == [f"  kind: {label}"] * bool(label) + shown
    facts = json.loads(inspect(path, "--json"))
    assert f"{facts['prediction']['name']}, by {facts['prediction']['by']}" == predicts
    assert str(Defaults(**facts["defaults"])) == usual


def test_parts_in_files_of_their_own_are_described_together(tmp_path):
    files = {}
    for option, prefix in (("--diffusion-model", UNET), ("--clip_l", TEXT)):
        files[option] = hollow(tmp_path / f"{option}.safetensors", part(prefix))
    options = [str(x) for pair in files.items() for x in pair]
    facts = json.loads(run(*options, "--json").stdout)
    assert facts["path"] == str(files["--diffusion-model"])
    assert facts["family"] == "SD 1.x" and "with --vae" in facts["problem"]
    for option, name in (("--diffusion-model", "unet"), ("--clip_l", "clip_l")):
        assert facts["parts"][name]["files"] == [str(files[option])]
    vae = hollow(tmp_path / "vae.safetensors", part(VAE, bare=True))
    facts = json.loads(run(*options, "--vae", str(vae), "--json").stdout)
    assert facts["problem"] is None
    whole = hollow(tmp_path / "x.safetensors", seeded.small_shapes())
    facts = json.loads(inspect(whole, "--vae", str(vae), "--json"))
    assert facts["parts"]["vae"]["files"] == [str(vae)]
    assert facts["parts"]["unet"]["files"] == [str(whole)]


def test_inspecting_nothing_is_misuse():
    result = run()
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line == "Error: nothing to inspect; give MODEL, or parts of one"


def test_a_file_that_cannot_be_read_is_exit_code_1(tmp_path):
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "x.safetensors")])
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == f"Error: {tmp_path / 'x.safetensors'}: no such file\n"
