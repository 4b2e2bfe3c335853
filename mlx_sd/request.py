"""What a picture is made from: one value for library, command line and metadata."""

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from . import caching
from .errors import ConfigError, unknown
from .reading import ImageLike, settled, uri
from .resize import RESIZE_MODES
from .sampling.names import resolve_sampler, resolve_scheduler
from .sampling.noise import RNGS
from .sampling.samplers import check
from .sampling.schedules import check_sigmas

SEEDS = 1 << 64
MOST = {"width": 1 << 15, "height": 1 << 15, "steps": 10_000, "batch_count": 100_000}
BACKTRACK = 74  # tokens, the most that comma_padding_backtrack can be
# What SDXL is told of a picture; each field holds two numbers of pixels.
SIZES = ("original_size", "crop", "target_size")
PICTURES = ("init_img", "mask", "ref_image")  # fields that hold one
# Field → those of which it needs one to have an effect. A field comes before those that
# need it.
NEEDS = {
    "strength": ("init_img",),
    "mask": ("init_img",),
    "extend": ("init_img",),
    "resize_mode": ("init_img", "ref_image"),
    "invert_mask": ("mask",),
    "mask_blur": ("mask", "extend"),
    "paste_back": ("mask", "extend"),
    "inpaint_full_res": ("mask", "extend"),
    "inpaint_full_res_padding": ("inpaint_full_res",),
}


@dataclass(frozen=True)
class Request:
    """A picture to make. Names and defaults are those of stable-diffusion.cpp.

    What is None is the model's own, which Pipeline.resolve puts in: see defaults.py.
    `sampling_method` and `scheduler` may be what another program calls them, such as
    "DPM++ 2M Karras"; the request holds our names (see sampling.names).

    Raises: ConfigError for a value out of range, naming the field.
    """

    prompt: str
    negative_prompt: str = ""
    width: int | None = None  # pixels, a multiple of 8
    height: int | None = None
    steps: int | None = None  # 20 for most; where `sigmas` are given: as they make
    cfg_scale: float | None = None  # 7 for most; 1: the negative prompt is not used
    seed: int = 42  # of the first picture; picture i has seed + i; -1: random
    batch_count: int = 1
    sampling_method: str | None = None  # see SAMPLERS; "euler_a" for most
    scheduler: str | None = None  # see SCHEDULES; None: the sampler's or model's own
    sigmas: tuple[float, ...] | None = None  # noise levels instead of a schedule's
    eta: float | None = None  # noise that a step adds; None: the sampler's own
    extra_sample_args: str = ""  # "key=value,…", of the sampler or the schedule
    flow_shift: float | None = None  # of flow matching; None: the prediction's own
    rng: str = "cuda"  # see RNGS
    sampler_rng: str | None = None  # for the noise in steps; None: `rng` goes on
    clip_skip: int | None = None  # 1: the last layer, 2: the one before; None: family's
    comma_padding_backtrack: int = 0  # tokens; see ClipTokenizer.chunks
    # SDXL's, (height, width) as in diffusers; None: those of the picture.
    original_size: tuple[int, int] | None = None  # before it was scaled and cropped
    crop: tuple[int, int] | None = None  # (top, left) where the crop began; None: 0, 0
    target_size: tuple[int, int] | None = None  # after that
    # The part of the steps before a refiner takes over; None: 0.8 if there is one.
    refiner_switch: float | None = None
    init_img: ImageLike | None = None  # the picture to start from
    strength: float = 0.75  # how much of the way from noise is walked with init_img
    resize_mode: str = "crop"  # how pictures get the size to paint; see RESIZE_MODES
    mask: ImageLike | None = None  # of init_img: white is repainted; None: all of it
    invert_mask: bool = False  # black is repainted
    mask_blur: float = 0  # pixels, sigma of the soft edge with which it is put back
    paste_back: bool = False  # leave each pixel as it was where the mask is black
    inpaint_full_res: bool = False  # paint what surrounds the mask alone, in full size
    inpaint_full_res_padding: int = 32  # pixels of init_img around the mask for that
    extend: tuple[int, ...] | None = None  # pixels to add: left, top, right, bottom
    ref_image: ImageLike | None = None  # the picture that an editing model is to edit
    img_cfg_scale: float | None = None  # how closely to keep to it; None: the family's
    cache_mode: str | None = None  # see CACHES; None: every step is computed
    cache_option: str = ""  # "key=value,…" of the cache

    def __post_init__(self) -> None:
        self._settle_sampling()
        self._settle_pictures()
        self._check_cache()
        self._settle_sizes()
        for name, size in (("width", self.width), ("height", self.height)):
            if size is not None and (size < 8 or size % 8):
                near = max(8, round(size / 8) * 8)
                raise ConfigError(
                    f"{name} {size}: must be a multiple of 8, such as {near}"
                )
        for name in ("steps", "batch_count"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ConfigError(f"{name} {count}: must be at least 1")
        for name, most in MOST.items():
            if (getattr(self, name) or 0) > most:
                raise ConfigError(f"{name} {getattr(self, name)}: {most} is the most")
        if self.cfg_scale is not None and not 0 <= self.cfg_scale < float("inf"):
            raise ConfigError(f"cfg_scale {self.cfg_scale}: must be at least 0")
        if self.refiner_switch is not None and not 0 <= self.refiner_switch <= 1:
            raise ConfigError(
                f"refiner_switch {self.refiner_switch}: must be from 0 to 1"
            )
        if self.seed < -1 or self.seed + self.batch_count > SEEDS:
            raise ConfigError(
                f"seed {self.seed}: must be from 0 to 2^64 - batch_count, or -1"
            )
        for name in ("rng", "sampler_rng"):
            rng = getattr(self, name)
            if rng not in RNGS and (rng is not None or name == "rng"):
                raise unknown(name, rng, RNGS)
        if not 0 <= self.comma_padding_backtrack <= BACKTRACK:
            raise ConfigError(
                f"comma_padding_backtrack {self.comma_padding_backtrack}: must be from "
                f"0 to {BACKTRACK}"
            )

    def _settle_sampling(self) -> None:
        """Put in our names, and the number of steps that listed levels make."""
        sampler = implied = None
        if self.sampling_method is not None:
            sampler, implied = resolve_sampler(self.sampling_method)
        named = self.scheduler and resolve_scheduler(self.scheduler)
        if implied and named and implied != named:
            raise ConfigError(
                f"sampling_method {self.sampling_method!r} means schedule {implied}, "
                f"scheduler says {named}; leave one out"
            )
        if self.sigmas is not None:
            levels = tuple(float(sigma) for sigma in self.sigmas)
            check_sigmas(levels)
            object.__setattr__(self, "sigmas", levels)
            object.__setattr__(self, "steps", len(levels) - 1)
            if implied or named:
                raise ConfigError(
                    f"sigmas are listed, and schedule {implied or named} is named; "
                    "leave one out"
                )
        object.__setattr__(self, "sampling_method", sampler)
        object.__setattr__(self, "scheduler", named or implied)
        if sampler is not None:
            check(sampler, self.eta)
        self.sample_args()

    def _settle_pictures(self) -> None:
        for name in PICTURES:
            object.__setattr__(self, name, settled(name, getattr(self, name)))
        self._settle_extend()
        for name, needed in NEEDS.items():
            given = getattr(self, name) != getattr(type(self), name)
            if given and not any(_is_set(getattr(self, other)) for other in needed):
                raise ConfigError(
                    f"{name}: has no effect without {' or '.join(needed)}; give that "
                    f"too, or leave {name} out"
                )
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength {self.strength:g}: must be from 0 to 1")
        scale = self.img_cfg_scale
        if scale is not None and not 0 <= scale < float("inf"):
            raise ConfigError(f"img_cfg_scale {scale:g}: must be at least 0")
        if self.resize_mode not in RESIZE_MODES:
            raise unknown("resize_mode", self.resize_mode, RESIZE_MODES)
        for name in ("mask_blur", "inpaint_full_res_padding"):
            if not 0 <= getattr(self, name) <= MOST["width"]:
                raise ConfigError(
                    f"{name} {getattr(self, name):g}: must be from 0 to {MOST['width']}"
                )

    def _settle_extend(self) -> None:
        """Four numbers, of which one is not 0; or None."""
        if self.extend is None:
            return
        sides = tuple(self.extend)
        whole = all(isinstance(side, int) for side in sides)
        if len(sides) != 4 or not whole or not 0 <= min(sides) <= max(sides) <= 1 << 15:
            shown = ",".join(map(str, sides))
            raise ConfigError(
                f"extend {shown:.100}: must be left,top,right,bottom in whole pixels, "
                "such as 0,0,64,0"
            )
        object.__setattr__(self, "extend", sides if any(sides) else None)

    def _check_cache(self) -> None:
        options = self.cache_options()
        if self.cache_mode is not None:
            caching.check(self.cache_mode, options)
        elif options:
            raise ConfigError(
                f"cache_option {self.cache_option!r:.100}: of no cache; give a "
                "cache_mode too"
            )

    def _settle_sizes(self) -> None:
        most = MOST["width"]
        for name in SIZES:
            if (pair := getattr(self, name)) is None:
                continue
            least = 0 if name == "crop" else 1
            if len(pair) != 2 or not all(least <= side <= most for side in pair):
                listed = ", ".join(map(str, pair))
                raise ConfigError(
                    f"{name} {listed:.50}: must be two numbers from {least} to {most}"
                )
            object.__setattr__(self, name, tuple(pair))

    def sample_args(self) -> dict[str, float]:
        """`extra_sample_args` by name. Raises: ConfigError if it is malformed."""
        return _numbers("extra_sample_args", self.extra_sample_args, "gamma=2")

    def cache_options(self) -> dict[str, float]:
        """`cache_option` by name. Raises: ConfigError if it is malformed."""
        return _numbers("cache_option", self.cache_option, "threshold=1.5")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `Request(**request.to_dict()) == request`.

        Pictures that are not in files become data URIs of PNG.
        """
        return self.settings() | {name: uri(getattr(self, name)) for name in PICTURES}

    def settings(self) -> dict[str, Any]:
        """JSON-able: all fields but those that hold a picture."""
        names = [field.name for field in fields(self)]
        return {name: getattr(self, name) for name in names if name not in PICTURES}


def _numbers(field: str, text: str, example: str) -> dict[str, float]:
    """Of "name=number,…". Raises: ConfigError if it is malformed."""
    found: dict[str, float] = {}
    for pair in filter(str.strip, re.split("[,;]", text)):
        key, _, value = pair.partition("=")
        try:
            found[key.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"{field}: {pair.strip()!r:.100} is not name=number, such as {example}"
            ) from None
    return found


@dataclass(frozen=True)
class Resolved(Request):
    """A request that leaves nothing open; see Pipeline.resolve."""

    width: int = 0
    height: int = 0
    steps: int = 0
    cfg_scale: float = 0.0
    sampling_method: str = ""


def effective(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of fields for Request those that have an effect beside the others."""
    kept = dict(given)
    for name, needed in NEEDS.items():
        if name in kept and not any(_is_set(kept.get(other)) for other in needed):
            del kept[name]
    return kept


def _is_set(value: Any) -> bool:
    return value is not None and value is not False


def override(found: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for Request, those of `given` before the others.

    Noise levels may be said in several ways, of which one replaces another: `sigmas`
    replace a schedule and its steps; either of these, or a sampler's name such as
    "DPM++ 2M Karras", replaces `sigmas`.

    Raises: ConfigError for an unknown sampler in `given`.
    """
    implied = resolve_sampler(given.get("sampling_method") or "euler")[1]
    replaced = set()
    if given.get("sigmas") is not None:
        replaced |= {"scheduler", "steps"}
    if implied:
        replaced |= {"scheduler", "sigmas"}
    if {"scheduler", "steps"} & given.keys():
        replaced.add("sigmas")
    kept = {name: value for name, value in found.items() if name not in replaced}
    return kept | dict(given)


def typed(name: str, value: Any) -> Any:
    """A field's value from a file in the field's own type; numbers may be text.

    Raises: ConfigError for a field that Request lacks, or another kind of value.
    """
    hints = get_type_hints(Request)
    if name not in hints:
        raise unknown("field", name, hints)
    try:
        return _coerced(value, hints[name])
    except ValueError:
        plain = isinstance(value, str | int | float | None)
        shown = f"{value!r:.100}" if plain else f"a {type(value).__name__}"
        wanted = str(getattr(hints[name], "__name__", hints[name]))
        raise ConfigError(f"{name}: {shown} is not {wanted}") from None


def _coerced(value: Any, hint: Any) -> Any:
    union = get_origin(hint) in (Union, types.UnionType)
    for option in get_args(hint) if union else (hint,):
        if get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(_coerced(v, get_args(option)[0]) for v in value)
        if type(value) is option:
            return value
        if option is int and isinstance(value, str):
            return int(value)
        if option is float and isinstance(value, str | int) and type(value) is not bool:
            return float(value)
    raise ValueError
