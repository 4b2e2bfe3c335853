"""A request's fields: read from text, and replaced by others."""

import pytest

from mlx_sd import Request
from mlx_sd.errors import ConfigError
from mlx_sd.request import override

LISTED = {"prompt": "x", "sigmas": (14.0, 7.0, 0.0)}
NAMED = {"prompt": "x", "scheduler": "simple", "steps": 4}


@pytest.mark.parametrize(
    ("fields", "given", "expected"),
    [
        (LISTED, {"steps": 5}, {"sigmas": None, "steps": 5}),
        (LISTED, {"scheduler": "karras"}, {"sigmas": None, "scheduler": "karras"}),
        (
            LISTED,
            {"sampling_method": "DPM++ 2M Karras"},
            {"sigmas": None, "sampling_method": "dpm++2m", "scheduler": "karras"},
        ),
        (
            LISTED,
            {"sampling_method": "heun"},
            {"sigmas": (14.0, 7.0, 0.0), "sampling_method": "heun"},
        ),
        (NAMED, {"sigmas": (9.0, 0.0)}, {"scheduler": None, "steps": 1}),
        (
            NAMED,
            {"sampling_method": "Euler a Karras"},
            {"scheduler": "karras", "steps": 4},
        ),
        (NAMED, {"sampling_method": "heun"}, {"scheduler": "simple", "steps": 4}),
        (NAMED, {"prompt": "y", "clip_skip": None}, {"prompt": "y", "steps": 4}),
    ],
)
def test_what_is_given_replaces_what_it_cannot_go_with(fields, given, expected):
    request = Request(**override(fields, given)).to_dict()
    assert {name: request[name] for name in expected} == expected


def test_what_is_given_at_once_still_has_to_fit():
    given = {"sigmas": (9.0, 0.0), "scheduler": "karras"}
    with pytest.raises(ConfigError, match="leave one out"):
        Request(**override(NAMED, given))


@pytest.mark.parametrize(
    "text", ["gamma=2,x=.5", "gamma=2;x=.5", " gamma = 2 ; x=5e-1,"]
)
def test_extra_arguments_are_divided_as_in_stable_diffusion_cpp(text):
    found = Request("x", extra_sample_args=text).sample_args()
    assert found == {"gamma": 2.0, "x": 0.5}
