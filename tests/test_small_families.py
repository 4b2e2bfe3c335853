"""Whole pictures of narrow models of each family against diffusers' pipelines."""

from pathlib import Path

import make_pictures
import numpy as np
import pytest
import small_families
from small_families import CFG, HEIGHT, NEGATIVE, PROMPT, SEED, STEPS, WIDTH

import mlx_sd

slow = pytest.mark.slow
# File, kind of model, what the UNet predicts, the negative prompt.
CASES = (
    pytest.param("sd2", "SD 2.x", "epsilon", NEGATIVE),
    pytest.param("sd2_v", "SD 2.x", "v_prediction", NEGATIVE),
    pytest.param("sdxl", "SDXL", "epsilon", NEGATIVE, marks=slow),
    pytest.param("sdxl_empty", "SDXL", "epsilon", "", marks=slow),
    pytest.param("refiner", "SDXL Refiner", "epsilon", NEGATIVE, marks=slow),
)
BOUND = 1e-5  # relative; both compute in float32
LATENT = 1e-3  # the same after 10 steps, each of which magnifies what rounding left


def error(found, expected: np.ndarray) -> float:
    return np.linalg.norm(np.array(found) - expected) / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Kind and prediction → its folder, written once."""
    made: dict[tuple[str, str], Path] = {}

    def folder(kind: str, prediction: str) -> Path:
        if (key := (kind, prediction)) not in made:
            path = tmp_path_factory.mktemp("family") / "model"
            parts = small_families.shapes(kind)
            made[key] = small_families.write_folder(path, parts, prediction)
        return made[key]

    return folder


@pytest.mark.parametrize("file, kind, prediction, negative", CASES)
def test_pictures_are_those_of_diffusers(file, kind, prediction, negative, folders):
    golden = np.load(Path(__file__).parent / f"golden/family_{file}.npz")
    pipeline = mlx_sd.load(folders(kind, prediction), dtype="f32")
    assert pipeline.source.kind.name == kind
    request = mlx_sd.Request(
        PROMPT,
        negative,
        WIDTH,
        HEIGHT,
        STEPS,
        CFG,
        SEED,
        sampling_method="euler",
        scheduler="discrete",
    )

    prompts = pipeline.prompts(pipeline.resolve(request))
    texts = [prompts.conds(0)[0][0], prompts.uncond(0)]
    for i, text in enumerate(texts):
        expected = golden["context"][i : i + 1]
        assert np.abs(np.array(text.context)[..., ::16] - expected).max() < 1e-4
        if "vector" in golden:
            assert error(text.vector, golden["vector"][i : i + 1]) < BOUND
        else:
            assert text.vector is None

    latents = []
    (image,) = pipeline(request, lambda progress: latents.append(progress.latent))
    expected = golden["latent"].transpose(0, 2, 3, 1)
    assert error(latents[-1], expected) < LATENT
    assert make_pictures.psnr(np.asarray(image), golden["picture"]) >= 50
