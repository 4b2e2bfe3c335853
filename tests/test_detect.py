"""What tensors are: the kind of model, its configurations, parts and leftovers."""

from dataclasses import replace

import names
import pytest
import seeded
import tiny

from mlx_sd.build import BUILDERS
from mlx_sd.convert.detect import family, identify
from mlx_sd.convert.kinds import kind
from mlx_sd.convert.rules import MARKERS, PREFIXES


@pytest.mark.parametrize("kind, scheme", names.EVERY)
def test_the_kind_of_model_is_known_by_its_unet(kind, scheme):
    found = family(names.contents(kind, scheme))
    base = names.KINDS[kind][0]
    assert (found.name, found.base) == (kind, base)
    assert set(found.parts) == names.contents(kind, scheme).parts.keys()
    assert found.task == {4: "", 8: "edit", 9: "inpaint"}[names.KINDS[kind][2]]
    lone = {
        row[2 if scheme == "diffusers" else 0]: tuple(row[1])
        for row in names.rows(kind)["unet"]
    }
    assert family(identify(names.described(lone))) == found


# Published configurations: widths, heads, depths down, in the middle and up, text
# states, vector, linear projections.
CONFIGS = {
    "SD 1.x": (
        (320, 640, 1280, 1280),
        (8, 8, 8, 8),
        ((1, 1), (1, 1), (1, 1), (0, 0)),
        (1, 0),
        ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        (768, None, False),
    ),
    "SD 2.x": (
        (320, 640, 1280, 1280),
        (5, 10, 20, 20),
        ((1, 1), (1, 1), (1, 1), (0, 0)),
        (1, 0),
        ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        (1024, None, True),
    ),
    "SDXL": (
        (320, 640, 1280),
        (5, 10, 20),
        ((0, 0), (2, 2), (10, 10)),
        (10, 0),
        ((10, 10, 10), (2, 2, 2), (0, 0, 0)),
        (2048, 2816, True),
    ),
    "SDXL Refiner": (
        (384, 768, 1536, 1536),
        (6, 12, 24, 24),
        ((0, 0), (4, 4), (4, 4), (0, 0)),
        (4, 0),
        ((0, 0, 0), (4, 4, 4), (4, 4, 4), (0, 0, 0)),
        (1280, 2560, True),
    ),
    "SDXL (SSD1B)": (
        (320, 640, 1280),
        (5, 10, 20),
        ((0, 0), (2, 2), (4, 4)),
        (0,),
        ((4, 4, 10), (2, 1, 1), (0, 0, 0)),
        (2048, 2816, True),
    ),
    "SDXL (Vega)": (
        (320, 640, 1280),
        (5, 10, 20),
        ((0, 0), (1, 1), (2, 2)),
        (0,),
        ((2, 2, 2), (1, 1, 1), (0, 0, 0)),
        (2048, 2816, True),
    ),
    "SD 1.x (BK-SDM Base)": (
        (320, 640, 1280, 1280),
        (8, 8, 8, 8),
        ((1,), (1,), (1,), (0,)),
        (1, 0),
        ((0, 0), (1, 1), (1, 1), (1, 1)),
        (768, None, False),
    ),
    "SD 2.x Tiny UNet": (
        (320, 640, 1280),
        (5, 10, 20),
        ((1,), (1,), (1,)),
        (),
        ((1, 1), (1, 1), (1, 1)),
        (1024, None, True),
    ),
    "SDXS (512-DS)": (
        (320, 640, 1280),
        (8, 8, 8),
        ((0,), (1,), (1,)),
        (),
        ((1, 1), (1, 1), (0, 0)),
        (768, None, False),
    ),
    "SDXS (09)": (
        (320, 640, 1280),
        (5, 10, 20),  # its parent's, and diffusers'
        ((1,), (1,), (1,)),
        (),
        ((1, 1), (1, 1), (1, 1)),
        (1024, None, True),
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("scheme", ["ldm", "diffusers"])
def test_configurations_of_unets_come_from_shapes(kind, scheme):
    unet = BUILDERS["unet"][0](names.contents(kind, scheme).parts["unet"])
    assert CONFIGS[kind] == (
        unet.widths,
        unet.heads,
        unet.down,
        unet.mid,
        unet.up,
        (unet.context_width, unet.vector_width, unet.linear_projections),
    )
    assert unet.time_width == 4 * unet.widths[0] and unet.out_channels == 4
    assert unet.only_cross == (kind == "SDXS (09)", *[False] * (len(unet.widths) - 1))


@pytest.mark.parametrize("kind", names.LCM)
@pytest.mark.parametrize("scheme", ["ldm", "diffusers"])
def test_a_unet_may_be_told_the_guidance(kind, scheme):
    contents = names.contents(kind, scheme)
    unet = BUILDERS["unet"][0](contents.parts["unet"])
    assert unet.guidance_width == 256 and not contents.unknown
    assert family(contents).name == kind.removesuffix(" LCM")
    other = names.contents(kind.removesuffix(" LCM"), scheme).parts["unet"]
    assert BUILDERS["unet"][0](other) == replace(unet, guidance_width=None)


def test_heads_follow_the_family_and_not_the_axes_of_projections():
    shapes = {n: s[:2] if ".proj_" in n else s for n, s in names.ldm("SD 1.x").items()}
    parameters = identify(names.described(shapes)).parts["unet"]
    unet = BUILDERS["unet"][0](parameters)
    assert unet.linear_projections and unet.heads == (8, 8, 8, 8)


# Width, layers, heads, width of the inner layer, activation, projection.
ENCODERS = {
    ("SD 1.x", "clip_l"): (768, 12, 12, 3072, "quick_gelu", None),
    ("SD 2.x", "clip_h"): (1024, 23, 16, 4096, "gelu", None),
    ("SDXL", "clip_l"): (768, 12, 12, 3072, "quick_gelu", None),
    ("SDXL", "clip_g"): (1280, 32, 20, 5120, "gelu", 1280),
    ("SDXL Refiner", "clip_g"): (1280, 32, 20, 5120, "gelu", 1280),
}


@pytest.mark.parametrize("kind, part", ENCODERS)
@pytest.mark.parametrize("scheme", ["ldm", "diffusers"])
def test_configurations_of_text_encoders_come_from_shapes(kind, part, scheme):
    clip = BUILDERS[part][0](names.contents(kind, scheme).parts[part])
    assert ENCODERS[kind, part] == (
        clip.width,
        clip.layers,
        clip.heads,
        clip.mlp_width,
        clip.activation,
        clip.projection,
    )
    assert (clip.vocabulary, clip.positions, clip.eos) == (49408, 77, 49407)


def test_the_configuration_of_the_vae_comes_from_shapes():
    vae = BUILDERS["vae"][0](names.contents("SDXL", "ldm").parts["vae"])
    assert vae.latent_channels == 4 and vae.quant
    assert vae.encoder.widths == vae.decoder.widths == (128, 256, 512, 512)
    assert (vae.encoder.blocks, vae.decoder.blocks) == (2, 3)


def renamed(part: str, prefix: str, column: int) -> seeded.Shapes:
    rows = names.NAMES["unet"]["SDXL"] if part == "unet" else names.NAMES[part]
    return {f"{prefix}{row[column]}": tuple(row[column + 1]) for row in rows if row[2]}


HF, OPEN = "transformer.", "model."
PREFIXED = [  # part, prefix, its names: 0 of single files, 2 of folders
    *(("unet", p, c) for p in ("diffusion_model.", "unet.", "") for c in (0, 2)),
    *(("vae", p, c) for p in ("vae.", "first_stage_model.", "") for c in (0, 2)),
    *(("clip_l", p, 2) for p in ("text_encoder.", "te.", "te1.", "clip_l.", "", HF)),
    ("clip_l", "text_encoders.clip_l.transformer.", 2),
    ("clip_l", "cond_stage_model.transformer.", 2),
    ("clip_h", "cond_stage_model.transformer.", 2),
    ("clip_h", "text_encoders.clip_h.transformer.", 2),
    *(("clip_h", p, 2) for p in ("text_encoder.", "te.", "clip_l.", "", HF)),
    *(
        ("clip_h", p, 0)
        for p in (OPEN, "", "clip_l.", "conditioner.embedders.0.model.")
    ),
    *(
        ("clip_g", p, 2)
        for p in ("text_encoder_2.", "te.1.", "te2.", "clip_g.", "", HF)
    ),
    ("clip_g", "text_encoder.2.", 2),
    ("clip_g", "text_encoders.clip_g.transformer.", 2),
    ("clip_g", "cond_stage_model.1.transformer.", 2),
    ("clip_g", "cond_stage_model.1.model.", 0),
    ("clip_g", "conditioner.embedders.0.model.", 0),
    *(("clip_g", p, 0) for p in (OPEN, "", "clip_g.")),
]


@pytest.mark.parametrize("part, prefix, column", PREFIXED)
def test_a_part_is_known_under_every_prefix_that_is_used(part, prefix, column):
    shapes = renamed(part, prefix, column)
    found = identify(names.described(shapes))
    assert found.parts.keys() == {part} and not found.unknown and not found.ignored
    held = {p.entry.name for p in found.parts[part].values()}
    assert held == shapes.keys()


def test_no_prefix_is_tried_in_vain():
    tried = {prefix for _, prefix, _ in PREFIXED}
    tried |= {p for by_part in names.PREFIXES.values() for p in by_part.values()}
    tried |= set(tiny.LAYOUTS.values())
    assert all(any(t.startswith(prefix) for t in tried) for prefix in PREFIXES)


EXTRAS = {
    "": (
        *("betas", "alphas_cumprod_prev", "sqrt_recip_alphas_cumprod", "logvar"),
        *("posterior_mean_coef1", "log_one_minus_alphas_cumprod", "denoiser.sigmas"),
        *("model_ema.decay", "model_ema.diffusion_modelout2bias", "lvlb_weights"),
        *("embedding_manager.x", "safety_checker.special_care_embeds"),
        *("control_model.zero_convs.0.0.weight", "conditioner.embedders.2.x"),
    ),
    "model.diffusion_model.": ("__x0__", "__32x32__"),
    "first_stage_model.": ("loss.logvar", "model_ema.decay"),
    "cond_stage_model.transformer.": (
        *("text_model.embeddings.position_ids", "logit_scale"),
        *("text_projection.weight", "vision_model.x", "visual_projection.weight"),
    ),
    "cond_stage_model.model.": ("attn_mask", "logit_scale", "visual.proj"),
    "conditioner.embedders.1.model.": ("logit_scale",),
}


def test_what_training_and_other_programs_leave_is_ignored_with_a_reason():
    extras = [prefix + name for prefix, some in EXTRAS.items() for name in some]
    shapes = {**names.ldm("SD 1.x"), **dict.fromkeys(extras, ())}
    found = identify(names.described(shapes))
    assert found.ignored.keys() == set(extras) and not found.unknown
    assert all(found.ignored.values())


def test_sd2_goes_without_the_last_layer_and_the_projection():
    found = names.contents("SD 2.x", "ldm")
    prefix = "cond_stage_model.model."
    layer = {n for n in found.ignored if n.startswith(f"{prefix}transformer.")}
    assert found.ignored.keys() - layer == {f"{prefix}text_projection"}
    assert all(name.startswith(f"{prefix}transformer.resblocks.23.") for name in layer)
    assert len(found.spare["clip_h"]) == 16 + 1


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_marks_of_training_are_kept(prefix):
    shapes = renamed("unet", prefix, 0)
    found = identify(names.described({**shapes, **dict.fromkeys(MARKERS, ())}))
    assert found.markers.keys() == {
        *("v_pred", "ztsnr", "alphas_cumprod"),
        *("edm_vpred.sigma_max", "edm_vpred.sigma_min"),
    }
    assert not found.unknown and not found.ignored


@pytest.mark.parametrize(
    "context, vector, channels, name",
    [
        (1024, None, 5, "SD 2.x (5 channels)"),  # depth
        (1024, 1536, 4, "SD 2.x (another UNet)"),  # unCLIP
        (512, None, 4, "SD 1.x"),
        (512, 64, 4, "SDXL"),
    ],
)
def test_unusual_unets_are_not_taken_for_usual_ones(context, vector, channels, name):
    config = BUILDERS["unet"][0](names.contents("SD 1.x", "ldm").parts["unet"])
    config = replace(
        config, context_width=context, vector_width=vector, in_channels=channels
    )
    assert kind(config).name == name
