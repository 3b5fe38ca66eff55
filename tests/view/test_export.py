"""Recordings drawn into files: each kind is valid, and shows what the live view shows."""

import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pyte
import pytest
from click.testing import CliRunner
from PIL import Image

from dgguf.cli import cli
from dgguf.diffusion.events import DenoisingStep, TopTokens
from dgguf.view.export.picture import _durations
from dgguf.view.export.theme import THEMES
from dgguf.view.frame import Style
from dgguf.view.names import EXPORTS, FILMS
from dgguf.view.recorder import Recorder
from dgguf.view.screens import Screen
from tests.support.recordings import STORY, generation, made_up, made_up_sudoku

KINDS = tuple(kind[1:] for kind in EXPORTS)


def record(path, tokens, events):
    with Recorder.to_file(path, tokens) as recorder:
        list(recorder.record(events))
    return path


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    tokens, events = made_up(length=64, steps=12)
    top_tokens = TopTokens(np.tile([[3, 4]], (64, 1)), np.tile(np.array([[0.9, 0.05]], np.float32), (64, 1)))
    events = [
        type(e)(**{**vars(e), "top": top_tokens}) if isinstance(e, DenoisingStep) else e for e in events
    ]
    return record(tmp_path_factory.mktemp("recordings") / "story.jsonl", tokens, events)


def export(recording, out, *options, code=0):
    done = CliRunner().invoke(cli, ["export", str(recording), str(out), *map(str, options)])
    assert done.exit_code == code, done.output
    return done.output or str(done.exception)  # what `main` prints


def test_svg(story, tmp_path):
    out = tmp_path / "story.svg"
    assert "story.svg: " in export(story, out, "--width", 60, "--title", 'a <"title"> & more')
    text = out.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findtext("{http://www.w3.org/2000/svg}title") == 'a <"title"> & more'
    # Nothing from outside, and nothing that a page forbids in a picture.
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script|<image|url\(", text)
    assert text.count('<g transform="translate(') == 2 * (1 + 12 + 1) + 1  # noise, steps, commit; the end
    rows = {int(match) for match in re.findall(r'<g id="r(\d+)"', text)}
    assert {int(match) for match in re.findall(r'href="#r(\d+)"', text)} == rows
    for look in (Style.NOISE, Style.SETTLED, Style.COMMITTED, Style.REVISED):
        assert f'class="{look}"' in text
    assert len(text) < 200_000


def test_a_gif_can_stand_still_for_eleven_minutes_at_most(story, tmp_path):
    export(story, tmp_path / "story.gif", "--speed", 1e-5)
    with Image.open(tmp_path / "story.gif") as gif:
        gif.seek(3)
        assert gif.info["duration"] == 655_350


def test_equal_images_of_a_gif_last_together_as_long_as_one_may():
    one, other = Image.new("P", (2, 2), 1), Image.new("P", (2, 2), 2)
    shown = [Screen(None, seconds, ()) for seconds in (400, 400, 1e9, 0, 1e9)]
    assert _durations(shown, [one, one, one, other, one]) == [400_000, 255_350, 0, 20, 655_350]


def test_gif(story, tmp_path):
    export(story, tmp_path / "story.gif", "--width", 60, "--pace", 0.2)
    with Image.open(tmp_path / "story.gif") as gif:
        assert gif.info["loop"] == 0
        lasting = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            lasting.append(gif.info["duration"])
        assert gif.size == (60 * 9 + 28, gif.size[1])
    assert sum(lasting) == pytest.approx(1000 * (0.2 * 28 + 2.5), abs=200)
    assert lasting[-1] >= 2500


@pytest.mark.parametrize(
    ("kind", "length", "steps", "words"),
    [
        ("gif", 9_000, 9, "a GIF of 12 screens of 748 x "),
        ("png", 900, 9, "a PNG of 1 screen of 1496 x "),
        ("mp4", 900, 9, "a film of "),
        ("svg", 1_000_000, 9, "more than 8,388,608 characters"),
        ("cast", 1_000_000, 9, "more than 8,388,608 characters"),
        ("html", 20_000, 5, "more than 4,096 rows"),
    ],
)
def test_what_would_take_any_memory_is_refused(kind, length, steps, words, tmp_path, monkeypatch):
    """A token's text may be anything in a recording, and is drawn at each step."""
    if kind == "html":
        monkeypatch.setattr("dgguf.view.export.write._MOST_ROWS", 1 << 12)
    if kind == "png":
        monkeypatch.setattr("dgguf.view.export.picture._MOST_OF_SHEET", 1 << 22)
    tokens, events = generation([[(("\n" * length, "b"), (0.5, 0.5))] * steps])
    recording = record(tmp_path / "long.jsonl", tokens, events)
    told = export(recording, tmp_path / f"long.{kind}", code=1)
    assert words in told
    assert len(told) < 500
    assert not (tmp_path / f"long.{kind}").exists()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_png(theme, story, tmp_path):
    export(story, tmp_path / "last.png", "--theme", theme, "--width", 60)
    export(story, tmp_path / "early.png", "--theme", theme, "--width", 60, "--at", 4)
    export(story, tmp_path / "sheet.png", "--theme", theme, "--width", 60, "--steps", 5)
    grounds = {
        name: Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("last", "early", "sheet")
    }
    wanted = tuple(bytes.fromhex(THEMES[theme].ground[1:]))
    assert all(wanted in {colour for _, colour in image.getcolors(1 << 20)} for image in grounds.values())
    colours = {name: {c for _, c in image.getcolors(1 << 20)} for name, image in grounds.items()}
    noise = tuple(bytes.fromhex(THEMES[theme].looks[Style.NOISE].colour[1:]))
    assert noise in colours["early"]
    assert noise not in colours["last"]
    assert grounds["sheet"].width > grounds["last"].width  # two beside each other


def test_every_letter_of_a_picture_is_where_its_cell_is():
    from dgguf.view.export.picture import BAR, CELL, PADDING, ROW, draw
    from dgguf.view.frame import Span
    from dgguf.view.screens import Screen

    def columns(text):
        """Which cells of the first row have ink."""
        screen = Screen(None, 1, ((Span(text, Style.TEXT),),))
        image = np.asarray(draw(screen, 8, 1, THEMES["dark"], "").convert("L")).astype(int)
        row = image[BAR + PADDING : BAR + PADDING + ROW, PADDING : PADDING + 8 * CELL]
        ink = np.abs(row - row[0, -1]).max(axis=0).reshape(8, CELL).max(axis=1) > 60
        return np.flatnonzero(ink).tolist()

    assert columns("a b") == [0, 2]
    assert columns("世x") == [0, 1, 2]  # a box for what the font lacks
    assert columns("e\u0301x") == [0, 1]
    assert columns("─│█▁") == [0, 1, 2, 3]
    assert columns("") == []


def test_txt(story, tmp_path):
    export(story, tmp_path / "story.txt")
    steps, speed = "2 blocks of 12+12 steps", "97 answer tokens at 69.3 tokens/s"
    facts = f"made up · {steps} · {speed} · first block after 0.7 s · seed 3"
    assert (tmp_path / "story.txt").read_text() == f"> The lighthouse keeper kept\n\n{STORY}\n\n{facts}\n"


def test_cast_is_what_the_live_view_sends(story, tmp_path):
    export(story, tmp_path / "story.cast", "--width", 60, "--height", 24)
    header, *events = [json.loads(line) for line in (tmp_path / "story.cast").read_text().splitlines()]
    assert (header["version"], header["width"], header["height"]) == (2, 60, 24)
    times = [at for at, _, _ in events]
    assert times == sorted(times)
    assert {kind for _, kind, _ in events} == {"o"}
    screen = pyte.Screen(60, 24)
    stream = pyte.Stream(screen)
    for _, _, text in events:
        stream.feed(text)
    shown = " ".join(line.rstrip() for line in screen.display if line.strip())
    assert shown.startswith("> The lighthouse keeper kept " + " ".join(STORY.split()) + " made up · 2 blocks")
    assert not screen.cursor.hidden


def test_html_is_one_file_that_asks_for_nothing(story, tmp_path):
    export(story, tmp_path / "story.html")
    page = (tmp_path / "story.html").read_text()
    assert not re.search(r"<link|<img|src=|@import|https?://(?!www\.w3\.org)|fetch\(|XMLHttp", page)
    assert page.count("</script>") == 1
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    steps = [frame for frame in data["frames"] if "entropy" in frame]
    assert len(steps) == 24
    assert all(
        len(frame["tokens"]) == len(frame["accepted"]) == len(frame["top_tokens"]) == 64 for frame in steps
    )


def test_the_page_shows_no_token_without_a_probability(tmp_path):
    tokens, events = generation([[(["a", "b"], [0, 0])]])
    top = TopTokens(np.array([[5, 0, 0], [3, 4, 0]]), np.array([[1, 0, 0], [0.9, 0.1, 0]], np.float32))
    events = [type(e)(**{**vars(e), "top": top}) if isinstance(e, DenoisingStep) else e for e in events]
    export(record(tmp_path / "padded.jsonl", tokens, events), tmp_path / "padded.html")
    page = (tmp_path / "padded.html").read_text()
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    [step] = [frame for frame in data["frames"] if "entropy" in frame]
    assert step["top_tokens"] == [[5], [3, 4]]
    assert step["probabilities"] == [[1.0], [0.9, 0.1]]


def test_nothing_in_a_recording_becomes_part_of_the_page_or_the_picture(tmp_path):
    evil = ["</script><script>alert(1)</script>", "<!--", "]]>", "&amp;", "\x00", "\x1b[2J", '"', "<turn|>"]
    tokens, events = generation([[(evil, [2] * 8), (evil, [0] * 8)]])
    recording = record(tmp_path / "evil.jsonl", tokens, events)
    for kind in ("svg", "html"):
        export(recording, tmp_path / f"evil.{kind}", "--title", "</title>\x1b<b>")
    ElementTree.parse(tmp_path / "evil.svg")
    page = (tmp_path / "evil.html").read_text()
    assert page.count("<script") == 1
    assert "<b>" not in page
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    assert data["texts"][str(tokens.ids[evil[0]])] == evil[0]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    return subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120)


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_the_page_in_a_browser_with_its_slider_moved(story, tmp_path):
    page = tmp_path / "story.html"
    export(story, page, "--width", 60)
    text = page.read_text()
    # What a person does: move the slider, point at a word; then the page reports what it shows.
    acts = """<script>
      const report = {};
      const shown = () => document.getElementById("screen").innerText;
      const slide = at => { const slider = document.getElementById("at"); slider.value = at;
        slider.dispatchEvent(new Event("input")); };
      slide(1); report.early = shown(); report.label = document.getElementById("label").textContent;
      const word = document.querySelector("#screen [data-p='5']"), box = word.getBoundingClientRect();
      word.dispatchEvent(new MouseEvent("mousemove", {bubbles: true, clientX: box.left, clientY: box.top}));
      report.tip = document.getElementById("tip").innerText;
      slide(999); report.late = shown(); report.button = document.getElementById("play").textContent;
      document.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
      report.before = document.getElementById("label").textContent;
      document.title = JSON.stringify(report);
    </script></body>"""
    page.write_text(text.replace("</body>", acts))
    dom = browse(page, "--dump-dom").stdout
    import html

    report = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]))
    assert report["label"] == "block 1 · step 1/48"
    assert "block 1 · step  1/48" in report["early"]
    assert report["tip"].startswith("position 5: “")
    assert "entropy" in report["tip"]
    assert " 90.0 % ███████████·" in report["tip"]
    late = " ".join(report["late"].split())
    assert late.startswith(" ".join(STORY.split()))
    assert report["button"] == "play"
    assert report["before"] == "block 2 · committed"
    # And it is drawn: several colours, not one blank sheet.
    browse(page, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1000,800", "--hide-scrollbars")
    with Image.open(tmp_path / "page.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_the_svg_in_a_browser(story, tmp_path):
    export(story, tmp_path / "story.svg", "--width", 60)
    browse(tmp_path / "story.svg", f"--screenshot={tmp_path / 'svg.png'}", "--window-size=600,400")
    with Image.open(tmp_path / "svg.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


@pytest.mark.parametrize("view", ["grid", "sudoku"])
@pytest.mark.parametrize("kind", ["svg", "png", "cast"])
def test_other_views(view, kind, tmp_path):
    recording = record(tmp_path / "board.jsonl", *made_up_sudoku(steps=5))
    export(recording, tmp_path / f"board.{kind}", "--view", view)
    assert (tmp_path / f"board.{kind}").stat().st_size > 2000
    if kind == "svg" and view == "sudoku":
        text = (tmp_path / "board.svg").read_text()
        for look in (Style.GIVEN, Style.CONFLICT, Style.REVISED):
            assert f'class="{look}"' in text
        assert "solved · " in text


def test_speed_gives_steps_their_own_time(story, tmp_path):
    def total(*options):
        export(story, tmp_path / "a.cast", "--force", *options)
        return json.loads((tmp_path / "a.cast").read_text().splitlines()[-2])[0]

    slow, quick = total("--speed", 0.1, "--pace", 0.02), total("--speed", 10, "--pace", 0.02)
    assert slow == pytest.approx(10 * 24 * 0.05 + 10 * 0.1, rel=0.2)
    assert quick < 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_cut_off_in_its_first_block(kind, story, tmp_path):
    short = tmp_path / "short.jsonl"
    short.write_text("".join(story.read_text().splitlines(keepends=True)[:6]))
    export(short, tmp_path / f"short.{kind}")
    if kind != "txt":
        assert (tmp_path / f"short.{kind}").stat().st_size > 1000
    only_started = tmp_path / "started.jsonl"
    only_started.write_text(story.read_text().splitlines(keepends=True)[0])
    done = export(only_started, tmp_path / f"started.{kind}", code=0 if kind == "txt" else 1)
    assert "started" in done or kind != "txt"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (
            "html",
            ["--theme", "light"],
            "--theme does not go with .html files, only with .svg, .gif, .png",
        ),
        ("svg", ["--scale", 2], "--scale does not go with .svg files, only with .gif, .png, .mp4, .webm"),
        ("cast", ["--for", "slide"], "--for does not go with .cast"),
        ("gif", ["--steps", 4], "--steps does not go with .gif files, only with .png"),
        ("png", ["--pace", 1], "--pace does not go with .png"),
        ("txt", ["--view", "grid"], "--view does not go with .txt"),
        ("png", ["--at", 3, "--steps", 3], "--at does not go with --steps"),
        ("png", ["--at", 99], "--at 99: the recording has 24 denoising steps"),
    ],
)
def test_options_without_an_effect_are_usage_errors(kind, options, words, story, tmp_path):
    assert words in export(story, tmp_path / f"a.{kind}", *options, code=2)
    assert not list(tmp_path.iterdir())


def test_a_sudoku_view_without_a_sudoku_says_so(story, tmp_path):
    assert "the prompt holds no sudoku" in export(story, tmp_path / "a.svg", "--view", "sudoku")
    board = record(tmp_path / "board.jsonl", *made_up_sudoku(steps=5))
    assert "note" not in export(board, tmp_path / "b.svg", "--view", "sudoku")


def test_mistakes_are_told(story, tmp_path):
    assert "must end in one of" in export(story, tmp_path / "a.jpg", code=2)
    other = tmp_path / "other.svg"
    shutil.copy(story, other)
    assert "is a recording itself" in export(story, other, code=2)


def test_what_is_not_written_whole_changes_nothing(story, tmp_path, monkeypatch):
    (tmp_path / "a.svg").write_text("precious")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dgguf.view.export.svg.render", full)
    assert "--force overwrites it" in export(story, tmp_path / "a.svg", code=2)
    export(story, tmp_path / "a.svg", "--force", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]
    assert (tmp_path / "a.svg").read_text() == "precious"


def test_no_other_file_is_touched(story, tmp_path):
    (tmp_path / "story.html.part").write_text("somebody else's")
    export(story, tmp_path / "story.html")
    assert (tmp_path / "story.html.part").read_text() == "somebody else's"
    assert {path.name for path in tmp_path.iterdir()} >= {"story.html", "story.html.part"}
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part" and path.stem != "story.html"]


def test_every_theme_has_a_look_for_every_style():
    for theme in THEMES.values():
        assert set(theme.looks) == set(Style)


def test_settled_is_told_from_noise_by_brightness_not_by_hue():
    def brightness(colour):
        red, green, blue = bytes.fromhex(colour[1:])
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for theme in THEMES.values():
        levels = [Style.NOISE, Style.UNSURE, Style.LIKELY, Style.SURE, Style.SETTLED]
        away = [abs(brightness(theme.looks[s].colour) - brightness(theme.ground)) for s in levels]
        assert away == sorted(away)
        assert all(later - earlier > 15 for earlier, later in itertools.pairwise(away))


def test_the_fonts_come_with_dgguf():
    folder = Path(__file__).parents[2] / "dgguf" / "data" / "fonts"
    assert {path.name for path in folder.iterdir()} >= {"DejaVuSansMono.ttf", "LICENSE"}


def lasting(path):
    """Seconds that a film takes."""
    if path.suffix == ".gif":
        with Image.open(path) as gif:
            return sum(seek_duration(gif, frame) for frame in range(gif.n_frames)) / 1000
    if path.suffix == ".cast":
        return json.loads(path.read_text().splitlines()[-1])[0]
    if path.suffix == ".svg":
        return float(re.search(r"animation:film ([\d.]+)s", path.read_text())[1])
    if path.suffix == ".html":
        return sum(float(s) for s in re.findall(r'"seconds":([\d.]+)', path.read_text()))
    import av

    with av.open(str(path)) as film:
        return film.duration / 1e6


def seek_duration(gif, frame):
    gif.seek(frame)
    return gif.info["duration"]


@pytest.mark.parametrize("kind", [kind[1:] for kind in FILMS])
@pytest.mark.parametrize("steps", [4, 48])
def test_a_film_lasts_six_to_ten_seconds_and_holds_its_end(kind, steps, tmp_path):
    recording = record(tmp_path / "a.jsonl", *made_up(length=64, steps=steps))
    film = tmp_path / f"a.{kind}"
    export(recording, film, "--width", 40)
    assert 6 <= lasting(film) <= 10
    quick = tmp_path / f"b.{kind}"
    export(recording, quick, "--width", 40, "--pace", 0.02)
    assert 2.5 <= lasting(quick) < lasting(film)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "h264"), ("webm", "vp9")])
def test_video(kind, codec, story, tmp_path):
    import av

    export(story, tmp_path / f"story.{kind}", "--for", "post", "--theme", "light")
    with av.open(str(tmp_path / f"story.{kind}")) as film:
        [stream] = film.streams
        assert stream.codec_context.name == codec
        assert abs(stream.width - 1080) < 40
        assert abs(stream.height - 1080) < 80
        pictures = [picture.to_ndarray(format="rgb24") for picture in film.decode(stream)]
    assert len(pictures) == 2 * (1 + 12 + 1) + 1 + 1  # noise, steps, commit; the end, and where it ends
    different = [(a != b).any() for a, b in itertools.pairwise(pictures)]
    assert sum(different) >= 20
    assert np.median(pictures[-1]) > 240  # a light ground


def test_video_without_its_package_says_what_to_install(story, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'dgguf[video]'" in export(story, tmp_path / "a.mp4", code=2)


def shown_text(path):
    """The text of an export."""
    text = path.read_text()
    if path.suffix == ".svg":
        return " ".join(ElementTree.fromstring(text).itertext())
    if path.suffix == ".cast":
        return "".join(json.loads(line)[2] for line in text.splitlines()[1:])
    return text


@pytest.mark.parametrize("kind", ["svg", "html", "cast", "txt"])
def test_every_export_says_what_was_asked_of_which_model_with_which_seed(kind, story, tmp_path):
    out = tmp_path / f"a.{kind}"
    export(story, out, *(["--title", "mine"] if kind != "txt" else []))
    text = shown_text(out)
    assert "The lighthouse keeper kept" in text
    assert re.search(r"made up · 2 blocks .* seed\s+3", text, re.DOTALL)


def test_the_question_is_the_last_message_of_the_user():
    from dgguf.view.asked import asked_text, heading
    from dgguf.view.frame import line_text

    turns = (
        "<bos> <|turn> user ~ old <turn|> ~ <|turn> model ~ x <turn|> ~ <|turn> user ~ now ~ this <turn|> ~"
    )
    prompt = [piece.replace("~", "\n") for piece in turns.split()]
    tokens, (started, *_) = generation([[(["a"], [0])]], prompt=prompt)
    assert asked_text(started, tokens) == "now\nthis"
    assert [line_text(line) for line in heading(started, tokens, 40)] == ["> now↵this"]
    assert [line_text(line) for line in heading(started, tokens, 8, most=1)] == ["> now↵ …"]


@pytest.mark.parametrize("kind", ["svg", "png", "gif"])
def test_the_end_is_never_cut(kind, tmp_path):
    text = "\n".join(f"line {i}" for i in range(60))
    recording = record(tmp_path / "long.jsonl", *made_up(text, length=128, steps=3))
    export(recording, tmp_path / f"a.{kind}", "--width", 40)
    if kind == "svg":
        assert "line 0" in shown_text(tmp_path / "a.svg")
        assert "line 59" in shown_text(tmp_path / "a.svg")
    else:
        with Image.open(tmp_path / f"a.{kind}") as image:
            assert image.height > 60 * 19
    message = export(recording, tmp_path / f"b.{kind}", "--width", 40, "--height", 20, code=1)
    assert "a height of 20 would cut the end" in message


@pytest.mark.parametrize(("purpose", "size"), [("slide", (1920, 1080)), ("post", (1080, 1080))])
def test_pictures_fill_the_size_of_their_purpose(purpose, size, story, tmp_path):
    export(story, tmp_path / "a.png", "--for", purpose)
    with Image.open(tmp_path / "a.png") as image:
        assert all(0 <= wanted - got < 76 for wanted, got in zip(size, image.size, strict=True))
