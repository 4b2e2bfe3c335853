"""The bundled model's networks, in torch, and its folder in the diffusers layout.

Only training imports this module: torch, diffusers and transformers are not needed to
run the model.
"""

import gzip
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIZE = 128  # pixels
LATENT = SIZE // 8
WIDTH = 192  # of the text states
TOKENS = 77
VOCABULARY = 4096  # 512 byte symbols, merges, start and end of text
START, END = VOCABULARY - 2, VOCABULARY - 1
SCALING = 0.18215


def text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=WIDTH // 64,
            max_position_embeddings=TOKENS,
            hidden_act="quick_gelu",
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=END,
        )
    )


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,  # diffusers' old name: 8 heads at every level
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        scaling_factor=SCALING,
    )


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def write_tokenizer(folder: Path, clip_merges: Path) -> None:
    """CLIP's byte-pair tokenizer cut down to its first merges.

    Args:
        folder: gets vocab.json, merges.txt and the two small configurations.
        clip_merges: OpenAI's `bpe_simple_vocab_16e6.txt.gz`.
    """
    lines = gzip.decompress(clip_merges.read_bytes()).decode().split("\n")
    merges = lines[1 : 1 + VOCABULARY - 2 - 512]
    symbols = _byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols)]
    words += ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    if len(vocabulary) != VOCABULARY:
        raise ValueError(f"{len(vocabulary)} distinct symbols, not {VOCABULARY}")
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    header = "#version: 0.2"
    (folder / "merges.txt").write_text("\n".join([header, *merges, ""]), "utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "do_lower_case": True,
        "add_prefix_space": False,
        **special,
    }
    for name, value in (
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", config),
    ):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")


def _byte_symbols() -> list[str]:
    """GPT-2's printable character for each byte, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def save(
    folder: Path,
    text: CLIPTextModel,
    denoiser: UNet2DConditionModel,
    autoencoder: AutoencoderKL,
) -> None:
    """Write the model as float16 in diffusers' layout.

    `folder`/tokenizer must exist already; the networks are converted in place.
    """
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    kept = {p: p.read_bytes() for p in (folder / "tokenizer").iterdir()}
    StableDiffusionPipeline(
        vae=autoencoder.half(),
        text_encoder=text.half(),
        tokenizer=tokenizer,
        unet=denoiser.half(),
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            num_train_timesteps=1000,
            prediction_type="epsilon",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    _prefix_text_encoder(folder / "text_encoder" / "model.safetensors")
    for path in (folder / "tokenizer").iterdir():  # newer writers add other forms
        path.unlink()
    for path, data in kept.items():
        path.write_bytes(data)


def _prefix_text_encoder(path: Path) -> None:
    """Newer transformers drop "text_model.", which SD 1.x folders all have."""
    prefix = "text_model."
    tensors = load_file(path)
    named = {prefix + k.removeprefix(prefix): v for k, v in tensors.items()}
    save_file(named, path, {"format": "pt"})
