"""What we write, loaded by diffusers, transformers and the gguf package, if installed.

pip install -e '.[peers]'; pytest -m peers tests/test_convert_peers.py
"""

from importlib import import_module
from pathlib import Path

import names
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_sd.convert import convert
from mlx_sd.convert.readers import read_file
from mlx_sd.convert.type_rules import TYPES
from mlx_sd.convert.writers.settings import settings
from mlx_sd.source import Source

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers", exc_type=ImportError)
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
make_models = import_module("make_models")  # which imports those
reference = import_module("reference")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def load(settings: dict, folder: str):
    """The model of a folder's config.json, without weights."""
    config = settings[f"{folder}/config.json"]
    with torch.device("meta"):
        if folder.startswith("text"):
            made = transformers.CLIPTextConfig.from_dict(config)
            return getattr(transformers, config["architectures"][0])(made)
        return getattr(diffusers, config["_class_name"]).from_config(config)


@pytest.mark.parametrize("kind", names.KINDS)
def test_diffusers_makes_the_same_models_of_our_settings(kind):
    source = Source(Path("x"), "x", names.contents(kind, "ldm"))
    ours = settings(source)
    for part, shapes in names.diffusers(kind).items():
        model = load(ours, names.FOLDERS[part])
        found = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        assert {n.removeprefix("text_model."): s for n, s in found.items()} == {
            n.removeprefix("text_model."): s for n, s in shapes.items()
        }
    index = ours["model_index.json"]
    pipeline = getattr(diffusers, index["_class_name"])
    wanted = set(pipeline._get_signature_keys(pipeline)[0])
    assert wanted - index.keys() <= set(pipeline._optional_components)
    scheduler = getattr(diffusers, index["scheduler"][1])
    told = ours["scheduler/scheduler_config.json"]
    used, unknown, _ = scheduler.extract_init_dict(told)
    assert not unknown


# Those that the gguf package quantises too.
EXACT = ("F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ours, made from one that diffusers wrote."""
    root = tmp_path_factory.mktemp("folder")
    make_models.write_folder(root / "published")
    convert(root / "published", root / "ours", type="f16")
    return root / "ours"


def state(model) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("text_model."): tensor.float().numpy()
        for name, tensor in model.state_dict().items()
    }


@pytest.fixture(scope="module")
def pipelines(folder):
    """By diffusers: of the folder it wrote, of ours made from that, of our file."""
    whole = diffusers.StableDiffusionPipeline
    convert(folder, folder.with_name("x.safetensors"))
    return [
        whole.from_pretrained(folder.with_name("published")),
        whole.from_pretrained(folder),
        whole.from_single_file(
            folder.with_name("x.safetensors"), config=str(folder), local_files_only=True
        ),
    ]


def test_diffusers_loads_our_folder_and_our_file_as_the_source(pipelines):
    for pipe in pipelines[1:]:
        for ours, theirs in (
            (pipe.unet, reference.unet("small")),
            (pipe.vae, reference.vae("small")),
            (pipe.text_encoder, reference.text_encoder("small")),
        ):
            expected = state(theirs)
            found = state(ours)
            assert found.keys() == expected.keys()
            for name in found:
                np.testing.assert_array_equal(found[name], expected[name])
        assert pipe.tokenizer("a red house").input_ids[0] == 998


def test_diffusers_paints_the_same_from_our_folder_and_our_file(pipelines):
    source, *ours = (
        pipe(
            "a red house",
            negative_prompt="rain",
            width=64,
            height=64,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(42),
            output_type="np",
        ).images
        for pipe in pipelines
    )
    assert source.std() > 0.05
    for pictures in ours:
        np.testing.assert_array_equal(pictures, source)


@pytest.mark.parametrize("kind", TYPES)
def test_the_gguf_package_reads_every_type_that_we_write(kind, tmp_path):
    rng = np.random.default_rng(3)
    values = rng.standard_normal((6, 512)).astype(np.float32)
    shapes = {
        "a.weight": (6, 512),
        "conv.weight": (2, 16, 96, 1),
        "row.weight": (1, 512),
    }
    arrays = {n: np.resize(values, shape) for n, shape in shapes.items()}
    save_file({**arrays, "n.bias": values[0]}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "a.gguf", type=kind)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    entries = read_file(tmp_path / "a.gguf")
    assert [tensor.name for tensor in reader.tensors] == list(entries)
    for tensor in reader.tensors:
        entry = entries[tensor.name]
        assert tensor.tensor_type.name == entry.dtype
        assert tensor.data.tobytes() == entry.raw().tobytes()
        wanted = arrays.get(tensor.name, values[0]).reshape(-1, entry.shape[-1])
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        assert np.sqrt(np.mean((theirs - wanted) ** 2)) < 0.3  # of values about 1
        if entry.dtype in EXACT:
            blocks = gguf.quantize(wanted, tensor.tensor_type)
            assert blocks.tobytes() == tensor.data.tobytes()
