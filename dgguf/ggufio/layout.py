"""What reader and writer of GGUF files must agree on: numbers, keys, alignment, names of split files.

Source: the GGUF specification (docs/gguf.md of ggml); the names of split files are llama.cpp's.
"""

import re
from dataclasses import dataclass

MAGIC = b"GGUF"
VERSION = 3  # the one that is written

# Value types. Those of numbers as numpy spells them, little-endian.
NUMBERS = {0: "|u1", 1: "|i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1"}
NUMBERS |= {10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9

ALIGNMENT_KEY = "general.alignment"
ALIGNMENT = 32  # where the key is missing

SPLIT_PREFIX = "split."
SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
_SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class SplitName:
    """The file name of a split model's part.

    Attributes:
        stem: what the names of all parts begin with.
        number: of this part, from 1.
        count: of the parts.
    """

    stem: str
    number: int
    count: int


def padded(n_bytes: int, alignment: int = ALIGNMENT) -> int:
    """`n_bytes` rounded up to the alignment of tensor data."""
    return -(-n_bytes // alignment) * alignment


def padding(n_bytes: int) -> bytes:
    """The zeros that follow a tensor of `n_bytes`."""
    return bytes(padded(n_bytes) - n_bytes)


def split_names(stem: str, count: int) -> list[str]:
    """The file names of a model in `count` parts: stem-00001-of-0000N.gguf and so on."""
    return [f"{stem}-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]


def parse_split_name(name: str) -> SplitName | None:
    """What the file name of a split model's part says; None for any other name."""
    found = _SPLIT_NAME.fullmatch(name)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]):
        return None
    return SplitName(found["stem"], int(found["number"]), int(found["count"]))
