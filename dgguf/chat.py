"""A conversation that remembers its messages."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dgguf.conversation import Conversation
from dgguf.images import ImageInput
from dgguf.prompts import with_pictures
from dgguf.text.chat import Message
from dgguf.videos import Pictures, VideoInput
from dgguf.view.drawn_answer import DrawnAnswer


class Answering(Protocol):
    """What a chat needs of a session; see `Session`."""

    @property
    def generate(self) -> Callable[..., DrawnAnswer]: ...

    @property
    def watch(self) -> Callable[..., DrawnAnswer]: ...

    def conversation(self) -> Conversation: ...

    def read_images(
        self, prompt: str, images: Sequence[Any], image_tokens: int | None
    ) -> list[ImageInput]: ...

    def read_videos(self, prompt: str, videos: Sequence[Any]) -> list[VideoInput]: ...


class Chat:
    """Messages and their answers, made by `Session.chat`. Its KV cache is kept between them.

    Attributes:
        messages: so far; of answers without the thoughts.
        system: the message before all others, or None.
    """

    def __init__(self, session: Answering, system: str | None) -> None:
        self.messages: list[Message] = []
        self.system = system
        self._session = session
        self._conversation = session.conversation()

    def send(self, text: str, **arguments: Any) -> DrawnAnswer:
        """Answer a message; arguments as of `Session.generate`. One that fails leaves no message behind."""
        return self._reply(self._session.generate, text, arguments)

    def watch(self, text: str, **arguments: Any) -> DrawnAnswer:
        """As `send`, and show the canvas meanwhile; arguments as of `Session.watch`."""
        return self._reply(self._session.watch, text, arguments)

    def _reply(self, answer: Callable[..., DrawnAnswer], text: str, arguments: dict[str, Any]) -> DrawnAnswer:
        session, budget = self._session, arguments.pop("image_tokens", None)
        images = session.read_images("", arguments.pop("images", ()), budget)
        pictures = Pictures(images, session.read_videos("", arguments.pop("videos", ())))
        asked: list[Message] = [*self.messages, *with_pictures(text, pictures)]
        answered = answer(asked, system=self.system, conversation=self._conversation, **arguments)
        self.messages = [*asked, Message(role="assistant", content=answered.text)]
        return answered
