"""A conversation that remembers, and an answer drawn into a file."""

import tempfile
from pathlib import Path

import dgguf

with dgguf.load("demo") as session, tempfile.TemporaryDirectory() as folder:
    chat = session.chat()
    for message in ("Tell me a story.", "Sort: 7 3 9 1 5"):
        answer = chat.send(message, max_tokens=96, seed=1)
        print(f"> {message}\n{answer.text}\n")
    answer.export(Path(folder) / "sorted.svg", theme="light")
    print([path.name for path in Path(folder).iterdir()], len(chat.messages), "messages")
