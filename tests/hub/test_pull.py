"""Pulling models from a hub on loopback: choosing, resuming, and what can go wrong on the way."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgguf.catalog import known_models
from dgguf.cli.forecast import memory_needed
from dgguf.hub import damage, parse_reference, removal
from dgguf.hub.repository import find_matching, find_tower, parts
from dgguf.seeing import find_mmproj
from dgguf.units import format_bytes
from tests.support.hub_server import DEMO, MODEL, REPOSITORY, Fault, Hub


def test_every_known_model_has_a_line_that_makes_sense() -> None:
    for known in known_models():
        assert known.n_bytes > 0
        if known.repository != "bundled":
            assert parse_reference(f"hf:{known.repository}:{known.file}")
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
    assert parse_reference(text) == expected


def test_a_tower_beside_a_model() -> None:
    names = ["m.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf", "b/m-mmproj-f32.gguf", "c/m.gguf", "mmproj.txt"]
    assert find_tower(names, "m.gguf") == "mmproj-BF16.gguf"
    assert find_tower(names, "b/m.gguf") == "b/m-mmproj-f32.gguf"
    assert find_tower(names, "c/m.gguf") is None
    assert find_tower(names, "mmproj-F16.gguf") is None
    assert find_tower([*names, "mmproj-x.gguf"][-1:], "m.gguf") == "mmproj-x.gguf"


def test_a_tower_comes_with_its_model(hub: Hub, pull, tmp_path: Path) -> None:
    """It lies beside the model in the cache, is found there, checked, and goes with it."""
    hub.files |= {"mmproj-F16.gguf": b"other", "mmproj-BF16.gguf": b"tower"}
    pulled = pull()
    assert pulled.path is not None, pulled.error
    assert pulled.data == DEMO
    assert "tiny-Q8_0.gguf with mmproj-BF16.gguf" in pulled.notes
    beside = pulled.path.with_name("mmproj-BF16.gguf")
    assert beside.read_bytes() == b"tower"
    assert find_mmproj(pulled.path) == beside
    assert damage(pulled.path) == ""
    going = removal(REPOSITORY, "tiny-Q8_0.gguf")
    assert going is not None
    assert going.names == ["mmproj-BF16.gguf", "tiny-Q8_0.gguf"]
    os.chmod(beside.resolve(), 0o644)
    beside.resolve().write_bytes(b"wrong")
    assert "mmproj-BF16.gguf is not the hub's" in damage(pulled.path)
    again = pull()
    assert again.path is not None
    assert beside.read_bytes() == b"tower"


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
    assert find_matching(names, wanted) == expected


@pytest.mark.parametrize("name", ["m-00001-of-00000.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf"])
def test_impossible_parts_are_files_of_their_own(name: str) -> None:
    assert parts(name) == [name]
    assert find_matching([name], "") == [name]


def test_pull_and_run(hub: Hub, dgguf) -> None:
    pulled = dgguf("pull", MODEL)
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).read_bytes() == DEMO
    assert f"{len(DEMO) / 1e6:.2f} MB" in pulled.stderr
    info = dgguf("info", MODEL, "--json", HF_HUB_OFFLINE="1")
    assert json.loads(info.stdout)["bytes"] == len(DEMO)
    before = len([r for r in hub.requests if r.startswith("GET") and "resolve" in r])
    again = dgguf("pull", f"hf:{REPOSITORY}:tiny-Q8_0.gguf")
    assert again.stdout == pulled.stdout
    # Nothing is asked beside the model, and nobody is told of what runs around us.
    assert all(f"/{REPOSITORY}" in request for request in hub.requests), hub.requests
    assert len([r for r in hub.requests if r.startswith("GET") and "resolve" in r]) == before == 1


def test_a_file_is_checked_against_the_hub_without_a_download(hub: Hub, dgguf) -> None:
    same = dgguf("check", "demo", "--against", MODEL)
    assert same.returncode == 0, same.stderr
    assert f"the same: {REPOSITORY}:tiny-Q8_0.gguf" in same.stdout
    other = dgguf("check", "demo", "--against", f"hf:{REPOSITORY}:Q4_K_M")
    assert other.returncode == 1
    assert f"tiny-Q4_K_M.gguf of {REPOSITORY} has {len(DEMO) + 1}" in other.stderr.splitlines()[-1]
    offline = dgguf("check", "demo", "--against", MODEL, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1
    assert offline.stderr.splitlines()[-1].startswith("dgguf: error: ")
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    assert not [r for r in hub.requests if "resolve" in r]


def test_a_file_that_is_no_model_is_refused(hub: Hub, pull) -> None:
    hub.files["page-Q2_K.gguf"] = b"<!doctype html>" * 100
    assert "web page" in pull(f"hf:{REPOSITORY}:Q2_K").error


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
def test_what_is_not_there(pull, model: str, words: str) -> None:
    assert words in pull(model).error


def test_the_token_comes_from_the_environment(hub: Hub, pull, monkeypatch) -> None:
    hub.token = "secret"
    assert "HF_TOKEN" in pull().error
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert pull().data == DEMO


def test_without_symbolic_links_a_file_is_on_the_disk_once(
    hub: Hub, hub_environment: dict[str, str], tmp_path: Path
) -> None:
    """As on most Windows machines."""
    hub.faults = [Fault(after=1 << 20)]
    for name in ("tiny-Q8_0.gguf", "tiny-Q4_K_M.gguf"):
        pulled = None
        for _ in range(2):  # the first connection breaks
            code = "import os; os.symlink = lambda *_: os.open('', 0); from dgguf.cli import main; main()"
            command = [sys.executable, "-c", code, "pull", f"hf:{REPOSITORY}:{name}"]
            pulled = subprocess.run(command, env=hub_environment, capture_output=True, text=True)
        assert pulled is not None
        assert pulled.returncode == 0, pulled.stderr
        assert Path(pulled.stdout.strip()).read_bytes() == hub.files[name]
        assert "symlink" not in pulled.stderr
    kept = [path.stat().st_size for path in (tmp_path / "hub").rglob("*") if path.is_file()]
    assert sum(kept) < len(DEMO) * 2 + 10_000
    downloads = [r for r in hub.requests if r.startswith("GET") and "resolve" in r]
    assert len(downloads) == 3


def test_models_lists_what_is_here(dgguf) -> None:
    rows = json.loads(dgguf("list", "--json").stdout)["models"]
    here = {row["name"]: row["path"] is not None for row in rows}
    assert here == {known.name: known.repository == "bundled" for known in known_models()}
    table = dgguf("list")
    assert dgguf("models").stdout == table.stdout  # its name of before
    assert table.stdout.splitlines()[0].split() == ["name", "type", "size", "here", "fits", "note"]
    assert not table.stderr


@pytest.mark.posix
def test_a_model_is_deleted_where_a_link_leads_to_the_cache(hub: Hub, dgguf, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path = Path(dgguf("pull", MODEL, HF_HOME=str(tmp_path / "link")).stdout.strip())
    done = dgguf("rm", MODEL, "--yes", HF_HOME=str(tmp_path / "link"))
    assert "tiny-Q8_0.gguf, " in done.stderr
    assert not path.exists()


def test_a_model_is_deleted_when_that_is_confirmed(hub: Hub, dgguf) -> None:
    path = Path(dgguf("pull", MODEL).stdout.strip())
    refused = dgguf("rm", MODEL)  # nobody there to say yes
    assert refused.returncode == 130
    assert f"{REPOSITORY} in the hub's cache: tiny-Q8_0.gguf, {len(DEMO) / 1e6:.2f} MB" in refused.stderr
    assert "Other programs may use them" in refused.stderr
    assert path.exists()
    assert dgguf("rm", MODEL, "--yes").returncode == 0
    assert not path.exists()
    assert not path.resolve().exists()
    gone = dgguf("rm", MODEL, "--yes")
    assert gone.returncode == 1
    assert "is not on this machine" in gone.stderr
    assert "no hub has it" in dgguf("rm", "demo").stderr
    (path.parent / "mine.gguf").parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "mine.gguf").write_bytes(DEMO)
    assert dgguf("rm", str(path.parent / "mine.gguf")).returncode == 2
    assert (path.parent / "mine.gguf").exists()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A download that is not done."""
    path = tmp_path / f"hub/hub/models--{REPOSITORY.replace('/', '--')}/blobs/{'a' * 64}.dgguf.incomplete"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"begun")
    return path


def test_rm_deletes_a_download_that_is_not_done(part: Path, dgguf) -> None:
    told = dgguf("rm", MODEL)  # nobody answers
    assert told.returncode != 0
    assert "Delete 1 unfinished download?" in told.stderr
    assert part.exists()
    done = dgguf("rm", MODEL, "-y")
    assert done.returncode == 0, done.stderr
    assert not part.exists()
    assert "5 bytes are free again" in done.stderr


@pytest.mark.posix
def test_rm_leaves_a_download_that_goes_on(part: Path, dgguf, tmp_path: Path) -> None:
    from filelock import FileLock

    lock = tmp_path / "hub/hub/.locks" / part.parent.parent.name / f"{'a' * 64}.dgguf.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        told = dgguf("rm", MODEL, "-y")
    assert told.returncode == 1
    assert "another process is downloading" in told.stderr
    assert part.exists()


def test_run_of_a_known_model_says_how_to_get_it(dgguf) -> None:
    failed = dgguf("run", "diffusiongemma", "-p", "Hi")
    assert failed.returncode == 1
    assert "`dgguf pull diffusiongemma` downloads it" in failed.stderr


@pytest.mark.posix
@pytest.mark.parametrize(("command", "answer"), [("run", "y"), ("run", "n"), ("chat", "n")])
def test_a_terminal_is_asked_whether_to_download(
    hub_environment: dict[str, str], tmp_path: Path, command: str, answer: str
) -> None:
    import pty

    model = MODEL
    options = {"run": ["-p", "Hi", "-n", "1", "--max-steps", "1"], "chat": []}[command]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "dgguf", command, model, *options],
        stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=hub_environment,
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
    forecast = said.decode().split("is not on this machine")[0]
    for words in (
        f"{len(DEMO) / 1e6:.2f} MB",
        "as just measured",
        "free in",
        f"{format_bytes(memory_needed(len(DEMO)))} with a context",
        "`dgguf bench` measures",
    ):
        assert words in forecast
    if answer == "n":
        assert asked.returncode == 1
        assert b"downloads it" in said
        assert not printed
    else:
        assert asked.returncode == 0, said
        assert printed
        assert list((tmp_path / "hub").rglob("tiny-Q8_0.gguf"))
