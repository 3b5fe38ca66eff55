"""Changes to the files of a corpus: single fields at the edges of what they may be, or any bytes."""

import copy
import gzip
import json
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

from dgguf.ggufio.layout import ARRAY, NUMBERS, STRING
from dgguf.quants.block import FORMATS
from tools.fuzz import gguf_tree, values
from tools.fuzz.gguf_tree import Key, Tensor, Tree

Files = dict[str, bytes]


def mutated(rng: random.Random, files: Mapping[str, bytes], trees: Mapping[str, Any]) -> Files:
    """The files with one to three changes in one or two of them.

    Args:
        files: of a seed of the corpus, by name.
        trees: what `parsed` made of them.
    """
    changed = dict(files)
    for name in rng.sample(sorted(files), 2 if len(files) > 1 and rng.random() < 0.2 else 1):
        tree = trees[name]
        if tree is None or rng.random() < 0.12:
            changed[name] = any_bytes(rng, changed[name])
            continue
        tree = _copied(tree)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            tree = _CHANGES[type(tree)](rng, tree)
        changed[name] = _written(rng, tree, name)
        if rng.random() < 0.03:
            changed[name] = any_bytes(rng, changed[name])
    return changed


def parsed(name: str, content: bytes) -> Any:
    """A file's structure: a GGUF's tree, JSON's values, lines of JSON, a legacy imatrix; None for bytes."""
    if content.startswith(b"GGUF"):
        return gguf_tree.read(content)
    if name.endswith(".jsonl.gz"):
        return Lines([json.loads(line) for line in gzip.decompress(content).splitlines()])
    if name.endswith(".jsonl"):
        return Lines([json.loads(line) for line in content.splitlines()])
    if name.endswith(".json"):
        return Json(json.loads(content))
    if name.endswith(".safetensors"):
        length = int.from_bytes(content[:8], "little")
        return Safetensors(json.loads(content[8 : 8 + length]), content[8 + length :])
    if name.endswith(".dat"):
        return Legacy.read(content)
    if name.endswith(".jinja"):
        return Template(content.decode())
    return None


class Json:
    """A JSON file."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Lines:
    """A file of JSON lines."""

    def __init__(self, lines: list[Any]) -> None:
        self.lines = lines


class Safetensors:
    """A safetensors file; `length` where the header's length lies."""

    def __init__(self, header: Any, body: bytes) -> None:
        self.header, self.body, self.length = header, body, None


class Template:
    """A chat template."""

    def __init__(self, text: str) -> None:
        self.text = text


class Legacy:
    """A legacy imatrix: integers and bytes in turn."""

    def __init__(self, fields: list[int | bytes]) -> None:
        self.fields = fields

    @classmethod
    def read(cls, content: bytes) -> "Legacy":
        fields: list[int | bytes] = []
        at = 0

        def whole() -> int:
            nonlocal at
            at += 4
            fields.append(struct.unpack_from("<i", content, at - 4)[0])
            return int(fields[-1])

        def take(n: int) -> None:
            nonlocal at
            fields.append(content[at : at + n])
            at += n

        for _ in range(whole()):
            take(whole())
            whole()
            take(4 * whole())
        if at < len(content):
            whole()
            take(whole())
        return cls(fields)

    def write(self) -> bytes:
        return b"".join(
            f if isinstance(f, bytes) else (f % (1 << 32)).to_bytes(4, "little") for f in self.fields
        )


def any_bytes(rng: random.Random, content: bytes) -> bytes:
    """Single bytes changed, a stretch cut out or doubled, an end cut off or put on."""
    changed = bytearray(content)
    end = min(len(changed), 1 << 14) if rng.random() < 0.8 else len(changed)  # headers stand in front
    if not end:
        return rng.randbytes(9)
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        changed[rng.randrange(end)] = rng.choice((0, 1, 0x1B, 0x7F, 0x80, 0x9B, 0xFF, rng.randrange(256)))
    start, stop = sorted((rng.randrange(end), rng.randrange(end)))
    match rng.randrange(8):
        case 0:
            del changed[start:stop]
        case 1:
            changed[start:start] = changed[start : min(stop, start + 4096)]
        case 2:
            del changed[start:]
        case 3:
            changed += rng.randbytes(rng.randrange(40))
        case 4:
            wide = rng.choice((4, 8))
            changed[start : start + wide] = (values.integer(rng) % (1 << 8 * wide)).to_bytes(wide, "little")
    return bytes(changed)


def _copied(tree: Any) -> Any:
    """A copy whose fields can be changed."""
    match tree:
        case Tree():
            fresh = copy.copy(tree)
            fresh.keys, fresh.tensors = list(tree.keys), list(tree.tensors)
            return fresh
        case Json():
            return Json(copy.deepcopy(tree.value))
        case Lines():
            return Lines(list(tree.lines))
        case Safetensors():
            return Safetensors(dict(tree.header), tree.body)
        case Legacy():
            return Legacy(list(tree.fields))
    return Template(tree.text)


def _written(rng: random.Random, tree: Any, name: str) -> bytes:
    match tree:
        case Tree():
            return gguf_tree.write(tree)
        case Json():
            return _json(rng, tree.value).encode("utf-8", "surrogatepass")
        case Lines():
            text = "".join(_json(rng, line) + "\n" for line in tree.lines).encode("utf-8", "surrogatepass")
            return gzip.compress(text, 1) if name.endswith(".gz") else text
        case Safetensors():
            head = _json(rng, tree.header).encode("utf-8", "surrogatepass")
            length = len(head) if tree.length is None else tree.length % (1 << 64)
            return struct.pack("<Q", length) + head + tree.body
        case Legacy():
            return tree.write()
    return str(tree.text).encode("utf-8", "surrogatepass")


def _json(rng: random.Random, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=(",", ":"))
    except ValueError:  # whole numbers of more digits than Python writes
        return "1" * 5000


# One change each; what is returned is the changed tree.


def _change_gguf(rng: random.Random, tree: Tree) -> Tree:
    if tree.keys and rng.random() < 0.4:  # the file stays one, what it says changes
        at = rng.randrange(len(tree.keys))
        key = tree.keys[at] = copy.copy(tree.keys[at])
        if rng.random() < 0.35:
            key.kind, key.payload = values.gguf_value(rng)
        else:
            _change_payload(rng, key)
    elif tree.keys and rng.random() < 0.5:
        _change_key(rng, tree, rng.randrange(len(tree.keys)))
    elif tree.tensors and rng.random() < 0.75:
        _change_tensor(rng, tree, rng.randrange(len(tree.tensors)))
    else:
        match rng.randrange(7):
            case 0:
                tree.version = values.integer(rng)
            case 1:
                tree.n_keys = rng.choice((values.integer(rng), len(tree.keys) + rng.choice((-1, 1))))
            case 2:
                tree.n_tensors = rng.choice((values.integer(rng), len(tree.tensors) + rng.choice((-1, 1))))
            case 3:
                tree.data = tree.data[: rng.randrange(len(tree.data) + 1)]
            case 4:
                tree.tail = rng.randbytes(rng.randrange(64))
            case 5:
                alignment = rng.choice((8, 16, 32, 64, 3, 0, 1 << 20, values.integer(rng)))
                tree.keys.append(Key(b"general.alignment", 4, gguf_tree.number(4, alignment)))
            case 6:
                tree.keys.append(Key(rng.choice(_OPTIONAL), *values.gguf_value(rng)))
    return tree


# Keys that a reader looks at though most files lack them.
_OPTIONAL = (
    b"general.alignment",
    b"split.count",
    b"split.no",
    b"split.tensors.count",
    b"tokenizer.ggml.eos_token_ids",
    b"tokenizer.ggml.add_bos_token",
    b"tokenizer.ggml.unknown_token_id",
    b"general.type",
    b"imatrix.datasets",
    b"imatrix.chunk_count",
    b"diffusion.canvas_length",
    *(f"diffusion.eb_{name}".encode() for name in ("max_steps", "t_min", "t_max", "entropy_bound")),
)


def _change_key(rng: random.Random, tree: Tree, at: int) -> None:
    key = copy.copy(tree.keys[at])
    tree.keys[at] = key
    match rng.randrange(10):
        case 0 | 1:
            key.kind, key.payload = values.gguf_value(rng)
        case 2 | 3 | 4:
            _change_payload(rng, key)
        case 5:
            key.name = rng.choice((values.raw(rng), rng.choice(tree.keys).name, b"x" * 70000))
        case 6:
            key.name_length = values.integer(rng)
        case 7:
            del tree.keys[at]
        case 8:
            tree.keys.append(copy.copy(key))
        case 9:
            key.kind = rng.choice((*range(14), 255, 1 << 31))


_KINDS = (*NUMBERS, STRING, ARRAY)
_ELEMENTS = tuple(bytes((kind,)) for kind in (*NUMBERS, STRING))


def _change_payload(rng: random.Random, key: Key) -> None:
    """Another value of the same type, or an array with something wrong in it."""
    if key.kind not in _KINDS or (key.kind == 9 and key.payload[:1] not in _ELEMENTS):
        key.kind, key.payload = values.gguf_value(rng)  # an earlier change has left nothing to start from
    elif key.kind == 8:
        length = values.integer(rng) if rng.random() < 0.2 else None
        key.payload = gguf_tree.text(values.raw(rng), length)
    elif key.kind == 9:
        _change_array(rng, key)
    elif key.kind == 7:
        key.payload = bytes((rng.choice((0, 1, 2, 255)),))
    else:
        number = values.number(rng) if key.kind in (6, 12) else values.integer(rng)
        key.payload = gguf_tree.number(key.kind, number)


def _change_array(rng: random.Random, key: Key) -> None:
    kind, count = struct.unpack("<IQ", key.payload[:12].ljust(12, b"\0"))
    body = key.payload[12:]
    if rng.random() < 0.25 or count > len(body):
        new_kind = rng.choice((*range(14), kind, kind))
        key.payload = gguf_tree.array(new_kind, body, rng.choice((values.integer(rng), count - 1, count + 1)))
        return
    if kind == 8:
        texts, at = [], 0
        for _ in range(count):
            length = int.from_bytes(body[at : at + 8], "little")
            texts.append(body[at + 8 : at + 8 + length])
            at += 8 + length
        for _ in range(rng.choice((1, 1, 2, 9))):
            if texts:
                i = rng.randrange(len(texts))
                texts[i] = rng.choice((values.raw(rng), rng.choice(texts), texts[i] + values.raw(rng)))
        if rng.random() < 0.1:
            texts = texts[: rng.randrange(len(texts) + 1)]
        key.payload = gguf_tree.array(8, b"".join(map(gguf_tree.text, texts)), len(texts))
        return
    size = len(body) // count if count else 1
    items = [body[i * size : (i + 1) * size] for i in range(count)]
    number = values.number(rng) if kind in (6, 12) else values.integer(rng)
    edge = b"\x02" if kind == 7 else gguf_tree.number(kind, number)
    match rng.randrange(4):
        case 0:
            items = [edge] * count
        case 1:
            items = items[: rng.randrange(count + 1)]
        case 2:
            items += items
        case _ if items:
            items[rng.randrange(count)] = edge
    key.payload = gguf_tree.array(kind, b"".join(items), len(items))


def _change_tensor(rng: random.Random, tree: Tree, at: int) -> None:
    tensor = copy.copy(tree.tensors[at])
    tensor.dims = list(tensor.dims)
    tree.tensors[at] = tensor
    match rng.randrange(9):
        case 0:
            tensor.name = rng.choice((values.raw(rng), rng.choice(tree.tensors).name, tensor.name + b".x"))
        case 1 | 2 if tensor.dims:
            i = rng.randrange(len(tensor.dims))
            tensor.dims[i] = rng.choice((values.integer(rng), tensor.dims[i] + 1, tensor.dims[i] * 2))
        case 3:
            tensor.n_dims = values.integer(rng)
        case 4:
            tensor.dims = [values.integer(rng) for _ in range(rng.randrange(6))]
        case 5:
            tensor.ggml_type = rng.choice((*FORMATS, values.integer(rng)))
        case 6:
            tensor.offset = rng.choice(
                (values.integer(rng), rng.choice(tree.tensors).offset, tensor.offset + 32)
            )
        case 7:
            del tree.tensors[at]
        case 8:
            tree.tensors.append(Tensor(values.raw(rng), tensor.dims, tensor.ggml_type, tensor.offset))


def _change_json(rng: random.Random, tree: Json) -> Json:
    tree.value = change_value(rng, tree.value)
    return tree


def change_value(rng: random.Random, value: Any) -> Any:
    """JSON values with one of them changed; containers may be changed in place."""
    if not value or not isinstance(value, dict | list) or rng.random() < 0.08:
        if isinstance(value, list) and rng.random() < 0.5:
            return rng.choice(
                (value[:-1], value + value[-1:], [value], {str(i): v for i, v in enumerate(value)})
            )
        if isinstance(value, int | float) and rng.random() < 0.5:
            return rng.choice((values.integer(rng), values.number(rng), 10**400))
        return values.json_value(rng)
    if isinstance(value, list):
        i = rng.randrange(len(value))
        return [*value[:i], change_value(rng, copy.copy(value[i])), *value[i + 1 :]]
    key = rng.choice(sorted(value))
    value = dict(value)
    match rng.randrange(12):
        case 0:
            del value[key]
        case 1:
            value[values.words(rng, 1000)] = value.pop(key)
        case 2:
            value[values.words(rng, 1000)] = value[key]
        case _:
            value[key] = change_value(rng, copy.copy(value[key]))
    return value


def _change_lines(rng: random.Random, tree: Lines) -> Lines:
    at = rng.randrange(len(tree.lines)) if tree.lines else 0
    match rng.randrange(12) if tree.lines else 1:
        case 0:
            del tree.lines[at]
        case 1:
            tree.lines.insert(at, values.json_value(rng))
        case 2:
            tree.lines.insert(at, tree.lines[rng.randrange(len(tree.lines))])
        case 3:
            del tree.lines[at:]
        case 4:
            tree.lines[0] = change_value(rng, tree.lines[0])
        case 5 if rng.random() < 0.02:  # more of them than a reader takes
            tree.lines[at:at] = [tree.lines[at]] * 60_000
        case _:
            tree.lines[at] = change_value(rng, tree.lines[at])
    return tree


def _change_safetensors(rng: random.Random, tree: Safetensors) -> Safetensors:
    match rng.randrange(10):
        case 0:
            tree.length = values.integer(rng)
        case 1:
            tree.body = tree.body[: rng.randrange(len(tree.body) + 1)]
        case _:
            tree.header = change_value(rng, tree.header)
    return tree


def _change_legacy(rng: random.Random, tree: Legacy) -> Legacy:
    at = rng.randrange(len(tree.fields))
    if isinstance(tree.fields[at], int):
        tree.fields[at] = values.integer(rng)
    else:
        floats = struct.pack("<2f", values.number(rng) % 1e30, values.number(rng) % 1e30)
        tree.fields[at] = rng.choice((values.raw(rng), b"", floats * 16))
    if rng.random() < 0.1:
        del tree.fields[rng.randrange(len(tree.fields)) :]
        tree.fields.append(values.raw(rng))
    return tree


# Pieces of templates, of which any may follow or hold any other.
_PIECES = (
    "{{ messages }}", "{{ messages[0].content }}", "{{ bos_token }}", "{{ x }}", "{{ messages|tojson }}",
    "{% for m in messages %}", "{% for i in range(99999) %}", "{% for i in range(9) %}", "{% endfor %}",
    "{% if messages %}", "{% elif x %}", "{% else %}", "{% endif %}", "{% break %}", "{% continue %}",
    "{% set n = namespace(x='ab') %}", "{% set n.x = n.x ~ n.x %}", "{% set n.x = n.x + n.x %}",
    "{% set x = [1, 'a', none] %}", "{% set x %}", "{% endset %}", "{% macro f(a) %}", "{{ f(1) }}",
    "{% endmacro %}", "{{ f(f(x)) }}", "{{ 'a' * 10**9 }}", "{{ 9**99999 }}", "{{ x|sort|join('-') }}",
    "{{ raise_exception('\x1b[2J' * 9) }}", "{{ ''.__class__ }}", "{{ x.y.z }}", "{{ x[0][1] }}",
    "{{ 1 // 0 }}", "{{ messages|map(attribute='content')|list }}", "{{ messages|groupby('role') }}",
    "{{ range(99999)|list|unique|list|length }}", "{{ 'a'|replace('', 'b' * 999) }}", "{# c #}", "{{", "%}",
    "{% raw %}", "{% endraw %}", "{{ x is in x }}", "{{ loop.cycle(1, 2) }}", "{{ cycler(1).next() }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|list|string }}", "{% include 'x' %}", "{{ self }}",
    "{% filter upper %}", "{% endfilter %}", "{% call f(1) %}", "{% endcall %}", "{% with a = 1 %}",
    "{% endwith %}", "{{ strftime_now('%Y') }}", "{{ 'a,b'.split(',')|max }}", "{{ x|dictsort|tojson(9) }}",
)  # fmt: skip


def _change_template(rng: random.Random, tree: Template) -> Template:
    if rng.random() < 0.3:
        tree.text = "".join(rng.choices(_PIECES, k=rng.randrange(1, 12)))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(tree.text) + 1)
        new = rng.choice((rng.choice(_PIECES), values.words(rng), ""))
        tree.text = tree.text[:at] + new + tree.text[at + rng.randrange(9) * (rng.random() < 0.5) :]
    return tree


_CHANGES: dict[type, Callable[[random.Random, Any], Any]] = {
    Tree: _change_gguf,
    Json: _change_json,
    Lines: _change_lines,
    Safetensors: _change_safetensors,
    Legacy: _change_legacy,
    Template: _change_template,
}
