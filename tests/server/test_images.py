"""Images in requests: as data: URIs alone; nothing is fetched and no file is read."""

import base64
import io
import json

import pytest
from PIL import Image

from tests.images.test_images import random_picture
from tests.server.conftest import serving
from tests.support.seeing import write_seeing_model


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    with serving(write_seeing_model(tmp_path_factory.mktemp("seeing")), "--exact") as served:
        yield served


def uri(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def body(*urls, **more):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "What is this?"}]}]
    return {"messages": messages, "max_tokens": 8, "seed": 1, "sampler": {"max_steps": 3}, **more}


def answer(served, *urls):
    status, _, data = served.post("/v1/chat/completions", body(*urls))
    assert status == 200, data
    given = json.loads(data)
    return given["choices"][0]["message"]["content"], given["usage"]["prompt_tokens"]


def test_images_are_seen(seeing):
    one, other = (uri(random_picture(seed, 60, 50)) for seed in (1, 2))
    first, n_one = answer(seeing, one)
    _, n_none = answer(seeing)
    _, n_two = answer(seeing, one, other)
    assert n_none < n_one < n_two
    assert answer(seeing, one)[0] == first
    assert answer(seeing, other)[0] != first, "the second image is not answered with the first"


def test_what_follows_an_image_encodes_only_what_is_new(seeing):
    first = body(uri(random_picture(3, 60, 50)))
    status, _, data = seeing.post("/v1/chat/completions", first)
    assert status == 200, data
    said = {"role": "assistant", "content": "a fox"}
    more = {"role": "user", "content": "And what else?"}
    status, _, data = seeing.post(
        "/v1/chat/completions", first | {"messages": [*first["messages"], said, more]}
    )
    assert status == 200, data
    usage = json.loads(data)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] / 2


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://example.org/a.png", "data: URI"),
        ("file:///etc/passwd", "data: URI"),
        ("/etc/passwd", "data: URI"),
        ("data:text/html;base64,aGk=", "data: URI"),
        ("data:image/png,hi", "data: URI"),
        ("data:image/png;base64,@@@", "no base64"),
        ("data:image/png;base64,aGVsbG8=", "image"),
        (None, "data: URI"),
        (5, "data: URI"),
    ],
)
def test_what_is_no_image_is_told(seeing, url, sentence):
    status, _, data = seeing.post("/v1/chat/completions", body(url))
    assert status == 400
    assert sentence in json.loads(data)["error"]["message"]


def test_images_are_few_and_small(seeing):
    small, large = uri(Image.new("1", (8, 8))), uri(Image.new("1", (4096, 4096)))
    for urls, number, sentence in (
        ([small] * 17, 16, "a request may have 16 images"),
        ([large, large, small], 2, "have 33,554,496 pixels, and may have 33,554,432 together"),
    ):
        status, _, data = seeing.post("/v1/chat/completions", body(*urls))
        error = json.loads(data)["error"]
        assert (status, error["param"]) == (400, f"messages[0].content[{number}]")
        assert sentence in error["message"]


def test_a_model_that_does_not_see_says_so(tiny):
    status, _, data = tiny.post("/v1/chat/completions", body(uri(random_picture(1, 60, 50))))
    assert status == 400
    assert "reads no images" in json.loads(data)["error"]["message"]
