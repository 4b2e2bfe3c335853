"""A second model for the last steps, in the loop of the same sampler, as in A1111."""

import gc
import weakref

import checkpoints
import names
import numpy as np
import pytest
from click.testing import CliRunner

import mlx_sd
from mlx_sd.cli import main
from mlx_sd.denoiser import Denoiser
from mlx_sd.errors import CheckpointError, ConfigError
from mlx_sd.opening import DEMO
from mlx_sd.stage import Stage

SIZE = {"width": 64, "height": 64}


def whole(folder, kind, without="no tensor's name"):
    """A hollow file of a model of a kind."""
    shapes = {n: s for n, s in names.ldm(kind).items() if not n.startswith(without)}
    return checkpoints.hollow(folder / f"{kind}.safetensors", shapes)


@pytest.fixture(scope="module")
def alone():
    return mlx_sd.load(dtype="f32")


@pytest.fixture(scope="module")
def refined():
    """The bundled model, refined by itself."""
    return mlx_sd.load(dtype="f32", refiner=DEMO)


@pytest.mark.parametrize("sampler", ["euler_a", "dpm++2m", "lms", "dpm++2s_a"])
def test_a_model_that_refines_itself_paints_as_it_does_alone(sampler, alone, refined):
    # What a sampler remembers, and its noise, go on over the change.
    request = mlx_sd.Request(
        "a red [house:tree:0.5]",
        "rain",
        **SIZE,
        steps=4,
        sampling_method=sampler,
        batch_count=2,
    )
    once = [np.asarray(image) for image in alone(request)]
    twice = [np.asarray(image) for image in refined(request)]
    np.testing.assert_array_equal(once, twice)
    assert (once[0] != once[1]).any()


@pytest.mark.parametrize(
    "switch, expected",  # the steps of which the part behind is less than the switch
    [(0.8, 8), (0.7, 7), (0.71, 8), (0.05, 1), (1.0, 10), (0.0, 0), (None, 8)],
)
def test_the_refiner_takes_the_steps_behind_the_switch(
    switch, expected, refined, monkeypatch
):
    calls, events = [], []

    def call(self, x, sigma):
        calls.append((self._unet, self.step))
        return x

    monkeypatch.setattr(Denoiser, "__call__", call)
    monkeypatch.setattr(Stage, "_network", lambda self, request: self)
    request = mlx_sd.Request("x", **SIZE, steps=10, refiner_switch=switch)
    events = list(refined.stream(request))
    stages = [refined] * expected + [refined.refiner] * (10 - expected)
    assert [(stage, step) for stage, step in calls] == list(
        zip(stages, range(10), strict=True)
    )
    assert [event.step for event in events[:-1]] == list(range(1, 11))
    assert events[-1].request.refiner_switch == (0.8 if switch is None else switch)


def test_one_unet_is_in_memory_at_a_time_for_all_pictures(refined, monkeypatch):
    build, built = Stage._model, []

    def model(self, part):
        if part == "unet" and part not in self._models:
            gc.collect()
            assert not [unet for unet in built if unet() is not None]
            built.append(weakref.ref(build(self, part)))
        return build(self, part)

    monkeypatch.setattr(Stage, "_model", model)
    for stage in (refined, refined.refiner):
        stage.release()
    request = mlx_sd.Request("x", **SIZE, steps=2, batch_count=3, refiner_switch=0.5)
    order = [
        (event.image, event.step)
        for event in refined.stream(request)
        if isinstance(event, mlx_sd.pipeline.Progress)
    ]
    assert order == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]
    assert len(built) == 2


def test_a_refiner_of_other_latents_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="SDXL Refiner cannot refine what SD 1.x"):
        mlx_sd.load(refiner=whole(tmp_path, "SDXL Refiner"))


def test_a_refiner_needs_no_vae_of_its_own(tmp_path):
    base = whole(tmp_path, "SDXL")
    refiner = whole(tmp_path, "SDXL Refiner", without="first_stage_model.")
    found = mlx_sd.load(base, refiner=refiner)
    assert found.refiner.source.kind.name == "SDXL Refiner"


def test_a_switch_without_a_refiner_is_an_error(alone):
    with pytest.raises(ConfigError, match="refiner_switch 0.5: there is no refiner"):
        alone.resolve(mlx_sd.Request("x", refiner_switch=0.5))
    with pytest.raises(ConfigError, match="refiner_switch 1.5: must be from 0 to 1"):
        mlx_sd.Request("x", refiner_switch=1.5)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_refined_picture_is_repeated_from_its_file(tmp_path):
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    flags = ("--steps", "3", "-W", "64", "-H", "64", "--refiner", DEMO)
    done = run("generate", "-p", "a house", *flags, "-o", first)
    assert done.exit_code == 0, done.output
    text = mlx_sd.metadata.read(first).recipe.settings
    assert (text["Refiner"], text["Refiner switch at"]) == ("picture-book", "0.8")
    done = run("generate", "--from-image", first, "--refiner", DEMO, "-o", again)
    assert done.exit_code == 0 and "refiner" not in done.stderr, done.output
    assert again.read_bytes() == first.read_bytes()
    done = run("generate", "--from-image", first, "-o", again)
    assert done.exit_code == 0, done.output
    assert "painted with refiner picture-book, this is with none" in done.stderr


def test_a1111s_switch_is_read():
    recipe = mlx_sd.metadata.Recipe(
        "A1111",
        "x",
        "",
        {"Refiner": "sd_xl_refiner_1.0 [7440042bbd]", "Refiner switch at": "0.75"},
    )
    fields, lost = mlx_sd.metadata.to_request_fields(recipe)
    assert fields["refiner_switch"] == 0.75 and not lost
