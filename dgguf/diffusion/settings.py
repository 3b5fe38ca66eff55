"""The sampler's six settings: the user's, else the file's, else the reference's."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgguf.errors import PromptError
from dgguf.ggufio.metadata import metadata_value

_MOST = 1e9  # of any setting; far more than makes sense
_COLDEST = 1e-6  # of t_max: logits are divided by it in float32


@dataclass(frozen=True)
class SamplerSettings:
    """How a canvas is denoised. Defaults are the reference's; GGUF keys are `diffusion.eb_<name>`.

    Attributes:
        max_steps: denoising steps a canvas gets at most.
        t_min, t_max: temperature falls linearly from t_max at the first step towards t_min; may be equal.
        entropy_bound: nats; how much uncertainty may be accepted in one step beyond the surest token.
        stability_threshold: further steps in a row that must agree on every token before stopping.
        confidence_threshold: nats; the canvas's mean entropy must be below it before stopping.
    """

    max_steps: int = 48
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    stability_threshold: int = 1
    confidence_threshold: float = 0.005

    def __post_init__(self) -> None:
        def require(holds: bool, rule: str) -> None:
            if not holds:
                raise PromptError(f"sampler settings: {rule}")

        for field in dataclasses.fields(self):
            value = _within_floats(field.name, getattr(self, field.name))
            require(value is not None and math.isfinite(value), f"{field.name} must be a number, not {value}")
            require(value <= _MOST, f"{field.name} must be at most {_MOST:,.0f}, not {value}")
        require(self.max_steps >= 1, f"max_steps must be at least 1, not {self.max_steps}")
        require(self.t_min >= 0, f"t_min must not be negative, not {self.t_min}")
        require(self.t_max >= _COLDEST, f"t_max must be at least {_COLDEST}, not {self.t_max}")
        require(self.t_max >= self.t_min, f"t_max ({self.t_max}) must not be below t_min ({self.t_min})")
        require(self.entropy_bound > 0, f"entropy_bound must be above 0, not {self.entropy_bound}")
        require(
            self.stability_threshold >= 0,
            f"stability_threshold must be 0 or more, not {self.stability_threshold}",
        )
        require(
            self.confidence_threshold > 0,
            f"confidence_threshold must be above 0, not {self.confidence_threshold}",
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], **given: float | None) -> "SamplerSettings":
        """Settings from a GGUF header, which may lack any of them; `given` values that are not None win."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(given.keys() - set(known)):
            raise TypeError(f"there is no sampler setting {', '.join(unknown)}; there are {', '.join(known)}")
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            kind, value = type(field.default), _within_floats(field.name, given.get(field.name))
            if value is None and (key := f"diffusion.eb_{field.name}") in metadata:
                value = metadata_value(metadata, "the file", key, float, least=-_MOST, most=_MOST)
                if kind is float:
                    # 0.4 is stored as 0.4000000059604645 and meant as 0.4
                    value = float(str(np.float32(value)))
            if kind is int and value is not None and math.isfinite(value) and value != int(value):
                raise PromptError(f"sampler settings: {field.name} must be a whole number, not {value}")
            if value is not None:
                # A user's NaN stays one, to be refused with all others.
                values[field.name] = kind(value) if math.isfinite(value) else value  # type: ignore[misc]
        return cls(**values)


def _within_floats(name: str, value: Any) -> Any:
    """A number; a whole one beyond all floats, as JSON may hold, is infinite.

    Raises:
        PromptError: it is none.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise PromptError(f"sampler settings: {name} must be a number, not {value!r:.60}")
    try:
        math.isfinite(value)
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)
    return value
