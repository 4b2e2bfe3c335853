"""Networks of every family at full size beside diffusers and transformers, measured.

Run: python tests/family_components.py [KIND …]   prints the table (5 GB, 10 minutes on
two cores); the tests hold the same numbers to their bounds. No network is ever whole in
memory; see streamed.py.
"""

import sys
from collections.abc import Callable

import components
import mlx.core as mx
import names
import numpy as np
import streamed
from components import KEPT, NUMBERS, SIDES, TEXTS, TIME, TOKENS, UNETS, given
from parity import GOLDEN, error, nchw, nhwc

from mlx_sd.convert.detect import family
from mlx_sd.families import FAMILIES, Conditioning, PictureSizes

BOUND = 1e-4  # relative, float32
SCHEMES = {"ldm": "a single file", "diffusers": "a folder", "sdcpp": "a GGUF file"}


def golden(name: str) -> np.ndarray:
    return np.load(GOLDEN / "components.npz")[name]


def unet(kind: str, scheme: str = "ldm") -> float:
    contents = streamed.contents(kind, scheme, "unet")
    found = family(contents)
    if found is None or found.name != kind:
        raise ValueError(f"{kind} is taken for {found}")
    model = streamed.model("unet", contents.parts["unet"])
    config, rules = model.config, FAMILIES[found.base]
    text = Conditioning(mx.array(given("context", 1, TOKENS, config.context_width)))
    if width := config.vector_width:
        top, left, *_ = NUMBERS[width][2:]
        sizes = PictureSizes(NUMBERS[width][:2], (top, left), NUMBERS[2816][4:])
        pooled = given("pooled", 1, width - 256 * len(NUMBERS[width]))
        text = Conditioning(text.context, mx.array(pooled))
        text = rules.condition("a text", text, sizes, negative=False)
    latent = given("latent", 1, config.in_channels, *SIDES)
    out = model(nhwc(latent), mx.array([TIME]), text.context, text.vector)
    return error(nchw(out), golden(kind))


def text(part: str, scheme: str = "ldm") -> float:
    """The error of the states that the family reads, and of bigG's pooled text."""
    kind = {"clip_h": "SD 2.x", "clip_g": "SDXL"}[part]
    parameters = streamed.contents(kind, scheme, part).parts[part]
    clip, ids = streamed.model(part, parameters), mx.array(components.ids())
    if part == "clip_h":
        return error(clip(ids).hidden[..., ::KEPT], golden("clip_h_last"))
    out = clip(ids, clip_skip=2, normed=False)
    return max(
        error(out.hidden[..., ::KEPT], golden("clip_g_penultimate")),
        error(out.pooled, golden("clip_g_pooled")),
    )


def vae(scheme: str = "ldm") -> float:
    """SDXL's decoder, from a latent in its scale."""
    parameters = streamed.contents("SDXL", scheme, "vae").parts["vae"]
    z = FAMILIES["sdxl"].latent.to_vae(nhwc(given("z", 1, 4, 8, 12)))
    return error(nchw(streamed.model("vae", parameters).decode(z)), golden("vae"))


def measures() -> dict[str, Callable[[], float]]:
    """Row of the table → its error."""
    rows: dict[str, Callable[[], float]] = {}
    for kind in UNETS:
        count = sum(int(np.prod(row[1])) for row in names.rows(kind)["unet"])
        rows[f"{kind} | UNet, {count / 1e6:.0f} M"] = lambda kind=kind: unet(kind)
    for part in TEXTS:
        for scheme, form in SCHEMES.items():
            label = {"clip_h": "SD 2.x | OpenCLIP-H", "clip_g": "SDXL | OpenCLIP-bigG"}
            named = f"{label[part]} of {form}"
            rows[named] = lambda part=part, scheme=scheme: text(part, scheme)
    rows["SDXL | VAE decoder"] = vae
    return rows


def main(wanted: list[str]) -> None:
    print("| model | component | largest relative error |\n|---|---|---|")
    for name, measure in measures().items():
        if not wanted or name.split(" | ")[0] in wanted:
            print(f"| {name} | {measure():.1e} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
