"""What sets two models of one vocabulary apart: their predictions of the same canvases."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgguf.backends.base import Prediction
from dgguf.backends.cpu import CpuBackend
from dgguf.backends.cpu.matmul import CpuMatrix
from dgguf.errors import UnsupportedModelError
from dgguf.evaluate.noised_chunks import Model, Sample
from dgguf.ggufio.metadata import metadata_strings
from dgguf.text.vocabulary import TOKENS


class LogitsBackend:
    """A backend that keeps the logits of the last prediction.

    Args:
        backend: does the work.

    Attributes:
        logits: (C, V) float32, before the temperature.
    """

    def __init__(self, backend: CpuBackend) -> None:
        self._backend = backend
        self.logits: np.ndarray = np.empty((0, 0), np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def predict(
        self, x: np.ndarray, w: CpuMatrix, softcap: float, temperature: float, uniforms: np.ndarray
    ) -> Prediction:
        self.logits = self._backend.head(x, w, softcap)
        return self._backend.predict(x, w, softcap, temperature, uniforms)


@dataclass(frozen=True)
class Divergence:
    """How far one canvas's predictions are apart at one noise level.

    Attributes:
        kl: (C,) nats, of the second model's distribution from the first's, at each position.
        agrees: (C,) bool, whether both find the same token likeliest.
    """

    kl: np.ndarray
    agrees: np.ndarray


def check_comparable(first: Model, second: Model) -> None:
    """Refuse two models whose canvases are not the same.

    Raises:
        UnsupportedModelError: they differ in vocabulary or canvas length.
    """
    where = f"{first.file.path} and {second.file.path} cannot be compared: "
    if first.config.canvas_length != second.config.canvas_length:
        raise UnsupportedModelError(
            f"{where}their canvases have {first.config.canvas_length} and "
            f"{second.config.canvas_length} positions"
        )
    one, other = (list(metadata_strings(m.file.metadata, m.file.path, TOKENS)) for m in (first, second))
    if one != other:
        raise UnsupportedModelError(f"{where}their vocabularies differ")


def compare(
    first: tuple[Model, LogitsBackend], second: tuple[Model, LogitsBackend], samples: Sequence[Sample]
) -> Iterator[list[Divergence]]:
    """Compare sample by sample: only then each model's weights need to be in memory at a time.

    Yields:
        for each sample the divergences at the levels of `NOISE`
    """
    for number, sample in enumerate(samples):
        (model, backend), (other, other_backend) = first, second
        wanted = [backend.logits for _ in model.denoise(sample, number)]
        yield [
            divergence(logits, other_backend.logits)
            for logits, _ in zip(wanted, other.denoise(sample, number), strict=True)
        ]


def divergence(logits: np.ndarray, others: np.ndarray) -> Divergence:
    """Of (C, V) logits."""
    kl = np.array([_row_divergence(a, b) for a, b in zip(logits, others, strict=True)])
    return Divergence(kl, logits.argmax(axis=1) == others.argmax(axis=1))


def summary(divergences: Sequence[Divergence]) -> dict[str, float]:
    """JSON types; of all positions of some divergences, the error is the standard error."""
    kl = np.concatenate([divergence.kl for divergence in divergences])
    agrees = np.concatenate([divergence.agrees for divergence in divergences])
    return {
        "positions": len(kl),
        "kl_mean": float(kl.mean()),
        "kl_standard_error": float(kl.std(ddof=1) / len(kl) ** 0.5) if len(kl) > 1 else 0.0,
        "kl_median": float(np.median(kl)),
        "kl_99": float(np.quantile(kl, 0.99)),
        "kl_max": float(kl.max()),
        "agreement": float(agrees.mean()),
    }


def _row_divergence(logits: np.ndarray, others: np.ndarray) -> float:
    """Sum of p * log(p / q); rounding may leave what should be zero just below it."""
    a, b = (_log_softmax(row.astype(np.float64)) for row in (logits, others))
    return max(0.0, float(np.exp(a) @ (a - b)))


def _log_softmax(row: np.ndarray) -> np.ndarray:
    row = row - row.max()
    shifted: np.ndarray = row - math.log(np.exp(row).sum())
    return shifted
