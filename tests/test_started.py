"""Pictures that start from a picture, against diffusers and stable-diffusion.cpp."""

import json
from pathlib import Path

import make_pictures
import numpy as np
import pytest
import small_families
import started
from started import CFG, SEED, SMALL, STEPS, STRENGTH

import mlx_sd

GOLDEN = Path(__file__).parent / "golden"


def request(case: started.Case, width: int, height: int, **fields) -> mlx_sd.Request:
    picture = started.picture(width, height)
    if case.channels == 8:
        fields |= {"ref_image": picture, "img_cfg_scale": case.image_cfg}
    else:
        fields |= {"init_img": picture, "strength": STRENGTH}
    if case.masked:
        fields |= {"mask": started.mask(width, height)}
    return mlx_sd.Request(
        width=width,
        height=height,
        steps=STEPS,
        cfg_scale=CFG,
        seed=SEED,
        sampling_method="euler",
        **fields,
    )


def painted(pipeline, asked: mlx_sd.Request, golden) -> tuple[np.ndarray, float]:
    """The picture, and the relative error of its latent."""
    latents = []
    (image,) = pipeline(asked, lambda progress: latents.append(progress.latent))
    theirs = golden["latent"].transpose(0, 2, 3, 1)
    error = np.linalg.norm(np.array(latents[-1]) - theirs) / np.linalg.norm(theirs)
    return np.asarray(image), float(error)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if base == "SDXL" else name
        for name, (base, *_) in SMALL.items()
    ],
)
def test_narrow_models_paint_as_diffusers_does(name, tmp_path):
    base, task, case = SMALL[name]
    parts = small_families.shapes(name, "started")
    folder = small_families.write_folder(tmp_path / "model", parts)
    if name == "cosxl_edit":
        config = folder / "scheduler/scheduler_config.json"
        config.write_text(json.dumps(started.EDM))
    pipeline = mlx_sd.load(folder, dtype="f32")
    assert pipeline.source.kind.base == base
    assert pipeline.source.kind.task == {9: "inpaint", 8: "edit"}.get(case.channels, "")
    asked = request(
        case,
        small_families.WIDTH,
        small_families.HEIGHT,
        scheduler=None if name == "cosxl_edit" else "discrete",
        prompt=small_families.PROMPT,
        negative_prompt=small_families.NEGATIVE,
    )
    golden = np.load(GOLDEN / f"started_{name}.npz")
    image, error = painted(pipeline, asked, golden)
    assert error < 1e-3
    assert make_pictures.psnr(image, golden["picture"]) >= 50
