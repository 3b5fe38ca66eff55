"""A GGUF file taken apart, so that single fields can be changed, and put together again, lies included.

Only for sound files, which the corpus holds; what comes out may be as wrong as one likes.
"""

import struct
from dataclasses import dataclass, field

from dgguf.ggufio.layout import ARRAY, NUMBERS, STRING

_SIZES = {kind: int(numpy_type[2:]) for kind, numpy_type in NUMBERS.items()}


@dataclass
class Key:
    """A metadata key: its name, the value's type and its bytes."""

    name: bytes
    kind: int
    payload: bytes
    name_length: int | None = None  # where it lies


@dataclass
class Tensor:
    """A tensor's line of the header; dims as in the file, fastest first."""

    name: bytes
    dims: list[int]
    ggml_type: int
    offset: int
    n_dims: int | None = None  # where it lies
    name_length: int | None = None


@dataclass
class Tree:
    """A whole file."""

    keys: list[Key]
    tensors: list[Tensor]
    data: bytes
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None  # where it lies
    n_keys: int | None = None
    alignment: int = 32
    tail: bytes = b""
    encoded: dict[int, bytes] = field(
        default_factory=dict
    )  # of keys and tensors that did not change, by id()

    def key(self, name: bytes) -> Key | None:
        """The first key of that name."""
        return next((key for key in self.keys if key.name == name), None)


def text(raw: bytes, length: int | None = None) -> bytes:
    """A string of a file; `length` where it lies."""
    return struct.pack("<Q", _u64(len(raw) if length is None else length)) + raw


def array(kind: int, payload: bytes, count: int) -> bytes:
    """The bytes of an array's value."""
    return struct.pack("<IQ", kind & 0xFFFFFFFF, _u64(count)) + payload


def number(kind: int, value: float) -> bytes:
    """A number in the bytes of its type, cut to what the type holds."""
    code = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}[kind]
    if code in "fd":
        try:
            return struct.pack(f"<{code}", value)
        except OverflowError:
            return struct.pack(f"<{code}", float("inf"))
    size = struct.calcsize(code)
    whole = int(value) if value == value and abs(value) != float("inf") else 0
    return (whole % (1 << 8 * size)).to_bytes(size, "little")


def read(content: bytes) -> Tree:
    """Take a sound file apart."""
    at = 4

    def take(n: int) -> bytes:
        nonlocal at
        at += n
        return content[at - n : at]

    def whole(n: int) -> int:
        return int.from_bytes(take(n), "little")

    def value(kind: int) -> bytes:
        start = at
        if kind == STRING:
            take(whole(8))
        elif kind == ARRAY:
            element, count = whole(4), whole(8)
            if element == STRING:
                for _ in range(count):
                    take(whole(8))
            else:
                take(count * _SIZES[element])
        else:
            take(_SIZES[kind])
        return content[start:at]

    version, n_tensors, n_keys = whole(4), whole(8), whole(8)
    keys = []
    for _ in range(n_keys):
        name, kind = take(whole(8)), whole(4)
        keys.append(Key(name, kind, value(kind)))
    tensors = []
    for _ in range(n_tensors):
        name, n_dims = take(whole(8)), whole(4)
        dims = [whole(8) for _ in range(n_dims)]
        tensors.append(Tensor(name, dims, whole(4), whole(8)))
    encoded = {id(key): _key_bytes(key) for key in keys} | {id(t): _tensor_bytes(t) for t in tensors}
    return Tree(keys, tensors, content[-(-at // 32) * 32 :], version=version, encoded=encoded)


def write(tree: Tree) -> bytes:
    """Put a file together."""
    parts = [
        tree.magic,
        struct.pack("<I", tree.version & 0xFFFFFFFF),
        struct.pack("<Q", _u64(len(tree.tensors) if tree.n_tensors is None else tree.n_tensors)),
        struct.pack("<Q", _u64(len(tree.keys) if tree.n_keys is None else tree.n_keys)),
    ]
    parts += [tree.encoded.get(id(key)) or _key_bytes(key) for key in tree.keys]
    parts += [tree.encoded.get(id(tensor)) or _tensor_bytes(tensor) for tensor in tree.tensors]
    head = b"".join(parts)
    return head + bytes(-len(head) % tree.alignment) + tree.data + tree.tail


def _key_bytes(key: Key) -> bytes:
    return text(key.name, key.name_length) + struct.pack("<I", key.kind & 0xFFFFFFFF) + key.payload


def _tensor_bytes(tensor: Tensor) -> bytes:
    n_dims = len(tensor.dims) if tensor.n_dims is None else tensor.n_dims
    dims = b"".join(struct.pack("<Q", _u64(dim)) for dim in tensor.dims)
    end = struct.pack("<IQ", tensor.ggml_type & 0xFFFFFFFF, _u64(tensor.offset))
    return text(tensor.name, tensor.name_length) + struct.pack("<I", n_dims & 0xFFFFFFFF) + dims + end


def _u64(value: int) -> int:
    return value % (1 << 64)
