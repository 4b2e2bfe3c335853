"""What a picture is made from: one value for library, command line and metadata."""

from dataclasses import asdict, dataclass
from typing import Any

from .errors import ConfigError
from .sampling.noise import RNGS
from .sampling.samplers import SAMPLERS
from .sampling.schedules import SCHEDULES

SEEDS = 1 << 64


@dataclass(frozen=True)
class Request:
    """A picture to make. Names and defaults are those of stable-diffusion.cpp.

    Raises: ConfigError for a value out of range, naming the field.
    """

    prompt: str
    negative_prompt: str = ""
    width: int | None = None  # pixels, a multiple of 8; None: the model's own size
    height: int | None = None
    steps: int = 20
    cfg_scale: float = 7.0  # 1: the negative prompt is not used
    seed: int = 42  # of the first picture; picture i has seed + i; -1: random
    batch_count: int = 1
    sampling_method: str = "euler_a"  # see SAMPLERS
    scheduler: str = "discrete"  # see SCHEDULES
    rng: str = "cuda"  # see RNGS

    def __post_init__(self) -> None:
        for name, size in (("width", self.width), ("height", self.height)):
            if size is not None and (size < 8 or size % 8):
                near = max(8, round(size / 8) * 8)
                raise ConfigError(
                    f"{name} {size}: must be a multiple of 8, such as {near}"
                )
        for name in ("steps", "batch_count"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 0 <= self.cfg_scale < float("inf"):
            raise ConfigError(f"cfg_scale {self.cfg_scale}: must be at least 0")
        if self.seed < -1 or self.seed + self.batch_count > SEEDS:
            raise ConfigError(
                f"seed {self.seed}: must be from 0 to 2^64 - batch_count, or -1"
            )
        for name, known in (
            ("sampling_method", SAMPLERS),
            ("scheduler", SCHEDULES),
            ("rng", RNGS),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `Request(**request.to_dict()) == request`."""
        return asdict(self)
