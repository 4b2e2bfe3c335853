"""What SD 2.x decides by itself: what its UNet predicts, size, layer."""

import json

import mlx.core as mx
import pytest
import small_families

import mlx_sd
from mlx_sd.errors import ConfigError
from mlx_sd.families.sd2 import probe
from mlx_sd.models.unet import UNetConfig
from mlx_sd.opening import open_source


class Answer:
    """A UNet whose answer differs from the latent by a constant."""

    def __init__(self, offset: float, channels: int):
        sizes = dict.fromkeys(UNetConfig.__dataclass_fields__)
        sizes |= {"in_channels": channels, "out_channels": 4, "context_width": 1024}
        sizes |= {"widths": (), "heads": (), "down": (), "up": ()}
        self.config = UNetConfig(**sizes)
        self.offset = offset

    def __call__(self, x, t, context):
        # The question is stable-diffusion.cpp's.
        assert x.shape == (1, 8, 8, self.config.in_channels) and t.tolist() == [999.0]
        assert context.shape == (1, 2, 1024) and (context == 0.5).all()
        assert (x[..., :4] == 0.5).all() and (x[..., 4:] == 0).all()
        return x[..., :4] + self.offset


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize(
    "offset, expected", [(-1.01, "v"), (-0.99, "eps"), (0, "eps"), (2, "eps")]
)
def test_an_answer_far_below_the_latent_is_velocity(offset, expected, channels):
    assert probe(Answer(offset, channels), mx.float32) == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd2") / "model"
    return small_families.write_folder(path, small_families.shapes("SD 2.x"))


def resolved(folder, said, **options):
    scheduler = {"prediction_type": said} if said else {}
    told = json.dumps(scheduler)
    (folder / "scheduler/scheduler_config.json").write_text(told)
    pipeline = mlx_sd.load(folder, dtype="f32", **options)
    request = pipeline.resolve(mlx_sd.Request("a cat"))
    return pipeline.source.prediction.__name__, request.width


def test_the_user_then_the_files_then_the_network_say_what_it_predicts(
    folder, monkeypatch
):
    assert resolved(folder, "v_prediction") == ("V", 768)
    assert resolved(folder, "epsilon") == ("Eps", 512)
    assert resolved(folder, "v_prediction", prediction="eps") == ("Eps", 512)
    assert open_source(folder).undecided is False
    assert resolved(folder, None) == ("Eps", 512)  # its answer is about 0
    assert open_source(folder).undecided

    monkeypatch.setattr("mlx_sd.models.unet.UNet.__call__", lambda *a: a[1] - 2)
    assert resolved(folder, None) == ("V", 768)
    assert resolved(folder, None, prediction="eps") == ("Eps", 512)


def test_layers_are_counted_from_the_one_that_is_left_out(folder):
    pipeline = mlx_sd.load(folder, dtype="f32")  # of its three layers it has two
    usual, second, third = (
        pipeline.encode("a cat", mlx_sd.Request("", clip_skip=skip)).context
        for skip in (None, 2, 3)
    )
    assert mx.array_equal(usual, second) and not mx.array_equal(usual, third)
    for skip in (1, 4):
        with pytest.raises(ConfigError, match=f"clip skip {skip} is outside 2 … 3"):
            pipeline.encode("a cat", mlx_sd.Request("", clip_skip=skip))
