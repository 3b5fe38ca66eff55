"""How large the inputs of every matrix are on a text: the statistics that importance matrices hold."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dgguf.backends.base import HostTensor, Prediction, Role
from dgguf.backends.cpu import CpuBackend
from dgguf.convert.imatrix import Sums
from dgguf.evaluate.noised_chunks import Model, Sample


class _Observed:
    """A matrix, or a stack of experts as matrices of their own; see `backends.base.Weight`."""

    def __init__(self, tensor: HostTensor, backend: CpuBackend) -> None:
        self.tensor = tensor
        self.rows, self.columns = tensor.raw.shape[-2], tensor.columns
        raws = tensor.raw if tensor.raw.ndim > 2 else tensor.raw[None]
        self.weights = [backend.load_matrix(replace(tensor, raw=raw)) for raw in raws]


class CollectingBackend:
    """A backend that adds up the squares of what its matrices are multiplied with.

    The embedding table and the router are not looked at: the one is also read row by row, where no
    column matters more than another, and the other is never quantized.

    Args:
        backend: does the work.

    Attributes:
        sums: by the name of the matrix.
    """

    def __init__(self, backend: CpuBackend) -> None:
        self._backend = backend
        self.sums: dict[str, Sums] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def load_matrix(self, tensor: HostTensor) -> _Observed:
        return _Observed(tensor, self._backend)

    def load_matrices(self, tensors: list[HostTensor]) -> list[_Observed]:
        return [self.load_matrix(tensor) for tensor in tensors]

    def embed(self, table: _Observed, tokens: np.ndarray, scale: float) -> np.ndarray:
        return self._backend.embed(table.weights[0], tokens, scale)

    def soft_embed(self, conditioning: Any, table: _Observed, scale: float) -> np.ndarray:
        return self._backend.soft_embed(conditioning, table.weights[0], scale)

    def predict(self, x: np.ndarray, w: _Observed, *arguments: Any) -> Prediction:
        if w.tensor.role is not Role.EMBEDDING:
            self._add(w, 0, x)
        return self._backend.predict(x, w.weights[0], *arguments)

    def route(self, x: np.ndarray, w: _Observed, *arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        return self._backend.route(x, w.weights[0], *arguments)

    def linear(self, x: np.ndarray, w: _Observed) -> np.ndarray:
        self._add(w, 0, x)
        return self._backend.linear(x, w.weights[0])

    def gated(self, x: np.ndarray, gate: _Observed, up: _Observed) -> np.ndarray:
        return self._backend.geglu(self.linear(x, gate), self.linear(x, up))

    def experts(
        self,
        x: np.ndarray,
        gate: _Observed,
        up: _Observed,
        down: _Observed,
        chosen: np.ndarray,
        weights: np.ndarray,
    ) -> np.ndarray:
        """One expert after the other, so that the inputs of its down projection are seen."""
        out = np.zeros_like(x)
        for expert in np.unique(chosen).tolist():
            rows, place = np.nonzero(chosen == expert)
            inputs = np.ascontiguousarray(x[rows])
            for w in (gate, up) if up.tensor.name != gate.tensor.name else (gate,):
                self._add(w, expert, inputs)
            sides = [self._backend.linear(inputs, w.weights[expert]) for w in (gate, up)]
            gated = self._backend.geglu(*sides)
            self._add(down, expert, gated)
            result = self._backend.linear(gated, down.weights[expert])
            out[rows] += weights[rows, place][:, None] * result  # a row chooses an expert once
        return out

    def _add(self, w: _Observed, matrix: int, x: np.ndarray) -> None:
        name = w.tensor.name
        if name not in self.sums:
            self.sums[name] = Sums.zero(len(w.weights), w.columns)
        sums = self.sums[name]
        sums.squares[matrix] += np.square(x, dtype=np.float64).sum(axis=0)
        sums.counts[matrix] += len(x)


def collect(model: Model, samples: Sequence[Sample]) -> Iterator[int]:
    """Run the samples through both passes; the sums stand in the model's `CollectingBackend`.

    Yields:
        passes done so far, after each, of `PASSES` for each sample
    """
    done = 0
    for number, sample in enumerate(samples):
        done += 1
        for _prediction in model.denoise(sample, number):
            done += 1
            yield done
