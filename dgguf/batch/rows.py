"""A line of the input as a request, checked as far as that needs no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dgguf.errors import BatchError, DggufError

CHAT, COMPLETIONS, DECISIONS = "/v1/chat/completions", "/v1/completions", "/v1/decisions"
URLS = (CHAT, COMPLETIONS, DECISIONS)
MOST_ID = 512  # characters of a custom_id
FORMS = ("prompt", "messages", "text")  # of which a row that is no request of OpenAI's has one
FIELDS = ("custom_id", *FORMS, "system", "images", "seed")
_FORM = '{"prompt": …}, {"messages": …}, {"text": …} or {"custom_id", "method", "url", "body"}'


# Options of a batch, by the names of `work.Task`, that can do nothing for a request to an address.
_UNSEEN = {
    CHAT: ("raw", "questions"),
    COMPLETIONS: ("system", "think", "questions"),
    DECISIONS: ("raw", "special", "system", "think", "schema", "regex", "choice"),
}
_HOLE = ("special", "schema", "regex", "choice")  # further ones, where a suffix is given
_OPTIONS = {"questions": "--decide"}


class BadRowError(DggufError):
    """A line that is no request.

    Args:
        message: what is wrong with it.
        custom_id: by which its error is found.
    """

    def __init__(self, message: str, custom_id: str) -> None:
        super().__init__(message)
        self.custom_id = custom_id


@dataclass(frozen=True)
class Row:
    """A request.

    Attributes:
        number: of its line or record, from 1.
        custom_id: names it in the results.
        url: what is asked for; "" where the row is a prompt by itself.
        body: OpenAI's; of a prompt by itself the fields in `FIELDS`.
    """

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]

    def beginning(self) -> bytes:
        """What rows are compared by: those that begin alike share the beginning of their prompts."""
        body = self.body
        if self.url == DECISIONS:
            parts = [body.get("input")]
        elif self.url == CHAT or "messages" in body:
            parts = [body.get("tools"), body.get("system"), body.get("messages")]
        else:
            parts = [body.get("system"), body.get("images"), body.get("prompt", body.get("text"))]
        return b"".join(msgspec.json.encode(part) for part in parts if part is not None)


def read_row(value: Any, number: int) -> Row:
    """A row of the value of its line.

    Args:
        value: what a JSON parser makes of it.
        number: of the line or record.

    Raises:
        BadRowError: it is no request.
    """
    name = f"row-{number}"
    if not isinstance(value, dict):
        raise BadRowError(f"it is no JSON object; a row is {_FORM}", name)
    given = value.get("custom_id")
    if given is not None and (not isinstance(given, str) or not 0 < len(given) <= MOST_ID):
        raise BadRowError(f"its custom_id must be a text of 1 to {MOST_ID} characters", name)
    name = given or name

    def require(holds: bool, rule: str) -> None:
        if not holds:
            raise BadRowError(rule, name)

    if "body" in value or "url" in value:
        url, body, method = value.get("url"), value.get("body"), value.get("method", "POST")
        require(url in URLS, f"its url must be {' or '.join(URLS)}, not {url!r:.80}")
        require(method == "POST", f'its method must be "POST", not {method!r:.20}')
        require(isinstance(body, dict), "its body must be a JSON object")
        return Row(number, name, str(url), dict(body or {}))
    forms = [form for form in FORMS if value.get(form) is not None]
    require(len(forms) == 1, f"it has {' and '.join(forms) or 'no prompt'}; a row is {_FORM}")
    body = {field: value[field] for field in FIELDS[1:] if value.get(field) is not None}
    if forms[0] == "messages":
        require(isinstance(body["messages"], list), "its messages must be a list")
    else:
        require(isinstance(body[forms[0]], str), f"its {forms[0]} must be a text")
    images, seed = body.get("images", []), body.get("seed", 0)
    require(isinstance(body.get("system", ""), str), "its system must be a text")
    require(
        isinstance(images, list) and all(isinstance(image, str) for image in images),
        "its images must be paths",
    )
    require(type(seed) is int and 0 <= seed < 1 << 64, "its seed must be a whole number from 0 to 2^64 - 1")
    return Row(number, name, "", body)


def check_options(row: Row, settings: Mapping[str, Any]) -> None:
    """See that what a batch is asked for has an effect on a row.

    Args:
        settings: that differ from the defaults, as of `work.Task.settings`.

    Raises:
        BatchError: an option has none.
    """
    unseen = _UNSEEN.get(row.url, ())
    if row.url == COMPLETIONS and row.body.get("suffix"):
        unseen += _HOLE
    for name in unseen:
        if name in settings:
            option = _OPTIONS.get(name, f"--{name}")
            what = row.url + (" with a suffix" if name in _HOLE and row.url == COMPLETIONS else "")
            raise BatchError(
                f"line {row.number} is a request to {what}, for which {option} can do nothing: leave it out, "
                "or put such lines into a file of their own"
            )
