"""Train the text encoder and the UNet together, and sample from them.

The noise schedule is Stable Diffusion's: 1000 levels, betas linear in their roots from
0.00085 to 0.012, the UNet predicts the noise.
"""

import time
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from .architecture import END, LATENT, START, TOKENS
from .train_vae import Average, fraction, learning_rate

_DROPPED = 0.12  # share of captions replaced by none, for guidance
_GAMMA = 5.0  # Hang et al. 2023 (arXiv 2303.09556): loss weight min(SNR, gamma) / SNR
_NOISY = 250  # the first level whose noise is about as strong as the signal
_BLIND = 990  # from this level on, half of the inputs are noise alone


def alphas() -> torch.Tensor:
    """Share of the signal's variance at each of the 1000 levels."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def empty_tokens(count: int, device: torch.device) -> torch.Tensor:
    row = torch.tensor([START] + [END] * (TOKENS - 1), device=device)
    return row.expand(count, TOKENS)


class Denoiser(torch.nn.Module):
    """Tokens, noisy latents and levels → the noise."""

    def __init__(self, text: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text, self.unet = text, unet

    def forward(
        self, x: torch.Tensor, level: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        states = self.text(input_ids=tokens).last_hidden_state
        return self.unet(x, level, states).sample


def _levels(size: int, layout: bool, generator: torch.Generator) -> torch.Tensor:
    """Levels to train on: any, or for `layout` mostly the noisy ones.

    What goes where is decided while the noise still hides the picture. There the noise
    is easy to predict, and the error of a misplaced thing is lost in the sum.
    """
    device = generator.device
    level = torch.randint(1000, (size,), generator=generator, device=device)
    if not layout:
        return level
    high = torch.randint(_NOISY, 1000, (size,), generator=generator, device=device)
    coin = torch.rand((size,), generator=generator, device=device)
    last = torch.full_like(level, 999)
    return torch.where(coin < 0.1, level, torch.where(coin < 0.3, last, high))


def _example(
    clean: torch.Tensor, alpha: torch.Tensor, layout: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, levels, the noise to predict and the loss weights.

    Even the last level keeps 7 % of the signal, which sampling's first step, from noise
    alone, does not have. So half of the time the top levels get unrelated noise, and
    the target is what leads from it to the clean latents.
    """
    size, device = len(clean), clean.device
    level = _levels(size, layout, generator)
    noise = torch.randn(clean.shape, generator=generator, device=device)
    a = alpha[level][:, None, None, None]
    x = a.sqrt() * clean + (1 - a).sqrt() * noise
    coin = torch.rand((size,), generator=generator, device=device) < 0.5
    blind = (coin & (level >= _BLIND))[:, None, None, None]
    x = torch.where(blind, noise, x)
    target = (x - a.sqrt() * clean) / (1 - a).sqrt()
    ratio = (1 - a) / a  # turns the noise's squared error into the picture's
    weight = ratio.clamp(0.2, 100.0) if layout else (_GAMMA * ratio).clamp(max=1.0)
    return x, level, target, weight


def train(
    model: Denoiser,
    latents: torch.Tensor,
    tokens: torch.Tensor,
    seconds: float,
    size: int,
    generator: torch.Generator,
    compiled: bool,
    checkpoint: Callable[[Denoiser, int], None],
    every: float = 100.0,
    layout: bool = False,
) -> tuple[Denoiser, int]:
    """The averaged model and the number of steps.

    Args:
        latents: (N, 4, 16, 16), mean 0 and standard deviation 1.
        tokens: (N, C, 77), C captions for each.
        seconds: wall-clock time, compilation included.
        size: examples per step.
        checkpoint: called with the averaged model and the step every so many seconds.
        layout: train mostly on what decides where things go.
    """
    device = latents.device
    model = model.to(device, memory_format=torch.channels_last)
    average, alpha = Average(model, 0.9995), alphas().to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    forward = torch.compile(model, dynamic=False) if compiled else model
    nothing = empty_tokens(1, device)
    start, step, saved = time.monotonic(), 0, time.monotonic()
    while (done := fraction(start, seconds)) < 1:
        optimizer.param_groups[0]["lr"] = learning_rate(1e-3, step, done, 800)
        index = torch.randint(len(latents), (size,), generator=generator, device=device)
        which = torch.randint(
            tokens.shape[1], (size,), generator=generator, device=device
        )
        drop = torch.rand((size, 1), generator=generator, device=device) < _DROPPED
        words = torch.where(drop, nothing, tokens[index, which].long())
        clean = latents[index].float()
        x, level, target, weight = _example(clean, alpha, layout, generator)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            noise = forward(x, level, words)
        loss = (weight * (noise.float() - target).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update()
        if step % 500 == 0:
            value, now = loss.item(), time.monotonic() - start
            print(f"unet step {step} loss {value:.4f} {now:.0f} s", flush=True)
        step += 1
        if time.monotonic() - saved > every:
            checkpoint(average.module, step)
            saved = time.monotonic()
    return average.module, step


@torch.no_grad()
def sample(
    model: Denoiser,
    tokens: torch.Tensor,
    steps: int,
    guidance: float,
    ancestral: bool,
    seed: int,
) -> torch.Tensor:
    """(B, 4, 16, 16) latents of unit scale for (B, 77) tokens, by Euler's method.

    Levels are spaced evenly from 999 to 0, as in stable-diffusion.cpp's "discrete".
    """
    device, count = tokens.device, len(tokens)
    generator = torch.Generator(device).manual_seed(seed)
    alpha = alphas().to(device)
    levels = torch.linspace(999, 0, steps, device=device)
    sigmas = torch.cat([_sigma(levels, alpha), torch.zeros(1, device=device)])
    shape = (count, 4, LATENT, LATENT)
    x = sigmas[0] * torch.randn(shape, generator=generator, device=device)
    both = torch.cat([empty_tokens(count, device), tokens])
    for i in range(steps):
        sigma, target = sigmas[i], sigmas[i + 1]
        scaled = (x / (1 + sigma**2).sqrt()).repeat(2, 1, 1, 1)
        without, given = model(scaled, levels[i].expand(2 * count), both).chunk(2)
        clean = x - sigma * (without + guidance * (given - without))
        up = torch.zeros_like(sigma)
        if ancestral:
            up = (target**2 * (sigma**2 - target**2) / sigma**2).sqrt()
        down = (target**2 - up**2).sqrt()
        x = clean + (x - clean) * (down / sigma)
        x = x + up * torch.randn(shape, generator=generator, device=device)
    return x


def _sigma(levels: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Noise over signal at fractional levels, linear in the logarithm."""
    logs = ((1 - alpha) / alpha).sqrt().log()
    low = levels.floor().long()
    high = (low + 1).clamp(max=999)
    return torch.lerp(logs[low], logs[high], levels - low).exp()
