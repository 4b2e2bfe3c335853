"""Names of samplers and schedules in other programs."""

import pytest

from mlx_sd.errors import ConfigError
from mlx_sd.sampling.names import resolve_sampler, resolve_scheduler
from mlx_sd.sampling.samplers import SAMPLERS
from mlx_sd.sampling.schedules import SCHEDULES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # A1111's labels up to 1.8 held the schedule; later ones do not.
        ("Euler a", ("euler_a", None)),
        ("Euler", ("euler", None)),
        ("LMS", ("lms", None)),
        ("Heun", ("heun", None)),
        ("DPM2", ("dpm2", None)),
        ("DPM2 a", ("dpm2_a", None)),
        ("DPM++ 2S a", ("dpm++2s_a", None)),
        ("DPM++ 2M", ("dpm++2m", None)),
        ("DPM++ SDE", ("dpm++sde", None)),
        ("DPM++ 2M SDE", ("dpm++2m_sde", None)),
        ("DPM++ 3M SDE", ("dpm++3m_sde", None)),
        ("LMS Karras", ("lms", "karras")),
        ("DPM2 Karras", ("dpm2", "karras")),
        ("DPM2 a Karras", ("dpm2_a", "karras")),
        ("DPM++ 2S a Karras", ("dpm++2s_a", "karras")),
        ("DPM++ 2M Karras", ("dpm++2m", "karras")),
        ("dpm++ 2m karras", ("dpm++2m", "karras")),
        ("DPM++ SDE Karras", ("dpm++sde", "karras")),
        ("DPM++ 2M SDE Karras", ("dpm++2m_sde", "karras")),
        ("DDIM", ("ddim", None)),
        ("PLMS", ("plms", None)),
        ("UniPC", ("unipc", None)),
        ("LCM", ("lcm", None)),
        # k-diffusion's and ComfyUI's
        ("k_euler_a", ("euler_a", None)),
        ("sample_dpmpp_2m", ("dpm++2m", None)),
        ("euler_ancestral", ("euler_a", None)),
        ("euler_cfg_pp", ("euler_cfg_pp", None)),
        ("dpm_2_ancestral", ("dpm2_a", None)),
        ("dpmpp_2s_ancestral", ("dpm++2s_a", None)),
        ("dpmpp_2m_sde_gpu", ("dpm++2m_sde", None)),
        ("uni_pc", ("unipc", None)),
        ("gradient_estimation", ("euler_ge", None)),
        ("EULER_A", ("euler_a", None)),
    ],
)
def test_name_of_another_program_is_understood(name, expected):
    assert resolve_sampler(name) == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_own_name_and_label_mean_themselves(name):
    assert resolve_sampler(name) == (name, None)
    assert resolve_sampler(SAMPLERS[name].label) == (name, None)
    for schedule in SCHEDULES:
        assert resolve_sampler(f"{SAMPLERS[name].label} {SCHEDULES[schedule].label}")


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_goes_by_name_and_label(name):
    assert resolve_scheduler(name) == name
    assert resolve_scheduler(SCHEDULES[name].label.upper()) == name


def test_schedule_of_another_program_is_understood():
    assert resolve_scheduler("normal") == "discrete"
    assert resolve_scheduler("Uniform") == "discrete"
    assert resolve_scheduler("Karras") == "karras"
    assert resolve_scheduler("Automatic") is None


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'dpmpp_2n'; did you mean dpm\+\+2m\?"):
        resolve_sampler("dpmpp_2n")
    with pytest.raises(ConfigError, match="'karas'; did you mean karras"):
        resolve_scheduler("karas")
    with pytest.raises(ConfigError, match="sampler 'xyzzy'; known: euler, euler_a"):
        resolve_sampler("xyzzy")
    with pytest.raises(ConfigError, match="unknown scheduler 'xyzzy'; known: discrete"):
        resolve_scheduler("xyzzy")
