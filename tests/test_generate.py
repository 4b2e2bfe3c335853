"""`mlx-sd generate`: the flags of part 3, with the model that comes along."""

import shlex

import numpy as np
import opcodes
import pytest
from click.testing import CliRunner
from loaded import bundled
from PIL import Image
from safetensors.numpy import save_file

from mlx_sd import Request, load
from mlx_sd.cli import main
from mlx_sd.metadata import read
from mlx_sd.opening import DEMO
from mlx_sd.sampling.samplers import SAMPLERS
from mlx_sd.sampling.schedules import SCHEDULES
from mlx_sd.source import Source

SIZE = {"width": 32, "height": 32}
PIPELINE = bundled()
pytestmark = pytest.mark.usefixtures("loaded_once")
SMALL = ["-p", "a red house", "--steps", "2", "-W", "32", "-H", "32"]


def run(*args, **options):
    return CliRunner().invoke(main, [str(arg) for arg in args], **options)


def painted(path, *args):
    done = run("generate", *SMALL, "-o", path, *args)
    assert done.exit_code == 0, done.output
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")), done


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "a.png"
    return path, painted(path)[0]


def test_options_without_a_command_are_those_of_generate(plain, tmp_path):
    path = tmp_path / "a.png"
    done = run(*SMALL, "-M", "img_gen", "--diffusion-fa", "-o", path)
    assert done.exit_code == 0 and done.stdout == f"{path}\n"
    assert "--diffusion-fa changes nothing: attention" in done.stderr
    assert path.read_bytes() == plain[0].read_bytes()


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        (["--sampling-method", "Euler a", "--scheduler", "Normal"], True),
        (["--rng", "cuda", "--sampler-rng", "cuda", "--clip-skip", "-1"], True),
        (["--clip-skip", "1", "--prediction", "eps", "--eta", "1"], True),
        (["--comma-padding-backtrack", "20"], True),
        (["--rng", "cpu"], False),
        (["--sampler-rng", "cpu"], False),
        (["--clip-skip", "2"], False),
        (["--prediction", "v"], False),
        (["--eta", "0.5"], False),
        (["--sigmas", "[14.6, 3, 0]"], False),
        (["--sampling-method", "DPM++ 2M Karras"], False),
    ],
)
def test_every_flag_reaches_the_picture(flags, same, plain, tmp_path):
    pixels, _ = painted(tmp_path / "a.png", *flags)
    assert (pixels == plain[1]).all() == same


def test_finer_settings_go_to_the_sampler_or_the_schedule(tmp_path):
    flags = ("--steps", "4", "--sampling-method", "euler_ge")
    one, _ = painted(tmp_path / "a.png", *flags)
    flags += ("--extra-sample-args",)
    same, _ = painted(tmp_path / "b.png", *flags, "gamma=2")
    other, _ = painted(tmp_path / "c.png", *flags, "gamma=1.5")
    assert (one == same).all() and (one != other).any()
    flags = ("--scheduler", "beta", "--extra-sample-args")
    both, _ = painted(tmp_path / "d.png", *flags, "alpha=0.5, beta = 0.7")
    parts = (*flags, "alpha=0.5", flags[-1], "beta=0.7")  # sd-cli joins them
    apart, _ = painted(tmp_path / "d.png", *parts)
    assert (both == apart).all()
    done = run("generate", *SMALL, *flags, "gama=1", "-o", tmp_path / "e.png")
    assert done.exit_code == 2 and "'gama'" in done.stderr


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_paints(sampler):
    request = Request("a red house", sampling_method=sampler, steps=3, **SIZE)
    (image,) = PIPELINE(request)
    assert np.asarray(image).std() > 5


@pytest.mark.parametrize("scheduler", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 5])
def test_every_schedule_paints(scheduler, steps):
    request = Request("a red house", scheduler=scheduler, steps=steps, **SIZE)
    (image,) = PIPELINE(request)
    assert np.asarray(image).std() > 5


def test_a_sampler_brings_its_own_schedule():
    def settled(**settings):
        return PIPELINE.resolve(Request("x", **settings)).scheduler

    assert settled() == "discrete"
    assert settled(sampling_method="lcm") == "lcm"
    assert settled(sampling_method="ddim_trailing") == "simple"
    assert settled(sampling_method="lcm", scheduler="karras") == "karras"
    assert settled(sigmas=(3.0, 0.0)) is None
    assert load(prediction="edm_v").resolve(Request("x")).scheduler == "exponential"


def test_listed_levels_decide_the_number_of_steps():
    levels = (14.6, 5.0, 1.0, 0.0)
    assert Request("x", sigmas=levels).steps == 3
    seen = []
    PIPELINE(Request("x", sigmas=levels, **SIZE), on_progress=seen.append)
    assert [event.sigma for event in seen] == [14.6, 5.0, 1.0]
    assert [event.target for event in seen] == [5.0, 1.0, 0.0]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_picture_is_repeated_from_its_file(suffix, tmp_path):
    first = tmp_path / f"a.{suffix}"
    flags = ("-n", "rain", "-s", "7", "--cfg-scale", "3.3", "--sampler-rng", "cpu")
    painted(first, *flags)
    again = tmp_path / f"b.{suffix}"
    done = run("generate", "--from-image", first, "-o", again)
    assert done.exit_code == 0, done.output
    assert again.read_bytes() == first.read_bytes()
    done = run("generate", "--from-image", first, "-s", "8", "-o", again)
    assert read(again).recipe.settings["Seed"] == "8"


def test_a_part_that_is_missing_where_a_picture_is_repeated_is_told(tmp_path):
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    part = ("--vae", DEMO / "vae")
    painted(first, "-m", DEMO, *part)
    done = run("generate", "-m", DEMO, "--from-image", first, "-o", again)
    assert "painted with VAE vae, this is with the model's own" in done.stderr
    done = run("generate", "-m", DEMO, *part, "--from-image", first, "-o", again)
    assert "painted" not in done.stderr
    assert again.read_bytes() == first.read_bytes()


def test_options_take_precedence_over_the_file_that_is_repeated(tmp_path):
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    painted(first, "--sigmas", "9,1,0", "--clip-skip", "2")
    flags = ("--clip-skip", "-1", "--steps", "1", "--scheduler", "karras")
    done = run("generate", "--from-image", first, *flags, "-o", again)
    assert done.exit_code == 0, done.output
    settings = read(again).recipe.settings
    assert settings["Steps"] == "1" and settings["Schedule type"] == "Karras"
    assert not {"Custom Sigmas", "Clip skip"} & settings.keys()


def test_what_cannot_be_repeated_is_said(plain, tmp_path):
    from mlx_sd.image import save

    with Image.open(plain[0]) as image:
        text = "a house\nSteps: 1, Sampler: Euler, Size: 64x64, Seed: 1, Model: dream, "
        save(image, tmp_path / "a.png", text + "Hires upscale: 2")
    done = run("generate", "--from-image", tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert done.exit_code == 0
    assert "cannot be repeated: Hires upscale: 2" in done.stderr
    assert "painted by model dream (no hash), this is picture-book" in done.stderr
    done = run("generate", "--from-image", tmp_path / "c.png", "-o", tmp_path / "b.png")
    assert done.exit_code == 1 and "no such file" in done.stderr


def test_embeddings_that_a_picture_needs_are_named(tmp_path):
    vectors = np.zeros((2, PIPELINE.source.config("clip_l").width), np.float32)
    folder = tmp_path / "embeddings"
    folder.mkdir()
    save_file({"emb_params": vectors}, folder / "house.safetensors")
    path = tmp_path / "a.png"
    pixels, _ = painted(path, "--embd-dir", folder)
    again = ("generate", "--from-image", path, "-o", tmp_path / "b.png")
    assert "embeddings (--embd-dir): house" in run(*again).stderr
    done = run(*again, "--embd-dir", folder)
    assert "painted with embeddings" not in done.stderr
    assert (tmp_path / "b.png").read_bytes() == path.read_bytes()


def test_pictures_can_be_without_settings(plain, tmp_path):
    path = tmp_path / "a.png"
    pixels, _ = painted(path, "--disable-image-metadata")
    assert (pixels == plain[1]).all()
    assert read(path).texts == ()


def test_previews_are_written_at_each_interval(tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    written = []
    module = __import__("mlx_sd.cli.preview", fromlist=["save"])
    monkeypatch.setattr(module, "save", lambda image, at: written.append((image, at)))
    flags = ("--preview-path", path, "--steps", "5", "--preview-interval", "2")
    painted(tmp_path / "a.png", "--preview", "proj", *flags)
    assert [(image.size, at) for image, at in written] == [((4, 4), path)] * 2
    written.clear()
    pixels, _ = painted(tmp_path / "a.png", "--preview", "vae", *flags[:4])
    assert len(written) == 5
    # What the model makes of the last step is the picture itself.
    assert (np.asarray(written[-1][0]) == pixels).all()
    assert (np.asarray(written[0][0]) != pixels).any()
    written.clear()
    painted(tmp_path / "a.png", "--preview", "vae", "--preview-noisy", *flags[:2])
    clear = np.asarray(written[0][0], float)
    painted(tmp_path / "a.png", "--preview", "vae", *flags[:2])
    assert (np.asarray(written[2][0], float) != clear).any()


def test_a_rough_preview_has_stable_diffusion_cpps_colours():
    matrix = np.array(PIPELINE.family.latent.rgb, np.float64)
    bias = np.array(PIPELINE.family.latent.rgb_bias, np.float64)
    latent = np.random.default_rng(0).normal(size=(1, 4, 6, 4)).astype(np.float32)
    import mlx.core as mx

    image = np.asarray(PIPELINE.project(mx.array(latent)), float)
    exact = np.clip((latent[0] @ matrix + bias) * 0.5 + 0.5, 0, 1) * 255
    assert image.shape == (4, 6, 3) and np.abs(image - exact).max() <= 0.51


def test_prompts_come_from_files(plain, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("a red house\n", encoding="utf-8")
    path = tmp_path / "a.png"
    done = run("--prompt-file", file, *SMALL[2:], "-o", path)
    assert done.exit_code == 0 and path.read_bytes() == plain[0].read_bytes()
    done = run("--prompt-file", file, *SMALL, "-o", path)
    assert done.exit_code == 2 and "--prompt-file and --prompt" in done.stderr
    file.write_bytes(b"caf\xe9")
    done = run("--prompt-file", file, *SMALL[2:], "-o", path)
    assert done.exit_code == 1 and "byte 4 is not UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--rng", "cdua"], 2, ["unknown rng 'cdua'", "did you mean cuda"]),
        (["--sampler-rng", "mt"], 2, ["unknown sampler_rng 'mt'"]),
        (["--sigmas", "3,4,0"], 2, ["sigmas 3,4,0", "fall at each step"]),
        (["--sigmas", "3,x"], 2, ["sigmas", "numbers with commas"]),
        (["--sigmas", "3,0", "--scheduler", "karras"], 2, ["leave one out"]),
        (
            ["--sampling-method", "DPM++ 2M Karras", "--scheduler", "simple"],
            2,
            ["schedule karras", "simple", "leave one out"],
        ),
        (["--sampling-method", "heun", "--eta", "1"], 2, ["heun takes no eta"]),
        (["--eta", "-1"], 2, ["eta -1"]),
        (["--extra-sample-args", "gamma"], 2, ["'gamma' is not name=number"]),
        (["--flow-shift", "3"], 2, ["flow_shift 3", "is no flow model"]),
        (
            ["--prediction", "sd3_flow", "--scheduler", "gits"],
            2,
            ["noise levels from 14.6146", "from 1 down", "such as discrete"],
        ),
        (
            ["--prediction", "sd3_flow", "--sigmas", "1.1,0.5,0"],
            2,
            ["noise levels from 1.1", "from 1 down"],
        ),
        (["--clip-skip", "9"], 2, ["clip skip 9", "1 … 4"]),
        (["--comma-padding-backtrack", "75"], 2, ["comma_padding_backtrack 75"]),
        (["--embd-dir", "missing"], 2, ["--embd-dir missing"]),
        (["--prediction", "vv"], 2, ["--prediction 'vv'", "did you mean v"]),
        (["--dtype", "f61"], 2, ["--dtype 'f61'", "did you mean f16"]),
        (["--type", "q8"], 2, ["--type 'q8'", "did you mean q8_0"]),
        (["--preview", "vea"], 2, ["--preview 'vea'", "did you mean vae"]),
        (["-M", "convert"], 2, ["mlx-sd convert"]),
        (["-M", "vid_gen"], 2, ["--mode vid_gen"]),
        (["-o", "a_%d_%d.png"], 2, ["wants one %d"]),
        (["--preview-interval", "0"], 2, ["--preview-interval"]),
    ],
)
def test_bad_input_is_one_line(args, code, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("generate", *SMALL, *args)
    assert done.exit_code == code, done.output
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.glob("*.png")) == []


# From stable-diffusion.cpp's docs/sd.md, README.md and docs/quantization_and_gguf.md,
# after the name of the program.
DOCUMENTED = (
    '-m ../models/sd-v1-4.ckpt -p "a lovely cat"',
    '-m ../models/v1-5-pruned-emaonly.safetensors -p "a lovely cat"',
    "-M convert -m ../models/v1-5-pruned-emaonly.safetensors"
    " -o  ../models/v1-5-pruned-emaonly.q8_0.gguf -v --type q8_0",
)


def test_documented_command_lines_of_stable_diffusion_cpp_run_unchanged(
    arrays, tmp_path, monkeypatch
):
    words = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    whole = np.resize(arrays[words], (49_408, arrays[words].shape[1]))  # CLIP's own
    arrays = {**arrays, words: whole}
    (tmp_path / "models").mkdir()
    (tmp_path / "build").mkdir()
    save_file(arrays, tmp_path / "models/v1-5-pruned-emaonly.safetensors")
    opcodes.checkpoint(tmp_path / "models/sd-v1-4.ckpt", arrays)
    monkeypatch.chdir(tmp_path / "build")
    monkeypatch.setattr(Source, "sample_size", 64)  # 512 takes long
    written = "../models/v1-5-pruned-emaonly.q8_0.gguf"
    outputs = ("output.png", "output.png", written)
    for line, output in zip(DOCUMENTED, outputs, strict=True):
        done = run(*shlex.split(line))
        assert (done.exit_code, done.stdout) == (0, f"{output}\n"), done.output
    done = run("-m", written, "-p", "a lovely cat", "--steps", "1", "-o", "b.png")
    assert done.exit_code == 0, done.output
