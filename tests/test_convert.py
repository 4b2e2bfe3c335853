"""Conversions: what is written, under which name and type, and what is said of it."""

import gzip
import json
import logging
from pathlib import Path

import checkpoints
import mlx.core as mx
import names
import numpy as np
import pytest
import seeded
from gguf_parts import gguf, shape_key, tensor
from safetensors.numpy import load_file, save_file

from mlx_sd import CheckpointError
from mlx_sd.convert import convert
from mlx_sd.convert.detect import identify
from mlx_sd.convert.dtypes import DTYPES
from mlx_sd.convert.ggml import GGML, TYPE_IDS
from mlx_sd.convert.ggml.quantize import QUANTIZERS
from mlx_sd.convert.plan import Planner
from mlx_sd.convert.readers import read_file
from mlx_sd.convert.single import single_file
from mlx_sd.convert.type_rules import TypeRules
from mlx_sd.errors import ConfigError
from mlx_sd.opening import open_source
from mlx_sd.source import Source

GOLDEN = Path(__file__).parent / "golden"
UNET, VAE, TEXT = seeded.UNET, seeded.VAE, seeded.TEXT
SDCPP = json.loads(gzip.decompress((GOLDEN / "sdcpp_types.json.gz").read_bytes()))


@pytest.fixture
def folder(tmp_path, arrays):
    checkpoints.write_tokenizer(tmp_path / "model", 1000)
    return checkpoints.write_folder(tmp_path / "model", arrays)


def rng(*shape) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def stored(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name → type, shape and bytes in the file."""
    return {
        n: (e.dtype, e.shape, e.raw().tobytes()) for n, e in read_file(path).items()
    }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(
        array.dtype == expected[name].dtype and np.array_equal(array, expected[name])
        for name, array in found.items()
    )


def written(source: Path, target: Path, **options) -> dict[str, np.ndarray]:
    convert(source, target, **options)
    return load_file(target)


# Types


@pytest.mark.parametrize("case", SDCPP["cases"], ids=lambda case: "-".join(case[:3]))
def test_types_are_stable_diffusion_cpps_but_for_norms(case, tmp_path):
    dtype, kind, rules, numbers = case
    shapes = dict.fromkeys(SDCPP["names"], (2, 256)) | seeded.sd1_shapes()
    source = open_source(checkpoints.hollow(tmp_path / "x.safetensors", shapes, dtype))
    planner = Planner(TypeRules.parse(kind, rules), TYPE_IDS)
    found = {t.name: t.dtype for t in single_file(source, None, planner)}
    theirs = [SDCPP["ggml"][str(number)] for number in numbers]
    expected = dict(zip(SDCPP["names"], theirs, strict=True))
    norms = {
        name
        for name, theirs in expected.items()
        if theirs in GGML and len(shapes[name]) == 1
    }
    assert found == expected | dict.fromkeys(norms, dtype)
    assert all("norm" in n or ".0.weight" in n for n in norms)
    assert list(planner.notices()) == []


def test_a_gguf_file_is_stable_diffusion_cpps_to_the_byte(tmp_path):
    convert(GOLDEN / "sdcpp_small.safetensors", tmp_path / "x.gguf", type="q8_0")
    ours, theirs = (tmp_path / "x.gguf"), GOLDEN / "sdcpp_small.gguf"
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_is_quantised_passes_through_untouched(tmp_path):
    save_file({"a.weight": rng(8, 512), "b.weight": rng(4, 32)}, tmp_path / "a.sft")
    convert(tmp_path / "a.sft", tmp_path / "a.gguf", type="q4_K")
    convert(tmp_path / "a.gguf", tmp_path / "b.gguf")
    convert(tmp_path / "a.gguf", tmp_path / "c.gguf", type="q4_K")
    assert stored(tmp_path / "a.gguf")["a.weight"][0] == "Q4_K"
    for other in ("b.gguf", "c.gguf"):
        assert (tmp_path / other).read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_blocks_stay_only_in_rows_that_they_divide(small, tmp_path, caplog):
    # diffusers has matrices where single files have 1x1 convolutions, of rows of one.
    options = {"type": "q8_0", "names": "diffusers"}
    convert(small, tmp_path / "a.gguf", **options)
    convert(tmp_path / "a.gguf", tmp_path / "b.gguf")
    before, after = stored(tmp_path / "a.gguf"), read_file(tmp_path / "b.gguf")
    name = "vae.encoder.mid_block.attentions.0.to_q.weight"
    entry = after[VAE + "encoder.mid.attn_1.q.weight"]
    assert before[name][0] == "Q8_0"
    assert (entry.dtype, entry.shape) == ("F16", (128, 128, 1, 1))
    values = DTYPES["Q8_0"].decode(np.frombuffer(before[name][2], np.uint8))
    found = np.array(entry.read()).reshape(-1)
    np.testing.assert_array_equal(found, np.array(values).astype(np.float16))
    assert "tensors of Q8_0 become F16: 8;" in caplog.text


def test_rows_that_comfyui_gguf_reshaped_become_float(tmp_path):
    blocks = QUANTIZERS["Q8_0"](rng(9, 32))
    data = gguf(
        tensor("a.weight", (32, 9), TYPE_IDS["Q8_0"]),
        metadata=[shape_key("a.weight", 8, 4, 3, 3)],
        data=blocks.tobytes(),
    )
    (tmp_path / "a.gguf").write_bytes(data)
    convert(tmp_path / "a.gguf", tmp_path / "b.gguf")
    entry = read_file(tmp_path / "b.gguf")["a.weight"]
    assert (entry.dtype, entry.shape) == ("F16", (8, 4, 3, 3))


@pytest.mark.parametrize(
    "target, options, expected",
    [
        ("x.gguf", {"type": "q4_0"}, "Q4_0"),
        ("x.safetensors", {}, "F16"),
        ("x.safetensors", {"type": "f32"}, "F32"),
    ],
)
def test_quantising_twice_is_said(target, options, expected, tmp_path, caplog):
    save_file({"a.weight": rng(8, 512)}, tmp_path / "a.sft")
    convert(tmp_path / "a.sft", tmp_path / "a.gguf", type="q5_1")
    convert(tmp_path / "a.gguf", tmp_path / target, **options)
    assert f"tensors of Q5_1 become {expected}: 1; what quantising took" in caplog.text
    before, after = (
        np.array(read_file(tmp_path / name)["a.weight"].read().astype(mx.float32))
        for name in ("a.gguf", target)
    )
    assert np.abs(after - before).max() <= (0.3 if expected == "Q4_0" else 1e-3)


def test_types_that_nobody_reads_become_the_next_that_can_hold_them(tmp_path, caplog):
    shapes = {"a.weight": (2, 4), "b.weight": (2, 4)}
    checkpoints.hollow(tmp_path / "a.safetensors", shapes, "F8_E4M3")
    save_file({"a": np.array([1 / 3]), "i": np.arange(3)}, tmp_path / "b.safetensors")
    a = written(tmp_path / "a.safetensors", tmp_path / "a2.safetensors")
    b = written(tmp_path / "b.safetensors", tmp_path / "b2.safetensors")
    assert {array.dtype for array in a.values()} == {np.dtype(np.float16)}
    assert b["a"].dtype == np.float32 and b["a"] == np.float32(1 / 3)
    np.testing.assert_array_equal(b["i"], np.arange(3))
    assert "tensors of F8_E4M3 become F16: 2" in caplog.text
    assert "tensors of F64 become F32: 1" in caplog.text


def test_scales_of_8_bit_floats_are_multiplied_out(tmp_path):
    header = {
        "a.weight": {"dtype": "F8_E4M3", "shape": [1, 4], "data_offsets": [4, 8]},
        "a.scale_weight": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    text = json.dumps(header).encode()
    codes = bytes([0x38, 0x40, 0xB8, 0x00])  # 1, 2, -1, 0
    data = len(text).to_bytes(8, "little") + text + np.float32(3).tobytes() + codes
    (tmp_path / "a.safetensors").write_bytes(data)
    found = written(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    np.testing.assert_array_equal(found["a.weight"], [[3, 6, -3, 0]])


def test_bfloat16_is_rounded_to_nearest_even(tmp_path):
    # 1 + 2^-8 lies between 1 and 1 + 2^-7, 1 + 3·2^-8 between that and 1 + 2^-6.
    values = np.array([[1 + 2**-8, 1 + 3 * 2**-8, 3e38, np.inf, np.nan]], np.float32)
    save_file({"a.weight": values}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", type="bf16")
    _, _, data = stored(tmp_path / "b.safetensors")["a.weight"]
    wide = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    expected = [1, 1 + 2**-6, values[0, 2], np.inf, np.nan]
    np.testing.assert_allclose(wide, expected, rtol=2**-9)
    assert wide[0] == 1 and wide[1] == 1 + 2**-6


@pytest.mark.parametrize(
    "value, kind, target",
    [
        (7e4, "f16", "x.safetensors"),
        (3.4e38, "bf16", "x.safetensors"),
        (7e4, "q8_0", "x.gguf"),
        (np.nan, "q4_K", "x.gguf"),
        (np.inf, "q5_0", "x.gguf"),
    ],
)
def test_numbers_that_would_be_lost_are_an_error(value, kind, target, tmp_path):
    weights = rng(2, 256)
    weights[1, 77] = value
    save_file({"a.weight": weights}, tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError, match=r"a\.weight holds numbers beyond"
    ) as error:
        convert(tmp_path / "a.safetensors", tmp_path / target, type=kind)
    assert kind.upper() in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


# Names


@pytest.mark.parametrize("kind", ["SD 1.x", "SD 2.x", "SDXL", "SDXL Refiner"])
@pytest.mark.parametrize("scheme", ["ldm", "diffusers"])
def test_a_single_file_has_the_names_and_shapes_of_its_authors(kind, scheme):
    source = Source(Path("x"), "x", names.contents(kind, scheme))
    tensors = single_file(source, "ldm", Planner(TypeRules(), ["F16"]))
    expected, prefixes = names.ldm(kind), names.PREFIXES[names.KINDS[kind][0]]
    if scheme == "diffusers":  # in which SD 2.x's encoder goes without its last layer
        expected = {
            prefixes[part] + row[0]: tuple(row[1])
            for part, rows in names.rows(kind).items()
            for row in rows
            if row[2]
        }
    assert {tensor.name: tensor.shape for tensor in tensors} == expected


def test_a_safetensors_file_has_the_sources_tensors(small, arrays, tmp_path):
    found = written(small, tmp_path / "x.safetensors")
    assert same(found, arrays)
    assert read_file(tmp_path / "x.safetensors").keys() == arrays.keys()


def test_a_folder_becomes_the_file_and_the_file_the_folder(folder, arrays, tmp_path):
    assert same(written(folder, tmp_path / "x.safetensors"), arrays)
    convert(folder, tmp_path / "again")
    for part, (name, stem) in checkpoints.FOLDERS.items():
        found = load_file(tmp_path / "again" / name / f"{stem}.safetensors")
        assert same(found, checkpoints.in_diffusers(part, arrays))


def test_a_file_can_have_diffusers_names(small, arrays, tmp_path):
    found = written(small, tmp_path / "x.safetensors", names="diffusers")
    expected = {
        f"{name}.{tensor}": array
        for part, (name, _) in checkpoints.FOLDERS.items()
        for tensor, array in checkpoints.in_diffusers(part, arrays).items()
    }
    assert same(found, expected)


def test_a_part_alone_keeps_to_names_without_a_prefix(arrays, tmp_path):
    vae = {n.removeprefix(VAE): a for n, a in arrays.items() if n.startswith(VAE)}
    save_file(checkpoints.in_diffusers("vae", arrays), tmp_path / "a.safetensors")
    assert same(written(tmp_path / "a.safetensors", tmp_path / "b.safetensors"), vae)
    text = checkpoints.in_diffusers("clip_l", arrays)
    save_file(text, tmp_path / "c.safetensors")
    assert same(written(tmp_path / "c.safetensors", tmp_path / "d.safetensors"), text)


def test_parts_of_their_own_make_one_file(arrays, tmp_path):
    paths = {}
    for part, prefix in (("vae", VAE), ("clip_l", TEXT), ("diffusion_model", UNET)):
        paths[part] = tmp_path / f"{part}.safetensors"
        found = {n.removeprefix(prefix): a for n, a in arrays.items() if prefix in n}
        save_file(found, paths[part])
    convert(None, tmp_path / "x.safetensors", **paths)
    assert same(load_file(tmp_path / "x.safetensors"), arrays)


def test_what_merely_resembles_a_part_keeps_its_names(arrays, tmp_path):
    net = {
        name: array
        for name, array in checkpoints.in_diffusers("unet", arrays).items()
        if not name.startswith("up_blocks")
    }
    net["controlnet_cond_embedding.conv_in.weight"] = np.ones((2, 2), np.float16)
    save_file(net, tmp_path / "a.safetensors")
    assert same(written(tmp_path / "a.safetensors", tmp_path / "b.safetensors"), net)
    with pytest.raises(ConfigError, match="can only keep their names"):
        convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", names="ldm")


def test_fused_tensors_of_a_foreign_file_stay_one(tmp_path):
    fused = {"transformer.resblocks.0.attn.in_proj_weight": rng(96, 32), "x": rng(1)}
    save_file(fused, tmp_path / "a.safetensors")
    assert same(written(tmp_path / "a.safetensors", tmp_path / "b.safetensors"), fused)


@pytest.mark.parametrize("name", ["pytorch_zip.ckpt", "pytorch_legacy.ckpt"])
def test_a_pytorch_checkpoint_becomes_safetensors(name, tmp_path):
    golden = np.load(GOLDEN / "tensors.npz")
    convert(GOLDEN / name, tmp_path / "x.safetensors")
    found = read_file(tmp_path / "x.safetensors")
    assert found.keys() <= set(golden.files) and len(found) == 30
    bits = {n for n in golden.files if "bfloat16" in n or "float8" in n}  # not values
    for key in found.keys() - bits:
        values = np.array(found[key].read().astype(mx.float32))
        np.testing.assert_array_equal(values, golden[key].astype(np.float32))


# What goes along, and what does not


def test_buffers_of_training_go_and_markers_stay(arrays, tmp_path, caplog):
    path = tmp_path / "a.safetensors"
    extra = seeded.extra_buffers() | {"v_pred": np.zeros(0, np.float32)}
    save_file(arrays | extra | {"stray.weight": rng(2, 2)}, path)
    with caplog.at_level(logging.INFO):
        found = written(path, tmp_path / "b.safetensors", type="f16")
    assert found.keys() - arrays.keys() == {"alphas_cumprod", "v_pred", "stray.weight"}
    np.testing.assert_array_equal(found["alphas_cumprod"], extra["alphas_cumprod"])
    assert "no picture needs them: " in caplog.text
    for words in ("11 (noise schedule)", "3 (moving average kept for training)"):
        assert words in caplog.text
    assert "unknown tensors kept: 1, first 'stray.weight'" in caplog.text


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf"])
def test_an_empty_marker_is_still_read_in_what_is_written(arrays, tmp_path, suffix):
    path, target = tmp_path / "a.safetensors", tmp_path / f"b{suffix}"
    save_file(arrays | {"v_pred": np.zeros(0, np.float32)}, path)
    convert(path, target)
    contents = identify(read_file(target))
    assert contents.markers.keys() == {"v_pred"} and not contents.unknown


def test_a_folder_has_no_place_for_unknown_tensors(folder, tmp_path, caplog):
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "stray": rng(2)}, path)
    with caplog.at_level(logging.INFO):
        convert(folder, tmp_path / "b")
    assert "unknown tensors left out: 1, first 'vae/stray'" in caplog.text
    assert same(
        written(folder, tmp_path / "c.safetensors"),
        {**written(tmp_path / "b", tmp_path / "d.safetensors"), "vae.stray": rng(2)},
    )


def test_title_and_licence_go_along_but_not_hashes(arrays, tmp_path, caplog):
    told = {"modelspec.license": "MIT", "modelspec.hash_sha256": "0x1", "format": "x"}
    save_file({"a.weight": rng(2, 2)}, tmp_path / "a.safetensors", told)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", type="f16")
    data = (tmp_path / "b.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"modelspec.license": "MIT", "format": "pt"}
    with caplog.at_level(logging.INFO):
        convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    assert "metadata left out: modelspec.license" in caplog.text


def test_every_tensor_begins_at_a_multiple_of_its_values_size(tmp_path):
    source = {"a": rng(3).astype("f2"), "b": rng(3), "c": np.arange(3), "d": rng(1) > 0}
    save_file(source, tmp_path / "a.safetensors")
    assert same(written(tmp_path / "a.safetensors", tmp_path / "b.safetensors"), source)
    data = (tmp_path / "b.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    for name, fields in header.items():
        assert (8 + size + fields["data_offsets"][0]) % source[name].itemsize == 0
