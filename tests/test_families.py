"""Networks of every family, live against diffusers and transformers, at small widths.

pip install -e '.[peers]'; pip install stable-diffusion-cpp-python; pytest -m peers
"""

from importlib import import_module
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sd.build import build
from mlx_sd.convert.detect import family, identify
from mlx_sd.convert.readers import read_file

for package in ("diffusers", "transformers", "gguf", "stable_diffusion_cpp"):
    pytest.importorskip(package, exc_type=ImportError)
torch = pytest.importorskip("torch")
make_names = import_module("make_names")  # which imports those
save_file = import_module("safetensors.torch").save_file

pytestmark = [
    pytest.mark.peers,
    # The peers' own warnings are theirs to mend.
    pytest.mark.filterwarnings("ignore"),
]
BOUND = 1e-5  # relative; both compute in float32


def saved(path: Path, state: dict) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def error(ours: mx.array, theirs) -> float:
    expected = theirs.numpy()
    return np.linalg.norm(np.array(ours) - expected) / np.linalg.norm(expected)


def narrow(kind: str) -> dict:
    """The kind's UNet with 64 channels at its finest level, its heads as wide."""
    changes = {**make_names.UNET, **make_names.UNETS[kind]}
    widths = changes["block_out_channels"]
    changes["block_out_channels"] = tuple(64 * x // widths[0] for x in widths)
    if changes["attention_head_dim"] != 8:
        heads = tuple(x // widths[0] for x in widths)
        changes["attention_head_dim"] = heads
    return changes


@pytest.mark.parametrize("kind", make_names.UNETS)
def test_unets_of_every_family_are_those_of_diffusers(kind, tmp_path):
    torch.manual_seed(0)
    theirs = make_names.unet_model(narrow(kind), device="cpu")
    theirs.eval().requires_grad_(False)
    path = saved(tmp_path / "unet.safetensors", theirs.state_dict())
    contents = identify(read_file(path))
    assert family(contents).name == kind

    x, t = torch.randn(2, 4, 16, 16), torch.tensor([10.0, 700.0])
    context = torch.randn(2, 7, theirs.config.cross_attention_dim)
    added, vector = {}, None
    if width := theirs.config.projection_class_embeddings_input_dim:
        count = 5 if "Refiner" in kind else 6  # numbers beside the pooled text
        pooled, numbers = torch.randn(2, width - 256 * count), torch.rand(2, count)
        added = {"text_embeds": pooled, "time_ids": 1000 * numbers}
        waves = theirs.add_time_proj(1000 * numbers.flatten()).reshape(2, -1)
        vector = mx.array(torch.cat([pooled, waves], dim=1).numpy())
    expected = theirs(x, t, context, added_cond_kwargs=added).sample
    inputs = (x.permute(0, 2, 3, 1), t, context)
    unet = build("unet", contents.parts["unet"], mx.float32)
    found = unet(*(mx.array(i.numpy()) for i in inputs), vector)
    assert error(found, expected.permute(0, 2, 3, 1)) < BOUND


def test_an_openclip_encoder_is_that_of_transformers(tmp_path):
    width, layers, vocabulary = 128, 3, 100
    rng = np.random.default_rng(0)
    shapes = make_names.openclip(width, layers)
    shapes["token_embedding.weight"] = np.zeros((vocabulary, width))
    arrays = {
        name: rng.normal(size=array.shape, scale=0.05).astype("f4")
        for name, array in shapes.items()
    }
    config = make_names.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
        vocab_size=vocabulary,
        hidden_act="gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    theirs = make_names.CLIPTextModelWithProjection(config).eval()
    made = make_names.by_diffusers("clip_g", arrays)
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in made.items()})

    prefix = make_names.TEXTS["clip_g"][0]
    state = {prefix + name: torch.from_numpy(a) for name, a in arrays.items()}
    contents = identify(read_file(saved(tmp_path / "x.safetensors", state)))
    clip = build("clip_g", contents.parts["clip_g"], mx.float32)
    tokens = rng.integers(0, vocabulary - 2, (2, 77))
    tokens[:, 20:] = vocabulary - 1
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens), output_hidden_states=True)
    found = clip(mx.array(tokens), clip_skip=2, normed=False)
    assert error(found.hidden, expected.hidden_states[-2]) < BOUND
    assert error(found.pooled, expected.text_embeds) < BOUND
