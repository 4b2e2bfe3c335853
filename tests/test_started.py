"""Pictures that start from a picture, against diffusers and stable-diffusion.cpp."""

import json
from pathlib import Path

import make_pictures
import numpy as np
import pytest
import seeded
import small_families
import started
from PIL import Image
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
    assert pipeline.source.kind.base == {"SD 1.x": "sd1", "SDXL": "sdxl"}[base]
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
    # Steps magnify what rounding left; CosXL's, from 60 to 3.3 at once, most of all.
    assert error < (1e-2 if name == "cosxl_edit" else 1e-3)
    assert make_pictures.psnr(image, golden["picture"]) >= 50


FULL = {
    "img2img": started.Case(4, False),
    "inpaint": started.Case(4, True),
    "inpaint_model": started.Case(9, True),
}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_pictures_are_those_of_both_peers(name, tmp_path):
    case, path = FULL[name], tmp_path / "model.safetensors"
    seeded.save(path, seeded.with_inputs(seeded.sd1_shapes(), case.channels))
    asked = request(
        case,
        128,
        128,
        scheduler="discrete",
        prompt=started.PROMPT,
        negative_prompt=started.NEGATIVE,
    )
    golden = np.load(GOLDEN / f"picture_{name}.npz")
    pipeline = mlx_sd.load(path, dtype="f32")
    ours, error = painted(pipeline, asked, golden)
    assert error < 1e-3
    assert make_pictures.psnr(ours, golden["picture"]) >= 45
    with Image.open(GOLDEN / f"sdcpp_{name}.png") as image:
        theirs = np.asarray(image.convert("RGB"))
    assert make_pictures.psnr(ours, theirs) >= 33
