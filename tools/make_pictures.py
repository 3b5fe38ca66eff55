"""Draw the README's pictures from real runs of dgguf.

    pip install rich && python tools/make_pictures.py

Each picture is a terminal as a user sees it: the command, progress (stderr) dimmed, the answer bright.
"""

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parent / "pictures"
WIDTH = 100


def draw_run(name: str, title: str, arguments: list[str]) -> None:
    """Run `dgguf` with the arguments and write what it prints to pictures/NAME.svg."""
    done = subprocess.run(
        [sys.executable, "-m", "dgguf", *arguments], capture_output=True, text=True, check=True
    )
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    shown = " ".join(f'"{word}"' if " " in word else word for word in arguments)
    console.print(Text.assemble(("$ ", "green"), (f"dgguf {shown}", "bold")))
    progress = done.stderr.splitlines()
    ending = next(i for i, line in enumerate(progress) if " answer tokens at " in line)
    shown_lines = [*progress[:9], "⋮", *progress[ending - 7 : ending]] if ending > 17 else progress[:ending]
    for line in shown_lines:
        console.print(Text(line, style="bright_black"))
    console.print(Text(done.stdout.strip(), style="bold bright_white"))
    for line in progress[ending:]:
        console.print(Text(line, style="bright_black"))
    PICTURES.mkdir(exist_ok=True)
    console.save_svg(str(PICTURES / f"{name}.svg"), title=title)


if __name__ == "__main__":
    prompt = ["run", "demo", "-p", "Tell me a story.", "-n", "32", "--seed", "29"]
    subprocess.run([sys.executable, "-m", "dgguf", *prompt], capture_output=True, check=True)  # compiles
    draw_run("run", "dgguf", prompt)
