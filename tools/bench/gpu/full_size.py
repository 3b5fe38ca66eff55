"""The full-size model as a file that is not there: its header, and weights that nobody reads."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from dgguf.ggufio.file import GgufFile
from tests.support.synthetic.vocabulary import Vocabulary
from tests.support.synthetic.writer import FULL_SIZE, Variants, plan

VOCABULARY = 262_144


class FullSizeFile:
    """What `ModelConfig`, `gpu_sizes` and `load_weights` ask of a `GgufFile`; `type_name` is a recipe."""

    get = GgufFile.get

    def __init__(self, type_name: str) -> None:
        tokens = Vocabulary([""] * VOCABULARY, np.ones(VOCABULARY, np.int32), [])
        metadata, tensors = plan(FULL_SIZE, type_name, tokens, Variants())
        self.path = Path(f"full size, {type_name}")
        self.metadata = {
            key: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
            for key, value in metadata.items()
            if not key.startswith("tokenizer.")
        }
        self.tensors = {
            t.name: SimpleNamespace(name=t.name, shape=t.shape, format=t.format, n_weights=math.prod(t.shape))
            for t in tensors
        }

    def data(self, name: str) -> np.ndarray:
        """Zeros in place of a tensor's bytes, which take no memory."""
        tensor = self.tensors[name]
        shape = *tensor.shape[:-1], tensor.format.row_bytes(tensor.shape[-1])
        return np.broadcast_to(np.zeros(1, np.uint8), shape)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        yield
