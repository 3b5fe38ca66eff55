"""What the fuzzer changes: small sound files of every kind that a command reads, made by code.

A seed is a folder: its files by name, and the one that the command is given.
"""

import base64
import collections
import dataclasses
import functools
import gzip
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dgguf.batch.journal import Journal
from dgguf.batch.results import unread
from dgguf.convert.imatrix import Sums, write_imatrix
from dgguf.diffusion.sampler import Branch
from dgguf.ggufio.write_header import pack_header
from dgguf.thumbnails import Thumbnail
from dgguf.view.recorder import Recorder
from tests.support import checkpoints, recordings
from tests.support.small_vocabulary import to_metadata
from tests.support.synthetic.tower import TINY_TOWER, write_tower
from tests.support.synthetic.vocabulary import Vocabulary
from tests.support.synthetic.writer import TINY, Geometry, write_model
from tests.support.videos import film

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] ~ m.content|trim }}{% endfor %}"
HOLES = "Dear Ms [[8]], \\[[x]] thank [[]] you\n for [[24]][[1]]. Yours, Eva\n"
EDITED = "\ufeff\r\nDear <turn|> Ms,\r\n\tI hate \x1b this caf\u00e9.\r\n \r\n"
CONVERSATION = (
    '{"system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}, '
    '{"role": "assistant", "content": "Hello\\n<turn|>"}]}'
)
QUESTIONS = """[{"type": "predicate", "instructions": "Is it about Hi?", "name": "greeting"},
 {"type": "choice", "instructions": [{"type": "input_text", "text": "Who?"}],
  "choices": [{"value": "ab", "description": "him"}, {"value": true}, {"value": "true"}]},
 {"type": "score", "instructions": "How urgent?", "levels": [{"label": "low"}, {"label": "high"}]}]
"""
SCHEMA = r"""{"type": "object",
 "$defs": {"part": {"type": ["number", "null"], "minimum": -1.5, "maximum": 20}},
 "properties": {
  "name": {"type": "string", "minLength": 1, "maxLength": 9}, "id": {"pattern": "^[a-z]{2,3}-\\d+$"},
  "kind": {"enum": ["a", 1, null]}, "when": {"type": "string", "format": "date"},
  "part": {"$ref": "#/$defs/part"}, "any": {"oneOf": [{"type": "boolean"}, {"type": "string"}]},
  "list": {"type": "array", "prefixItems": [{"const": true}], "items": {"type": "integer"}, "maxItems": 3},
  "all": {"allOf": [{"type": "string"}, {"minLength": 2}]},
  "map": {"additionalProperties": {"type": "integer", "exclusiveMinimum": 3}, "maxProperties": 2}},
 "required": ["name", "list"], "additionalProperties": false}
"""
EXPRESSIONS = r"""yes|no
[A-Z][a-z]{2,8}( \w+)*\.
^(?:\d{1,3}\.){3}\d{1,3}$
(x+x+)+y
[^\s"]{3,}?é
.{0,40}\x41
"""
LINES = "Is it <turn|>?\nteam: Who should take it? ab|Hi|legal\nurgency: low<medium<high\nName it. a b|c\n"
BATCH_LINES = """{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
"body": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "seed": 3}}
{"custom_id": "b", "url": "/v1/decisions", "body": {"input": "Hi", "questions": [{"type": "predicate",
"instructions": "Is it?"}]}}
{"prompt": "Hi ab", "system": "Be brief.", "images": ["a.png"], "seed": 7, "label": null}
{"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]}
{"text": "Hi\\u0007", "custom_id": "c"}
""".replace(",\n", ", ")
BATCH_TABLE = 'custom_id,prompt,seed,images\na,"Hi ""ab""\nthere",7,a.png\nb,Hi,,"[""b.png""]"\n\nc,é,1,\n'
_GEOMETRY = replace(
    TINY, block_count=2, full_every=2, embedding_length=32, feed_forward_length=32, head_count=2,
    head_count_kv_swa=1, key_length_swa=16, expert_count=2, canvas_length=8, context_length=64,
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A sound input.

    Attributes:
        kind: a key of `targets.TARGETS`.
        files: contents by name.
        main: the file, or "" for the folder, that the command is given.
    """

    kind: str
    files: Mapping[str, bytes]
    main: str


def corpus() -> dict[str, Seed]:
    """All seeds by name; the same every time."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: make(Path(folder) / name.replace(" ", "-")) for name, make in _MAKERS.items()}


def _folder(kind: str, main: str, write: Callable[[Path], object], folder: Path) -> Seed:
    folder.mkdir()
    write(folder)
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return Seed(kind, files, main)


def vocabulary() -> Vocabulary:
    metadata = to_metadata(["ab", "▁ab", "\n\n", "Hi"], [*map(chr, range(33, 127)), "\n", "▁", "é"])
    return Vocabulary(
        metadata["tokenizer.ggml.tokens"],
        metadata["tokenizer.ggml.token_type"],
        metadata["tokenizer.ggml.merges"],
    )


def _small_vocabulary() -> Vocabulary:
    """Without byte tokens, which the unknown token stands in for; read sooner."""
    whole = vocabulary()
    kept = [
        i for i, token in enumerate(whole.tokens) if not token.startswith("<0x") and token not in "BCDEFGJKL"
    ]
    return Vocabulary([whole.tokens[i] for i in kept], whole.types[kept], whole.merges)


def _model(
    folder: Path,
    geometry: Geometry = _GEOMETRY,
    vocabulary: Callable[[], Vocabulary] = vocabulary,
    type_name: str = "Q8_0",
    **variants: object,
) -> None:
    keys = {"tokenizer.chat_template": TEMPLATE, **variants.pop("metadata", {})}  # type: ignore[dict-item]
    write_model(folder / "m.gguf", geometry, type_name, vocabulary=vocabulary(), metadata=keys, **variants)


def _vocabulary_only(folder: Path) -> None:
    metadata = vocabulary().metadata() | {"general.architecture": "diffusion-gemma"}
    (folder / "m.gguf").write_bytes(pack_header(metadata, []))


def _projector(folder: Path) -> None:
    _model(
        folder,
        architecture="clip",
        omit_keys=["tokenizer.*", "diffusion.*"],
        metadata={
            "general.type": "mmproj",
            "clip.has_vision_encoder": True,
            "clip.vision.image_size": np.uint32(224),
            "clip.vision.image_mean": np.array([0.5, 0.5, 0.5], np.float32),
        },
    )


def _imatrix(folder: Path) -> None:
    rng = np.random.default_rng(1)
    names = ("blk.0.attn_q.weight", "blk.0.ffn_gate_up_exps.weight")
    sums = {n: Sums(rng.random((m, 32)), np.full(m, 9.0)) for n, m in zip(names, (1, 2), strict=True)}
    write_imatrix(folder / "m.gguf", sums, datasets=["a.txt"], n_chunks=3, chunk_size=64)


def _legacy_imatrix(folder: Path) -> None:
    def field(raw: bytes) -> bytes:
        return len(raw).to_bytes(4, "little") + raw

    def entry(name: bytes, n: int) -> bytes:
        numbers = np.linspace(0, 2, n, dtype="<f4").tobytes()
        return field(name) + (5).to_bytes(4, "little") + n.to_bytes(4, "little") + numbers

    entries = entry(b"blk.0.attn_q.weight", 32) + entry(b"output.weight", 64)
    (folder / "m.dat").write_bytes(
        (2).to_bytes(4, "little") + entries + (3).to_bytes(4, "little") + field(b"a")
    )


def _recording(name: str, folder: Path, held: str = "") -> None:
    """A recording, of an answer with pins or of one that is held to a language."""
    drafts = [
        (["He", "llo", "<turn|>", "<eos>"], [0.01, 0.3, 0.02, 0.9]),
        (["He", "y", "<turn|>", "!"], [0.01] * 4),
    ]
    drafts.append((["He", b"\xe4", "<turn|>", "<|channel>"], [0.0] * 4))
    tokens, events = recordings.generation([drafts, drafts[:2]], pins=(1,))
    more = {"branches": (Branch(0, 1, 8),), "constraints": "a[[1]]", "digest": "ab", "arithmetic": "avx2"}
    more["images"] = (Thumbnail("[image 1: a.png, 48x48, 1 tokens]", base64.b64decode(PNG)),)
    more |= {"constraints": held, "pins": {}} if held else {}
    events[0] = dataclasses.replace(events[0], **more)
    path = folder / "plain.jsonl"
    with Recorder.to_file(path, tokens) as recorder:
        collections.deque(recorder.record(events), maxlen=0)
    content = path.read_bytes()
    path.unlink()
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)


def _with_recording(body: str, folder: Path, held: str = "") -> None:
    """A body of the page without its recording, and that."""
    _recording("r.jsonl", folder, held)
    _text("r.json", body, folder)


def _checkpoint(folder: Path, shards: int = 1) -> None:
    checkpoint = checkpoints.Checkpoint(folder)
    # The weights are not looked at: a smaller file is read sooner.
    checkpoint.write(shards)


def _text(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8")


def _journal(folder: Path) -> None:
    with Journal(folder / "out.journal") as journal:
        journal.begin({"input": "0123", "seed": 3, "settings": {"max_tokens": 8}, "model": "abcd"})
        for number in (3, 1, 2):
            journal.add(number, unread(f"{number}", f"row-{number}", "it is no JSON").line)


def _published_template() -> str:
    return (ROOT / "tests/data/chat_template.jinja").read_text(encoding="utf-8")


def _tower(folder: Path) -> None:
    small = replace(TINY_TOWER, hidden_size=32, ff_size=32, n_heads=2, n_layers=1, text_size=32, n_places=9)
    write_tower(folder / "mmproj.gguf", small, "Q8_0", clipped=True)


def _picture(name: str, folder: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).convert("P" if name.endswith(".gif") else "RGB").save(folder / name)


def _film(name: str, folder: Path) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    if name.endswith(".gif"):
        first, *rest = map(Image.fromarray, frames)
        first.save(folder / name, save_all=True, append_images=rest)
    elif name.endswith(".mp4"):
        (folder / name).write_bytes(film(frames, 10, "mp4", "mpeg4", "yuv420p"))
    else:
        (folder / name).write_bytes(film(frames))


PNG = (  # of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABAQAAAAA3bvkkAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
CHAT_REQUEST = json.dumps(
    {
        "model": "demo",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                    {"type": "text", "text": "2 + 2?"},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": '{"sum": 4}'},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "description": "Adds.",
                    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "sum",
                "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
            },
        },
        "stream": True,
        "stream_options": {"include_usage": True},
        "diffusing": True,
        "n": 2,
        "stop": ["end", "."],
        "max_tokens": 64,
        "max_completion_tokens": 32,
        "seed": 7,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "sampler": {"max_steps": 4, "t_min": 0.4},
        "temperature": 0.7,
        "logit_bias": {"1": 2},
    }
)
COMPLETION_REQUEST = json.dumps(
    {
        "model": "demo",
        "prompt": ["Once", [2, 20, 21]],
        "suffix": " the end.",
        "max_tokens": 16,
        "n": 2,
        "stop": ["end", "."],
        "echo": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 7,
        "sampler": {"max_steps": 4},
        "best_of": 2,
    }
)
RESPONSE_REQUEST = json.dumps(
    {
        "model": "demo",
        "instructions": "Be brief.",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                    {"type": "input_text", "text": "2 + 2?"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 2}'},
            {"type": "function_call_output", "call_id": "c", "output": '{"sum": 4}'},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]},
        ],
        "tools": [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}],
        "tool_choice": {"type": "function", "name": "add"},
        "text": {"format": {"type": "json_schema", "name": "sum", "schema": {"type": "integer"}}},
        "reasoning": {"effort": "low"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "max_output_tokens": 32,
        "metadata": {"a": "b"},
        "seed": 7,
        "canvas": 32,
        "store": True,
    }
)
OLLAMA_REQUEST = json.dumps(
    {
        "model": "demo:latest",
        "prompt": "Hi",
        "system": "Be brief.",
        "images": [PNG],
        "messages": [
            {"role": "user", "content": "2 + 2?", "images": [PNG]},
            {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2}}}]},
            {"role": "tool", "tool_name": "add", "content": '{"sum": 4}'},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        "format": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "options": {"seed": 7, "num_predict": 32, "stop": ["end"], "temperature": 0.5, "canvas": 32},
        "think": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "keep_alive": "5m",
        "stream": False,
    }
)
DECISION_REQUEST = json.dumps(
    {
        "model": "demo",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "I was charged twice."}]}],
        "questions": json.loads(QUESTIONS),
        "samples": "auto",
        "permute": True,
        "joint": False,
    }
)
# Of the server's page. What it decides has the body of a decision request, and /page/about has none.
PAGE_FILL = json.dumps(
    {
        "template": HOLES,
        "prompt": "Write.",
        "system": "Be brief.",
        "seed": 7,
        "sampler": {"max_steps": 4, "t_min": 0.4},
    }
)
HELD = 'each hole of ["He ", null]: schema: {"type": "array", "items": {"enum": ["llo", 7]}}'
PAGE_RESUME = json.dumps({"block": 0, "step": 2, "seed": 7})  # the recording lies beside it
PAGE_EXPORT = json.dumps({"kind": "svg", "theme": "light"})
PAGE_IMAGE = json.dumps({"url": f"data:image/png;base64,{PNG}"})
SYSTEM_ONE_REQUEST = json.dumps(
    {
        "model": "demo",
        "state": {"subject": "Charge", "body": ["twice"]},
        "questions": {
            "money": {"type": "noul", "instructions": "Is it about money?", "criteria": {"true": "a charge"}},
            "team": {"type": "choice", "criteria": {"sales": None, "support": "all the rest"}},
            "urgency": {"type": "score", "instructions": {"task": "Urgent?"}, "criteria": ["low", "high"]},
        },
    }
)


_MAKERS: dict[str, Callable[[Path], Seed]] = {
    "model": functools.partial(
        _folder,
        "model",
        "m.gguf",
        functools.partial(_model, geometry=replace(_GEOMETRY, block_count=1), vocabulary=_small_vocabulary),
    ),
    "model with other names": functools.partial(
        _folder,
        "model",
        "m.gguf",
        functools.partial(
            _model, old_self_cond_norm=True, split_experts=True, scalar_head_count_kv=True, untied_head=True
        ),
    ),
    "model in floats": functools.partial(
        _folder, "model", "m.gguf", functools.partial(_model, type_name="BF16")
    ),
    "vocabulary": functools.partial(_folder, "model", "m.gguf", _vocabulary_only),
    "projector": functools.partial(_folder, "model", "m.gguf", _projector),
    "split model": functools.partial(
        _folder,
        "model",
        "m-00001-of-00003.gguf",
        functools.partial(_model, vocabulary=_small_vocabulary, n_parts=3),
    ),
    "imatrix": functools.partial(_folder, "imatrix", "m.gguf", _imatrix),
    "legacy imatrix": functools.partial(_folder, "imatrix", "m.dat", _legacy_imatrix),
    "recording": functools.partial(_folder, "recording", "r.jsonl", functools.partial(_recording, "r.jsonl")),
    "compressed recording": functools.partial(
        _folder, "recording", "r.jsonl.gz", functools.partial(_recording, "r.jsonl.gz")
    ),
    "checkpoint": functools.partial(_folder, "checkpoint", "", _checkpoint),
    "sharded checkpoint": functools.partial(
        _folder, "checkpoint", "", functools.partial(_checkpoint, shards=2)
    ),
    "template": functools.partial(
        _folder, "template", "t.jinja", functools.partial(_text, "t.jinja", TEMPLATE)
    ),
    "published template": functools.partial(
        _folder, "template", "t.jinja", lambda folder: _text("t.jinja", _published_template(), folder)
    ),
    "conversation": functools.partial(
        _folder, "conversation", "c.json", functools.partial(_text, "c.json", CONVERSATION)
    ),
    "text with holes": functools.partial(_folder, "holes", "t.txt", functools.partial(_text, "t.txt", HOLES)),
    "edited text": functools.partial(_folder, "edited", "t.txt", functools.partial(_text, "t.txt", EDITED)),
    "questions": functools.partial(
        _folder, "questions", "q.json", functools.partial(_text, "q.json", QUESTIONS)
    ),
    "chat request": functools.partial(
        _folder, "chat request", "r.json", functools.partial(_text, "r.json", CHAT_REQUEST)
    ),
    **{
        name: functools.partial(_folder, name, "r.json", functools.partial(_text, "r.json", text))
        for name, text in (
            ("completion request", COMPLETION_REQUEST),
            ("response request", RESPONSE_REQUEST),
            ("ollama request", OLLAMA_REQUEST),
        )
    },
    **{
        f"page {kind}": functools.partial(_folder, f"page {kind}", "r.json", write)
        for kind, write in (
            ("fill", functools.partial(_text, "r.json", PAGE_FILL)),
            ("resume", functools.partial(_with_recording, PAGE_RESUME)),
            ("resume held", functools.partial(_with_recording, PAGE_RESUME, held=HELD)),
            ("export", functools.partial(_with_recording, PAGE_EXPORT)),
            ("image", functools.partial(_text, "r.json", PAGE_IMAGE)),
        )
    },
    "decision request": functools.partial(
        _folder, "decision request", "r.json", functools.partial(_text, "r.json", DECISION_REQUEST)
    ),
    "system one request": functools.partial(
        _folder, "system one request", "r.json", functools.partial(_text, "r.json", SYSTEM_ONE_REQUEST)
    ),
    "batch lines": functools.partial(
        _folder, "batch", "b.jsonl", functools.partial(_text, "b.jsonl", BATCH_LINES)
    ),
    "batch table": functools.partial(
        _folder, "batch", "b.csv", functools.partial(_text, "b.csv", BATCH_TABLE)
    ),
    "batch journal": functools.partial(_folder, "journal", "out.journal", _journal),
    "lines of questions": functools.partial(
        _folder, "lines", "q.txt", functools.partial(_text, "q.txt", LINES)
    ),
    "tower": functools.partial(_folder, "tower", "mmproj.gguf", _tower),
    **{
        f"image {name}": functools.partial(_folder, "image", name, functools.partial(_picture, name))
        for name in ("a.png", "a.jpg", "a.gif", "a.tif")
    },
    **{
        f"video {name}": functools.partial(_folder, "video", name, functools.partial(_film, name))
        for name in ("a.mp4", "a.mkv", "a.gif")
    },
    "schema": functools.partial(_folder, "schema", "s.json", functools.partial(_text, "s.json", SCHEMA)),
    "expressions": functools.partial(
        _folder, "expressions", "e.txt", functools.partial(_text, "e.txt", EXPRESSIONS)
    ),
}
