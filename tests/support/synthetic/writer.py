"""Writes DiffusionGemma GGUF files with random but valid contents, for tests and tools.

Keys, names, shapes, types and vocabulary size are those of the published files, so that reader,
kernels and memory can be measured without a download; what such a model says is gibberish.
`TINY` (about 2 MB) has the same architecture and is the model of most tests.
"""

import functools
import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from dgguf.convert.recipes import RECIPES as WRITTEN
from dgguf.convert.recipes import Recipe, always, down, first, mixture
from dgguf.ggufio.layout import split_names
from dgguf.ggufio.write_header import split_metadata
from dgguf.quants.block import FORMATS_BY_NAME, BlockFormat
from tests.support.synthetic.blocks import random_blocks
from tests.support.synthetic.gguf_stream import write_gguf
from tests.support.synthetic.vocabulary import Vocabulary, tiny_vocabulary

# What dgguf writes, and what it can only read.
RECIPES = WRITTEN | {
    "IQ3_S": Recipe(26, "IQ3_S"),
    "IQ3_M": Recipe(
        27,
        "IQ3_S",
        rules={
            "attn_v.weight": always("Q4_K"),
            "attn_output.weight": always("Q4_K"),
            **down(first(lambda n: n // 8, "Q4_K", "IQ3_S")),
        },
    ),
}
# Matrices up to this many bytes are random throughout; larger ones repeat this much.
_POOL_BYTES = 64 << 20


@dataclass(frozen=True)
class Geometry:
    """The sizes of a model; the defaults are those of the tiny preset.

    As in the files, `_swa` marks the sliding-window layers and a bare name the full-attention ones.
    Every `full_every`-th layer and the last one are full-attention layers.
    """

    block_count: int = 6
    full_every: int = 6
    embedding_length: int = 64
    feed_forward_length: int = 96
    head_count: int = 4
    head_count_kv: int = 1
    head_count_kv_swa: int = 2
    key_length: int = 32
    key_length_swa: int = 16
    sliding_window: int = 32
    expert_count: int = 8
    expert_used_count: int = 2
    expert_feed_forward_length: int = 32
    canvas_length: int = 32
    context_length: int = 2048

    def is_full(self, layer: int) -> bool:
        return (layer + 1) % self.full_every == 0 or layer == self.block_count - 1

    def kv_heads(self, layer: int) -> int:
        return self.head_count_kv if self.is_full(layer) else self.head_count_kv_swa

    def head_length(self, layer: int) -> int:
        return self.key_length if self.is_full(layer) else self.key_length_swa


TINY = Geometry()
FULL_SIZE = Geometry(
    block_count=30,
    embedding_length=2816,
    feed_forward_length=2112,
    head_count=16,
    head_count_kv=2,
    head_count_kv_swa=8,
    key_length=512,
    key_length_swa=256,
    sliding_window=1024,
    expert_count=128,
    expert_used_count=8,
    expert_feed_forward_length=704,
    canvas_length=256,
    context_length=262144,
)


@dataclass(frozen=True)
class Variants:
    """How a file may differ from the published ones; patterns are names that may hold `*`.

    Attributes:
        architecture: its spelling, also in front of the keys.
        old_self_cond_norm: `self_cond_norm.weight` in place of `self_cond_pre_norm.weight`.
        split_experts: gate and up experts as two tensors, with the weights of the fused one.
        scalar_head_count_kv: one number for all layers, which must then have equally many KV heads.
        untied_head: an `output.weight` of its own.
        metadata: keys to add or replace; numbers as numpy scalars or arrays, which give the type.
        omit_keys, omit_tensors: patterns of what to leave out.
        shapes: other shapes for some tensors, slowest axis first.
        n_parts: how many files to split the model into.
    """

    architecture: str = "diffusion-gemma"
    old_self_cond_norm: bool = False
    split_experts: bool = False
    scalar_head_count_kv: bool = False
    untied_head: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    omit_keys: Collection[str] = ()
    omit_tensors: Collection[str] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    n_parts: int = 1


@dataclass(frozen=True)
class Tensor:
    """A tensor to write.

    Attributes:
        name: as in the file.
        shape: slowest axis first.
        std, mean: of its weights; a matrix has mean 0 and may have a `std` for each row.
        is_matrix: whether the recipe chooses its type; everything else is F32.
        seeded_by: the name that its weights depend on, whatever the dialect calls it.
        part_of, first_row: for gate or up experts, the fused tensor and where in it they begin.
    """

    name: str
    shape: tuple[int, ...]
    std: float | np.ndarray
    mean: float | np.ndarray = 0.0
    is_matrix: bool = False
    seeded_by: str = ""
    part_of: "Tensor | None" = None
    first_row: int = 0
    format: BlockFormat = FORMATS_BY_NAME["F32"]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.format.row_bytes(self.shape[-1])


def write_model(
    path: Path,
    geometry: Geometry = TINY,
    type_name: str = "F32",
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    **variants: Any,
) -> list[Path]:
    """Write a model; the same arguments give the same bytes.

    Args:
        type_name: a recipe, see `RECIPES`.
        vocabulary: the tiny one where None.
        **variants: the fields of `Variants`.

    Returns:
        The files: `path`, or its parts (`-00001-of-0000N`) in order.
    """
    dialect = Variants(**variants)
    metadata, tensors = plan(geometry, type_name, vocabulary or tiny_vocabulary(), dialect)
    bytes_of = functools.partial(contents, seed=seed)
    if dialect.n_parts == 1:
        write_gguf(path, metadata, tensors, bytes_of)
        return [path]
    paths = [path.with_name(name) for name in split_names(path.stem, dialect.n_parts)]
    for part, own in enumerate(_parts(tensors, dialect.n_parts)):
        split = split_metadata(part, dialect.n_parts, len(tensors))
        write_gguf(paths[part], split if part else metadata | split, own, bytes_of)
    return paths


def _parts(tensors: list[Tensor], n_parts: int) -> list[list[Tensor]]:
    """Consecutive tensors, about equally many bytes a part."""
    parts: list[list[Tensor]] = [[] for _ in range(n_parts)]
    n_bytes, n_before = sum(t.n_bytes for t in tensors), 0
    for tensor in tensors:
        parts[n_before * n_parts // n_bytes].append(tensor)
        n_before += tensor.n_bytes
    return parts


def plan(
    geometry: Geometry, type_name: str, vocabulary: Vocabulary, dialect: Variants
) -> tuple[dict[str, Any], list[Tensor]]:
    """The metadata and the tensors of a file, in order."""
    recipe = RECIPES[type_name]
    metadata = _metadata(geometry, recipe, dialect) | vocabulary.metadata() | dict(dialect.metadata)
    tensors = [*_global_tensors(geometry, vocabulary, dialect)]
    for layer in range(geometry.block_count):
        tensors += _layer_tensors(geometry, layer, dialect)
    tensors = [
        _reshaped(tensor, dialect.shapes[tensor.name]) if tensor.name in dialect.shapes else tensor
        for tensor in tensors
        if not _matches(tensor.name, dialect.omit_tensors)
    ]
    types = mixture(recipe, {t.name: t.shape[-1] for t in tensors if t.is_matrix})
    return (
        {key: value for key, value in metadata.items() if not _matches(key, dialect.omit_keys)},
        [replace(t, format=FORMATS_BY_NAME[types.get(t.name, "F32")]) for t in tensors],
    )


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    std, mean = float(np.max(tensor.std)), np.resize(tensor.mean, shape)
    return replace(tensor, shape=shape, std=std, mean=mean, part_of=None)


def _metadata(g: Geometry, recipe: Recipe, dialect: Variants) -> dict[str, Any]:
    """The keys of the published files, but for the tokenizer's."""
    layers = range(g.block_count)
    if dialect.scalar_head_count_kv and g.head_count_kv != g.head_count_kv_swa:
        raise ValueError("scalar_head_count_kv needs a geometry with equally many KV heads in all layers")
    kv_heads = np.array([g.kv_heads(i) for i in layers], np.int32)
    model: dict[str, Any] = {
        "block_count": g.block_count,
        "context_length": g.context_length,
        "embedding_length": g.embedding_length,
        "feed_forward_length": g.feed_forward_length,
        "attention.head_count": g.head_count,
        "attention.head_count_kv": g.head_count_kv if dialect.scalar_head_count_kv else kv_heads,
        "attention.key_length": g.key_length,
        "attention.value_length": g.key_length,
        "attention.key_length_swa": g.key_length_swa,
        "attention.value_length_swa": g.key_length_swa,
        "attention.sliding_window": g.sliding_window,
        "attention.sliding_window_pattern": np.array([not g.is_full(i) for i in layers]),
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.causal": False,
        "attention.shared_kv_layers": 0,
        "embedding_length_per_layer_input": 0,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.dimension_count": g.key_length,
        "rope.dimension_count_swa": g.key_length_swa,
        "expert_count": g.expert_count,
        "expert_used_count": g.expert_used_count,
        "expert_feed_forward_length": g.expert_feed_forward_length,
        "final_logit_softcapping": 30.0,
    }
    keys: dict[str, Any] = {
        "general.architecture": dialect.architecture,
        "general.type": "model",
        "general.name": "DiffusionGemma with random weights",
        "general.file_type": recipe.file_type,
        "general.quantization_version": 2,
        **{f"{dialect.architecture}.{key}": value for key, value in model.items()},
        "diffusion.canvas_length": g.canvas_length,
        "diffusion.eb_max_steps": 48,
        "diffusion.eb_t_min": 0.4,
        "diffusion.eb_t_max": 0.8,
        "diffusion.eb_entropy_bound": 0.1,
        "diffusion.eb_stability_threshold": 1,
        "diffusion.eb_confidence_threshold": 0.005,
    }
    as_stored = {int: np.uint32, float: np.float32}
    return {key: as_stored.get(type(value), lambda same: same)(value) for key, value in keys.items()}


def _matrix(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, std=shape[-1] ** -0.5, is_matrix=True)


def _global_tensors(g: Geometry, vocabulary: Vocabulary, dialect: Variants) -> Iterator[Tensor]:
    hidden, n_tokens = g.embedding_length, len(vocabulary.tokens)
    head = _matrix("token_embd.weight", n_tokens, hidden)
    if vocabulary.words is not None:
        # Short rows make short logits, so that a model with random weights says words.
        std = np.full(n_tokens, head.std / 4)
        std[vocabulary.words] = head.std
        head = replace(head, std=std)
    yield head
    # This large a final norm spreads the logits by 5, as wide as a trained model's.
    yield Tensor("output_norm.weight", (hidden,), 0.5, 5.0)
    if dialect.untied_head:
        yield replace(head, name="output.weight")
    factors = np.full(g.key_length // 2, 1e30, np.float32)
    factors[: g.key_length // 8] = 1.0  # a quarter of the pairs turns
    yield Tensor("rope_freqs.weight", factors.shape, 0.0, factors)
    name = "self_cond_norm.weight" if dialect.old_self_cond_norm else "self_cond_pre_norm.weight"
    yield Tensor(name, (hidden,), 0.1, 1.0, seeded_by="self_cond_pre_norm.weight")
    yield _matrix("self_cond_gate.weight", g.feed_forward_length, hidden)
    yield _matrix("self_cond_up.weight", g.feed_forward_length, hidden)
    yield _matrix("self_cond_down.weight", hidden, g.feed_forward_length)


def _layer_tensors(g: Geometry, layer: int, dialect: Variants) -> Iterator[Tensor]:
    hidden, ff, experts = g.embedding_length, g.feed_forward_length, g.expert_count
    expert_ff = g.expert_feed_forward_length
    head = g.head_length(layer)
    blk = f"blk.{layer}."
    yield Tensor(blk + "attn_norm.weight", (hidden,), 0.1, 1.0)
    yield _matrix(blk + "attn_q.weight", head * g.head_count, hidden)
    yield _matrix(blk + "attn_k.weight", head * g.kv_heads(layer), hidden)
    if not g.is_full(layer):
        yield _matrix(blk + "attn_v.weight", head * g.kv_heads(layer), hidden)
    yield _matrix(blk + "attn_output.weight", hidden, head * g.head_count)
    # Nothing divides the scores by sqrt(head): the two norms must, half each.
    yield Tensor(blk + "attn_q_norm.weight", (head,), 0.05 * head**-0.25, head**-0.25)
    yield Tensor(blk + "attn_k_norm.weight", (head,), 0.05 * head**-0.25, head**-0.25)
    yield Tensor(blk + "post_attention_norm.weight", (hidden,), 0.05, 0.4)
    yield Tensor(blk + "ffn_norm.weight", (hidden,), 0.1, 1.0)
    yield _matrix(blk + "ffn_gate.weight", ff, hidden)
    yield _matrix(blk + "ffn_up.weight", ff, hidden)
    yield _matrix(blk + "ffn_down.weight", hidden, ff)
    yield Tensor(blk + "post_ffw_norm_1.weight", (hidden,), 0.1, 0.7)
    # The router's inputs have length 1, so its logits spread by about 1.5.
    yield Tensor(blk + "ffn_gate_inp.weight", (experts, hidden), 1.0)
    yield Tensor(blk + "ffn_gate_inp.scale", (hidden,), 0.1, 1.5)
    yield Tensor(blk + "pre_ffw_norm_2.weight", (hidden,), 0.1, 1.0)
    fused = _matrix(blk + "ffn_gate_up_exps.weight", experts, 2 * expert_ff, hidden)
    if dialect.split_experts:
        half = replace(fused, shape=(experts, expert_ff, hidden), part_of=fused)
        yield replace(half, name=blk + "ffn_gate_exps.weight")
        yield replace(half, name=blk + "ffn_up_exps.weight", first_row=expert_ff)
    else:
        yield fused
    yield _matrix(blk + "ffn_down_exps.weight", experts, hidden, expert_ff)
    yield Tensor(blk + "ffn_down_exps.scale", (experts,), 0.2, 1.0)
    yield Tensor(blk + "post_ffw_norm_2.weight", (hidden,), 0.1, 0.7)
    yield Tensor(blk + "post_ffw_norm.weight", (hidden,), 0.05, 0.4)
    yield Tensor(blk + "layer_output_scale.weight", (1,), 0.02, 0.85)
    yield Tensor(blk + "enc_layer_output_scale.weight", (1,), 0.02, 0.95)


def contents(tensor: Tensor, seed: int) -> Iterator[np.ndarray]:
    """The bytes of a tensor, in chunks; a pure function of the seed, its name and its size."""
    if tensor.part_of is not None:
        whole = replace(tensor.part_of, format=tensor.format)
        stored = np.concatenate([chunk.reshape(-1) for chunk in contents(whole, seed)])
        last_row = tensor.first_row + tensor.shape[1]
        yield np.ascontiguousarray(stored.reshape(*whole.shape[:-1], -1)[:, tensor.first_row : last_row])
        return
    rng = np.random.default_rng([seed, zlib.crc32((tensor.seeded_by or tensor.name).encode())])
    if not tensor.is_matrix:
        yield (tensor.mean + tensor.std * rng.standard_normal(tensor.shape)).astype(np.float32)
        return
    n_blocks = tensor.n_bytes // tensor.format.type_size
    if tensor.n_bytes <= _POOL_BYTES:
        std = tensor.std
        if isinstance(std, np.ndarray):
            std = np.repeat(std, n_blocks // len(std))
        yield random_blocks(tensor.format, n_blocks, std, rng)
        return
    pool = _pool(tensor.format, tensor.shape[-1], seed)
    start = int(rng.integers(len(pool)))
    while n_blocks:
        chunk = pool[start : start + n_blocks]
        yield chunk
        n_blocks -= len(chunk)
        start = 0


@functools.lru_cache(maxsize=4)
def _pool(fmt: BlockFormat, columns: int, seed: int) -> np.ndarray:
    """Blocks to repeat; as many rows as there are blocks pass before a row comes back."""
    n_blocks = _POOL_BYTES // fmt.type_size
    while math.gcd(n_blocks, columns // fmt.block_size) > 1:
        n_blocks -= 1
    return random_blocks(fmt, n_blocks, columns**-0.5, np.random.default_rng([seed, fmt.ggml_type, columns]))
