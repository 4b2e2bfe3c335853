"""Golden names: every tensor of every family, as each kind of file calls it.

Run: python tests/golden/make_names.py (torch, diffusers, transformers,
stable-diffusion-cpp-python, gguf; 1 min).
Names and shapes are those of diffusers' and transformers' own models. What they are
called in single files is for converters of others to say: they rename tensors that
carry their number, so which became which can be seen in what they made.
"""

import gzip
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import reference
import seeded
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from provenance import FOLDER, record
from safetensors.numpy import save_file
from stable_diffusion_cpp import stable_diffusion_cpp as sdcpp
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

NOTES = """
`names.json.gz`, rows of [LDM name, LDM shape, diffusers name, diffusers shape]:
- `small`: part → rows of the small SD 1.x of `seeded.py`; LDM names with prefixes.
- `unet` (by kind of model), `vae`, `clip_l`, `clip_h`, `clip_g`: rows without prefixes.
  One LDM tensor may be several of diffusers', and null is none: SD 2.x's last layer.
- `sdcpp`: base → LDM name → the name that stable-diffusion.cpp gives it in a GGUF file,
  of the text encoders; names of UNet and VAE stay.

LDM names of UNets are stable-diffusion.cpp's; diffusers' converter, which does not know
them all, agrees. `openclip.npz`: a small OpenCLIP encoder, and under `hf.` what
diffusers makes of it.
"""

CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "levels": (CROSS, CROSS, CROSS, PLAIN),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
SD2 = {
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "levels": (PLAIN, CROSS, CROSS),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = {
    **SDXL,
    "block_out_channels": (384, 768, 1536, 1536),
    "levels": (PLAIN, CROSS, CROSS, PLAIN),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
BK_BASE = {"layers_per_block": 1}
BK_SMALL = {**BK_BASE, "mid_block_type": None}
TINY = {
    **BK_SMALL,
    "block_out_channels": (320, 640, 1280),
    "levels": (CROSS, CROSS, CROSS),
}
UNETS = {  # what differs from SD 1.x
    "SD 1.x": {},
    "SD 1.x (BK-SDM Base)": BK_BASE,
    "SD 1.x (BK-SDM Small)": BK_SMALL,
    "SD 1.x Tiny UNet": TINY,
    "SDXS (512-DS)": {**TINY, "levels": (PLAIN, CROSS, CROSS)},
    "SD 2.x": SD2,
    "SD 2.x (BK-SDM Base)": {**SD2, **BK_BASE},
    "SD 2.x (BK-SDM Small)": {**SD2, **BK_SMALL},
    "SD 2.x Tiny UNet": {**SD2, **TINY, "attention_head_dim": (5, 10, 20)},
    "SDXS (09)": {
        **SD2,
        **TINY,
        "attention_head_dim": (5, 10, 20),
        "only_cross_attention": (True, False, False),
    },
    "SDXL": SDXL,
    "SDXL (SSD1B)": {
        **SDXL,
        "transformer_layers_per_block": (1, 2, 4),
        "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
        "mid_block_type": "UNetMidBlock2D",
    },
    "SDXL (Vega)": {
        **SDXL,
        "transformer_layers_per_block": (1, 1, 2),
        "mid_block_type": "UNetMidBlock2D",
    },
    "SDXL Refiner": REFINER,
}
KNOWN_TO_DIFFUSERS = ("SD 1.x", "SD 2.x", "SDXL", "SDXL Refiner")

# Prefix, width, layers in single files and in diffusers folders, projection.
TEXTS = {
    "clip_h": ("cond_stage_model.model.", 1024, 24, 23, False),
    "clip_g": ("conditioner.embedders.1.model.", 1280, 32, 32, True),
}
# The width of these tensors tells stable-diffusion.cpp the family. Of the refiner,
# which it does not know, it renames the blocks as in SD 2.x and the rest as in SDXL.
TOKENS = "text_model.embeddings.token_embedding.weight"
SD1_MARKS, SD2_MARKS = {f"te.{TOKENS}": 768}, {f"te.{TOKENS}": 1024}
SDXL_MARKS = {f"te.{TOKENS}": 768, f"te.1.{TOKENS}": 1280}
MARKS = {  # by the width of the UNet's text states
    768: (SD1_MARKS,),
    1024: (SD2_MARKS,),
    2048: (SDXL_MARKS,),
    1280: (SD2_MARKS, SDXL_MARKS),
}


def unet_model(changes: dict, device: str = "meta") -> UNet2DConditionModel:
    config = {**UNET, **changes}
    levels = config.pop("levels")
    config["down_block_types"] = [level.format("Down") for level in levels]
    config["up_block_types"] = [level.format("Up") for level in levels[::-1]]
    with torch.device(device):
        return UNet2DConditionModel(**config)


def renamed_by_sdcpp(names: list[str], marks: dict[str, int]) -> dict[str, str]:
    """Old name → new. `marks`: token embeddings, by width, that tell the family."""
    every = list(dict.fromkeys([*names, *marks]))
    tagged = {
        name: np.full((1, marks.get(name, 1)), tag, np.float32)
        for tag, name in enumerate(every)
    }
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old.safetensors", Path(folder) / "new.gguf"
        save_file(tagged, old)
        if not sdcpp.convert(str(old).encode(), b"", str(new).encode(), 0, b"", True):
            raise RuntimeError("stable-diffusion.cpp could not convert")
        tensors = gguf.GGUFReader(new).tensors
        found = {every[int(t.data.flat[0])]: t.name for t in tensors}
    return {name: found[name] for name in names}


def unet_rows(kind: str) -> list[list]:
    model = unet_model(UNETS[kind])
    shapes = {name: list(array.shape) for name, array in model.state_dict().items()}
    names = {f"unet.{name}": seeded.UNET + name for name in shapes}
    ldm: dict[str, str] = {}
    for marks in MARKS[model.config.cross_attention_dim]:
        made = renamed_by_sdcpp(list(names), marks)
        ldm = {old: new for old, new in made.items() if new != names[old]} | ldm
    assert ldm.keys() == names.keys()
    rows = [
        [ldm[f"unet.{name}"].removeprefix(seeded.UNET), shape, name, shape]
        for name, shape in shapes.items()
    ]
    if kind in KNOWN_TO_DIFFUSERS:
        tagged = {
            seeded.UNET + row[0]: torch.full((1,) * len(row[1]), float(i))
            for i, row in enumerate(rows)
        }
        back = reference.convert_ldm_unet_checkpoint(tagged, model.config)
        assert {int(tag.item()): name for name, tag in back.items()} == {
            i: row[2] for i, row in enumerate(rows)
        }
    for channels in (8, 9):  # editing and inpainting: another first convolution
        other = unet_model({**UNETS[kind], "in_channels": channels}).state_dict()
        changed = {n for n, array in other.items() if list(array.shape) != shapes[n]}
        assert other.keys() == shapes.keys() and changed == {"conv_in.weight"}
    return rows


def openclip(width: int, layers: int) -> dict[str, np.ndarray]:
    """An encoder as OpenCLIP writes it, each number another one."""
    shapes = {
        "positional_embedding": (77, width),
        "token_embedding.weight": (3, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, width),
    }
    for i in range(layers):
        for name, *shape in (
            ("ln_1", width),
            ("attn.in_proj", 3 * width, width),
            ("attn.out_proj", width, width),
            ("ln_2", width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            joint = "_" if name.endswith("in_proj") else "."
            layer = f"transformer.resblocks.{i}.{name}{joint}"
            shapes |= {f"{layer}weight": tuple(shape), f"{layer}bias": (shape[0],)}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    numbers = np.arange(ends[-1], dtype=np.float32)
    return {
        name: part.reshape(shape)
        for (name, shape), part in zip(
            shapes.items(), np.split(numbers, ends[:-1]), strict=True
        )
    }


def by_diffusers(part: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    width = arrays["text_projection"].shape[0]
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    prefix = TEXTS[part][0]
    tensors = {prefix + n: torch.from_numpy(a) for n, a in arrays.items()}
    made = convert_open_clip_checkpoint(model, tensors, prefix)
    return {name: tensor.numpy() for name, tensor in made.items()}


def text_rows(part: str) -> list[list]:
    """In whose tensor each number of diffusers' is found tells the LDM name."""
    _, width, layers, kept, projection = TEXTS[part]
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=kept,
        num_attention_heads=width // 64,
        projection_dim=width,
        vocab_size=49408,
    )
    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    real = {
        n.removeprefix("text_model."): a.shape for n, a in model.state_dict().items()
    }
    small = openclip(4, layers)
    owners = {int(array.flat[0]): name for name, array in small.items()}
    starts = np.array(sorted(owners))

    def owner(array: np.ndarray) -> str:
        return owners[int(starts[starts <= array.min()].max())]

    def full(name: str) -> list[int]:
        sizes = {3: 49408, 4: width, 12: 3 * width, 16: 4 * width}
        return [sizes.get(size, size) for size in small[name].shape]

    rows = []
    for name, array in by_diffusers(part, small).items():
        ldm, inner = owner(array), name.removeprefix("text_model.")
        if inner in real:
            rows.append([ldm, full(ldm), name, list(real.pop(inner))])
    assert not real, real
    used = {row[0] for row in rows}
    rows += [[name, full(name), None, None] for name in small if name not in used]
    return rows


def gguf_names(base: str, names: dict[str, list[str]]) -> dict[str, str]:
    """`names`: prefix → names behind it, of single files."""
    marks = {
        "sd1": {f"cond_stage_model.transformer.{TOKENS}": 768},
        "sd2": {"cond_stage_model.model.token_embedding.weight": 1024},
        "sdxl": {f"conditioner.embedders.0.transformer.{TOKENS}": 768},
    }[base]
    full = [prefix + name for prefix, inner in names.items() for name in inner]
    first = f"{seeded.UNET}input_blocks.0.0.weight"
    found = renamed_by_sdcpp([*full, first], marks)
    assert found.pop(first) == first
    same = {name for name in found if name.startswith((seeded.UNET, seeded.VAE))}
    assert all(found[name] == name for name in same)
    return {name: new for name, new in found.items() if name not in same}


def renamed(prefix: str, shapes: seeded.Shapes, convert) -> dict[str, str]:
    """LDM name → diffusers name."""
    names = [name for name in shapes if name.startswith(prefix)]
    tagged = {
        name: torch.full((1,) * len(shapes[name]), float(number))
        for number, name in enumerate(names)
    }
    return {names[int(tag.item())]: new for new, tag in convert(tagged).items()}


def sd1_rows(size: str, part: str) -> list[list]:
    """Of seeded.py's SD 1.x, with prefixes."""
    shapes = reference.SHAPES[size]()
    if part == "unet":
        model, prefix = reference.unet(size), seeded.UNET
        names = renamed(
            prefix,
            shapes,
            lambda t: reference.convert_ldm_unet_checkpoint(t, model.config),
        )
    elif part == "vae":
        model, prefix = reference.vae(size), seeded.VAE
        names = renamed(
            prefix,
            shapes,
            lambda t: reference.convert_ldm_vae_checkpoint(t, model.config),
        )
    else:
        model, prefix = reference.text_encoder(size), seeded.TEXT
        names = {n: n.removeprefix(prefix) for n in shapes if n.startswith(prefix)}
        if isinstance(model, CLIPTextModel):  # published files keep the root
            names = {ldm: f"text_model.{name}" for ldm, name in names.items()}
    own = {
        k.removeprefix("text_model."): v.shape for k, v in model.state_dict().items()
    }
    assert {name.removeprefix("text_model.") for name in names.values()} == own.keys()
    return [
        [ldm, list(shapes[ldm]), new, list(own[new.removeprefix("text_model.")])]
        for ldm, new in names.items()
    ]


def bare(rows: list[list], prefix: str) -> list[list]:
    return [[row[0].removeprefix(prefix), *row[1:]] for row in rows]


def main():
    found = {
        "small": {part: sd1_rows("small", part) for part in ("unet", "vae", "clip_l")},
        "unet": {kind: unet_rows(kind) for kind in UNETS},
        "vae": bare(sd1_rows("full", "vae"), seeded.VAE),
        "clip_l": bare(
            sd1_rows("full", "clip_l"), seeded.TEXT.removesuffix("text_model.")
        ),
        **{part: text_rows(part) for part in TEXTS},
    }
    seeds = bare(sd1_rows("full", "unet"), seeded.UNET)
    assert sorted(map(str, seeds)) == sorted(map(str, found["unet"]["SD 1.x"]))
    first, second, third = (
        [row[0] for row in found[part]] for part in ("clip_l", "clip_h", "clip_g")
    )
    found["sdcpp"] = {
        "sd1": gguf_names("sd1", {"cond_stage_model.transformer.": first}),
        "sd2": gguf_names("sd2", {TEXTS["clip_h"][0]: second}),
        "sdxl": gguf_names(
            "sdxl",
            {
                "conditioner.embedders.0.transformer.": first,
                TEXTS["clip_g"][0]: third,
                seeded.UNET: [row[0] for row in found["unet"]["SDXL"]],
                seeded.VAE: [row[0] for row in found["vae"]],
            },
        ),
    }
    text = json.dumps(found, separators=(",", ":")).encode()
    (FOLDER / "names.json.gz").write_bytes(gzip.compress(text, mtime=0))
    small = openclip(4, 2)
    made = {
        f"hf.{name}": array for name, array in by_diffusers("clip_g", small).items()
    }
    np.savez_compressed(FOLDER / "openclip.npz", **small, **made)
    packages = (
        *("torch", "diffusers", "transformers"),
        *("stable-diffusion-cpp-python", "gguf"),
    )
    record("make_names.py", packages, NOTES)


if __name__ == "__main__":
    main()
