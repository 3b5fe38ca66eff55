"""What a command does with a file before it computes: each kind of input through the public entry points.

A target takes the folder that the files are in and the path that the command is given, and runs stages.
A stage works, or raises a DggufError, which `Stages` looks at; any other exception is a fault, as is
text for a terminal that controls it.
"""

import functools
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from dgguf import convert
from dgguf.batch.index import key_of
from dgguf.batch.journal import Journal
from dgguf.batch.results import records
from dgguf.batch.rows import Row, read_row
from dgguf.batch.sources import Found, open_source
from dgguf.catalog import find_model
from dgguf.cli import saved
from dgguf.cli.decision_table import table
from dgguf.cli.edit import read_text
from dgguf.cli.images import announce
from dgguf.cli.prompt import read_exactly
from dgguf.cli.quantize import plan_table
from dgguf.cli.show import describe, describe_tower, parts, tower_parts
from dgguf.cli.tables import drawn
from dgguf.constraints.language import language
from dgguf.convert.imatrix import read_imatrix
from dgguf.decisions.decide import Decision
from dgguf.decisions.prompts import DecisionPrompts
from dgguf.decisions.questions import Question, parse_question, read_questions
from dgguf.decisions.wire import response
from dgguf.diffusion.sampler import Branch
from dgguf.diffusion.settings import SamplerSettings
from dgguf.edit import Source, changes
from dgguf.errors import BatchError, DggufError
from dgguf.ggufio.file import GgufFile
from dgguf.ggufio.string_array import StringArray
from dgguf.images import read_image
from dgguf.model.config import ModelConfig
from dgguf.model.memory import choose_context, gpu_sizes
from dgguf.model.mmproj import VisionConfig, load_vision
from dgguf.model.weights import load_weights
from dgguf.prompts import PromptEncoder
from dgguf.resume import ResumePoint
from dgguf.server import decisions, ollama_requests, responses, systemone, text_completions
from dgguf.server.decisions import DecisionRequest
from dgguf.server.ollama_requests import OllamaChat, OllamaGenerate
from dgguf.server.page.requests import (
    ExportRequest,
    FillPlan,
    FillRequest,
    ImageRequest,
    ResumePlan,
    ResumeRequest,
)
from dgguf.server.page.requests import drawn as drawn_page
from dgguf.server.requests import (
    ChatRequest,
    constraint_of,
    conversation_of,
    decode,
    read_request,
    wants_thoughts,
)
from dgguf.server.requests import convert as convert_body
from dgguf.server.systemone import SystemOneRequest
from dgguf.server.tools import declared_tools
from dgguf.template import Template
from dgguf.text.chat import ChatTemplate, encode_chat
from dgguf.text.tokenizer import Tokenizer
from dgguf.videos import Pictures, read_video
from dgguf.view import plain
from dgguf.view.choice import make_view
from dgguf.view.difference import difference
from dgguf.view.export.write import Drawing, facts, write
from dgguf.view.frame import line_text
from dgguf.view.recording import Recording, read_recording
from dgguf.view.screens import screens
from dgguf.view.terminal import safe_json

T = TypeVar("T")

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <turn|> ab"}]


class Fault(Exception):
    """Something that must not happen, in words."""


class Stages:
    """What became of the stages of one input.

    Args:
        thorough: run the slow stages, too.

    Attributes:
        refusals: (stage, class of the error, message).
    """

    def __init__(self, *, thorough: bool) -> None:
        self.thorough = thorough
        self.refusals: list[tuple[str, str, str]] = []

    def run(self, stage: str, function: Callable[[], T]) -> T | None:
        """The result of a stage; None where the input was refused as it should be."""
        try:
            return function()
        except DggufError as error:
            message = str(error)
            if not message or len(message) >= 500 or not message.isprintable():
                raise Fault(
                    f"{stage}: a message that is empty, long or not one visible line: {message!r}"
                ) from error
            self.refusals.append((stage, type(error).__name__, message))
            return None

    def show(self, stage: str, function: Callable[[], str]) -> None:
        """Make text for a terminal, and look at it."""
        text = self.run(stage, function)
        if text is not None and not text.replace("\n", "").replace("\t", "").isprintable():
            bad = next(c for c in text if not c.isprintable() and c not in "\n\t\u200c\u200d")
            raise Fault(f"{stage}: the text for the terminal holds {bad!r}")


class _Kept:
    """Results of the parts of a header that did not change, as long as they are remembered."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._results: OrderedDict[bytes, list[tuple[str, str, str]]] = OrderedDict()

    def once(self, parts: list[bytes], stages: Stages, run: Callable[[], None]) -> None:
        """Run what depends on nothing but `parts`, or take over what came of it before."""
        digest = hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()
        if digest not in self._results:
            before = len(stages.refusals)
            run()
            self._results[digest] = stages.refusals[before:]
            if len(self._results) > self._most:
                self._results.popitem(last=False)
        else:
            self._results.move_to_end(digest)
            stages.refusals += self._results[digest]


_KEPT = _Kept()


def model(path: Path, stages: Stages) -> None:
    """`run`, `chat`, `info`, `doctor` and `quantize` with a GGUF file, up to the first product."""
    file = stages.run("open", lambda: GgufFile(path))
    if file is None:
        return
    with file:
        if stages.thorough:
            _touch(file)
        config = stages.run("config", lambda: ModelConfig.from_file(file))
        if config is not None:
            stages.show("info", lambda: _info(file, config, stages.thorough))
            context = stages.run("context", lambda: choose_context(config, None))
            if context is not None:
                stages.run("GPU memory", lambda: gpu_sizes(file, config, context))
            stages.run("weights", lambda: load_weights(file, config, _NoBackend()))
        stages.run("sampler", lambda: SamplerSettings.from_metadata(file.metadata))
        stored = file.stored_metadata()
        parts = [
            part
            for key in sorted(stored)
            if key.startswith("tokenizer.")
            for part in (key.encode(), stored[key])
        ]
        _KEPT.once(parts, stages, lambda: _text(file.metadata, stages))
    if config is not None and stages.thorough:
        stages.show("quantize", lambda: _plan(path, None))


def _touch(file: GgufFile) -> None:
    """Read what a file says it holds."""
    for name, tensor in file.tensors.items():
        view = file.data(name)
        if view.nbytes != tensor.n_bytes:
            raise Fault(f"{name!r}: {view.nbytes} bytes instead of {tensor.n_bytes}")
        view[..., -1:].max()
    for value in file.metadata.values():
        if isinstance(value, StringArray) and len(list(value)) != len(value):
            raise Fault("an array of another length")


def _info(file: GgufFile, config: ModelConfig, thorough: bool) -> str:
    report = describe(file, config, None)
    text = drawn(parts(report))
    if thorough:
        report["tensors"] = [
            {"name": t.name, "shape": list(t.shape), "type": t.format.name, "bytes": t.n_bytes}
            for t in file.tensors.values()
        ]
        as_json = safe_json(json.dumps(report, ensure_ascii=False, indent=2))
        json.loads(as_json)
        text += as_json
    return text


def _text(metadata: Any, stages: Stages) -> None:
    """Everything that depends on the keys of the tokenizer alone."""
    tokenizer = stages.run("tokenizer", lambda: Tokenizer.from_metadata(metadata, "m.gguf"))
    template = stages.run("template", lambda: _template(metadata))
    if tokenizer is None:
        return
    ids = stages.run("encode", lambda: tokenizer.encode("Hi ab\n\n▁<turn|>é世", special=True))
    if ids is not None:
        tokenizer.decode(ids, special=True)
    for i in (0, 1, tokenizer.n_tokens - 1):
        tokenizer.piece(i)
    if template is not None:
        stages.run("first message", lambda: encode_chat(tokenizer, template, MESSAGES))


_TEMPLATES: OrderedDict[str, ChatTemplate] = OrderedDict()


def _template(metadata: Any) -> ChatTemplate:
    """The template, compiled once: it depends on its text alone."""
    text = metadata.get("tokenizer.chat_template")
    if not isinstance(text, str) or text not in _TEMPLATES:
        template = ChatTemplate.from_metadata(metadata, "m.gguf")
        _TEMPLATES[template.text] = template
        if len(_TEMPLATES) > 64:
            _TEMPLATES.popitem(last=False)
        return template
    return _TEMPLATES[text]


class _NoBackend:
    """Takes weights and does nothing with them."""

    def load_matrix(self, host: Any) -> Any:
        return host.raw

    def load_matrices(self, hosts: Any) -> Any:
        return [self.load_matrix(host) for host in hosts]

    def load_vector(self, host: Any) -> Any:
        return host.raw

    def to_host(self, array: Any) -> Any:
        return np.zeros(1, np.float32)


def _plan(path: Path, imatrix: Any) -> str:
    plan = convert.plan(path, "Q4_K_M", imatrix=imatrix)
    return drawn([*plan.notes, plan_table(plan)])


@functools.cache
def _sound_model() -> Path:
    """A model that imatrix files are tried on."""
    import tempfile

    from tools.fuzz.corpus import corpus

    path = Path(tempfile.mkdtemp(prefix="dgguf-fuzz-")) / "m.gguf"
    path.write_bytes(corpus()["model"].files["m.gguf"])
    return path


def imatrix(path: Path, stages: Stages) -> None:
    """`quantize --imatrix --dry-run`."""
    read = stages.run("imatrix", lambda: read_imatrix(path))
    if read is not None:
        stages.show("quantize", lambda: _plan(_sound_model(), read))


def recording(path: Path, stages: Stages) -> None:
    """`replay` and `export`."""
    read = stages.run("recording", lambda: read_recording(path))
    if read is None:
        return
    stages.run("view", lambda: _watch(read, stages))
    for kind in (".html", ".svg", ".cast", ".txt", ".png") if stages.thorough else ():
        stages.run(kind, lambda kind=kind: write(read, path.with_name(f"out{kind}"), _DRAWING))


_DRAWING = Drawing(width=40, height=24, pace=0.05, speed=1.0)


def _watch(read: Recording, stages: Stages) -> None:
    """Look at every screen of every view, and at all that is said in lines."""
    for view in ("text", "grid", "sudoku") if stages.thorough else ("text",):
        made = make_view(view, read.tokens, "show")
        shown = screens(read.events, made, 40, 12, pace=0.0, speed=1.0)
        stages.show(view, lambda shown=shown: "\n".join(
            "".join(span.text for span in line) for screen in shown for line in screen.lines
        ))  # fmt: skip
    stages.show("facts", lambda: facts(read))
    stages.show("plain", lambda: "\n".join(map(plain.describe, read.events)))


def checkpoint(path: Path, stages: Stages) -> None:
    """`quantize --dry-run` of a checkpoint, and the text that the file would be run with."""
    plan = stages.run("plan", lambda: convert.plan(path, "Q4_K_M"))
    if plan is None:
        return
    stages.show("quantize", lambda: drawn([*plan.notes, plan_table(plan)]))
    _text(plan.metadata, stages)


def template(path: Path, stages: Stages) -> None:
    """A chat template and a first message."""
    _text(_sound_text() | {"tokenizer.chat_template": path.read_bytes().decode("utf-8", "replace")}, stages)


@functools.cache
def _sound_text() -> dict[str, Any]:
    with GgufFile(_sound_model()) as file:
        return dict(file.metadata)


def conversation(path: Path, stages: Stages) -> None:
    """`/load` in a chat."""
    loaded = stages.run("conversation", lambda: saved.read(str(path)))
    if loaded is None:
        return
    _, system, messages = loaded
    tokenizer = Tokenizer.from_metadata(_sound_text(), "m.gguf")
    chat = ChatTemplate.from_metadata(_sound_text(), "m.gguf")
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    if messages:
        stages.run("encode", lambda: encode_chat(tokenizer, chat, messages))


@functools.cache
def _demo_tokenizer() -> Tokenizer:
    with GgufFile(find_model("demo")) as file:
        return Tokenizer.from_metadata(file.metadata, "demo")


def holes(path: Path, stages: Stages) -> None:
    """`dgguf fill -f`: the text's holes, and where its tokens stand."""
    with path.open("rb") as file:
        text = stages.run("text", lambda: read_exactly(file)) or ""
    parsed = stages.run("parse", lambda: Template.parse(text))
    if parsed is None:
        return
    tokenizer = _demo_tokenizer()
    placed = stages.run("place", lambda: parsed.with_size(8).place(tokenizer))
    if placed is not None:
        tokens = [placed.pins.get(place, place % tokenizer.n_tokens) for place in range(placed.n_tokens)]
        stages.run("read", lambda: placed.read(tokens, tokenizer))


def edited(path: Path, stages: Stages) -> None:
    """`dgguf edit`: a text, what is kept of it, and what it shows of another one."""
    text = stages.run("read", lambda: read_text(path))
    if text is None:
        return
    tokenizer = _demo_tokenizer()
    made = stages.run("encode", lambda: Source.read(text, tokenizer, re.escape(text[:9])))
    if made is not None:
        changed = changes(text, made.whole(made.core[::2]))
        stages.show("difference", lambda: line_text(tuple(difference(text, changed, marked=True))))


def questions(path: Path, stages: Stages) -> None:
    """`decide --questions`."""
    read = stages.run("questions", lambda: read_questions(path))
    if read is not None:
        _ask(read, stages)


def lines_of_questions(path: Path, stages: Stages) -> None:
    """`decide -q`, a line each."""
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        read = stages.run("question", lambda line=line: parse_question(line))
        if read is not None:
            _ask([read], stages)


@functools.cache
def _text_with_letters() -> dict[str, Any]:
    """Keys of a tokenizer that has every letter, as options are called by them."""
    from tools.fuzz.corpus import TEMPLATE, vocabulary

    return vocabulary().metadata() | {"tokenizer.chat_template": TEMPLATE}


def _ask(asked: list[Question], stages: Stages) -> None:
    """Make the prompts of questions, and the table of some answers."""
    keys = _text_with_letters()
    tokenizer = Tokenizer.from_metadata(keys, "m.gguf")
    prompts = DecisionPrompts(PromptEncoder(tokenizer, keys, "m.gguf"), tokenizer, 256)
    stages.run("prompts", lambda: prompts.reads("Hi", asked, permute=stages.thorough))
    stages.run("joint prompt", lambda: prompts.joint_read("Hi", asked))
    decisions = []
    for question in asked:
        values = [option.value for option in question.options] or [True, False]
        chances = dict.fromkeys(values, 1 / len(values))
        canvas = tuple(range(tokenizer.n_tokens))
        decisions.append(Decision(question, chances, values[0], 0.5, 1.0, 0.01, 2, 3, 0, 3, canvas))
    stages.show("table", lambda: "\n".join(line_text(line) for line in table(decisions, 60, tokenizer)))
    as_json = stages.run("JSON", lambda: safe_json(json.dumps(response(decisions, "m"), ensure_ascii=False)))
    json.loads(as_json or "{}")


def tower(path: Path, stages: Stages) -> None:
    """`show` of an mmproj file, and `run --image` up to the first product."""
    file = stages.run("open", lambda: GgufFile(path))
    if file is None:
        return
    with file:
        config = stages.run("config", lambda: VisionConfig.from_file(file))
        if config is not None:
            stages.show("show", lambda: drawn(tower_parts(describe_tower(file))))
            stages.run("weights", lambda: load_vision(file, config, _NoBackend()))


def image(path: Path, stages: Stages) -> None:
    """`run --image` up to the patches."""
    read = stages.run("image", lambda: read_image(path, 70))
    if read is not None:
        said: list[str] = []
        announce(Pictures([read]), said.append)
        stages.show("said", lambda: drawn(said))
        if read.patches().shape != (9 * read.n_tokens, 768):
            raise Fault("patches of another shape")


def video(path: Path, stages: Stages) -> None:
    """`run --video` up to the patches."""
    read = stages.run("video", lambda: read_video(path))
    if read is not None:
        said: list[str] = []
        announce(Pictures(videos=[read]), said.append)
        stages.show("said", lambda: drawn(said))
        if not 1 <= len(read.frames) <= 32 or read.n_tokens > 70 * 32:
            raise Fault("frames without bounds")


def schema(path: Path, stages: Stages) -> None:
    """`run --schema`."""
    stages.run("schema", lambda: language(schema=path))


def expressions(path: Path, stages: Stages) -> None:
    """`run --regex` and `--choice`, a line each."""
    lines = path.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    for line in lines:
        stages.run("expression", lambda line=line: language(regex=line))
    stages.run("choices", lambda: language(choice=lines))


def chat_request(path: Path, stages: Stages) -> None:
    """A body for /v1/chat/completions."""
    asked = stages.run("request", lambda: read_request(path.read_bytes()))
    if asked is None:
        return
    request = asked.request
    stages.run("messages", lambda: conversation_of(request))
    stages.run("tools", lambda: declared_tools(request.tools, request.tool_choice))
    stages.run("thoughts", lambda: wants_thoughts(request))
    stages.run("schema", lambda: constraint_of(request))
    _check_header(asked.ignored)


def completion_request(path: Path, stages: Stages) -> None:
    """A body for /v1/completions."""
    asked = stages.run("request", lambda: text_completions.read_request(path.read_bytes()))
    if asked is not None:
        _check_header(asked.ignored)


def response_request(path: Path, stages: Stages) -> None:
    """A body for /v1/responses."""
    asked = stages.run("request", lambda: responses.read_request(path.read_bytes()))
    if asked is not None:
        _check_header(asked.ignored)
        chat = responses.as_chat(asked.request)
        stages.run("messages", lambda: conversation_of(chat))
        stages.run("tools", lambda: declared_tools(chat.tools, chat.tool_choice))
        stages.run("schema", lambda: constraint_of(chat))


def ollama_request(path: Path, stages: Stages) -> None:
    """A body for /api/chat and for /api/generate."""
    for form in (OllamaChat, OllamaGenerate):
        asked = stages.run("request", lambda form=form: ollama_requests.read_request(path.read_bytes(), form))
        if asked is not None:
            _check_header(asked.ignored)
            chat = asked.request.as_chat()
            stages.run("messages", lambda chat=chat: conversation_of(chat))
            stages.run("tools", lambda chat=chat: declared_tools(chat.tools, chat.tool_choice))
            stages.run("schema", lambda chat=chat: constraint_of(chat))


def _check_header(names: tuple[str, ...]) -> None:
    if any(not (name.isascii() and name.isprintable()) for name in names):
        raise Fault(f"a header would carry {names!r:.200}")


def page_fill(path: Path, stages: Stages) -> None:
    """A body for /page/fill."""
    asked = stages.run("request", lambda: convert_body(decode(path.read_bytes()), FillRequest))
    if asked is not None:
        stages.run("plan", lambda: FillPlan.of(asked, _session()))


def page_resume(path: Path, stages: Stages) -> None:
    """A body for /page/resume."""
    asked = stages.run("request", lambda: convert_body(_with_recording(path), ResumeRequest))
    made = asked and stages.run("plan", lambda: ResumePlan.of(asked, _session()))
    if made:
        branch = Branch(made.block, made.step, made.seed)
        point = stages.run("step", lambda: ResumePoint.find(made.recording.events, branch))
        if point is not None:
            stages.run("held", point.constraint)


def page_export(path: Path, stages: Stages) -> None:
    """A body for /page/export."""
    asked = stages.run("request", lambda: convert_body(_with_recording(path), ExportRequest))
    if asked is not None and stages.thorough:
        stages.run("file", lambda: drawn_page(asked))


def page_image(path: Path, stages: Stages) -> None:
    """A body for /page/image."""
    asked = stages.run("request", lambda: convert_body(decode(path.read_bytes()), ImageRequest))
    if asked is not None:
        part = {"type": "image_url", "image_url": {"url": asked.url}}
        chat = ChatRequest(messages=[{"role": "user", "content": [part]}])
        given = stages.run("image", lambda: conversation_of(chat))
        for each in given.images if given else ():
            stages.run("pixels", lambda each=each: read_image(each, 70))


def _with_recording(path: Path) -> dict[str, Any]:
    """A body with the recording that lies beside it."""
    text = path.with_name("r.jsonl").read_bytes().decode("utf-8", "replace")
    return {"recording": text} | decode(path.read_bytes())


def _session() -> Any:
    """What plans ask of a session, without a model."""
    return SimpleNamespace(
        context=256,
        tokenizer=_demo_tokenizer(),
        settings=lambda **given: SamplerSettings.from_metadata({}, **given),
    )


def decision_request(path: Path, stages: Stages) -> None:
    """A body for /v1/decisions."""
    body = path.read_bytes()
    stages.run("decisions", lambda: decisions.plan(convert_body(decode(body), DecisionRequest)))


def system_one_request(path: Path, stages: Stages) -> None:
    """A body for /v1/systemone."""
    body = path.read_bytes()
    stages.run("system one", lambda: systemone.plan(convert_body(decode(body), SystemOneRequest)))


def batch(path: Path, stages: Stages) -> None:
    """`batch`: the rows of a file."""

    def rows() -> list[Found]:
        with open_source(path, None) as source:
            found = list(source.scan())
            for row in found:
                if not row.error and source.read(row.place) != row.value:
                    raise Fault(f"row {row.number} is another one when it is read again")
        return found

    for found in stages.run("rows", rows) or ():
        row = stages.run("row", lambda found=found: _row(found))
        if row is not None:
            key_of(row.beginning())


def _row(found: Found) -> Row:
    if found.error:
        raise BatchError(found.error)
    return read_row(found.value, found.number)


def journal(path: Path, stages: Stages) -> None:
    """The journal of a batch that was stopped."""
    opened = stages.run("journal", lambda: Journal(path))
    if opened is not None:
        with opened:
            for _, *place in list(opened.rows()):
                stages.run("result", lambda place=place: list(records(opened.read(*place))))


TARGETS: dict[str, Callable[[Path, Stages], None]] = {
    "model": model,
    "imatrix": imatrix,
    "recording": recording,
    "checkpoint": checkpoint,
    "template": template,
    "conversation": conversation,
    "holes": holes,
    "edited": edited,
    "questions": questions,
    "lines": lines_of_questions,
    "tower": tower,
    "image": image,
    "video": video,
    "schema": schema,
    "expressions": expressions,
    "chat request": chat_request,
    "completion request": completion_request,
    "response request": response_request,
    "ollama request": ollama_request,
    "page fill": page_fill,
    "page resume": page_resume,
    "page resume held": page_resume,
    "page export": page_export,
    "page image": page_image,
    "decision request": decision_request,
    "system one request": system_one_request,
    "batch": batch,
    "journal": journal,
}
