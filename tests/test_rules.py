"""Name tables: complete, one-to-one, and the same as the converters of others.

The lists are of real models; see golden/make_names.py.
"""

import functools
from pathlib import Path

import mlx.core as mx
import names
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_sd import CheckpointError
from mlx_sd.build import BUILDERS
from mlx_sd.convert.detect import identify
from mlx_sd.convert.readers import Entry
from mlx_sd.convert.rules import RULESETS, outgoing
from mlx_sd.convert.rules.outgoing import SCHEMES

OPENCLIP = Path(__file__).parent / "golden/openclip.npz"
SD2_UNUSED = 2 * 6 + 1  # OpenCLIP's tensors of the last layer, and the projection


@functools.cache
def model_shapes(kind: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Part → the parameters of our model, which is not filled."""
    found = {}
    for part, parameters in names.contents(kind, "ldm").parts.items():
        config, build = BUILDERS[part]
        arrays = tree_flatten(build(config(parameters)).parameters())
        found[part] = {name: array.shape for name, array in arrays}
    return found


@pytest.mark.parametrize("kind, scheme", names.EVERY)
def test_every_tensor_of_a_real_model_has_its_place(kind, scheme):
    found = names.contents(kind, scheme)
    assert not found.unknown and not found.markers
    expected_spare = (
        SD2_UNUSED if "clip_h" in found.parts and scheme != "diffusers" else 0
    )
    assert len(found.ignored) == expected_spare
    placed = {
        part: {name: p.shape for name, p in parameters.items()}
        for part, parameters in found.parts.items()
    }
    assert placed == model_shapes(kind)


@pytest.mark.parametrize("kind", names.KINDS)
def test_single_files_and_folders_meet_where_other_converters_say(kind):
    ldm, diffusers = names.contents(kind, "ldm"), names.contents(kind, "diffusers")
    prefixes = names.PREFIXES[names.KINDS[kind][0]]
    for part, rows in names.rows(kind).items():
        theirs = {p.entry.name: ours for ours, p in diffusers.parts[part].items()}
        shared: dict[str, list[str]] = {}
        for ours, parameter in ldm.parts[part].items():
            shared.setdefault(parameter.entry.name, []).append(ours)
        expected: dict[str, list[str]] = {}
        for name, _, new, _ in rows:
            if new:
                expected.setdefault(prefixes[part] + name, []).append(theirs[new])
        assert shared == expected


def test_every_name_fits_one_rule_of_its_table():
    for part, rows in (
        *(("unet", rows) for rows in names.NAMES["unet"].values()),
        *((part, names.NAMES[part]) for part in ("vae", "clip_l", "clip_h", "clip_g")),
    ):
        for column in (0, 2):
            wanted = [row[column] for row in rows if row[column]]
            counts = [
                {len(list(rules.matches(name))) for name in wanted}
                for rules in RULESETS[part]
            ]
            assert {1} in counts
            assert all(count <= {0, 1} for count in counts)


def foreign(kind: str, scheme: str, part: str) -> set[str]:
    """The names of a real model's part that we take in."""
    if scheme == "ldm":
        prefix = names.PREFIXES[names.KINDS[kind][0]][part]
        return {prefix + row[0] for row in names.rows(kind)[part] if row[2]}
    return set(names.diffusers(kind)[part])


@pytest.mark.parametrize("kind", names.KINDS)
@pytest.mark.parametrize("source", ["ldm", "diffusers"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_goes_out_is_what_such_files_have(kind, source, scheme):
    base, rows = names.KINDS[kind][0], names.rows(kind)
    for part, parameters in names.contents(kind, source).parts.items():
        tensors = outgoing(part, scheme, parameters, base)
        assert {tensor.name for tensor in tensors} == foreign(kind, scheme, part)
        sources = [ours for tensor in tensors for ours in tensor.sources]
        assert sorted(sources) == sorted(parameters)
        shapes = {
            tensor.name: tensor.layout.theirs(
                *(mx.zeros(parameters[ours].shape) for ours in tensor.sources)
            ).shape
            for tensor in tensors
        }
        first = 0 if scheme == "ldm" else 2
        prefix = names.PREFIXES[base][part] if scheme == "ldm" else ""
        expected = {prefix + r[first]: tuple(r[first + 1]) for r in rows[part] if r[2]}
        assert shapes == expected


def test_a_base_unknown_is_written_as_for_a_part_by_itself():
    (tensor,) = outgoing("clip_g", "ldm", ["projection.weight"])
    assert tensor.name == "conditioner.embedders.1.model.text_projection"
    with pytest.raises(CheckpointError, match=r"unet's down\.7\.x has no place in ldm"):
        outgoing("unet", "ldm", ["down.7.x"])


def held(arrays: dict[str, np.ndarray]) -> dict[str, Entry]:
    return {
        name: Entry(
            Path("x"),
            name,
            "F32",
            array.shape,
            array.nbytes,
            lambda data=array: np.ascontiguousarray(data).view(np.uint8).reshape(-1),
        )
        for name, array in arrays.items()
    }


def values(entries: dict[str, Entry]) -> dict[str, np.ndarray]:
    parameters = identify(entries, lone="clip_g").parts["clip_g"]
    return {name: np.array(p.read()) for name, p in parameters.items()}


@pytest.fixture(scope="module")
def openclip():
    arrays = dict(np.load(OPENCLIP))
    made = {n[3:]: a for n, a in arrays.items() if n.startswith("hf.")}
    return {n: a for n, a in arrays.items() if not n.startswith("hf.")}, made


def as_sdcpp(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = names.PREFIXES["sdxl"]["clip_g"]
    new = names.NAMES["sdcpp"]["sdxl"]
    return {new[prefix + name]: array for name, array in arrays.items()}


@pytest.mark.parametrize(
    "form",
    [
        lambda a: a,
        lambda a: {f"model.{n}": x for n, x in a.items()},
        as_sdcpp,
    ],
    ids=["OpenCLIP", "in a checkpoint", "GGUF"],
)
def test_fused_rows_and_the_projection_are_what_diffusers_makes_of_them(form, openclip):
    theirs, made = openclip
    ours, expected = values(held(form(theirs))), values(held(made))
    assert ours.keys() == expected.keys() and len(ours) == 2 * 16 + 5
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_what_goes_out_is_the_fused_tensor_again(openclip):
    theirs, made = openclip
    parameters = identify(held(made), lone="clip_g").parts["clip_g"]
    for tensor in outgoing("clip_g", "ldm", parameters, "sdxl"):
        array = tensor.layout.theirs(*(parameters[n].read() for n in tensor.sources))
        name = tensor.name.removeprefix("conditioner.embedders.1.model.")
        np.testing.assert_array_equal(np.array(array), theirs.pop(name), err_msg=name)
    assert not theirs


@pytest.mark.parametrize("shape", [(), (7, 4)])
def test_a_fused_tensor_that_cannot_be_shared_out_is_an_error(shape):
    name = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    with pytest.raises(CheckpointError, match="in_proj_weight of shape .* cannot be 3"):
        identify({name: names.entry(name, shape)})


def test_a_name_with_something_before_or_after_is_unknown():
    name = "model.diffusion_model.input_blocks.1.0.in_layers.0.weight"
    for wrong in (
        f"x.{name}",
        f"{name}_scale",
        name.replace("blocks.1", "blocks.x"),
        name.replace("blocks.1", "blocks.{i}"),
        name.replace("blocks.1", "blocks.1000000000000"),
        name.replace("blocks.1", "blocks.١"),
    ):
        assert identify({wrong: names.entry(wrong, (320,))}).unknown.keys() == {wrong}


def test_one_table_serves_a_part():
    """Names of both kinds in one file: the fewer are unknown, not mixed in."""
    shapes = {
        **names.ldm("SD 1.x"),
        "first_stage_model.encoder.conv_norm_out.bias": (1,),
    }
    found = identify(names.described(shapes))
    assert found.unknown.keys() == {"first_stage_model.encoder.conv_norm_out.bias"}


def test_two_prefixes_for_one_part_are_an_error():
    shapes = {**names.ldm("SD 1.x"), "vae.decoder.conv_in.bias": (512,)}
    with pytest.raises(CheckpointError, match=r"both the vae's decoder\.conv_in\.bias"):
        identify(names.described(shapes))
