"""Name tables: complete, one-to-one, and the same as diffusers' own converters."""

import gzip
import json
from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from mlx_sd.build import BUILDERS
from mlx_sd.convert.configs import clip_config, unet_config, vae_config
from mlx_sd.convert.detect import identify, prefix_of
from mlx_sd.convert.readers import Entry
from mlx_sd.convert.rules import RULESETS

NAMES = json.loads(
    gzip.decompress((Path(__file__).parent / "golden/names.json.gz").read_bytes())
)
LDM, DIFFUSERS = 0, 2  # columns of a name, its shape beside it
FOLDERS = {"unet": "unet.", "vae": "vae.", "clip_l": "text_encoder."}


def entries(size: str, column: int) -> dict[str, Entry]:
    """Described as a reader would; nothing can be read."""
    found = {}
    for part, rows in NAMES[size].items():
        for row in rows:
            name = row[column] if column == LDM else FOLDERS[part] + row[column]
            shape = tuple(row[column + 1])
            found[name] = Entry(Path("x"), name, "F16", shape, 0, lambda: pytest.fail())
    return found


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("column", [LDM, DIFFUSERS], ids=["ldm", "diffusers"])
def test_every_tensor_is_one_parameter_of_the_right_shape(size, column):
    contents = identify(entries(size, column))
    assert not contents.unknown and not contents.ignored
    for part, rows in NAMES[size].items():
        config, build = BUILDERS[part]
        parameters = contents.parts[part]
        assert len(parameters) == len(rows)
        model = build(config(parameters))
        expected = {name: a.shape for name, a in tree_flatten(model.parameters())}
        assert {name: p.shape for name, p in parameters.items()} == expected


@pytest.mark.parametrize("size", ["small", "full"])
def test_ldm_and_diffusers_names_meet_where_diffusers_says(size):
    ldm, diffusers = identify(entries(size, LDM)), identify(entries(size, DIFFUSERS))
    for part, rows in NAMES[size].items():
        ours = {p.entry.name: n for n, p in ldm.parts[part].items()}
        theirs = {p.entry.name: n for n, p in diffusers.parts[part].items()}
        assert [ours[r[LDM]] for r in rows] == [
            theirs[FOLDERS[part] + r[DIFFUSERS]] for r in rows
        ]


@pytest.mark.parametrize("column", [LDM, DIFFUSERS], ids=["ldm", "diffusers"])
def test_exactly_one_rule_of_a_table_fits_a_name(column):
    for part, rows in NAMES["full"].items():
        for row in rows:
            name = row[column]
            name = name.removeprefix(prefix_of(name))
            fits = [len(list(rules.matches(name))) for rules in RULESETS[part]]
            assert max(fits) == 1, name


def test_a_name_with_something_before_or_after_is_unknown():
    name = "model.diffusion_model.input_blocks.1.0.in_layers.0.weight"
    for wrong in (f"x.{name}", f"{name}_scale", name.replace("blocks.1", "blocks.x")):
        entry = Entry(Path("x"), wrong, "F16", (320,), 640, lambda: pytest.fail())
        assert identify({wrong: entry}).unknown.keys() == {wrong}


def test_configurations_come_from_shapes():
    parts = identify(entries("full", LDM)).parts
    unet, clip = unet_config(parts["unet"]), clip_config(parts["clip_l"])
    vae = vae_config(parts["vae"])
    # The published SD 1.5 configuration.
    assert unet.widths == (320, 640, 1280, 1280) and unet.heads == (8, 8, 8, 8)
    assert unet.context_width == 768 and unet.vector_width is None
    assert unet.down == ((1, 1), (1, 1), (1, 1), (0, 0)) and unet.mid == (1, 0)
    assert unet.up == ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    assert (clip.width, clip.layers, clip.heads) == (768, 12, 12)
    assert (clip.vocabulary, clip.positions, clip.mlp_width) == (49408, 77, 3072)
    assert vae.latent_channels == 4 and vae.quant
    assert vae.encoder.widths == vae.decoder.widths == (128, 256, 512, 512)
    assert (vae.encoder.blocks, vae.decoder.blocks) == (2, 3)
