"""A random model whose answers never end by themselves, whatever the CPU's rounding."""

from pathlib import Path
from typing import Any

from dgguf.ggufio.file import GgufFile
from dgguf.text.tokenizer import Tokenizer
from tests.support.synthetic.writer import TINY, write_model


def write_endless_model(path: Path, **variants: Any) -> Path:
    """Write a tiny model, Q8_0, that never commits a stop id; variants as of `write_model`.

    The embedding's rows of its stop ids are zero, and so are their logits: another of the 700 random
    logits is always larger.
    """
    write_model(path, TINY, "Q8_0", seed=3, **variants)
    with GgufFile(path) as file:
        info = file.tensors["token_embd.weight"]
        first = bytes(file.data(info.name)[0])
        row_bytes = info.n_bytes // info.shape[0]
        stops = Tokenizer.from_metadata(file.metadata, str(path)).stop_ids
    content = bytearray(path.read_bytes())
    start = content.index(first)  # of the tensor: 34 random bytes a block stand nowhere else
    assert content.count(first) == 1
    for stop in stops:
        content[start + stop * row_bytes : start + (stop + 1) * row_bytes] = bytes(row_bytes)
    path.write_bytes(content)
    return path
