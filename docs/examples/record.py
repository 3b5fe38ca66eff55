"""Record a generation, then make a page and a picture of it. Writes story.jsonl, .html and .svg."""

import subprocess
import sys
from pathlib import Path

import dgguf
from dgguf.view.recorder import Recorder

with dgguf.load("demo") as session, Recorder.to_file(Path("story.jsonl"), session.tokenizer) as recorder:
    # A recorder passes on what it records, so views, recorders and your own code stand in a row.
    for event in recorder.record(session.stream("Tell me a story.", max_tokens=64, seed=7)):
        if isinstance(event, dgguf.Finished):
            print(f"{event.answer_tokens} tokens in {event.seconds:.1f} s")

for name in ("story.html", "story.svg"):
    subprocess.run([sys.executable, "-m", "dgguf", "export", "story.jsonl", name], check=True)
    print(name)
