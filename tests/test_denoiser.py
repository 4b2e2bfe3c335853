"""Guidance by several prompts that change with the step; the network is a formula."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.denoiser import Denoiser, Prompts
from mlx_sd.families import Conditioning
from mlx_sd.sampling.levels import scaled_linear
from mlx_sd.sampling.prediction import Eps
from mlx_sd.start import Start
from mlx_sd.tokenizers import PromptPlan

SIGMA = 3.0
X = np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32)
LEVELS = {"cat": 1.0, "dog": -2.0, "": 0.25, "long": 0.5}  # of the texts' states


class Network:
    """Noise: the input times the mean of the text's states, plus timestep/1000.

    And plus the vector, where there is one.
    """

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, context, vector, deep=None):
        self.batches.append(len(context))
        scale = context.mean(axis=(1, 2)).reshape(-1, 1, 1, 1)
        more = 0 if vector is None else vector.reshape(-1, 1, 1, 1)
        return x * scale + t.reshape(-1, 1, 1, 1) / 1000 + more


def denoiser(prompt: str, scale: float, steps: int = 4, negative: str = ""):
    positive = PromptPlan.positive(prompt, steps)
    avoid = PromptPlan.negative(negative, steps)
    encoded = {
        text: Conditioning(
            mx.full((1, 154 if text == "long" else 77, 8), LEVELS[text.strip()])
        )
        for text in positive.texts() + avoid.texts()
    }
    network = Network()
    prompts = Prompts(positive, avoid, encoded, encoded)
    return network, Denoiser(
        network, Eps, scaled_linear(), prompts, scale, mx.float32, Start()
    )


def out(text: str) -> np.ndarray:
    """What the network makes of a text, in float64."""
    shown = X.astype(np.float64) / np.sqrt(SIGMA**2 + 1)
    return shown * LEVELS[text] + scaled_linear().t(SIGMA) / 1000


def x0(noise: np.ndarray) -> np.ndarray:
    return X - SIGMA * noise


def check(found: mx.array, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-5)


def test_guidance_mixes_what_the_network_puts_out():
    network, denoise = denoiser("cat", 7.0, negative="dog")
    check(denoise(mx.array(X), SIGMA), x0(out("dog") + 7 * (out("cat") - out("dog"))))
    assert network.batches == [2]


@pytest.mark.parametrize("length", [77, 154], ids=["one batch", "two batches"])
def test_each_text_has_a_vector_of_its_own(length):
    wanted, unwanted = (
        {text: Conditioning(mx.full((1, n, 8), LEVELS[text]), vector=mx.array([[v]]))}
        for text, n, v in (("cat", length, 0.5), ("dog", 77, -0.25))
    )
    plans = PromptPlan.positive("cat", 4), PromptPlan.negative("dog", 4)
    prompts = Prompts(*plans, wanted, unwanted)
    denoise = Denoiser(
        Network(), Eps, scaled_linear(), prompts, 7.0, mx.float32, Start()
    )
    cat, dog = out("cat") + 0.5, out("dog") - 0.25
    check(denoise(mx.array(X), SIGMA), x0(dog + 7 * (cat - dog)))


def test_at_scale_1_the_negative_prompt_is_not_computed():
    network, denoise = denoiser("cat", 1.0)
    check(denoise(mx.array(X), SIGMA), x0(out("cat")))
    assert network.batches == [1]


def test_and_adds_up_weighted_directions():
    network, denoise = denoiser("cat :0.7 AND dog :1.5", 3.0)
    base = out("")
    mixed = base + 3 * (0.7 * (out("cat") - base) + 1.5 * (out("dog") - base))
    check(denoise(mx.array(X), SIGMA), x0(mixed))
    assert network.batches == [3]


@pytest.mark.parametrize("prompt", ["cat AND dog", "cat :0.5 AND dog :0.5"])
def test_and_needs_the_negative_prompt_at_scale_1_too(prompt):
    _, denoise = denoiser(prompt, 1.0)
    weight = 0.5 if "0.5" in prompt else 1.0
    base = out("")
    mixed = base + weight * (out("cat") - base) + weight * (out("dog") - base)
    check(denoise(mx.array(X), SIGMA), x0(mixed))


def test_texts_of_different_lengths_are_computed_apart():
    network, denoise = denoiser("long", 2.0)
    check(denoise(mx.array(X), SIGMA), x0(out("") + 2 * (out("long") - out(""))))
    assert network.batches == [1, 1]


def test_the_prompt_may_change_with_the_step():
    # What ends at step 2 of 4 is seen in the first three: see PromptPlan.at.
    _, denoise = denoiser("[cat:dog:0.5]", 1.0)
    seen = []
    for denoise.step in range(4):
        seen.append(float(denoise(mx.array(X), SIGMA)[0, 0, 0, 0]))
    cat, dog = (x0(out(text))[0, 0, 0, 0] for text in ("cat", "dog"))
    np.testing.assert_allclose(seen, [cat, cat, cat, dog], rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.0])
def test_cfg_plus_plus_gets_the_clean_latent_without_the_prompt(scale):
    network, denoise = denoiser("cat", scale, negative="dog")
    guided, without = denoise.guided(mx.array(X), SIGMA)
    check(guided, x0(out("dog") + scale * (out("cat") - out("dog"))))
    check(without, x0(out("dog")))
    assert network.batches == [2]
