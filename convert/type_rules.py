"""Which type each tensor is written in, by stable-diffusion.cpp's rules.

They go by name: what is small, or reacts badly to rounding, keeps the type it has.
Ours differ in one point: no tensor of one axis is quantised, so norm weights are not.
"""

import re
from dataclasses import dataclass

from ..errors import ConfigError
from .dtypes import DTYPES

# As users spell them; DTYPES has them in upper case.
TYPES = (
    *("f32", "f16", "bf16"),
    *("q8_0", "q5_0", "q5_1", "q4_0", "q4_1"),
    *("q2_K", "q3_K", "q4_K", "q5_K", "q6_K"),
)
FLOATS = ("F32", "F16", "BF16")

_KEPT_ENDINGS = (".bias", ".scale", ".weight_scale")
_KEPT_PARTS = (
    *("img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in."),
    *("final_layer.", "x_embedder.", "t_embedder.", "y_embedder."),
    *("pos_embed", "context_embedder.", "time_embed.", "label_emb.", "embedding"),
)


@dataclass(frozen=True)
class TypeRules:
    """The type to give each tensor: that of the first pattern found in its name."""

    default: str | None = None  # for names that no pattern finds; None keeps theirs
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()

    @staticmethod
    def parse(type: str | None, tensor_type_rules: str | None) -> "TypeRules":
        """
        Args:
            type: one of TYPES, in any case.
            tensor_type_rules: `regex=type,regex=type`, as stable-diffusion.cpp takes
                them: a pattern is searched for, may hold "=" but no comma.

        Raises: ConfigError for an unknown type or a malformed rule.
        """
        patterns = []
        for rule in (tensor_type_rules or "").split(","):
            if rule:
                pattern, _, wanted = rule.rpartition("=")
                if not pattern:
                    raise ConfigError(
                        f"tensor type rule {rule!r}: expected regex=type, "
                        "several separated by commas"
                    )
                try:
                    patterns.append((re.compile(pattern), parse_type(wanted)))
                except re.error as error:
                    raise ConfigError(
                        f"tensor type rule {rule!r}: not a regular expression ({error})"
                    ) from error
        return TypeRules(None if type is None else parse_type(type), tuple(patterns))

    def wanted(self, name: str) -> str | None:
        for pattern, dtype in self.patterns:
            if pattern.search(name):
                return dtype
        return self.default

    @property
    def mentioned(self) -> tuple[str, ...]:
        """Every type that may be asked for."""
        found = [self.default, *(dtype for _, dtype in self.patterns)]
        return tuple(dtype for dtype in found if dtype is not None)


def keeps_type(name: str, shape: tuple[int, ...], wanted: str) -> bool:
    """Whether a tensor is left in the type that it has, when `wanted` is asked for.

    Args:
        shape: as in torch. Rows, along the last axis, are divided into whole blocks.
    """
    if name.endswith(_KEPT_ENDINGS) or any(part in name for part in _KEPT_PARTS):
        return True
    return wanted not in FLOATS and (
        len(shape) < 2 or shape[-1] % DTYPES[wanted].block != 0
    )


def parse_type(text: str) -> str:
    """Raises: ConfigError if it is not one of TYPES."""
    if text.lower() not in map(str.lower, TYPES):
        raise ConfigError(f"type {text!r} is unknown; choose from {', '.join(TYPES)}")
    return text.upper()
