"""A request's way from noise to a clean latent: levels, sampler and random numbers."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from . import backend
from .caching import CACHES, Cache
from .codec import Draw
from .denoiser import Denoiser, Relay
from .errors import ConfigError, SDError
from .request import Resolved
from .sampling.noise import RNGS, generators, latent_noise
from .sampling.samplers import SAMPLERS, Step, check, walk
from .sampling.schedules import SCHEDULES, sigmas
from .source import Source


@dataclass(frozen=True)
class Progress:
    """A denoising step is done, or under way on a GPU: to look at it is to wait."""

    image: int  # from 0 to batch_count - 1
    step: int  # from 1 to steps
    steps: int
    sigma: float  # the noise level that was denoised from
    denoised: mx.array  # (1, h, w, C) the clean latent as predicted now
    latent: mx.array  # (1, h, w, C) with the noise that is still in it
    target: float  # the noise level of `latent`


class Walk:
    """The settings of a resolved request, checked against each other and the model.

    Raises: ConfigError if they do not fit.
    """

    def __init__(self, source: Source, request: Resolved):
        self.prediction = source.prediction
        if request.flow_shift is not None and not self.prediction.flow:
            raise ConfigError(
                f"flow_shift {request.flow_shift:g}: {source.name} is no flow model"
            )
        self.levels = source.levels(request.flow_shift)
        self._table, self._request = source.noise, request
        latent = source.family.latent
        self._shape = (
            request.height // latent.reduction,
            request.width // latent.reduction,
            latent.channels,
        )
        args = request.sample_args()
        self.sigmas = self._levels(source, request, args)
        if request.init_img is not None:
            self.sigmas = last_levels(self.sigmas, request.strength)
        if self.prediction.flow and self.sigmas[0] > 1:
            raise ConfigError(
                f"noise levels from {self.sigmas[0]:g}: those of a flow model are from "
                "1 down; take other sigmas, or another scheduler, such as "
                f"{self.prediction.scheduler}"
            )
        check(request.sampling_method, request.eta, args, self.prediction.flow)
        self._args = args
        self._begun: list[tuple[int, mx.array]] = []  # steps, and whether finite

    def _levels(
        self, source: Source, request: Resolved, args: dict[str, float]
    ) -> list[float]:
        """The noise levels to visit; takes what the schedule knows out of `args`."""
        if request.sigmas is not None or request.scheduler is None:
            return list(request.sigmas or ())
        known = SCHEDULES[request.scheduler].args
        height, width, _ = self._shape
        return sigmas(
            request.scheduler,
            request.steps,
            self.levels,
            family=source.kind.base,
            pixels=height * width,
            args={key: args.pop(key) for key in known if key in args},
        )

    @property
    def count(self) -> int:
        """Of steps."""
        return len(self.sigmas) - 1

    @property
    def cache(self) -> Callable[[], Cache] | None:
        """What makes the cache that the request names."""
        if self._request.cache_mode is None:
            return None
        make, options = CACHES[self._request.cache_mode], self._request.cache_options()
        evaluations = SAMPLERS[self._request.sampling_method].evaluations
        return partial(make, self.sigmas, self.prediction, evaluations, **options)

    def draw(self, seed: int) -> Draw:
        """The noise that pictures are encoded with; seeded as the first picture's."""
        rng = RNGS[self._request.rng](seed)
        return lambda: latent_noise(rng, *self._shape)

    def steps(
        self, seed: int, denoiser: Relay, latent: mx.array | None
    ) -> Iterator[Step]:
        """Each step of a picture; nothing is computed before it is asked for.

        Args:
            latent: (1, h, w, C) of the picture to start from; None: from noise alone.
        """
        request = self._request
        initial, later = generators(request.rng, request.sampler_rng, seed)
        x = latent_noise(initial, *self._shape)
        if latent is None:
            x = x * self.sigmas[0]
        else:
            x = self.prediction.noised(latent, x, self.sigmas[0])
        uncond = SAMPLERS[request.sampling_method].uncond
        yield from walk(
            request.sampling_method,
            denoiser.guided if uncond else denoiser,
            x,
            self.sigmas,
            lambda: latent_noise(later, *self._shape),
            eta=request.eta,
            flow=self.prediction.flow,
            table=self._table,
            seed=seed,
            args=self._args,
        )

    def take(
        self, walked: Iterator[Step], image: int, steps: range, denoiser: Denoiser
    ) -> Generator[Progress, None, mx.array]:
        """Yields some steps of a picture; returns its latent after them, (1, h, w, C).

        A GPU is given the next step before this one is waited for, so that it always
        has work; the last ones of a picture are left to wait().

        Args:
            walked: that many of `steps`.

        Raises: SDError if a latent is not finite.
        """
        denoiser.begin(steps.start)
        for step in walked:
            number, x = step.index + 1, step.x
            self._begun.append((number, mx.isfinite(x).all()))
            mx.async_eval(x, step.denoised, self._begun[-1][1])
            self.wait(left=backend.run_ahead())
            yield Progress(
                image=image,
                step=number,
                steps=self.count,
                sigma=step.sigma,
                denoised=step.denoised,
                latent=x,
                target=self.sigmas[number],
            )
            denoiser.step = number
        return x

    def wait(self, left: int = 0) -> None:
        """Until no more steps are under way than that.

        Raises: SDError if a latent is not finite.
        """
        while len(self._begun) > left:
            number, finite = self._begun.pop(0)
            if not finite:
                raise SDError(
                    f"step {number} of {self.count} gave values that are no "
                    "numbers; try again with --dtype f32"
                )


def last_levels(sigmas: list[float], strength: float) -> list[float]:
    """The levels to walk from a picture that is noised to the first of them.

    Of n steps the last ⌊n·strength⌋ and one more are taken, as in A1111 and
    stable-diffusion.cpp; diffusers takes one fewer.
    """
    steps = len(sigmas) - 1
    return sigmas[steps - min(int(steps * strength), steps - 1) - 1 :]
