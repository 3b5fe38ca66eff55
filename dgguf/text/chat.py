"""Conversations: messages to the ids of a prompt, and the ids of an answer to thoughts and text."""

import copy
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from dgguf.errors import PromptError, TokenizerError
from dgguf.ggufio.metadata import metadata_value
from dgguf.text.template_sandbox import TemplateSandbox
from dgguf.text.tokenizer import StreamDecoder, Tokenizer, TokenTexts, replace_surrogates

Kind = Literal["thought", "answer"]

# The model writes this behind the token that opens a channel; only thoughts have one.
THOUGHT_HEADER = "thought\n"


class Message(TypedDict):
    """One turn of a conversation; role is "system", "user" or "assistant".

    Its content is text, or a list of parts as transformers takes them: {"type": "text", "text": …},
    {"type": "image", "image": …} and {"type": "video", "video": …}.
    """

    role: str
    content: Any


def text_of(message: Message) -> str:
    """The text of a message, that of its parts with a line's end between; of images nothing."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content or () if part.get("type") == "text")


# Templates know more roles than `Message` promises; these are the ones that mean something to some model.
_ROLES = ("system", "developer", "user", "assistant", "model", "tool")
_FORM = '{"role": "user", "content": "…"}, the role "system", "user" or "assistant"'


def check_messages(messages: Sequence[Any]) -> None:
    """See that these are messages: a template would leave out, or make up, what is missing in them.

    Raises:
        PromptError: there are none, or one has no role, an unknown one or no content.
        TypeError: one is no mapping.
    """
    if not messages:
        raise PromptError("the conversation is empty: it takes at least one message")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(
                f"message {number} is of type {type(message).__name__}: a message is {_FORM}; "
                "ids of tokens are a prompt as a numpy vector, of `stream` and `generate`"
            )
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            what = f"has the unknown role {role!r:.50}" if "role" in message else "has no role"
            raise PromptError(f"message {number} {what}: a message is {_FORM}")
        calls = content is None and ("tool_calls" in message or "tool_responses" in message)
        result = role == "tool" and isinstance(content, Mapping)
        if not (isinstance(content, str) or _is_parts(content) or calls or result):
            what = f"of type {type(content).__name__}" if "content" in message else "missing"
            raise PromptError(
                f"message {number}: its content is {what}, and must be text; a message is {_FORM}"
            )


def _is_parts(content: Any) -> bool:
    """Whether a content is a list of parts, as templates take them: {"type": "text", "text": "…"}."""
    parts = list(content) if isinstance(content, list | tuple) else []
    return bool(parts) and all(isinstance(part, Mapping) for part in parts)


class ChatTemplate:
    """The Jinja text in a model file that turns messages into one text with control tokens."""

    def __init__(self, text: str, where: str) -> None:
        """Compile a template.

        Args:
            text: Jinja.
            where: the file's name, for messages.

        Raises:
            TokenizerError: it is no Jinja.
        """
        self.text = text
        self._where = where
        self._sandbox = TemplateSandbox()
        try:
            self._template = self._sandbox.load(text)
        except Exception as error:  # a stranger's program may fail in any way
            raise self._failure("cannot be read", error) from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], where: str) -> "ChatTemplate":
        """The template of a file, `tokenizer.chat_template`.

        Raises:
            TokenizerError: there is none, or it is no Jinja.
        """
        text = metadata_value(metadata, where, "tokenizer.chat_template", str, None, error=TokenizerError)
        if text is None:
            raise TokenizerError(
                f"{where}: there is no chat template in the file; use --raw to run without one"
            )
        return cls(text, where)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        think: bool = False,
        add_generation_prompt: bool = True,
        special_tokens: Mapping[str, str] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: with "role" and "content".
            think: ask the model to think first.
            add_generation_prompt: end with the start of the model's turn.
            special_tokens: texts of "bos_token", "eos_token" and so on; "" for those not given.
            tools: that the model may call, as OpenAI's clients declare them.

        Raises:
            TokenizerError: the template fails, refuses the messages, or takes too much work or memory.
        """
        variables: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")
        variables |= special_tokens or {}
        variables |= {
            "messages": messages,
            "enable_thinking": think,
            "add_generation_prompt": add_generation_prompt,
        }
        if tools:
            variables["tools"] = tools
        try:
            return self._sandbox.render(self._template, variables)
        except Exception as error:  # a stranger's program may fail in any way
            raise self._failure("fails", error) from error

    def _failure(self, what: str, error: Exception) -> TokenizerError:
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        return TokenizerError(
            f"{self._where}: the chat template {what} ({reason}); use --raw to run without it"
        )


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    think: bool = False,
    special: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    finish: Callable[[str], str] = str,
) -> list[int]:
    """The ids of a conversation, up to where the model goes on; the BOS token stands once in front.

    Args:
        think: ask the model to think first.
        special: let texts of special tokens in messages become these; else only the template's own do.
        tools: that the model may call; see `ChatTemplate.render`.
        finish: changes the rendered text before it is cut into tokens; what texts of special tokens it finds
            there and writes are special.

    Raises:
        TokenizerError: the template fails.
        PromptError: messages or tools are nested too deeply.
    """
    named = {
        "bos": tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "unk": tokenizer.unk_id,
        "pad": tokenizer.pad_id,
    }
    try:
        disguise = None if special else _Disguise(tokenizer, [messages, tools, template.text])
        shown = disguise.put_on(messages) if disguise else messages
        shown_tools = disguise.put_on(tools) if disguise else tools
    except RecursionError:
        raise PromptError("the messages or the tools are nested too deeply") from None
    text = template.render(
        shown,
        think=think,
        tools=shown_tools,
        special_tokens={
            f"{name}_token": tokenizer.token_text(i) for name, i in named.items() if i is not None
        },
    )
    ids: list[int] = []
    for part in tokenizer.split(finish(replace_surrogates(text))):
        if isinstance(part, int):
            ids.append(part)
        else:
            ids += tokenizer.encode(disguise.take_off(part) if disguise else part)
    if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids.insert(0, tokenizer.bos_id)
    return ids


class _Disguise:
    """Takes the texts of special tokens in messages through a template without being taken for such.

    One letter of each is a private-use character meanwhile, so the template's text operations still
    work, except that they do not see a special token there either.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Any) -> None:
        """Prepare for a vocabulary, and for messages and a template, whose letters stay free."""
        letters = sorted(set().union(*tokenizer.special))
        used = _letters(texts).union(letters)
        free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in used)
        self._masks = dict(zip(letters, free, strict=False))
        if len(self._masks) < len(letters):
            raise PromptError(
                "the messages use up the private-use characters, so nothing is left to mark text with"
            )
        self._letters = str.maketrans({mask: letter for letter, mask in self._masks.items()})
        self._start = re.compile(f"(?={tokenizer.special_pattern.pattern}).", re.DOTALL)
        # What of a special token could stand in a message, with the rest of it in the text around.
        self._heads = _Heads(tokenizer.special)
        self._tails = _Heads(t[::-1] for t in tokenizer.special)

    def put_on(self, value: Any, *, ends: bool = True) -> Any:
        """The same messages, every text in them disguised.

        Args:
            value: messages or a part of them.
            ends: also where only an end of a text could belong to a special token. Not for names,
                which templates compare: roles, types and keys.
        """
        if isinstance(value, str):
            masked = self._start.sub(lambda match: self._masks[match[0]], replace_surrogates(value))
            return self._mask_ends(masked) if ends else masked
        if isinstance(value, Mapping):
            return {
                self.put_on(key, ends=False): self.put_on(item, ends=key not in ("role", "type"))
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.put_on(item, ends=ends) for item in value]
        return value

    def take_off(self, text: str) -> str:
        """A text with its own letters again."""
        return text.translate(self._letters)

    def _mask_ends(self, text: str) -> str:
        body = text.strip()  # templates trim: what stands first and last is what is left then
        begin = text.index(body)
        end = begin + len(body)
        if self._tails.end(body[: self._tails.longest][::-1]):
            text = text[:begin] + self._masks[text[begin]] + text[begin + 1 :]
        if self._heads.end(body) and text[end - 1] in self._masks:
            text = text[: end - 1] + self._masks[text[end - 1]] + text[end:]
        return text


class _Heads:
    """Knows the beginnings of some texts, whole texts left out, in memory linear in the texts.

    Attributes:
        longest: characters of the longest beginning.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(texts)
        self._first = {text[0] for text in self._texts}
        self.longest = max(map(len, self._texts), default=1) - 1

    def end(self, text: str) -> bool:
        """Whether a text ends with one of them."""
        for start in range(max(0, len(text) - self.longest), len(text)):
            if text[start] in self._first:
                head = text[start:]
                i = bisect_right(self._texts, head)  # longer texts that begin so come next
                if i < len(self._texts) and self._texts[i].startswith(head):
                    return True
        return False


def _letters(value: Any) -> set[str]:
    """All characters of the texts in nested messages."""
    if isinstance(value, str):
        return set(value)
    if isinstance(value, Mapping):
        return set().union(*map(_letters, value), *map(_letters, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_letters, value))
    return set()


@dataclass(frozen=True)
class Segment:
    """Ids that belong together."""

    kind: Kind
    ids: list[int]


class ChannelSplitter:
    """Splits the ids of an answer, as they come, at the tokens around thoughts.

    Thoughts that are not closed go on in the next ids. The two tokens stand in no segment. For a
    model without them everything is answer.
    """

    def __init__(self, tokenizer: TokenTexts, prompt: Sequence[int] = ()) -> None:
        """Begin an answer.

        Args:
            tokenizer: names the two tokens.
            prompt: ids before the answer; if the last channel in them is open, the answer begins in it.
        """
        self._open_id = tokenizer.channel_open_id
        self._close_id = tokenizer.channel_close_id
        borders = [i for i in prompt if i in (self._open_id, self._close_id)]
        self.in_thought = borders[-1:] == [self._open_id] and self._open_id is not None

    def push(self, ids: Iterable[int]) -> list[Segment]:
        """The segments of these ids; an empty one where a channel opens or closes."""
        segments = [Segment(self._kind, [])]
        for i in ids:
            if i in (self._open_id, self._close_id):
                self.in_thought = i == self._open_id
                segments.append(Segment(self._kind, []))
            else:
                segments[-1].ids.append(i)
        return segments

    @property
    def _kind(self) -> Kind:
        return "thought" if self.in_thought else "answer"


class AnswerText:
    """Turns the ids of an answer, as they come, into pieces of thought and answer text."""

    def __init__(self, tokenizer: TokenTexts, prompt: Sequence[int] = ()) -> None:
        """Begin an answer; arguments as of `ChannelSplitter`."""
        self._splitter = ChannelSplitter(tokenizer, prompt)
        self._decoder = StreamDecoder(tokenizer)
        self._kind: Kind = "thought" if self._splitter.in_thought else "answer"
        # What of the header has come, None behind it. A prompt that opens the channel writes it too.
        self._header: str | None = None

    @property
    def in_thought(self) -> bool:
        """Whether the next ids belong to the thoughts."""
        return self._splitter.in_thought

    def push(self, ids: Iterable[int]) -> list[tuple[Kind, str]]:
        """The text that is complete with these ids, in order: ("thought" or "answer", text not empty)."""
        pieces: list[tuple[Kind, str]] = []
        for n, segment in enumerate(self._splitter.push(ids)):
            if n:
                pieces += self.finish()
                self._header = "" if segment.kind == "thought" else None
            self._kind = segment.kind
            pieces += self._take(self._decoder.push(segment.ids))
        return pieces

    def draft(self, ids: Iterable[int]) -> list[tuple[Kind, str]]:
        """What `push` and `finish` would give together, without doing so."""
        twin = copy.copy(self)
        twin._splitter = copy.copy(self._splitter)
        twin._decoder = copy.copy(self._decoder)
        return twin.push(ids) + twin.finish()

    def finish(self) -> list[tuple[Kind, str]]:
        """The rest: of a cut character, of what began like a thought's header."""
        pieces = self._take(self._decoder.finish())
        if self._header:
            pieces.append((self._kind, self._header))
        self._header = None
        return pieces

    def _take(self, text: str) -> list[tuple[Kind, str]]:
        """A piece of text as a list of at most one, a thought's header left out."""
        if self._header is not None:
            self._header += text
            if THOUGHT_HEADER.startswith(self._header) and self._header != THOUGHT_HEADER:
                return []
            text, self._header = self._header.removeprefix(THOUGHT_HEADER), None
        return [(self._kind, text)] if text else []
