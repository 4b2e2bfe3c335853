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
_BLIND = 0.2  # share of examples that are noise alone, at the last level
_NOISY = 400  # from this level on, half of the inputs show less than their signal


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


def _weights(alpha: torch.Tensor) -> torch.Tensor:
    """Loss weights of the noise's squared error, at signal shares `alpha`.

    The noise's error times (1 - a) / a is the picture's. That is weighted by the
    signal-to-noise ratio, kept within 1 (Salimans and Ho 2022, arXiv 2202.00512) and 5
    (Hang et al. 2023, arXiv 2303.09556). What goes where is decided while noise still
    hides the picture; with equal weights on the noise's error, a misplaced thing would
    cost next to nothing there.
    """
    ratio = alpha / (1 - alpha)
    return ratio.clamp(1, 5) / ratio


def _example(
    clean: torch.Tensor, alpha: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, levels, the noise to predict and the loss weights.

    Even the last level's noise lets a large thing through: where it is can be seen, and
    the words for it need not be read. Sampling starts from noise alone, and trained so
    the model would obey "left" and "right" no better than chance. So some examples show
    no signal and many of the noisy ones too little; the target is then what leads from
    there to the clean latents.
    """
    size, device = len(clean), clean.device
    level = torch.randint(1000, (size,), generator=generator, device=device)
    noise = torch.randn(clean.shape, generator=generator, device=device)
    coin, shown = torch.rand((2, size), generator=generator, device=device)
    blind = coin < _BLIND
    level = torch.where(blind, len(alpha) - 1, level)
    dimmed = (level >= _NOISY) & (coin < (1 + _BLIND) / 2)
    shown = torch.where(blind, 0.0, torch.where(dimmed, shown, 1.0))
    a, shown = alpha[level][:, None, None, None], shown[:, None, None, None]
    x = a.sqrt() * shown * clean + (1 - a).sqrt() * noise
    target = (x - a.sqrt() * clean) / (1 - a).sqrt()
    return x, level, target, _weights(a)


class Trainer:
    """A denoiser, its optimiser and its average.

    On a GPU a whole step is recorded once as a CUDA graph and then replayed: launching
    its thousands of small kernels one by one takes longer than running them.
    """

    def __init__(self, model: Denoiser, size: int, device: str, compiled: bool):
        """
        Args:
            size: examples per step.
            compiled: fuse kernels by torch.compile, which takes minutes.
        """
        self.model = model.to(device, memory_format=torch.channels_last)
        self.average = Average(self.model, 0.9995)
        self.device, self.size = torch.device(device), size
        self._rate = torch.zeros((), device=device)
        on_gpu = self.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self._rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
            capturable=on_gpu,
        )
        self._forward = torch.compile(model, dynamic=False) if compiled else model
        x = torch.randn((size, 4, LATENT, LATENT), device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        level = torch.zeros((size,), dtype=torch.long, device=device)
        weight = torch.ones((size, 1, 1, 1), device=device)
        words = empty_tokens(size, self.device).clone()
        self._inputs = (x, level, x.clone(), weight, words)
        self._replay = self._recorded() if on_gpu else self._step

    def _step(self) -> None:
        x, level, target, weight, words = self._inputs
        self._optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            noise = self._forward(x, level, words)
        self._loss = (weight * (noise.float() - target).square()).mean()
        self._loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()

    def _recorded(self) -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # settles the libraries' choices of kernels
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for state in self._optimizer.state.values():  # of steps of length 0
            for value in state.values():
                value.zero_()
        return graph.replay

    def train(
        self,
        latents: torch.Tensor,
        tokens: torch.Tensor,
        seconds: float,
        generator: torch.Generator,
        checkpoint: Callable[[int], None],
        every: float = 120.0,
    ) -> int:
        """The number of steps done.

        Args:
            latents: (N, 4, 16, 16), mean 0 and standard deviation 1.
            tokens: (N, C, 77), C captions for each.
            seconds: wall-clock time.
            checkpoint: called with the step every so many seconds.
        """
        size, device = self.size, self.device
        alpha, nothing = alphas().to(device), empty_tokens(1, device)
        start, step, saved = time.monotonic(), 0, time.monotonic()
        while (done := fraction(start, seconds)) < 1:
            self._rate.fill_(learning_rate(1e-3, step, done, 800))
            index = torch.randint(
                len(latents), (size,), generator=generator, device=device
            )
            which = torch.randint(
                tokens.shape[1], (size,), generator=generator, device=device
            )
            drop = torch.rand((size, 1), generator=generator, device=device) < _DROPPED
            words = torch.where(drop, nothing, tokens[index, which].long())
            example = _example(latents[index].float(), alpha, generator)
            for held, value in zip(self._inputs, (*example, words), strict=True):
                held.copy_(value)
            self._replay()
            self.average.update()
            if step % 500 == 0:
                value, now = self._loss.item(), time.monotonic() - start
                print(f"unet step {step} loss {value:.4f} {now:.0f} s", flush=True)
            step += 1
            if time.monotonic() - saved > every:
                checkpoint(step)
                saved = time.monotonic()
        return step


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
