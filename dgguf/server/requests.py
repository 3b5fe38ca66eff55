"""What clients may send, checked: types, ranges, and what has no effect here."""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import msgspec

from dgguf.constraints.automaton import Automaton
from dgguf.constraints.language import json_object, language
from dgguf.errors import ImageError
from dgguf.images import pixels_of
from dgguf.request import MOST_TOKENS
from dgguf.server.errors import ApiError
from dgguf.server.tools import calls_of, with_results

Form = TypeVar("Form", bound=msgspec.Struct)
MOST_ANSWERS = 8  # of one request, "n"
MOST_STOPS = 16
MOST_LOGS = 20  # likeliest tokens at each place
MOST_IMAGES = 16
MOST_PIXELS = 1 << 25  # of all images of a request: some bytes may say that they are very many
MOST_STEPS = 1000  # of a canvas
LEAST_CANVAS = 16  # positions
_MOST_NAMES = 20  # of fields without effect that are told


class StreamParameters(msgspec.Struct):
    """ "stream_options"."""

    include_usage: bool = False


class SampledRequest(msgspec.Struct, kw_only=True):
    """What requests for answers have in common; OpenAI's fields but for the last four."""

    model: str | None = None
    stream: bool | None = False
    stream_options: StreamParameters | None = None
    n: int | None = 1
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    seed: int | None = None
    diffusing: bool | None = False
    sampler: dict[str, int | float | None] | None = None
    canvas: int | Literal["auto"] | None = None
    turbo: bool | str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with what it cost."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(SampledRequest, kw_only=True):
    """Of /v1/chat/completions: the fields that have an effect."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


# What would change the answer's form, and so must not be left out silently.
_NOT_HERE = {"functions": "functions, which are tools now", "audio": "audio"}


@dataclass(frozen=True)
class Asked(Generic[Form]):
    """A request that was read.

    Attributes:
        ignored: names of fields that have no effect, for the header X-Dgguf-Ignored.
    """

    request: Form
    ignored: tuple[str, ...]


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: 400; it is none.
    """
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ApiError(400, "the body must be a JSON object")
    return given


def convert(given: dict[str, Any], form: type[Form]) -> Form:
    """A JSON object as a struct.

    Raises:
        ApiError: 400; a field is missing or of another type.
    """
    try:
        return msgspec.convert(given, form)
    except (msgspec.ValidationError, RecursionError) as error:
        message = str(error)
        _, _, path = message.partition("`$.")  # as in "… - at `$.messages[0].role`"
        raise ApiError(
            400, f"the request is not as it must be: {message}", param=path.rstrip("`") or None
        ) from None


def read_request(body: bytes) -> Asked[ChatRequest]:
    """Check a body for /v1/chat/completions.

    Raises:
        ApiError: 400; it is no JSON object, or a field is not as it must be.
    """
    given = decode(body)
    refuse(given, _NOT_HERE)
    request = convert(given, ChatRequest)
    check_ranges(request)
    return Asked(request, ignored(given, ChatRequest, _NOT_HERE))


def refuse(given: dict[str, Any], names: Mapping[str, str]) -> None:
    """See that a request leaves out what cannot be done, and must not be left undone silently.

    Args:
        names: of fields, with what they ask for.

    Raises:
        ApiError: 400; it does not.
    """
    for name, what in names.items():
        if given.get(name):
            raise ApiError(400, f"this server has no {what}: leave out {name!r}", param=name)


def ignored(given: dict[str, Any], form: type[msgspec.Struct], known: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of a request's fields that have no effect, as far as a header can tell them.

    Args:
        known: further names that are not to be told.
    """
    names = {*form.__struct_fields__, *known}
    left = sorted(name for name, value in given.items() if name not in names and value is not None)
    return visible(left)


def visible(names: Iterable[str]) -> tuple[str, ...]:
    """Of some names the first that a header can carry."""
    good = [name for name in names if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]{0,48}", name)]
    return tuple(good[:_MOST_NAMES])


def check_ranges(request: SampledRequest) -> None:
    """See that the numbers of a request can be done.

    Raises:
        ApiError: 400; one cannot.
    """

    def require(holds: bool, rule: str, param: str) -> None:
        if not holds:
            raise ApiError(400, rule, param=param)

    n = request.n
    require(n is None or 1 <= n <= MOST_ANSWERS, f"n must be from 1 to {MOST_ANSWERS}", "n")
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name, None)
        require(value is None or 1 <= value <= MOST_TOKENS, f"{name} must be from 1 to {MOST_TOKENS}", name)
    seed = request.seed
    require(seed is None or -(1 << 63) <= seed < 1 << 64, "the seed must be a number of 64 bits", "seed")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    steps = (request.sampler or {}).get("max_steps")
    require(steps is None or steps <= MOST_STEPS, f"max_steps must be at most {MOST_STEPS}", "sampler")
    canvas = request.canvas
    require(not isinstance(canvas, int) or canvas >= LEAST_CANVAS, "the canvas must be from 16 on", "canvas")
    require(len(stops) <= MOST_STOPS, f"stop takes up to {MOST_STOPS} texts", "stop")
    if isinstance(request, ChatRequest):
        top = request.top_logprobs
        rule = f"top_logprobs must be from 0 to {MOST_LOGS}"
        require(top is None or 0 <= top <= MOST_LOGS, rule, "top_logprobs")
        require(not top or bool(request.logprobs), "top_logprobs go with logprobs: true", "top_logprobs")
    require(
        request.stream_options is None or bool(request.stream),
        "stream_options go with stream: true",
        "stream_options",
    )
    require(not request.diffusing or bool(request.stream), "diffusing goes with stream: true", "diffusing")


@dataclass(frozen=True)
class Conversation:
    """Messages as a chat template takes them.

    Attributes:
        images: the files in them, in order; each has a part {"type": "image"} in the messages.
    """

    messages: list[Any]
    images: list[bytes]


def conversation_of(request: ChatRequest) -> Conversation:
    """The messages of a request.

    Raises:
        ApiError: 400; one is not as it must be, or has a part that is neither a text nor an image.
    """
    messages: list[Any] = []
    images: list[bytes] = []
    for number, message in enumerate(request.messages):
        place = f"messages[{number}]"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise ApiError(400, f"{place} has no role", param=place)
        if isinstance(content, list):
            content = _parts(content, f"{place}.content", images)
        calls = calls_of(message, place) if message.get("tool_calls") else None
        if not isinstance(content, str | list) and not (content is None and calls):
            raise ApiError(400, f"{place}: its content must be a text or a list of parts", param=place)
        given: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content}
        if calls:
            given["tool_calls"] = calls
        if role == "tool":
            given |= {name: message[name] for name in ("tool_call_id", "name") if name in message}
        messages.append(given)
    return Conversation(with_results(messages), images)


def _parts(content: list[Any], place: str, images: list[bytes]) -> str | list[dict[str, str]]:
    """A content of several parts: one text, or where there are images a list; these are added to `images`."""
    parts: list[dict[str, str]] = []
    for number, part in enumerate(content):
        here = f"{place}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text") and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "image_url":
            images.append(_image(part, here))
            _check_images(images, here)
            parts.append({"type": "image"})
        elif isinstance(kind, str):
            raise ApiError(400, f"{here}: a part of type {kind!r:.60} is not taken here", param=here)
        else:
            raise ApiError(400, f'{here} must be {{"type": "text", "text": …}}', param=here)
    if any(part["type"] == "image" for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


def _image(part: dict[str, Any], place: str) -> bytes:
    """The file in a data: URI. Nothing is fetched, and no file of this machine is read."""
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, dict) else given
    head, found, data = str(url).partition(",")
    if not found or not re.fullmatch(r"data:image/[\w.+-]+;base64", head[:100]):
        raise ApiError(
            400,
            f"{place}: an image must be a data: URI, data:image/png;base64,…; none is fetched",
            param=place,
        )
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise ApiError(400, f"{place}: the image's data is no base64", param=place) from None


def _check_images(images: list[bytes], place: str) -> None:
    """See that images are few and small, the last of them at a place: by headers, nothing is decoded."""
    if len(images) > MOST_IMAGES:
        raise ApiError(400, f"{place}: a request may have {MOST_IMAGES} images", param=place)
    try:
        n_pixels = sum(map(pixels_of, images))
    except ImageError as error:
        raise ApiError(400, f"{place}: {error}", param=place, code="invalid_image") from None
    if n_pixels > MOST_PIXELS:
        raise ApiError(
            400,
            f"{place}: with this image the request's images have {n_pixels:,} pixels, and may have "
            f"{MOST_PIXELS:,} together; make them smaller",
            param=place,
        )


def constraint_of(request: ChatRequest) -> Automaton | None:
    """What the answer is to be held to; None for nothing.

    Raises:
        ApiError, ConstraintError: the form of the response is not one of OpenAI's that can be held.
    """
    form = request.response_format or {"type": "text"}
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            return json_object()
        case "json_schema":
            described = form.get("json_schema")
            schema = described.get("schema") if isinstance(described, dict) else None
            if isinstance(schema, dict):
                return language(schema)
            place = "response_format.json_schema"
            raise ApiError(400, f"{place}.schema must be an object", param=place)
    raise ApiError(400, "response_format can be text, json_object or json_schema", param="response_format")


def wants_thoughts(request: ChatRequest) -> bool:
    """Whether the model is to think first."""
    kwargs = request.chat_template_kwargs or {}
    for name in ("enable_thinking", "thinking"):
        if isinstance(kwargs.get(name), bool):
            return bool(kwargs[name])
    return request.reasoning_effort not in (None, "none", "minimal")
