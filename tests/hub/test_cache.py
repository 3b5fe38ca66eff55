"""What the cache holds: found without a network, checked before it is believed, written by one at a time."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import dgguf
from dgguf import hub as hub_module
from dgguf.catalog import find_model
from dgguf.errors import ModelFileError
from dgguf.hub.cache import damage
from tests.support.hub_server import DEMO, MODEL, REPOSITORY, Fault, Hub


def blob(tmp_path: Path) -> Path:
    (found,) = (path for path in (tmp_path / "hub").rglob("blobs/*") if path.suffix != ".incomplete")
    return found


def damaged(data: bytes, how: str) -> bytes:
    return {"cut": data[:100_000], "longer": data + b"\0", "flipped": data[:-1] + bytes([data[-1] ^ 1])}[how]


@pytest.mark.parametrize("how", ["cut", "longer", "flipped"])
@pytest.mark.parametrize("links", [True, False])
def test_pull_mends_what_is_damaged(hub: Hub, pull, tmp_path, monkeypatch, how: str, links: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", not links, raising=False)
    path = pull().path
    path.resolve().write_bytes(damaged(DEMO, how))
    hub.requests.clear()
    pulled = pull()
    assert pulled.data == DEMO
    assert pulled.path == path
    assert links or not path.is_symlink()
    assert "tiny-Q8_0.gguf in the cache is damaged: it is downloaded again" in pulled.notes
    assert len(hub.downloads) == 1
    assert "damaged" not in pull().notes


@pytest.mark.usefixtures("with_links")
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_damage_is_said_where_the_hub_cannot_be_asked(hub: Hub, pull, tmp_path, monkeypatch, how) -> None:
    pull().path.resolve().write_bytes(damaged(DEMO, how))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert pull().error.endswith("; with a network `dgguf pull` mends it")
    assert {"cut": "cut short", "flipped": "the digest of tiny-Q8_0.gguf is not"}[how] in pull().error


def test_run_says_how_to_mend_what_is_cut(pull) -> None:
    pull().path.resolve().write_bytes(DEMO[:100_000])
    with pytest.raises(ModelFileError, match="cut short or damaged"):
        dgguf.load(MODEL)


def test_what_is_cached_answers_without_a_network(dgguf, hub: Hub) -> None:
    pulled = dgguf("pull", MODEL)
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        again = dgguf("pull", MODEL, **environment)
        assert (again.returncode, again.stdout) == (0, pulled.stdout), again.stderr
        assert "checking what is here" in again.stderr
    info = dgguf("info", MODEL, "--json", HF_HUB_OFFLINE="1")
    assert json.loads(info.stdout)["bytes"] == len(DEMO)


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_is_cached_answers_when_the_hub_does_not(hub: Hub, pull, status: int) -> None:
    path = pull().path
    hub.listing_faults = [Fault(status=status, headers={"X-Error-Code": "RepoNotFound"})] * 4
    assert pull().path == path


def test_a_cache_that_cannot_be_written_is_read(hub: Hub, pull, tmp_path, monkeypatch) -> None:
    path = pull().path
    for name in ("mkdir", "unlink", "replace", "symlink_to", "write_text", "touch"):

        def refuse(self: Path, *_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, name, refuse)
    assert pull().path == path
    failed = pull(f"hf:{REPOSITORY}:Q4_K_M").error
    assert failed.startswith("the cache cannot be used: ")
    assert "Permission denied; HF_HOME moves it" in failed


@pytest.mark.parametrize("links", [True, False])
def test_another_version_of_the_repository_is_fetched_only_where_the_file_is_new(
    hub: Hub, pull, monkeypatch, links: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", not links, raising=False)
    first = pull().path
    monkeypatch.setattr("tests.support.hub_server.COMMIT", "f" * 40)
    assert pull().path == first
    assert len(hub.downloads) == 1
    hub.files["tiny-Q8_0.gguf"] = DEMO + bytes(32)
    second = pull()
    assert second.data == DEMO + bytes(32)
    assert second.path.parent.name == "f" * 40
    assert find_model(MODEL) == second.path
    assert "damaged" not in second.notes


@pytest.mark.usefixtures("with_links")
def test_contents_without_a_name_get_it(hub: Hub, pull, tmp_path) -> None:
    path = pull().path
    path.unlink()
    assert pull().path == path
    assert len(hub.downloads) == 1


@pytest.mark.usefixtures("with_links")
def test_a_link_to_nothing_is_replaced(hub: Hub, pull, tmp_path) -> None:
    path = pull().path
    path.resolve().unlink()
    assert pull().path == path
    assert path.read_bytes() == DEMO


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"../../x", b"f" * 40])
def test_nonsense_in_the_cache_is_nothing_in_the_cache(
    hub: Hub, pull, monkeypatch, text: bytes, links: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", not links, raising=False)
    path = pull().path
    (path.parents[2] / "refs" / "main").write_bytes(text)
    with pytest.raises(ModelFileError, match="is not on this machine; `dgguf pull"):
        find_model(MODEL)
    assert pull().path == path
    assert find_model(MODEL) == path
    assert len(hub.downloads) == 1


def test_a_name_that_leads_out_of_the_cache_is_refused(hub: Hub, pull, tmp_path) -> None:
    for name in (
        "../../../../x-Q8_0.gguf",
        "/tmp/x-Q8_0.gguf",
        "c:x-Q8_0.gguf",
        "a\\x-Q8_0.gguf",
        "\x1b-Q8_0.gguf",
    ):
        hub.files = {name: DEMO}
        assert "leads out of the cache" in pull().error, name
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("commit", ["../../x", "", 5])
def test_a_version_that_leads_out_of_the_cache_is_refused(pull, monkeypatch, tmp_path, commit) -> None:
    monkeypatch.setattr("tests.support.hub_server.COMMIT", commit)
    assert "is it a hub?" in pull().error
    assert not (tmp_path / "hub").exists()


@pytest.mark.usefixtures("with_links")
def test_the_parts_of_a_split_model_are_all_looked_at(hub: Hub, pull) -> None:
    names = [f"big-Q8_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    hub.files = {names[0]: DEMO, names[1]: DEMO[:5000]}
    pull(f"hf:{REPOSITORY}:{names[0]}")  # no split model, which is said
    path = hub_module.cached(REPOSITORY, names[0])
    assert path is not None
    assert damage(path) == ""
    path.with_name(names[1]).resolve().write_bytes(b"x")
    assert names[1] in damage(path)


def test_huggingface_hub_finds_our_files(pull, monkeypatch) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

    path = pull().path
    assert try_to_load_from_cache(REPOSITORY, "tiny-Q8_0.gguf") == str(path)
    assert hf_hub_download(REPOSITORY, "tiny-Q8_0.gguf") == str(path)
    (repository,) = scan_cache_dir(path.parents[3]).repos
    assert (repository.repo_id, repository.size_on_disk) == (REPOSITORY, len(DEMO))


@pytest.mark.usefixtures("with_links")
def test_its_files_are_found_by_us(hub: Hub, pull) -> None:
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(REPOSITORY, "tiny-Q8_0.gguf")
    n_before = len(hub.downloads)
    assert str(pull().path) == path
    assert len(hub.downloads) == n_before


def test_a_file_too_large_for_http_is_left_to_huggingface_hub(hub: Hub, pull, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.MAX_HTTP_DOWNLOAD_SIZE", 5)
    assert "The file is too large" in pull().error
    assert "\n" not in pull().error


def test_three_at_once_download_once(hub: Hub, hub_environment) -> None:
    both_wait = threading.Event()
    hub.faults = [Fault(after=1_000_000, until=both_wait)]
    command = [sys.executable, "-m", "dgguf", "pull", MODEL]
    pulls = [
        subprocess.Popen(
            command, env=hub_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = ["", "", ""]
    waiting = threading.Semaphore(0)

    def read(i: int) -> None:
        for line in pulls[i].stderr:
            said[i] += line
            if "another process downloads tiny-Q8_0.gguf: waiting for it" in line:
                waiting.release()

    readers = [threading.Thread(target=read, args=(i,)) for i in range(3)]
    for reader in readers:
        reader.start()
    waited = [waiting.acquire(timeout=120) for _ in range(2)]
    both_wait.set()
    printed = {process.stdout.read() for process in pulls}
    for reader, process in zip(readers, pulls, strict=True):
        reader.join()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert waited == [True, True], said
    assert [process.returncode for process in pulls] == [0, 0, 0], said
    (path,) = printed
    assert Path(path.strip()).read_bytes() == DEMO
    assert len(hub.downloads) == 2  # the connection that broke, and the one that went on


@pytest.mark.posix
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_pull_that_was_stopped_goes_on(hub: Hub, hub_environment, pull, tmp_path, number) -> None:
    hub.faults = [Fault(after=2_000_000, stall=30)]
    command = [sys.executable, "-m", "dgguf", "pull", MODEL]
    with subprocess.Popen(
        command, env=hub_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not any(
            path.stat().st_size == 2_000_000 for path in (tmp_path / "hub").rglob("*.incomplete")
        ):
            time.sleep(0.01)
        process.send_signal(getattr(signal, number))
        out, error = process.communicate()
    assert not out
    assert b"Traceback" not in error
    if number == "SIGINT":
        assert process.returncode == 130
    if number != "SIGKILL":
        share = 2_000_000 * 100 // len(DEMO)
        assert f"{share}% are here: pull again, and it goes on from there".encode() in error
    hub.requests.clear()
    again = pull()  # the lock of who is dead holds nobody
    assert again.data == DEMO
    assert "another process" not in again.notes
    assert [r.split("bytes=")[1] for r in hub.downloads] == ["2000000-"]


def test_too_little_room_is_seen_before(hub: Hub, pull, monkeypatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    failed = pull()
    assert f"takes {len(DEMO) / 1e6:.2f} MB, but the disk of" in failed.error
    assert "has only 1.00 MB free; HF_HOME moves the cache" in failed.error
    assert not hub.downloads


@pytest.mark.posix
def test_a_disk_that_fills_up_is_a_sentence_and_nothing_is_lost(hub: Hub, pull, tmp_path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        failed = pull()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert "File too large" in failed.error
    (partial,) = (tmp_path / "hub").rglob("*.incomplete")
    assert partial.read_bytes() == DEMO[:1_000_000]
    assert pull().data == DEMO
