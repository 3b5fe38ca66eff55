"""A file comes whole through connections that break, stall, lie and refuse, or a sentence says why not."""

import re

import pytest

from tests.support.hub_server import DEMO, Fault, Hub, serve

HALF = len(DEMO) // 2


@pytest.mark.parametrize("n_bytes", [1_000_000, 100_000, 1_000])
def test_losses_of_any_size_get_on(hub: Hub, pull, n_bytes: int) -> None:
    hub.files["tiny-Q8_0.gguf"] = data = DEMO if n_bytes > 1_000 else DEMO[:60_000]
    hub.always = Fault(after=n_bytes)
    pulled = pull()
    if n_bytes == 1_000:  # cut, so no model; it came nevertheless
        assert "missing; it is cut short" in pulled.error
    else:
        assert pulled.data == data
    n_pieces = -(-len(data) // n_bytes)
    assert len(hub.downloads) == n_pieces
    assert [r.split("bytes=")[1] for r in hub.downloads[1:]] == [
        f"{i * n_bytes}-" for i in range(1, n_pieces)
    ]
    assert pulled.notes.count("the connection broke") == 1


PASSING = {
    "closed at once": Fault(after=0),
    "closed in the middle": Fault(after=HALF),
    "silence": Fault(after=HALF, stall=1),
    "silence before the answer": Fault(stall=1),
    "no ranges": Fault(ignores_range=True),
    "416": Fault(status=416),
    "other range": Fault(sends_other_range=100),
    "an earlier range": Fault(sends_other_range=-100),
    "too short a length": Fault(length=HALF),
    "too long a length": Fault(length=len(DEMO) * 2),
    "a page": Fault(status=200, body=b"<html>log in</html>"),
    "nothing": Fault(status=204),
    "503": Fault(status=503),
    "503 with a pause": Fault(status=503, headers={"Retry-After": "0"}),
    "429": Fault(status=429, headers={"Retry-After": "0"}),
    "502": Fault(status=502, body=b"\x1b[31mbad gateway"),
    "nonsense compressed": Fault(status=200, body=b"abc", headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("begun", [0, 1_000_000])
def test_a_fault_that_passes_is_got_over(
    hub: Hub, pull, monkeypatch: pytest.MonkeyPatch, kind: str, begun: int
) -> None:
    if PASSING[kind].stall:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.faults = ([Fault(after=begun)] if begun else []) + [PASSING[kind]]
    pulled = pull()
    assert pulled.data == DEMO
    assert "\x1b" not in pulled.notes


@pytest.mark.parametrize("kind", ["no ranges", "416"])
def test_a_server_that_cannot_go_on_gives_the_whole_file(hub: Hub, pull, kind: str) -> None:
    hub.faults = [Fault(after=HALF), PASSING[kind], Fault(ignores_range=True, after=HALF + 9), None]
    assert pull().data == DEMO


LASTING = {
    "silence": (Fault(after=0, stall=0.5), "nothing came from 127.0.0.1 for 0.2 s (HF_HUB_DOWNLOAD_TIMEOUT"),
    "503": (Fault(status=503), "127.0.0.1 answers 503 Service Unavailable"),
    "429": (Fault(status=429), "too many requests from here (429"),
    "429 for an hour": (Fault(status=429, headers={"Retry-After": "3600"}), "asks to wait 3600 s"),
    "401": (Fault(status=401), "does not accept the token of HF_TOKEN or `hf auth login`"),
    "403": (Fault(status=403), "HF_TOKEN or `hf auth login` may not read it"),
    "gated": (Fault(status=403, headers={"X-Error-Code": "GatedRepo"}), "accept its terms"),
    "404": (Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}), "has no file tiny-Q8_0.gguf any"),
    "too short a length": (Fault(length=100), "sends a file of 100 bytes for tiny-Q8_0.gguf, "),
    "another scheme": (Fault(status=302, headers={"Location": "ftp://x/y"}), "ftp"),
    "a circle": (Fault(status=302, headers={"Location": "?"}), "redirect"),
    "416": (Fault(status=416), "416"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LASTING)
def test_a_fault_that_lasts_is_a_sentence(hub: Hub, pull, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    hub.always, words = LASTING[kind]
    if hub.always.stall:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    pulled = pull()
    assert words in pulled.error
    assert len(pulled.error) < 500
    assert "\n" not in pulled.error
    hub.always = None
    assert pull().data == DEMO


def test_what_came_is_kept_and_gone_on_with(hub: Hub, pull) -> None:
    hub.faults, hub.always = [Fault(after=HALF)], Fault(after=0)
    pulled = pull()
    assert "; 50% are here: pull again, and it goes on from there" in pulled.error
    hub.requests.clear()
    hub.always = None
    again = pull()
    assert again.data == DEMO
    assert "are here already" in again.notes
    assert [r.split("bytes=")[1] for r in hub.downloads] == [f"{HALF}-"]


def test_the_token_goes_to_no_other_host(hub: Hub, pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.token = "secret"
    with serve(Hub(hub.repository, hub.files)) as store:
        hub.faults = [Fault(after=HALF)]
        hub.always = Fault(
            status=302, headers={"Location": f"{store.url}/{hub.repository}/resolve/x/tiny-Q8_0.gguf"}
        )
        assert pull().data == DEMO
        assert set(hub.authorizations) == {"Bearer secret"}
        assert set(store.authorizations) == {""}
        assert [r.split(" ")[-1] for r in store.requests] == [f"bytes={HALF}-"]


def test_wrong_contents_start_anew_once(hub: Hub, pull) -> None:
    hub.faults = [Fault(flips=5), Fault(after=HALF)]
    pulled = pull()
    assert pulled.data == DEMO
    assert pulled.notes.count("arrived damaged, its digest is not the hub's: it starts anew") == 1
    assert len(hub.downloads) == 3


def test_wrong_contents_twice_are_deleted_and_said_so(hub: Hub, pull, tmp_path) -> None:
    hub.always = Fault(flips=-1)
    assert "tiny-Q8_0.gguf arrived damaged twice" in pull().error
    assert len(hub.downloads) == 2
    assert not list((tmp_path / "hub").rglob("*.incomplete"))
    hub.always = None
    assert pull().data == DEMO


@pytest.mark.parametrize(
    ("begun", "words"),
    [
        (DEMO + b"\0", "longer than the file"),
        (b"\1" * HALF, "arrived damaged"),
        (b"\1" * len(DEMO), "damaged"),
    ],
)
def test_what_an_earlier_download_left_is_not_believed(hub: Hub, pull, tmp_path, begun, words) -> None:
    hub.faults = [Fault(after=0)] * 6
    assert "nothing came" in pull().error
    (partial,) = (tmp_path / "hub").rglob("*.incomplete")
    partial.write_bytes(begun)
    hub.requests.clear()
    pulled = pull()
    assert pulled.data == DEMO
    assert pulled.notes.count("starts anew") == 1
    assert words in pulled.notes
    assert len(hub.downloads) == 1 + (len(begun) == HALF)


def test_a_line_tells_how_long_it_takes_where_no_bar_is_shown(hub: Hub, pull, monkeypatch) -> None:
    monkeypatch.setattr("dgguf.cli.progress._SOON", 0.0)
    name, how = r"tiny-Q8_0\.gguf", r"\d+%, 0:0\d left, [\d.]+ .B/s, [\d.]+ .B of "
    how += re.escape(f"{len(DEMO) / 1e6:.2f} MB")
    assert re.search(f"^{name}: {how}$", pull().notes, re.MULTILINE)
