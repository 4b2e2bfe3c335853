"""Golden names, inputs and outputs of tiny autoencoders at full size.

Run: python tests/golden/make_taesd.py (torch, diffusers; seconds). TAESD and TAEF1 are
diffusers' own; TAEF2, which it lacks, is built here of torch's layers, and checked
with the real weights where they are.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import seeded
from provenance import FOLDER, record

REAL = Path(__file__).parents[3] / "shared/real-weights"
NOTES = """
- `taesd.json`: names and shapes; of TAESD and TAEF1 as diffusers has them, of TAEF2 as
  its authors number them, with `encoder.` and `decoder.` before the numbers.
- `taesd.npz`: `<kind>_encoded` = encoder(`<kind>_image`), the image in [-1, 1];
  `<kind>_picture` = decoder(`<kind>_latent`), about [-1, 1]. NCHW.
"""


class Block(nn.Module):
    def __init__(self, pooled: bool):
        super().__init__()
        conv = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(64, 256, 1, bias=False),
                nn.GroupNorm(4, 256),
                nn.ReLU(),
                nn.Conv2d(256, 64, 1, bias=False),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "pool"):
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(z / 3)


class Taef2(nn.Module):
    """Encoder and decoder as sequences, of and to pictures in [0, 1]."""

    def __init__(self):
        super().__init__()
        encoder = [nn.Conv2d(3, 64, 3, padding=1), Block(False)]
        for pooled in (False, False, True):
            encoder.append(nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False))
            encoder += [Block(pooled) for _ in range(3)]
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(64, 32, 3, padding=1))
        decoder = [Clamp(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
        for pooled in (True, False, False):
            decoder += [Block(pooled) for _ in range(3)]
            decoder.append(nn.Upsample(scale_factor=2))
            decoder.append(nn.Conv2d(64, 64, 3, padding=1, bias=False))
        self.decoder = nn.Sequential(
            *decoder, Block(False), nn.Conv2d(64, 3, 3, padding=1)
        )

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self.encoder((image + 1) / 2)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return 2 * self.decoder(z) - 1


def check_with_real_weights():
    model, golden = Taef2(), np.load(REAL / "taef2_reference.npz")
    for coder in ("encoder", "decoder"):
        state = torch.load(REAL / f"taef2_{coder}.pth")
        getattr(model, coder).load_state_dict(state)
    image, latent = (
        torch.from_numpy(golden[n]).permute(2, 0, 1)[None] for n in ("image", "latent")
    )
    for ours, name in (
        (model.encoder(image), "latent"),
        (model.decoder(latent), "decoded"),
    ):
        error = np.abs(ours[0].permute(1, 2, 0).numpy() - golden[name]).max()
        print(f"  TAEF2 {name}: {error:.1e} from the reference")
        if error > 1e-4:
            raise SystemExit("TAEF2 is not as published")


def make(kind: str, model: nn.Module, channels: int) -> dict[str, np.ndarray]:
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    state = {n: torch.from_numpy(a) for n, a in seeded.weights(shapes).items()}
    model.load_state_dict(state)
    rng = np.random.default_rng(channels)
    image = np.tanh(rng.standard_normal((1, 3, 64, 48), np.float32))
    latent = 2 * rng.standard_normal((1, channels, 8, 6), np.float32)
    encoded, picture = (
        model.encode(torch.from_numpy(image)),
        model.decode(torch.from_numpy(latent)),
    )
    found = {
        "image": image,
        "encoded": getattr(encoded, "latents", encoded).numpy(),
        "latent": latent,
        "picture": getattr(picture, "sample", picture).numpy(),
    }
    for name in ("encoded", "picture"):
        print(f"  {kind} {name}: deviation {found[name].std():.3f}")
    return {f"{kind}_{name}": array for name, array in found.items()}


@torch.no_grad()
def main():
    if REAL.exists():
        check_with_real_weights()
    models = {
        "TAESD": (AutoencoderTiny(latent_channels=4), 4),
        "TAEF1": (AutoencoderTiny(latent_channels=16), 16),
        "TAEF2": (Taef2(), 32),
    }
    arrays, names = {}, {}
    for kind, (model, channels) in models.items():
        arrays |= make(kind, model, channels)
        names[kind] = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    np.savez_compressed(FOLDER / "taesd.npz", **arrays)
    (FOLDER / "taesd.json").write_text(json.dumps(names) + "\n")
    record("make_taesd.py", ("torch", "diffusers", "numpy"), NOTES)


if __name__ == "__main__":
    main()
