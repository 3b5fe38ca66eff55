"""The vision tower's file: its geometry and its weights, read from an mmproj GGUF and checked.

Names, shapes and keys are llama.cpp's (tools/mtmd, projector "gemma4v"); docs/images.md has the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dgguf.backends.base import Array, Backend, HostTensor, Weight
from dgguf.errors import UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.images import PATCH, POOL
from dgguf.model.config import ARCHITECTURES, TOWERS, ModelConfig
from dgguf.model.weights import TensorLoader

PROJECTOR = "gemma4v"
PATCHES, PLACES, PROJECTION = "v.patch_embd.weight", "v.position_embd.weight", "mm.input_projection.weight"
STD_BIAS, STD_SCALE = "v.std_bias", "v.std_scale"
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_gate", "ffn_up", "ffn_down")
BOUNDS = ("input_min", "input_max", "output_min", "output_max")
AUDIO = ("a.", "mm.a.")  # begin names of a tower for audio beside it, which is not read
_MOST = 1 << 20  # of a count or a length


@dataclass(frozen=True)
class VisionConfig:
    """The geometry of a tower.

    Attributes:
        text_size: width of the text model's rows.
        n_places: columns, and rows, of patches that the position table knows.
        standardized: whether what is pooled is shifted and scaled.
    """

    hidden_size: int
    ff_size: int
    n_layers: int
    n_heads: int
    norm_eps: float
    text_size: int
    n_places: int
    standardized: bool

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.n_heads

    @classmethod
    def from_file(cls, file: GgufFile) -> "VisionConfig":
        """Read and check a header's geometry.

        Raises:
            UnsupportedModelError: it is another kind of file, another tower, or makes no sense.
        """
        _check_kind(file)

        def size(key: str) -> int:
            return file.get(f"clip.vision.{key}", int, least=1, most=_MOST)

        for key, only in (("patch_size", PATCH), ("projector.scale_factor", POOL)):
            found = file.get(f"clip.vision.{key}", int, only)
            if found != only:
                raise UnsupportedModelError(
                    f"{file.path}: clip.vision.{key} is {found}; dgguf reads towers with {only}"
                )
        if PLACES not in file.tensors or len(file.tensors[PLACES].shape) != 3:
            raise UnsupportedModelError(f"{file.path} lacks the tensor {PLACES} of three axes")
        config = cls(
            hidden_size=size("embedding_length"),
            ff_size=size("feed_forward_length"),
            n_layers=size("block_count"),
            n_heads=size("attention.head_count"),
            norm_eps=file.get("clip.vision.attention.layer_norm_epsilon", float, least=1e-30, most=1e30),
            text_size=size("projection_dim"),
            n_places=file.tensors[PLACES].shape[1],
            standardized=STD_BIAS in file.tensors,
        )
        if config.hidden_size % (4 * config.n_heads):
            raise UnsupportedModelError(
                f"{file.path}: {config.n_heads} heads do not divide the width {config.hidden_size} into "
                "multiples of 4"
            )
        if config.n_layers > len(file.tensors):
            raise UnsupportedModelError(
                f"{file.path}: clip.vision.block_count is {config.n_layers}, with {len(file.tensors)} tensors"
            )
        return config

    def check_fits(self, file: GgufFile, model: ModelConfig, where: str) -> None:
        """See that its rows can stand among a model's.

        Raises:
            UnsupportedModelError: they have another width.
        """
        if self.text_size != model.hidden_size:
            raise UnsupportedModelError(
                f"{file.path} makes rows of {self.text_size} numbers (clip.vision.projection_dim), but "
                f"{where} has rows of {model.hidden_size}: it belongs to another model"
            )


def _check_kind(file: GgufFile) -> None:
    arch = file.get("general.architecture", str, "")
    if arch in ARCHITECTURES:
        raise UnsupportedModelError(f"{file.path} holds the text model; the vision tower is in another file")
    if arch != TOWERS:
        raise UnsupportedModelError(
            f"{file.path} holds a model of the architecture {arch!r:.60} and no vision tower ('clip')"
        )
    projector = file.get("clip.vision.projector_type", str, file.get("clip.projector_type", str, ""))
    if not file.get("clip.has_vision_encoder", bool, bool(projector)):
        raise UnsupportedModelError(f"{file.path} holds no vision tower, but another one, as for audio")
    if projector != PROJECTOR:
        raise UnsupportedModelError(
            f"{file.path} holds a vision tower of the kind {projector!r:.60}; "
            f"DiffusionGemma's is {PROJECTOR!r}"
        )


def layer_shapes(config: VisionConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer, without its number, and their shapes, slowest axis first."""
    d, f, head = config.hidden_size, config.ff_size, config.head_dim
    matrices = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (d, d))
    matrices |= {"ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f)}
    norms = dict.fromkeys(("ln1", "attn_post_norm", "ln2", "ffn_post_norm"), (d,))
    norms |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), (head,))
    return {f"{name}.weight": shape for name, shape in {**norms, **matrices}.items()}


def tower_shapes(config: VisionConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a tower but for bounds, with its shape, slowest axis first, in file order."""
    d = config.hidden_size
    yield PATCHES, (d, 3, PATCH, PATCH)
    yield PLACES, (2, config.n_places, d)
    if config.standardized:
        yield STD_BIAS, (d,)
        yield STD_SCALE, (d,)
    for i in range(config.n_layers):
        for name, shape in layer_shapes(config).items():
            yield f"v.blk.{i}.{name}", shape
    yield PROJECTION, (config.text_size, d)


@dataclass(frozen=True)
class Linear:
    """A matrix, and what its inputs and outputs are clamped to; None for no bounds."""

    weight: Weight
    inputs: tuple[float, float] | None
    outputs: tuple[float, float] | None


@dataclass(frozen=True)
class VisionLayer:
    """One layer's tensors, called as in the file."""

    ln1: Array  # (Dv,)
    attn_q: Linear  # (Dv, Dv)
    attn_k: Linear  # (Dv, Dv)
    attn_v: Linear  # (Dv, Dv)
    attn_q_norm: Array  # (Dv/H,)
    attn_k_norm: Array  # (Dv/H,)
    attn_out: Linear  # (Dv, Dv)
    attn_post_norm: Array  # (Dv,)
    ln2: Array  # (Dv,)
    ffn_gate: Linear  # (Fv, Dv)
    ffn_up: Linear  # (Fv, Dv)
    ffn_down: Linear  # (Dv, Fv)
    ffn_post_norm: Array  # (Dv,)


@dataclass(frozen=True)
class VisionWeights:
    """All tensors of a tower.

    Attributes:
        file: that they are read from, as long as they are used.
        patches: (Dv, 768), its inputs channel by channel.
        places: (2 * n_places, Dv), columns first.
        std: bias and scale, (Dv,) each; None where nothing is standardized.
    """

    file: GgufFile
    patches: Weight
    places: Weight
    std: tuple[Array, Array] | None
    layers: tuple[VisionLayer, ...]
    projection: Weight  # (D, Dv)


def load_vision(file: GgufFile, config: VisionConfig, backend: Backend) -> VisionWeights:
    """Find every tensor the tower needs and hand it to the backend.

    Raises:
        UnsupportedModelError: a tensor is missing, has another shape, or has no place in the tower.
        FileChangedError: the file was cut or written to meanwhile, or its disk failed.
    """
    load, d = TensorLoader(file, backend), config.hidden_size
    shapes = dict(tower_shapes(config))

    def flat(name: str) -> Weight:
        """A tensor of more axes as a matrix."""
        tensor = load.host(name, shapes[name])
        rows = d if name == PATCHES else 2 * config.n_places
        raw = tensor.raw.reshape(rows, -1)
        columns = PATCH * PATCH * 3 if name == PATCHES else d
        with file.reading():
            return backend.load_matrix(HostTensor(name, tensor.format, raw, columns, tensor.role))

    weights = VisionWeights(
        file=file,
        patches=flat(PATCHES),
        places=flat(PLACES),
        std=(load.vector(STD_BIAS, d), load.vector(STD_SCALE, d)) if config.standardized else None,
        layers=tuple(_load_layer(load, f"v.blk.{i}.", config) for i in range(config.n_layers)),
        projection=load.matrix(PROJECTION, config.text_size, d),
    )
    unknown = next((name for name in file.tensors if name not in load.taken), None)
    if unknown and not unknown.startswith(AUDIO):
        raise UnsupportedModelError(
            f"{file.path} holds the tensor {unknown!r:.99}, which this dgguf does not know; a newer one may"
        )
    return weights


def _load_layer(load: TensorLoader, prefix: str, config: VisionConfig) -> VisionLayer:
    found: dict[str, Array | Linear] = {}
    for name, shape in layer_shapes(config).items():
        field = name.removesuffix(".weight")
        if field in LINEARS:
            found[field] = _load_linear(load, prefix + field, shape)
        else:
            found[field] = load.vector(prefix + name, shape[0])
    return VisionLayer(**found)


def _load_linear(load: TensorLoader, name: str, shape: tuple[int, ...]) -> Linear:
    weight = load.matrix(f"{name}.weight", *shape)
    bounds = [load.scalar(f"{name}.{bound}") if load.has(f"{name}.{bound}") else None for bound in BOUNDS]
    pairs: list[tuple[float, float] | None] = []
    for low, high in (bounds[:2], bounds[2:]):
        if low is None and high is None:
            pairs.append(None)
            continue
        pair = (-float("inf") if low is None else low, float("inf") if high is None else high)
        if not pair[0] <= pair[1]:
            raise UnsupportedModelError(f"{load.file.path}: the bounds of {name} are {pair[0]} to {pair[1]}")
        pairs.append(pair)
    return Linear(weight, *pairs)
