"""Pulling models from a hub on loopback: choosing, resuming, and what can go wrong on the way."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgguf import hub as hub_module
from dgguf.catalog import find_model, known_models
from dgguf.errors import DownloadError
from tests.support.hub_server import Hub, serve

REPOSITORY = "someone/diffusiongemma-tiny-GGUF"
DEMO = find_model("demo").read_bytes()


# The hub's client keeps what it got in pieces of 10 MiB, so only larger files go on where they broke off.
BIG = DEMO + bytes(24 << 20)


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"README.md": b"# hello", "tiny-Q8_0.gguf": DEMO, "tiny-Q4_K_M.gguf": DEMO + b"\0"}
    with serve(Hub(REPOSITORY, files)) as running:
        yield running


def hub_environment(hub: Hub, folder: Path) -> dict[str, str]:
    """The variables that lead to the hub and to a cache of its own."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return variables | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hub")}


@pytest.fixture
def dgguf(hub: Hub, tmp_path: Path):
    """Run the command line against the hub, with a cache of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dgguf", *arguments]
        variables = hub_environment(hub, tmp_path) | environment
        return subprocess.run(command, env=variables, capture_output=True, text=True)

    return run


def test_every_known_model_has_a_line_that_makes_sense() -> None:
    for known in known_models():
        assert known.n_bytes > 0
        if known.repository != "bundled":
            assert hub_module.parse_reference(f"hf:{known.repository}:{known.file}")
            assert known.type in known.file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:a/b", ("a/b", "")),
        ("hf:a/b-c_d.e:Q4_K_M", ("a/b-c_d.e", "Q4_K_M")),
        ("hf:a/b:sub/x.gguf", ("a/b", "sub/x.gguf")),
        ("hf:a", None),
        ("a/b", None),
        ("demo", None),
    ],
)
def test_references(text: str, expected: tuple[str, str] | None) -> None:
    assert hub_module.parse_reference(text) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("Q4_K_M", ["m-Q4_K_M.gguf"]),
        ("q8_0", ["m-Q8_0.gguf"]),
        ("BF16", ["b/m-BF16-00001-of-00002.gguf"]),
        ("K_M", []),
        ("m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("b/m-BF16-00002-of-00002.gguf", ["b/m-BF16-00001-of-00002.gguf"]),
        ("", ["m-Q4_K_M.gguf", "m-Q8_0.gguf", "b/m-BF16-00001-of-00002.gguf"]),
    ],
)
def test_which_files_match(wanted: str, expected: list[str]) -> None:
    names = ["README.md", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-BF16.gguf"]
    names += ["b/m-BF16-00001-of-00002.gguf", "b/m-BF16-00002-of-00002.gguf"]
    assert hub_module._matching(names, wanted) == expected


@pytest.mark.parametrize("name", ["m-00001-of-00000.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf"])
def test_impossible_parts_are_files_of_their_own(name: str) -> None:
    assert hub_module.parts(name) == [name]
    assert hub_module._matching([name], "") == [name]


def test_pull_and_run(hub: Hub, dgguf) -> None:
    pulled = dgguf("pull", f"hf:{REPOSITORY}:Q8_0")
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).read_bytes() == DEMO
    assert f"{len(DEMO) / 1e6:.2f} MB" in pulled.stderr
    info = dgguf("info", f"hf:{REPOSITORY}:Q8_0", "--json", HF_HUB_OFFLINE="1")
    assert json.loads(info.stdout)["bytes"] == len(DEMO)
    before = len([r for r in hub.requests if r.startswith("GET") and "resolve" in r])
    again = dgguf("pull", f"hf:{REPOSITORY}:tiny-Q8_0.gguf")
    assert again.stdout == pulled.stdout
    assert len([r for r in hub.requests if r.startswith("GET") and "resolve" in r]) == before == 1


def test_a_dropped_connection_is_resumed(hub: Hub, dgguf) -> None:
    hub.files["tiny-Q8_0.gguf"] = BIG
    hub.drops = [15 << 20]
    pulled = dgguf("pull", f"hf:{REPOSITORY}:Q8_0")
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).read_bytes() == BIG
    ranges = [r for r in hub.requests if "bytes=" in r]
    assert len(ranges) == 1
    assert 0 < int(ranges[0].split("bytes=")[1].rstrip("-")) <= 15 << 20


def test_a_pull_that_was_cut_off_goes_on(hub: Hub, dgguf, tmp_path: Path) -> None:
    hub.files["tiny-Q8_0.gguf"] = BIG
    hub.drops = [15 << 20] + [0] * 20
    failed = dgguf("pull", f"hf:{REPOSITORY}:Q8_0")
    assert failed.returncode == 1
    assert "failed" in failed.stderr.splitlines()[-1]
    assert "pull again" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr
    missing = dgguf("info", f"hf:{REPOSITORY}:Q8_0")
    assert missing.returncode == 1
    assert f"`dgguf pull hf:{REPOSITORY}:Q8_0`" in missing.stderr
    hub.drops = []
    hub.requests.clear()
    assert Path(dgguf("pull", f"hf:{REPOSITORY}:Q8_0").stdout.strip()).read_bytes() == BIG
    assert any("bytes=" in r for r in hub.requests)


def test_a_damaged_file_is_deleted_and_said_so(hub: Hub, dgguf) -> None:
    hub.corrupt = True
    failed = dgguf("pull", f"hf:{REPOSITORY}:Q8_0")
    assert failed.returncode == 1
    assert "tiny-Q8_0.gguf arrived damaged" in failed.stderr
    hub.corrupt = False
    assert Path(dgguf("pull", f"hf:{REPOSITORY}:Q8_0").stdout.strip()).read_bytes() == DEMO


def test_a_file_is_checked_against_the_hub_without_a_download(hub: Hub, dgguf) -> None:
    same = dgguf("check", "demo", "--against", f"hf:{REPOSITORY}:Q8_0")
    assert same.returncode == 0, same.stderr
    assert f"the same: {REPOSITORY}:tiny-Q8_0.gguf" in same.stdout
    other = dgguf("check", "demo", "--against", f"hf:{REPOSITORY}:Q4_K_M")
    assert other.returncode == 1
    assert f"tiny-Q4_K_M.gguf of {REPOSITORY} has {len(DEMO) + 1}" in other.stderr.splitlines()[-1]
    offline = dgguf("check", "demo", "--against", f"hf:{REPOSITORY}:Q8_0", HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert offline.stderr.splitlines()[-1].startswith("dgguf: error: ")
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    assert not [r for r in hub.requests if "resolve" in r]


def test_a_file_that_is_no_model_is_refused(hub: Hub, dgguf) -> None:
    hub.files["page-Q2_K.gguf"] = b"<!doctype html>" * 100
    failed = dgguf("pull", f"hf:{REPOSITORY}:Q2_K")
    assert failed.returncode == 1
    assert "web page" in failed.stderr


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            f"hf:{REPOSITORY}:Q3_K_S",
            "no GGUF file 'Q3_K_S'; its GGUF files: tiny-Q4_K_M.gguf, tiny-Q8_0.gguf",
        ),
        (f"hf:{REPOSITORY}", "several such files"),
        ("hf:no/such", "no repository no/such"),
        ("nonsense", "no model 'nonsense' is known"),
    ],
)
def test_what_is_not_there(dgguf, model: str, words: str) -> None:
    failed = dgguf("pull", model)
    assert failed.returncode == 1
    assert words in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_token_comes_from_the_environment(hub: Hub, dgguf) -> None:
    hub.token = "secret"
    assert "HF_TOKEN" in dgguf("pull", f"hf:{REPOSITORY}:Q8_0").stderr
    assert dgguf("pull", f"hf:{REPOSITORY}:Q8_0", HF_TOKEN="secret").returncode == 0


def test_without_symbolic_links_a_file_is_on_the_disk_once(hub: Hub, tmp_path: Path) -> None:
    """As on most Windows machines."""
    hub.drops = [1 << 20]
    for name in ("tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf"):
        pulled = None
        for _ in range(2):  # the first connection breaks
            code = "import os; os.symlink = lambda *_: os.open('', 0); from dgguf.cli import main; main()"
            command = [sys.executable, "-c", code, "pull", f"hf:{REPOSITORY}:{name}"]
            pulled = subprocess.run(
                command, env=hub_environment(hub, tmp_path), capture_output=True, text=True
            )
        assert pulled is not None
        assert pulled.returncode == 0, pulled.stderr
        assert Path(pulled.stdout.strip()).read_bytes() == hub.files[name]
        assert "symlink" not in pulled.stderr
    kept = [path.stat().st_size for path in (tmp_path / "hub").rglob("*") if path.is_file()]
    assert sum(kept) < len(DEMO) * 2 + 10_000
    downloads = [r for r in hub.requests if r.startswith("GET") and "resolve" in r]
    assert len(downloads) == 3


def test_a_hub_cannot_write_outside_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.file_download import HfFileMetadata

    metadata = HfFileMetadata(commit_hash="0" * 40, etag="x", location="", size=1, xet_file_data=None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: metadata)
    monkeypatch.setattr(hub_module, "_can_link", lambda cache: False)
    file = hub_module.HubFile(REPOSITORY, "../../../../x.gguf", 1, "")
    with pytest.raises(DownloadError, match="out of the cache"):
        hub_module._fetch_blob(file, tmp_path / "cache", lambda name: None)


def test_no_network_is_one_sentence(dgguf) -> None:
    failed = dgguf("pull", f"hf:{REPOSITORY}:Q8_0", HF_ENDPOINT="http://127.0.0.1:9")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("dgguf: error: the hub cannot be asked for")
    assert "is there a network" in failed.stderr
    assert "pull again" not in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "tökén"),
        ("HF_TOKEN", "two words"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "abc"),
        ("HF_HUB_ETAG_TIMEOUT", "1.5s"),
        ("SSL_CERT_FILE", "/none/such.pem"),
        ("HTTPS_PROXY", "abc://x"),
        ("HF_HUB_OFFLINE", "1"),
        ("HF_ENDPOINT", "nonsense"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(dgguf, name: str, value: str) -> None:
    failed = dgguf("pull", f"hf:{REPOSITORY}:Q8_0", **{name: value})
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("dgguf: error: ")
    assert name in failed.stderr.splitlines()[-1]
    assert "pull again" not in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_full_disk_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [hub_module.HubFile(REPOSITORY, "x.gguf", 10**18, "")]
    with pytest.raises(DownloadError, match=r"1000000000\.00 GB.*only .* GB free; HF_HOME"):
        hub_module._check_room(files, tmp_path / "not" / "yet")


def test_models_lists_what_is_here(dgguf) -> None:
    rows = json.loads(dgguf("models", "--json").stdout)["models"]
    here = {row["name"]: row["path"] is not None for row in rows}
    assert here == {known.name: known.repository == "bundled" for known in known_models()}
    table = dgguf("models")
    assert table.stdout.splitlines()[0].split() == ["name", "type", "size", "here", "fits", "note"]
    assert not table.stderr


def test_run_of_a_known_model_says_how_to_get_it(dgguf) -> None:
    failed = dgguf("run", "diffusiongemma", "-p", "Hi")
    assert failed.returncode == 1
    assert "`dgguf pull diffusiongemma` downloads it" in failed.stderr


@pytest.mark.posix
@pytest.mark.parametrize(("command", "answer"), [("run", "y"), ("run", "n"), ("chat", "n")])
def test_a_terminal_is_asked_whether_to_download(hub: Hub, tmp_path: Path, command: str, answer: str) -> None:
    import pty

    model = f"hf:{REPOSITORY}:Q8_0"
    options = {"run": ["-p", "Hi", "-n", "1", "--max-steps", "1"], "chat": []}[command]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "dgguf", command, model, *options],
        stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=hub_environment(hub, tmp_path),
    ) as asked:  # fmt: skip
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # a terminal whose other side is closed
            while piece := os.read(ours, 4096):
                said += piece
                if said.endswith(b"[y/N]: "):
                    os.write(ours, answer.encode() + b"\n")
        assert asked.stdout is not None
        printed = asked.stdout.read()
    os.close(ours)
    assert f"{model} is not on this machine: download ".encode() in said
    if answer == "n":
        assert asked.returncode == 1
        assert b"downloads it" in said
        assert not printed
    else:
        assert asked.returncode == 0, said
        assert printed
        assert list((tmp_path / "hub").rglob("tiny-Q8_0.gguf"))
