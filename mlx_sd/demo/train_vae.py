"""Train the autoencoder: pictures to 16x16x4 latents and back.

The latents are normalised per channel by the batch, as in batch normalisation, and
noise is added before decoding. That takes the place of the usual KL term: the scale is
fixed, so the encoder must spread its information out to survive the noise, and the
decoder learns to forgive the denoiser small errors.
"""

import math
import time
from copy import deepcopy

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .architecture import SCALING
from .corpus import Corpus

_NOISE = 0.12  # largest usual standard deviation of the noise, latents having 1
_POSTERIOR = 0.02  # standard deviation that the encoder will report, latents having 1


def fraction(start: float, seconds: float) -> float:
    """How much of the time is used up, 0..1."""
    return min((time.monotonic() - start) / seconds, 1.0)


def learning_rate(peak: float, step: int, done: float, warm_up: int) -> float:
    """Linear warm-up by steps, then a half cosine by time, down to 1 % of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return peak * min((step + 1) / warm_up, 1.0) * (0.01 + 0.99 * cosine)


class Average:
    """An exponential moving average of a module's parameters."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.source, self.decay, self.steps = module, decay, 0
        self.module = deepcopy(module).requires_grad_(False)
        self.pairs = (list(self.module.parameters()), list(module.parameters()))

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averaged, current = self.pairs
        torch._foreach_lerp_(averaged, [p.detach() for p in current], 1 - decay)


def _loss(model: AutoencoderKL, pictures: torch.Tensor, sigma: torch.Tensor):
    mean = model.quant_conv(model.encoder(pictures))[:, :4].float()
    std, centre = torch.std_mean(mean, dim=(0, 2, 3), keepdim=True)
    latents = (mean - centre) / (std + 1e-4)
    latents = latents + sigma * torch.randn_like(latents)
    output = model.decoder(model.post_quant_conv(latents)).float()
    error = output - pictures
    slopes = F.l1_loss(output.diff(dim=-1), pictures.diff(dim=-1))
    slopes = slopes + F.l1_loss(output.diff(dim=-2), pictures.diff(dim=-2))
    # keeps the unnormalised latents in a sane range, at no cost to the picture
    tether = 1e-3 * (centre.square().mean() + (std - 1).square().mean())
    return error.abs().mean() + 4 * error.square().mean() + slopes + tether


def train(
    model: AutoencoderKL,
    corpus: Corpus,
    seconds: float,
    size: int,
    generator: torch.Generator,
    compiled: bool,
) -> tuple[AutoencoderKL, int]:
    """The averaged model, not yet calibrated, and the number of steps.

    Args:
        seconds: wall-clock time, compilation included.
        size: pictures per step.
    """
    device = corpus.pictures.device
    model = model.to(device, memory_format=torch.channels_last)
    average = Average(model, 0.999)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    loss_of = torch.compile(_loss, dynamic=False) if compiled else _loss
    start, step = time.monotonic(), 0
    while (done := fraction(start, seconds)) < 1:
        optimizer.param_groups[0]["lr"] = learning_rate(1e-3, step, done, 300)
        if step % 50 == 0:
            corpus.refresh()
        pictures = corpus.batch(size, generator)
        sigma = torch.randn((size, 1, 1, 1), generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_of(model, pictures, _NOISE * sigma.abs())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update()
        if step % 200 == 0:
            value, now = loss.item(), time.monotonic() - start
            print(f"vae step {step} loss {value:.4f} {now:.0f} s", flush=True)
        step += 1
    return average.module, step


@torch.no_grad()
def calibrate(model: AutoencoderKL, pictures: torch.Tensor, size: int = 256) -> None:
    """Fold the latents' mean and scale into the 1x1 convolutions around them.

    Afterwards latents times SCALING have mean 0 and standard deviation 1 per channel
    on `pictures`, (N, 3, H, W), and the posterior's spread is a small constant.
    """
    parts = [model.quant_conv(model.encoder(p))[:, :4] for p in pictures.split(size)]
    std, mean = torch.std_mean(torch.cat(parts).double(), dim=(0, 2, 3))
    conv, back = model.quant_conv, model.post_quant_conv
    factor = (1 / (std * SCALING)).float()
    conv.weight[:4] *= factor[:, None, None, None]
    conv.bias[:4] = (conv.bias[:4] - mean.float()) * factor
    conv.weight[4:] = 0
    conv.bias[4:] = 2 * math.log(_POSTERIOR / SCALING)
    back.weight *= SCALING


@torch.no_grad()
def psnr(model: AutoencoderKL, pictures: torch.Tensor, size: int = 256) -> float:
    """Mean over pictures, (N, 3, H, W) in -1..1, of the peak signal-to-noise in dB."""
    values = []
    for part in pictures.split(size):
        latents = model.encode(part).latent_dist.mode()
        output = model.decode(latents).sample.clamp(-1, 1)
        output = ((output + 1) * 127.5).round() / 127.5 - 1
        values.append((output.float() - part.float()).square().mean(dim=(1, 2, 3)) / 4)
    return (-10 * torch.cat(values).log10()).mean().item()
