"""Steps of a picture are told one by one, also where the next is begun early."""

from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import pytest
from loaded import bundled

from mlx_sd import Request, SDError, backend, load
from mlx_sd.cli.preview import Preview
from mlx_sd.codec import Codec
from mlx_sd.models.unet import UNet
from mlx_sd.opening import DEMO
from mlx_sd.pipeline import Progress
from mlx_sd.sampling.samplers import Step
from mlx_sd.stage import Stage
from mlx_sd.walk import Walk

COUNT = 5


def taken(begun: list[int], broken: int = -1):
    """Progress of COUNT steps; `begun` gets the numbers of those asked for."""
    pipeline = bundled()
    walk = Walk(pipeline.source, pipeline.resolve(Request("a house", steps=COUNT)))
    denoiser = SimpleNamespace(begin=lambda step: None, step=0)

    def steps():
        for i in range(COUNT):
            begun.append(i + 1)
            x = mx.full((1, 4, 4, 4), mx.nan if i + 1 >= broken > 0 else float(i))
            yield Step(i, walk.sigmas[i], x, x)

    yield from walk.take(steps(), 0, range(COUNT), denoiser)
    walk.wait()


@pytest.fixture(params=[0, 1])
def ahead(request, monkeypatch) -> int:
    monkeypatch.setattr(backend, "run_ahead", lambda: request.param)
    return request.param


def test_every_step_is_told(ahead):
    events = list(taken([]))
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
    assert [event.latent[0, 0, 0, 0].item() for event in events] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("broken", [1, 3, COUNT])
def test_the_step_that_gives_no_numbers_is_named(ahead, broken):
    told = []
    with pytest.raises(SDError, match=f"^step {broken} of {COUNT} gave values"):
        for event in taken([], broken):
            told.append(event.step)
    assert told == list(range(1, broken + ahead))


def test_no_step_is_begun_after_the_last_that_was_asked_for(ahead):
    begun: list[int] = []
    walked = taken(begun)
    next(walked), next(walked)
    walked.close()
    assert begun == [1, 2]


REQUEST = Request("a house", width=64, height=64, steps=2)


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """What happens of these, one step ahead."""
    happened: list[str] = []

    def watch(owner, name):
        real = getattr(owner, name)

        def seen(self, *args, **kwargs):
            if kwargs != {"left": 1}:
                happened.append(name)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, seen)

    monkeypatch.setattr(backend, "run_ahead", lambda: 1)
    for owner, name in ((Walk, "wait"), (Codec, "_decode"), (Stage, "release")):
        watch(owner, name)
    return happened


def test_a_picture_is_begun_before_its_last_steps_are_waited_for(order):
    bundled()(REQUEST)
    assert order == ["_decode", "wait"]


def test_a_unet_goes_when_its_steps_have_ended(order):
    list(load(dtype="f32").stream(REQUEST, keep=False))
    assert order == ["wait", "release", "_decode", "wait"]
    order.clear()
    load(dtype="f32", refiner=DEMO)(replace(REQUEST, refiner_switch=0.5))
    # The refiner's goes first, which has none; then the first one's.
    assert order == ["release", "wait", "release", "_decode", "wait"]


def test_a_last_step_that_failed_is_told_of_and_not_its_picture(ahead, monkeypatch):
    real, calls = UNet.__call__, []

    def fail(self, *args, **kwargs):
        calls.append(args)
        return real(self, *args, **kwargs) * (mx.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(UNet, "__call__", fail)
    with pytest.raises(SDError, match="^step 2 of 2 gave values"):
        load(dtype="f32")(REQUEST)


def test_an_interrupted_picture_is_no_failed_step(monkeypatch):
    def interrupt(self, latent):
        raise KeyboardInterrupt

    monkeypatch.setattr(backend, "run_ahead", lambda: 1)
    monkeypatch.setattr(Codec, "_decode", interrupt)
    monkeypatch.setattr(UNet, "__call__", lambda self, x, *_, **__: x * mx.nan)
    request = replace(REQUEST, steps=1, cfg_scale=1.0)
    with pytest.raises(KeyboardInterrupt):
        load(dtype="f32")(request)


def test_a_preview_leaves_values_that_are_no_numbers_to_the_pipeline(tmp_path):
    path, latent = tmp_path / "p.png", mx.full((1, 4, 4, 4), mx.nan)
    for way in ("proj", "vae"):
        preview = Preview(bundled(), way, path, interval=1, noisy=False)
        preview.show(Progress(0, 1, 5, 1.0, latent, latent, 0.5))
    assert not path.exists()
