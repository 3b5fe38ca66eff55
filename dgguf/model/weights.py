"""The tensors of a DiffusionGemma, found in a file, checked against its geometry and placed.

Fields are named after the GGUF tensors, so that a field, a tensor and a formula carry one name.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dgguf.backends.base import Array, Backend, HostTensor, Role, Weight
from dgguf.errors import UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.machine import system_memory
from dgguf.model.config import LayerConfig, ModelConfig
from dgguf.model.tensor_names import layer_and_kind, role_of


@dataclass(frozen=True)
class LayerWeights:
    """One block's tensors; shapes are (rows, columns), a product maps columns to rows."""

    attn_norm: Array  # (D,)
    attn_q: Weight  # (H*Dh, D)
    attn_k: Weight  # (G*Dh, D)
    attn_v: Weight | None  # (G*Dh, D); None on full layers
    attn_q_norm: Array  # (Dh,)
    attn_k_norm: Array  # (Dh,)
    attn_output: Weight  # (D, H*Dh)
    post_attention_norm: Array  # (D,)
    ffn_norm: Array  # (D,)
    ffn_gate: Weight  # (F, D)
    ffn_up: Weight  # (F, D)
    ffn_down: Weight  # (D, F)
    post_ffw_norm_1: Array  # (D,)
    ffn_gate_inp: Weight  # (E, D), the router
    ffn_gate_inp_scale: Array  # (D,)
    pre_ffw_norm_2: Array  # (D,)
    ffn_gate_exps: Weight  # (E, Fe, D)
    ffn_up_exps: Weight  # (E, Fe, D)
    ffn_down_exps: Weight  # (E, D, Fe)
    ffn_down_exps_scale: Array  # (E,)
    post_ffw_norm_2: Array  # (D,)
    post_ffw_norm: Array  # (D,)
    layer_output_scale: float
    enc_layer_output_scale: float


@dataclass(frozen=True)
class ModelWeights:
    """All tensors of a model.

    Attributes:
        file: that they are read from, as long as they are used.
    """

    file: GgufFile
    token_embd: Weight  # (V, D)
    output: Weight  # (V, D); token_embd where the head is tied
    output_norm: Array  # (D,)
    rope_freqs: Array | None  # (Dh/2,) of the full layers; None where there are none
    self_cond_pre_norm: Array  # (D,)
    self_cond_gate: Weight  # (F, D)
    self_cond_up: Weight  # (F, D)
    self_cond_down: Weight  # (D, F)
    layers: tuple[LayerWeights, ...]


class TensorLoader:
    """Takes tensors out of a file by name and shape, and remembers which were taken."""

    def __init__(self, file: GgufFile, backend: Backend) -> None:
        self.file = file
        self.backend = backend
        self.taken: set[str] = set()

    def host(self, name: str, shape: tuple[int, ...]) -> HostTensor:
        info = self.file.tensors.get(name)
        if info is None:
            raise UnsupportedModelError(
                f"{self.file.path} lacks the tensor {name}, which a DiffusionGemma needs"
            )
        if info.shape != shape:
            raise UnsupportedModelError(
                f"{self.file.path}: the tensor {name} has the shape {info.shape}, the header asks for {shape}"
            )
        self.taken.add(name)
        raw = self.file.data(name)
        raw = raw if raw.ndim > 1 else raw[None, :]
        layer, _ = layer_and_kind(name)
        return HostTensor(name, info.format, raw, shape[-1], role_of(name), layer)

    def has(self, name: str) -> bool:
        return name in self.file.tensors

    def matrix(self, name: str, *shape: int) -> Weight:
        with self.file.reading():
            return self.backend.load_matrix(self.host(name, shape))

    def matrices(self, *wanted: tuple[str, int, int]) -> Sequence[Weight]:
        """Matrices (name, rows, columns) that the same rows are multiplied with."""
        with self.file.reading():
            return self.backend.load_matrices(
                [self.host(name, (rows, columns)) for name, rows, columns in wanted]
            )

    def vector(self, name: str, size: int) -> Array:
        with self.file.reading():
            return self.backend.load_vector(self.host(name, (size,)))

    def scalar(self, name: str) -> float:
        return float(self.backend.to_host(self.vector(name, 1))[0])

    def gate_and_up(self, prefix: str, config: ModelConfig) -> tuple[Weight, Weight]:
        """The experts' gate and up matrices (E, Fe, D); a fused tensor has the gate's rows first."""
        e, f, d = config.n_experts, config.expert_ff_size, config.hidden_size
        with self.file.reading():
            if self.has(f"{prefix}ffn_gate_up_exps.weight"):
                fused = self.host(f"{prefix}ffn_gate_up_exps.weight", (e, 2 * f, d))
                both = [replace(fused, raw=raw) for raw in np.split(fused.raw, 2, axis=1)]  # views of the map
            else:
                both = [self.host(f"{prefix}ffn_{name}_exps.weight", (e, f, d)) for name in ("gate", "up")]
            gate, up = self.backend.load_matrices(both)
            return gate, up


def _load_layer(load: TensorLoader, i: int, config: ModelConfig, layer: LayerConfig) -> LayerWeights:
    p = f"blk.{i}."
    d, f, e, fe = config.hidden_size, config.ff_size, config.n_experts, config.expert_ff_size
    q_rows, kv_rows = config.n_heads * layer.head_dim, layer.n_kv_heads * layer.head_dim
    has_v = layer.sliding or load.has(f"{p}attn_v.weight")
    kv_names = ("attn_k", "attn_v") if has_v else ("attn_k",)
    attn_q, attn_k, *attn_v = load.matrices(
        (f"{p}attn_q.weight", q_rows, d), *((f"{p}{name}.weight", kv_rows, d) for name in kv_names)
    )
    ffn_gate, ffn_up = load.matrices((f"{p}ffn_gate.weight", f, d), (f"{p}ffn_up.weight", f, d))
    gate_exps, up_exps = load.gate_and_up(p, config)
    scale = load.scalar(f"{p}layer_output_scale.weight")
    enc_name = f"{p}enc_layer_output_scale.weight"
    return LayerWeights(
        attn_norm=load.vector(f"{p}attn_norm.weight", d),
        attn_q=attn_q,
        attn_k=attn_k,
        attn_v=attn_v[0] if has_v else None,
        attn_q_norm=load.vector(f"{p}attn_q_norm.weight", layer.head_dim),
        attn_k_norm=load.vector(f"{p}attn_k_norm.weight", layer.head_dim),
        attn_output=load.matrix(f"{p}attn_output.weight", d, q_rows),
        post_attention_norm=load.vector(f"{p}post_attention_norm.weight", d),
        ffn_norm=load.vector(f"{p}ffn_norm.weight", d),
        ffn_gate=ffn_gate,
        ffn_up=ffn_up,
        ffn_down=load.matrix(f"{p}ffn_down.weight", d, f),
        post_ffw_norm_1=load.vector(f"{p}post_ffw_norm_1.weight", d),
        ffn_gate_inp=load.matrix(f"{p}ffn_gate_inp.weight", e, d),
        ffn_gate_inp_scale=load.vector(f"{p}ffn_gate_inp.scale", d),
        pre_ffw_norm_2=load.vector(f"{p}pre_ffw_norm_2.weight", d),
        ffn_gate_exps=gate_exps,
        ffn_up_exps=up_exps,
        ffn_down_exps=load.matrix(f"{p}ffn_down_exps.weight", e, d, fe),
        ffn_down_exps_scale=load.vector(f"{p}ffn_down_exps.scale", e),
        post_ffw_norm_2=load.vector(f"{p}post_ffw_norm_2.weight", d),
        post_ffw_norm=load.vector(f"{p}post_ffw_norm.weight", d),
        layer_output_scale=scale,
        enc_layer_output_scale=load.scalar(enc_name) if load.has(enc_name) else scale,
    )


_USE = (Role.ATTENTION, Role.MLP, Role.ROUTER, Role.EXPERTS)  # in a layer
_LEAST_AHEAD = 64 << 20  # bytes of a file that is read ahead: a smaller one is there at once


def read_ahead(file: GgufFile) -> None:
    """Ask for a file's matrices in the order in which the first pass uses them, as far as memory has room."""
    if file.n_bytes >= _LEAST_AHEAD:
        available, _ = system_memory()
        file.read_ahead(order_of_use(file.tensors), file.n_bytes if available is None else available * 3 // 4)


def order_of_use(names: Iterable[str]) -> list[str]:
    """The names of tensors layer by layer, in a layer as they are used; then those outside the layers."""

    def place(name: str) -> tuple[bool, int, int]:
        layer, role = layer_and_kind(name)[0], role_of(name)
        return layer is None, layer or 0, _USE.index(role) if role in _USE else 0

    return sorted(names, key=place)


def load_weights(file: GgufFile, config: ModelConfig, backend: Backend) -> ModelWeights:
    """Find every tensor the network needs and hand it to the backend.

    Raises:
        UnsupportedModelError: a tensor is missing, has another shape, or is one the network has no
            place for (running without it would answer wrongly).
        FileChangedError: the file was cut or written to meanwhile, or its disk failed.
    """
    load = TensorLoader(file, backend)
    d, f, v = config.hidden_size, config.ff_size, config.vocab_size
    full = [layer for layer in config.layers if not layer.sliding]
    token_embd = load.matrix("token_embd.weight", v, d)
    # The self-conditioning norm carried another name in the first files.
    pre_norm = (
        "self_cond_pre_norm.weight" if load.has("self_cond_pre_norm.weight") else "self_cond_norm.weight"
    )
    gate, up = load.matrices(("self_cond_gate.weight", f, d), ("self_cond_up.weight", f, d))
    weights = ModelWeights(
        file=file,
        token_embd=token_embd,
        output=load.matrix("output.weight", v, d) if load.has("output.weight") else token_embd,
        output_norm=load.vector("output_norm.weight", d),
        rope_freqs=load.vector("rope_freqs.weight", full[0].head_dim // 2) if full else None,
        self_cond_pre_norm=load.vector(pre_norm if load.has(pre_norm) else "self_cond_pre_norm.weight", d),
        self_cond_gate=gate,
        self_cond_up=up,
        self_cond_down=load.matrix("self_cond_down.weight", d, f),
        layers=tuple(_load_layer(load, i, config, layer) for i, layer in enumerate(config.layers)),
    )
    unknown = next(_unknown_tensors(file, load.taken), None)
    if unknown:
        raise UnsupportedModelError(
            f"{file.path} holds the tensor {unknown!r}, which this dgguf does not know; a newer one may"
        )
    return weights


def _unknown_tensors(file: GgufFile, taken: set[str]) -> Iterator[str]:
    allowed = {"rope_freqs.weight"}  # some files without full layers may still carry it
    return (name for name in file.tensors if name not in taken and name not in allowed)
