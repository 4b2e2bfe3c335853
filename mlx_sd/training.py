"""What a model's files say of how it was trained: its noise, what its UNet predicts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .convert.readers import Entry
from .errors import CheckpointError, ConfigError
from .sampling.levels import (
    BETAS,
    STEPS,
    EdmLevels,
    NoiseTable,
    noise_of_betas,
    noise_table,
    zero_terminal_snr,
)

SCHEDULER = "scheduler_config.json"
_MODELSPEC = "modelspec.prediction_type"
_EDM = "edm_vpred.sigma_min", "edm_vpred.sigma_max"
_MOST_STEPS = 100_000
# What files call what the UNet predicts → a key of PREDICTIONS.
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "v": "v"}


@dataclass(frozen=True)
class Training:
    path: Path  # of the model, for messages
    markers: Mapping[str, Entry]  # tensors; see convert.rules.MARKERS
    scheduler: Mapping[str, Any]  # a diffusers folder's scheduler_config.json
    metadata: Mapping[str, str]  # of a safetensors file

    @cached_property
    def prediction(self) -> tuple[str, str] | None:
        """A key of PREDICTIONS and what says so; None: the files leave it open.

        Raises: CheckpointError for one that we do not know.
        """
        if _EDM[1] in self.markers:  # it says more than v_pred
            return "edm_v", f"tensor {_EDM[1]}"
        if "v_pred" in self.markers:
            return "v", "tensor v_pred"
        for said, by in (
            (self.scheduler.get("prediction_type"), SCHEDULER),
            (self.metadata.get(_MODELSPEC), _MODELSPEC),
        ):
            if said is not None:
                return self._known(said, by), by
        return None

    def _known(self, said: Any, by: str) -> str:
        known = _PREDICTIONS.get(said) if isinstance(said, str) else None
        if by == SCHEDULER and self.is_edm:
            data = self.scheduler.get("sigma_data", 0.5)  # diffusers' default
            if known != "v" or data != 1:
                raise CheckpointError(
                    f"{self.path}: predicts {said!r:.100} at noise levels of EDM with "
                    f"sigma_data {data!r:.20}, says its {by}; v_prediction with 1, as "
                    "CosXL has it, is what runs"
                )
            return "edm_v"
        if known is None:
            raise CheckpointError(
                f"{self.path}: predicts {said!r:.100}, says its {by}; say what it is "
                "with --prediction"
            )
        return known

    @property
    def is_edm(self) -> bool:
        return str(self.scheduler.get("_class_name")).startswith("EDM")

    @property
    def zero_snr(self) -> bool:
        """Whether nothing of the signal is left at the noisiest timestep."""
        told = self.scheduler.get("rescale_betas_zero_snr")
        return "ztsnr" in self.markers or bool(told)

    def noise(self, usual: NoiseTable) -> NoiseTable:
        """The table in the files, or what their betas make; `usual` if they say none.

        A table that differs from `usual` by no more than bfloat16 rounds is that. One
        without signal at its end (zero terminal SNR) is made so where the files say
        only that.

        Raises: CheckpointError for a table or betas that cannot be.
        """
        table = self._betas(usual)
        if (entry := self.markers.get("alphas_cumprod")) is not None:
            kept = _numbers(entry)
            known = table.alphas_cumprod
            if len(kept) != len(known) or not all(map(_near, kept, known)):
                try:
                    table = noise_table(kept)
                except ConfigError as error:
                    raise CheckpointError(f"{entry.path}: {error}") from error
        return zero_terminal_snr(table) if self.zero_snr else table

    def _betas(self, usual: NoiseTable) -> NoiseTable:
        told = self.scheduler
        name, betas = told.get("beta_schedule"), told.get("trained_betas")
        if name is None and betas is None:
            return usual
        try:
            table = noise_of_betas(_made(told) if betas is None else list(betas))
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(
                f"{self.path}: its {SCHEDULER} tells noise that we cannot make sense "
                f"of: {name!r:.100} betas of {', '.join(BETAS)}"
            ) from error
        except ConfigError as error:
            raise CheckpointError(f"{self.path}: its {SCHEDULER}: {error}") from error
        same = len(table.sigmas) == len(usual.sigmas)
        near = same and all(map(_near, table.alphas_cumprod, usual.alphas_cumprod))
        return usual if near else table

    def edm(self) -> EdmLevels:
        """CosXL's noise levels, as far as the files say.

        Raises: CheckpointError for bounds that cannot be.
        """
        usual, found = EdmLevels(), {}
        for bound, marker in zip(("sigma_min", "sigma_max"), _EDM, strict=True):
            entry, told = self.markers.get(marker), self.scheduler.get(bound)
            if entry is not None:
                (value,) = _numbers(entry) or [math.nan]
            elif self.is_edm and isinstance(told, int | float):
                value = float(told)
            else:
                value = getattr(usual, bound)
            found[bound] = value
        levels = EdmLevels(**found)
        if not 0 < levels.sigma_min < levels.sigma_max < math.inf:
            raise CheckpointError(
                f"{self.path}: noise levels from {levels.sigma_min:g} to "
                f"{levels.sigma_max:g}; they have to rise from above 0"
            )
        return levels


def _made(told: Mapping[str, Any]) -> list[float]:
    """Betas by their schedule. Raises: KeyError and others for what makes none."""
    steps = int(told.get("num_train_timesteps", STEPS))
    if steps > _MOST_STEPS:
        raise ValueError
    make = BETAS[told["beta_schedule"]]
    return make(steps, float(told["beta_start"]), float(told["beta_end"]))


def _numbers(entry: Entry) -> list[float]:
    return np.array(entry.read().astype(mx.float32)).reshape(-1).tolist()


def _near(kept: float, usual: float) -> bool:
    return math.isclose(kept, usual, rel_tol=2**-8)
