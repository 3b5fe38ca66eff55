"""Draw the README's picture of the page that `dgguf serve` gives, and a film of it, in headless Chromium.

    python tools/pictures/page.py [--model demo] [--out FOLDER] [--seed 5] [--film FILE.webp]

Writes page.png: a story in the middle of its steps. With --film also a film as WebP: a story comes, its steps
are scrubbed through, it goes on another way from one of them, and a sudoku is solved.
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a checkout need not be installed

from PIL import Image

from tests.server.conftest import serving
from tests.support.chromium import Chromium, Page

SIZE = (960, 600)
MOST_BYTES = 1_000_000
STORY = "Tell me a story."
DONE = "!document.querySelector('#{0} .canvas.live') && document.querySelector('#{0} .actions summary')"


def ask(page: Page, seed: int) -> None:
    """Send the story's prompt."""
    page.do(f"document.getElementById('set-seed').value = {seed}")
    page.do("document.getElementById('prompt').focus()")
    page.type(STORY)
    page.key("Enter")
    page.do("document.activeElement.blur()")


def scrub(page: Page, at: int, part: str = "chat") -> None:
    """Show a frame of the last answer of a part."""
    page.do(
        f"(s => {{ s.value = {at}; s.dispatchEvent(new Event('input')); }})"
        f"([...document.querySelectorAll('#{part} input[type=range]')].at(-1))"
    )
    page.do("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


class Film:
    """Pictures of a page, each with the milliseconds for which it is seen."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.pictures: list[Image.Image] = []
        self.durations: list[int] = []

    def take(self, milliseconds: int) -> None:
        """Take what is seen now."""
        self.pictures.append(Image.open(io.BytesIO(self._page.picture())).convert("RGB"))
        self.durations.append(milliseconds)

    def steps(self, part: str, milliseconds: int) -> None:
        """Take every frame of a part's last answer: they are the same however quick the machine is."""
        last = int(self._page.do(f"[...document.querySelectorAll('#{part} input[type=range]')].at(-1).max"))
        for at in range(last + 1):
            scrub(self._page, at, part)
            self.take(milliseconds)

    def write(self, path: Path) -> None:
        """Write it as WebP, as fine as fits."""
        first, *rest = self.pictures
        for quality in (80, 65, 50, 35, 20):
            options = {"append_images": rest, "duration": self.durations, "loop": 0, "method": 4}
            first.save(path, save_all=True, quality=quality, minimize_size=True, **options)
            if path.stat().st_size <= MOST_BYTES:
                break


def film(page: Page, path: Path) -> None:
    """The story, another way from its fourth step, and a board."""
    made = Film(page)
    made.take(900)
    ask(page, seed=5)
    page.until(DONE.format("chat"))
    made.steps("chat", 160)
    made.durations[-1] = 1600
    for at in (12, 9, 7, 5, 4):
        scrub(page, at)
        made.take(220)
    made.durations[-1] = 900
    page.do("document.getElementById('set-seed').value = 7")
    page.press("Go on from this step")
    page.until("document.querySelector('.pager').textContent.includes('2 of 2')")
    page.until(DONE.format("chat"))
    made.steps("chat", 130)
    made.durations[-1] = 1800
    page.press("Sudoku")
    page.do("document.getElementById('set-seed').value = 3")
    made.take(900)
    page.press("Solve")
    page.until(DONE.format("sudoku"))
    made.steps("sudoku", 450)
    made.durations[-1] = 3000
    made.write(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the page that `dgguf serve` gives.")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=5, help="of the story")
    parser.add_argument("--step", type=int, default=5, help="that the picture shows")
    parser.add_argument("--film", type=Path, help="also write a film there, as .webp")
    options = parser.parse_args()
    with (
        serving(options.model) as served,
        tempfile.TemporaryDirectory() as folder,
        Chromium(folder) as browser,
        browser.page(served.url + "/", size=SIZE) as page,
    ):
        page.until("document.getElementById('model').textContent")
        if options.film:
            film(page, options.film)
            print(f"{options.film}: {options.film.stat().st_size / 1000:.0f} kB")
            page.go(served.url + "/")
            page.until("document.getElementById('model').textContent")
        ask(page, options.seed)
        page.until(DONE.format("chat"))
        scrub(page, options.step)
        time.sleep(0.4)
        path = options.out / "page.png"
        picture = Image.open(io.BytesIO(page.picture())).convert(
            "P", palette=Image.Palette.ADAPTIVE, colors=128
        )
        picture.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
