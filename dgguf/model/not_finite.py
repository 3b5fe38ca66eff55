"""Where numbers that are not finite come from: a step is computed again, and every result looked at.

Only after the logits were found not to be finite: a good run pays nothing for it.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np

from dgguf.backends.base import Backend, HostTensor, Prediction
from dgguf.errors import NumericsError
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Canvas
from dgguf.model.transformer import Transformer
from dgguf.quants.finite import finite_blocks

# The verbs whose result is one array of floats, or has one in second place.
_WATCHED = (
    *("embed", "linear", "rms_norm", "add", "residual", "residual_of_sum", "gated", "norm_rope"),
    *("attention", "experts", "route"),
)
# Where something can go wrong, for messages, and what the fields of the weights there begin with.
_LAYER = "layer "
_EMBEDDING, _HEAD, _SELF_CONDITIONING = "the embedding", "the head", "the self-conditioning"
_PREFIXES = {_EMBEDDING: "token_embd", _HEAD: "output", _SELF_CONDITIONING: "self_cond"}
_ROWS = 1 << 12  # of a matrix that are looked at together
# The fields of weights that are not named after a tensor NAME.weight.
_TENSORS = {"ffn_gate_inp_scale": "ffn_gate_inp.scale", "ffn_down_exps_scale": "ffn_down_exps.scale"}


class _NotFinite(Exception):
    """A verb, its argument, gave something that is not finite."""


class _WatchedBackend:
    """A backend whose results are looked at, one after the other.

    Raises:
        _NotFinite: by the first verb whose result is not finite.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def replay_step(self, place: Hashable, compute: Callable[[], Prediction], *inputs: Any) -> Prediction:
        """Nothing is recorded or repeated: every verb is called."""
        return compute()

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._backend, name)
        if name not in _WATCHED and name != "predict":
            return verb

        def watched(*operands: Any) -> Any:
            try:
                result = verb(*operands)
            except NumericsError:  # of `predict`
                raise _NotFinite(name) from None
            if name == "predict":
                return result
            floats = self._backend.to_host(result[1] if name == "route" else result)
            if not np.isfinite(floats).all():
                raise _NotFinite(name)
            return result

        return watched


def explain(model: Transformer, canvas: Canvas, cache: KVCache, *, conditioned: bool) -> NumericsError:
    """Say where a denoising step whose logits are not finite went wrong, and which tensor did it.

    The step is computed once more, without self-conditioning, whose input is gone. If no tensor of the
    layer where it goes wrong is to blame, the cause may lie in an earlier one that the prompt passed:
    then what the cache holds is encoded once more.

    Args:
        canvas, cache: of the step. The cache may hold fewer positions afterwards.
        conditioned: whether the step had a prediction before it.
    """

    def denoise(watched: Transformer) -> None:
        watched.denoise(canvas, cache, None, 1.0, np.zeros(len(canvas)))

    def encode(watched: Transformer) -> None:
        ids = cache.ids
        cache.truncate(0)
        for first in range(0, len(ids), cache.rows_per_call):
            watched.encode(ids[first : first + cache.rows_per_call], cache)

    place = _first_place(model, denoise) or (_SELF_CONDITIONING if conditioned else "")
    tensor = next(_bad_tensors(model, place), "")
    text = (cache.ids >= 0).all()  # rows of images are not kept
    if place.startswith(_LAYER) and not tensor and text and (earlier := _first_place(model, encode)):
        place, tensor = earlier, next(_bad_tensors(model, earlier), "")
    if not place:
        return NumericsError(
            "the network computed values that are not finite, and finite ones when the step was repeated: "
            "this is a bug in dgguf, or the machine's memory is faulty"
        )
    if tensor:
        cause = f"the tensor {tensor} holds values that are not finite, so the model file is damaged"
    else:
        cause = "its tensors are finite, so their values are far too large, or this is a bug in dgguf"
    return NumericsError(
        f"the network computed values that are not finite, first in {place}: {cause}; `dgguf check` reads "
        "the whole file"
    )


def _first_place(model: Transformer, compute: Callable[[Transformer], None]) -> str:
    """Where a computation first is not finite; "" if it is finite."""
    watched = Transformer(model.config, model.weights, _WatchedBackend(model.backend))
    try:
        with np.errstate(all="ignore"):
            compute(watched)
    except _NotFinite as error:
        if error.args[0] == "embed":
            return _EMBEDDING
        done = watched.layers_done
        return _HEAD if done == len(model.config.layers) else f"{_LAYER}{done}"
    return ""


def _weights(model: Transformer, place: str) -> dict[str, Any]:
    """The weights of a place by their tensors' names."""
    if not place.startswith(_LAYER):
        prefixes = _PREFIXES.get(place, ())
        return {f"{n}.weight": v for n, v in vars(model.weights).items() if n.startswith(prefixes)}
    number = int(place.removeprefix(_LAYER))
    named = {
        f"blk.{number}.{_TENSORS.get(name, f'{name}.weight')}": value
        for name, value in vars(model.weights.layers[number]).items()
    }
    if not model.config.layers[number].sliding:
        named["rope_freqs.weight"] = model.weights.rope_freqs
    return named


def _bad_tensors(model: Transformer, place: str) -> Iterator[str]:
    """The tensors of a place that hold values that are not finite, by name."""
    for name, value in _weights(model, place).items():
        if value is None:
            continue
        tensor = getattr(value, "tensor", None)
        if isinstance(tensor, HostTensor):
            if not _is_finite(tensor):
                yield tensor.name
        elif not np.isfinite(value if isinstance(value, float) else model.backend.to_host(value)).all():
            yield name


def _is_finite(tensor: HostTensor) -> bool:
    matrices = tensor.raw if tensor.raw.ndim == 3 else tensor.raw[None]
    return all(
        finite_blocks(tensor.format, matrix[first : first + _ROWS]).all()
        for matrix in matrices
        for first in range(0, len(matrix), _ROWS)
    )
