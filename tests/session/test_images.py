"""Images in prompts: where their rows stand, what sees them, what is kept of them, what is refused."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dgguf import seeing
from dgguf.backends.base import Visible
from dgguf.backends.cpu import CpuBackend
from dgguf.errors import ImageError, PromptError, UnsupportedModelError
from dgguf.ggufio.file import GgufFile
from dgguf.model.cache import KVCache
from dgguf.model.canvas import Call
from dgguf.model.config import ModelConfig
from dgguf.model.spans import Span, cached_ids, calls, within
from dgguf.model.transformer import Transformer
from dgguf.model.weights import load_weights
from dgguf.session import Session
from dgguf.videos import Pictures
from tests.images.test_images import random_picture, stored
from tests.support.seeing import write_seeing_model
from tests.support.synthetic.tower import TINY_TOWER, with_text_size, write_tower
from tests.support.synthetic.writer import write_model

QUICK = {"max_tokens": 8, "seed": 5, "image_tokens": 70}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_seeing_model(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def session(model):
    with Session(model, threads=1, exact=True) as session:
        yield session


@pytest.fixture(scope="module")
def pictures():
    return [random_picture(seed, 40 + 60 * seed, 50) for seed in (1, 2, 3)]


def marks(session, ids):
    m = session.tokenizer.image_marks
    return "".join({m.begin: "[", m.image: "i", m.end: "]"}.get(i, "") for i in ids.tolist())


def test_an_image_stands_before_the_text(session, pictures):
    (image,) = session.read_images("", pictures[:1], 70)
    ids = session.encode("what is this", images=[image])
    assert marks(session, ids) == "[" + "i" * image.n_tokens + "]"
    text = session.encode("what is this")
    place = int(np.flatnonzero(ids == session.tokenizer.image_marks.begin)[0])
    np.testing.assert_array_equal(np.delete(ids, slice(place, place + image.n_tokens + 2)), text)


def test_parts_of_messages_name_images(session, pictures, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(stored(pictures[0]))
    parts = [{"type": "image", "path": str(path)}, {"type": "text", "text": "and"}, {"type": "image"}]
    messages = [{"role": "user", "content": parts}]
    ids = session.encode(messages, images=[pictures[1]], image_tokens=70)
    sizes = [image.n_tokens for image in session.read_images("", pictures[:2], 70)]
    assert marks(session, ids) == "".join("[" + "i" * n + "]" for n in sizes)
    with pytest.raises(PromptError, match="no place"):
        session.encode(messages, images=pictures, image_tokens=70)
    with pytest.raises(PromptError, match="a part that names no image"):
        session.encode(messages)


def test_a_typed_mark_stays_text(session, pictures):
    assert marks(session, session.encode("what is <|image|> then")) == ""
    ids = session.encode("no <|image|> here <image|>", images=pictures[:1], image_tokens=70)
    assert marks(session, ids).count("[") == 1
    with pytest.raises(PromptError, match="1 places for images, and 0"):
        session.encode("what is <|image|> then", special=True)


def test_texts_are_as_before(session, model):
    with Session(model, threads=1, exact=True, mmproj="none") as blind:
        one, two = (each.generate("hello world", max_tokens=16, seed=1).text for each in (session, blind))
    assert one == two


def test_texts_need_no_pillow_and_no_tower(model):
    code = (
        "import sys; from dgguf.session import Session; s = Session(sys.argv[1], threads=1, exact=True); "
        "s.generate('hello', max_tokens=8, seed=1); print('PIL' in sys.modules, 'tower' in vars(s.images))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "False"]


def test_answers_depend_on_the_image(session, pictures):
    texts = [session.generate("what", images=[each], **QUICK).text for each in pictures]
    again = session.generate("what", images=[pictures[0]], **QUICK).text
    assert texts[0] == again
    assert len(set(texts)) == 3


def test_a_warm_cache_answers_as_a_cold_one(session, model, pictures):
    """The same ids with another image are not the same prefix; the same image is read only once."""
    first, second = pictures[:2]
    asked = [[first], [second], [first], [first, second], [first, first]]
    with Session(model, threads=1, exact=True) as fresh:
        for images in asked:
            fresh._conversation.drop()
            cold = fresh.generate("look", images=images, **QUICK).text
            assert session.generate("look", images=images, **QUICK).text == cold
    reused = session.generate("look", images=[first, first], **QUICK).statistics.reused_tokens
    assert reused > 2 * 60


def test_rows_of_an_image_are_kept(session, pictures, monkeypatch):
    session.generate("look", images=pictures[:1], **QUICK)
    session._conversation.drop()
    monkeypatch.setattr(
        session.images.tower, "encode", lambda image, advance: pytest.fail("it was read again")
    )
    session.generate("look", images=pictures[:1], **QUICK)


def test_chat_remembers_images(session, pictures):
    chat = session.chat()
    chat.send("look", images=pictures[:1], **QUICK)
    answer = chat.send("again", max_tokens=8, seed=5)
    assert len(chat.messages) == 4
    assert answer.statistics.reused_tokens > 60


def test_filled_texts_depend_on_the_image(session, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        random_picture(number, 60, 50).save(path)
    quick = {"seed": 5, "image_tokens": 70, "settings": session.settings(max_steps=3)}

    def likely(prompt, **options):
        return session.fill("a [[6]] b", prompt, **quick, **options).log_probability

    found = [likely("what", images=[path]) for path in paths]
    assert likely("what", images=[paths[0]]) == found[0]
    assert len(set(found)) == 3
    parts = [{"type": "image", "path": paths[1]}, {"type": "text", "text": "what"}]
    assert likely([{"role": "user", "content": parts}]) == found[1]


def test_an_image_that_does_not_fit_is_refused_before_it_is_read(model, pictures, monkeypatch):
    with Session(model, threads=1, context=100) as small:
        monkeypatch.setattr(small.images.tower, "encode", lambda image, advance: pytest.fail("it was read"))
        with pytest.raises(PromptError, match="does not fit the context of 100"):
            small.generate("look", images=pictures[:1], max_tokens=8, image_tokens=280)


def test_missing_and_wrong_towers_are_refused(model, pictures, tmp_path):
    def refused(words, **options):
        path = options.pop("model", model)
        with (
            Session(path, threads=1, **options) as session,
            pytest.raises(PromptError, match=words) as caught,
        ):
            session.generate("look", images=pictures[:1], **QUICK)
        return str(caught.value)

    refused("mmproj none", mmproj="none")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model.gguf").write_bytes(model.read_bytes())
    assert "dgguf quantize HF_DIR --mmproj" in refused("no vision tower beside", model=alone / "model.gguf")
    for name in ("mmproj-a.gguf", "mmproj-b.gguf"):
        write_tower(alone / name)
    refused("several mmproj files", model=alone / "model.gguf")
    blind = tmp_path / "blind.gguf"
    write_model(blind)
    refused("reads no images", model=blind)
    other = write_tower(tmp_path / "other.gguf", with_text_size(TINY_TOWER, 96))
    with Session(model, mmproj=other) as session, pytest.raises(UnsupportedModelError, match="96 numbers"):
        session.generate("look", images=pictures[:1], **QUICK)


@pytest.mark.parametrize(
    "wrong",
    [
        {"omit": ("clip.vision.block_count",)},
        {"omit": ("v.blk.1.ffn_up.weight",)},
        {"config": with_text_size(TINY_TOWER, 96)},
    ],
)
def test_a_tower_that_is_refused_is_closed(model, pictures, tmp_path, monkeypatch, wrong):
    opened = []
    monkeypatch.setattr(seeing, "GgufFile", lambda path: opened.append(GgufFile(path)) or opened[-1])
    other = write_tower(tmp_path / "other.gguf", **wrong)
    with Session(model, mmproj=other) as session:
        with pytest.raises(UnsupportedModelError):
            session.generate("look", images=pictures[:1], **QUICK)
        assert [file.maps for file in opened] == [[]]


def test_wrong_images_are_refused(session, tmp_path):
    with pytest.raises(ImageError, match=r"none\.png: there is no such image"):
        session.generate("look", images=[tmp_path / "none.png"], **QUICK)
    with pytest.raises(ImageError, match="the budgets are"):
        session.generate("look", images=[Image.new("RGB", (9, 9))], max_tokens=8, image_tokens=100)
    with pytest.raises(TypeError, match="images are a list"):
        session.generate("look", images="a.png")
    ids = session.encode("look", images=[Image.new("RGB", (9, 9))], image_tokens=70)
    with pytest.raises(ImageError, match="encode it with them"):
        session.generate(ids, images=[Image.new("RGB", (99, 9))], max_tokens=8, image_tokens=70)


# Masks and cuts


class Store:
    def __init__(self, length, window):
        self.length, self.window = length, window


def seen(visible: Visible, n_keys):
    mask = np.zeros((visible.runs.shape[1], n_keys), bool)
    for r, (first, end) in enumerate(visible.runs[0]):
        mask[r, first:end] = True
    return mask


@pytest.mark.parametrize("window", [None, 4, 100])
@pytest.mark.parametrize("on_full", [False, True])
def test_masks(window, on_full):
    """Row by row as they are written down: causal, or of one image on sliding layers, or everywhere."""
    committed, n, spans = 5, 20, ((2, 9), (9, 11), (13, 20))
    runs = Call.encode(n, spans, spans_on_full=on_full).visible(Store(committed, window)).runs
    assert (np.diff(runs, axis=1) >= 0).all(), "tiles rely on bounds that do not fall"
    image = np.full(committed + n, -1)
    for number, (first, end) in enumerate(spans):
        image[committed + first : committed + end] = number
    for r in range(n):
        i = committed + r
        for j in range(committed + n):
            inside = window is None or j > i - window
            same = image[i] >= 0 and image[i] == image[j]
            if on_full:
                expected = (j <= i and inside) or same
            else:
                expected = inside and (j <= i or (same and window is not None))
            assert (runs[0, r, 0] <= j < runs[0, r, 1]) == expected, (i, j)


def test_calls_do_not_cut_images():
    spans = [Span(3, 5, -1, lambda: None), Span(8, 2, -2, lambda: None), Span(20, 12, -3, lambda: None)]
    for most in range(1, 40):
        cut = list(calls(40, spans, 0, most))
        assert [first for first, _ in cut[1:]] == [end for _, end in cut[:-1]]
        assert cut[0][0] == 0
        assert cut[-1][1] == 40
        for first, end in cut:
            assert end - first <= most or (first, end) in [(s.first, s.end) for s in spans]
            assert all(s.end <= first or s.first >= end or (first <= s.first and s.end <= end) for s in spans)
        assert sum(len(within(spans, first, end)) for first, end in cut) == 3
    ids = cached_ids(np.arange(40), spans)
    assert (ids[3:8] == -1).all()
    assert (ids[8:10] == -2).all()
    assert ids[10] == 10


@pytest.mark.parametrize("exact", [True, False])
def test_borders_of_calls_do_not_show(model, exact):
    """A prompt with images has the keys and values of one call, wherever it is cut; images outgrow calls."""
    with GgufFile(model) as file:
        config = ModelConfig.from_file(file)
        backend = CpuBackend(threads=1, exact=exact)
        network = Transformer(config, load_weights(file, config, backend), backend)
        rng = np.random.default_rng(1)
        tokens = rng.integers(5, 200, 60)
        rows = rng.standard_normal((21, config.hidden_size), np.float32)
        spans = [Span(3, 9, -1, lambda: rows[:9]), Span(14, 12, -2, lambda: rows[9:])]
        found = []
        for most in (60, 1, 2, 3, 5, 7, 10, 13):  # with 1 at every offset that no image holds
            cache = KVCache(config, backend, 200, most)
            for first, end in calls(60, spans, 0, most):
                network.encode(tokens[first:end], cache, within(spans, first, end))
            cache.trim()
            found.append([np.array(each) for layer in cache.layers for each in (layer.keys, layer.values)])
            np.testing.assert_array_equal(cache.ids, cached_ids(tokens, spans))
        for other in found[1:]:
            for one, two in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(one, two)


# Videos


@pytest.fixture(scope="module")
def clip():
    return np.random.default_rng(5).integers(0, 256, (70, 40, 60, 3), np.uint8)


def test_a_video_stands_as_times_and_frames(session, clip):
    """The text around the frames is cut into tokens with the prompt's own, as in transformers."""
    (video,) = session.read_videos("", [clip])
    special = session.tokenizer.special
    ids = session.encode("what is this", videos=[video])
    frames = " ".join(f"{stamp} <|image><image|>" for stamp in video.stamps)
    expected = session.encode("▲what is this").tolist()
    text = session.tokenizer.decode(expected, special=True).replace("▲", frames)
    rows = special["<|video|>"]
    assert [i for i in ids.tolist() if i != rows] == session.tokenizer.encode(text, special=True)
    assert ids.tolist().count(rows) == video.n_tokens == 32 * video.frames[0].n_tokens
    begins = np.flatnonzero(ids == special["<|image>"])
    assert (ids[begins + 1] == rows).all()
    assert (ids[begins + video.frames[0].n_tokens + 1] == special["<image|>"]).all()


def test_images_and_videos_keep_their_places(session, pictures, clip):
    parts = [{"type": "video", "video": clip}, {"type": "text", "text": "then"}, {"type": "image"}]
    messages = [{"role": "user", "content": parts}]
    ids = session.encode(messages, images=pictures[:1], image_tokens=70)
    kinds = {session.tokenizer.image_marks.image: "i", session.tokenizer.image_marks.video: "v"}
    found = "".join(kinds.get(i, "") for i in ids.tolist())
    assert found == "v" * found.count("v") + "i" * found.count("i")
    images, videos = session.read_images(messages, pictures[:1], 70), session.read_videos(messages)
    spans = session.images.spans(ids, Pictures(images, videos))
    assert [span.n_rows for span in spans] == [videos[0].frames[0].n_tokens] * 32 + [images[0].n_tokens]
    assert [span.first for span in spans] == sorted(span.first for span in spans)
    assert len({span.key for span in spans}) == 33
    plain = session.encode("what", images=pictures[:1], videos=[clip[:2]], image_tokens=70)
    found = "".join(kinds.get(i, "") for i in plain.tolist())
    assert found == "i" * found.count("i") + "v" * found.count("v"), "images stand before videos"


def test_answers_depend_on_the_video(session, clip):
    few = [clip[:2], clip[2:4], clip[1::-1]]
    answers = [session.generate("what", videos=[each], max_tokens=8, seed=5) for each in few]
    texts = [answer.text for answer in answers]
    assert len(set(texts)) == 3
    again = session.generate("what", videos=few[:1], max_tokens=8, seed=5)
    assert again.text == texts[0]
    chat = session.chat()
    chat.send("look", videos=few[:1], max_tokens=8, seed=5)
    answer = chat.send("again", max_tokens=8, seed=5)
    assert answer.statistics.reused_tokens > 2 * 30
    filled = [session.fill("a [[6]] b", "what", videos=[each], seed=5).log_probability for each in few[:2]]
    assert filled[0] != filled[1]


def test_wrong_uses_of_videos_are_refused(session, clip, tmp_path):
    typed = session.encode("what is <|video|> then")
    assert session.tokenizer.image_marks.video not in typed
    with pytest.raises(PromptError, match="not as many places"):
        session.encode("no video here", videos=[clip[:2]], raw=True)
    with pytest.raises(PromptError, match="names no video"):
        session.encode([{"role": "user", "content": [{"type": "video"}]}])
    with pytest.raises(TypeError, match="videos are a list"):
        session.generate("look", videos="a.mp4")
    ids = session.encode("look", videos=[clip[:2]])
    with pytest.raises(ImageError, match="have 2 frames"):
        session.generate(ids, videos=[clip[:3]], max_tokens=8)
    with pytest.raises(ImageError, match="rows of frames, and none were given"):
        session.generate(ids, max_tokens=8)
    with pytest.raises(ImageError, match="rows of images, and none were given"):
        session.generate(session.encode("look", images=[clip[0]], image_tokens=70), max_tokens=8)
    write_model(tmp_path / "blind.gguf")
    with (
        Session(tmp_path / "blind.gguf") as blind,
        pytest.raises(ImageError, match="this model reads no images"),
    ):
        blind.generate("look", videos=[clip], max_tokens=8)
    folder = tmp_path / "no videos"
    folder.mkdir()
    old = write_seeing_model(folder, videos=False)
    with Session(old) as other, pytest.raises(ImageError, match="reads no videos"):
        other.generate("look", videos=[clip], max_tokens=8)
    raw = session.encode("see <|video|>", videos=[clip[:2]], raw=True, special=True)
    assert raw.tolist().count(session.tokenizer.image_marks.begin) == 2


def test_what_is_committed_behind_an_image_is_causal(session, pictures, monkeypatch):
    """Only the prompt's calls have spans, and each image is in one of them."""
    session._conversation.drop()
    seen, encode = [], session.model.encode
    monkeypatch.setattr(
        session.model,
        "encode",
        lambda ids, cache, spans=(): seen.append(len(spans)) or encode(ids, cache, spans),
    )
    session.generate("look", images=pictures[:2], **QUICK | {"max_tokens": 16})
    assert seen == [2, 0]


# While the tower reads


def test_whoever_watches_is_told_of_every_layer(model, pictures):
    told = []

    @contextlib.contextmanager
    def shown(name, n_layers):
        told.append((name, n_layers))
        yield lambda: told.append(session.work())

    with Session(model, threads=1, exact=True) as session:
        session.images.shown = shown
        session.generate("look", images=pictures[:1], **QUICK)
        assert told[0] == ("image", 2)
        assert [(work.layer, work.n_layers, work.image) for work in told[1:]] == [
            (1, 2, "image"),
            (2, 2, "image"),
        ]
        assert told[1].seconds_left > told[2].seconds_left == 0
        assert session.work().image == ""


def test_ctrl_c_while_the_tower_reads_leaves_nothing_half(session, pictures, monkeypatch):
    """What was encoded before stays; the next prompt with the image reads it from its start."""
    expected = session.generate("look", images=pictures[:2], **QUICK).text
    session._conversation.drop()
    session.images._kept.clear()
    tower = session.images.tower
    before = tower.backend.attend_all
    calls = iter(range(100))

    def stopped(*arguments):
        if next(calls) == 3:  # in the second image
            raise KeyboardInterrupt
        return before(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tower.backend, "attend_all", stopped)
        with pytest.raises(KeyboardInterrupt):
            session.generate("look", images=pictures[:2], **QUICK)
    assert session.images.reading is None
    assert len(session.images._kept) == 1
    assert session.generate("look", images=pictures[:2], **QUICK).text == expected
