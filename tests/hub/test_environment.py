"""Variables, proxies, certificates and folders that are wrong: one sentence that names them."""

import contextlib
import os
import socket
import socketserver
import ssl
import subprocess
import threading

import pytest

from dgguf.catalog import find_model
from tests.support.hub_server import DEMO, MODEL, REPOSITORY, Fault, Hub


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch):
    """The hub's client is made anew, from this test's environment."""
    from huggingface_hub.utils._http import close_session

    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("SSL")]:
        monkeypatch.delenv(name)
    close_session()
    yield
    close_session()


WRONG = [
    ("HF_TOKEN", "tökén", "no token of the hub"),
    ("HF_TOKEN", "two words", "no token of the hub"),
    ("HF_TOKEN", "two\nlines\x1b", "no token of the hub"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "abc", "whole number of seconds"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "-1", "whole number of seconds"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "1" * 30, "whole number of seconds"),
    ("HF_HUB_ETAG_TIMEOUT", "1.5s", "whole number of seconds"),
    ("SSL_CERT_FILE", "/none/such.pem", "/none/such.pem, which is no file"),
    ("SSL_CERT_FILE", os.devnull, "no file"),
    ("SSL_CERT_FILE", __file__, "cannot be used"),
    ("SSL_CERT_DIR", "/none", "/none, which is no folder"),
    ("HTTPS_PROXY", "abc://x", "socks5://host:port"),
    ("https_proxy", "http://[", "is no URL of a proxy"),
    ("HTTP_PROXY", "http://x:port", "is no URL of a proxy"),
    ("ALL_PROXY", "socks4://x:1", "is no URL of a proxy"),
    ("ALL_PROXY", "socks5://127.0.0.1:9", "speaks SOCKS: `pip install socksio` first"),
    ("HF_ENDPOINT", "nonsense", "must be the URL of a hub"),
    ("HF_ENDPOINT", "", "must be the URL of a hub"),
    ("HF_ENDPOINT", "http://[", "must be the URL of a hub"),
    ("HF_ENDPOINT", "http://x:port", "must be the URL of a hub"),
    ("HF_ENDPOINT", "http://x/{y}", "must be the URL of a hub"),
]


@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_a_variable_that_cannot_be_used_is_named(
    hub: Hub, pull, client, monkeypatch, name, value, words
) -> None:
    monkeypatch.setenv(name, value)
    failed = pull()
    assert name in failed.error
    assert words in failed.error
    assert failed.error.isprintable()
    assert len(failed.error) < 500
    assert not hub.requests


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_HUB_DOWNLOAD_TIMEOUT", "abc"), ("HF_ENDPOINT", "http://["), ("HF_HUB_USER_AGENT_ORIGIN", "ö")],
)
def test_what_is_read_when_the_client_is_imported(dgguf, name: str, value: str) -> None:
    failed = dgguf("pull", MODEL, **{name: value})
    assert failed.returncode == 1
    assert name in failed.stderr.splitlines()[-1]
    assert failed.stderr.splitlines()[-1].startswith("dgguf: error: ")
    assert "Traceback" not in failed.stderr


def test_a_token_with_a_line_end_is_one(hub: Hub, pull, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret\n")
    hub.token = "secret"
    assert pull().data == DEMO


def test_the_file_of_the_token_is_named(pull, tmp_path) -> None:
    token = tmp_path / "hub" / "token"
    token.mkdir(parents=True)
    assert str(token) in pull().error
    token.rmdir()
    token.write_bytes(b"\xff\xfe")
    assert str(token) in pull().error


def test_a_proxy_is_used(hub: Hub, pull, client, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://hub.invalid")
    url = "http://hub.invalid/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
    hub.faults = [Fault(after=1000)]
    assert pull().data == DEMO
    assert all(" http://hub.invalid/" in request for request in hub.requests)


def test_a_proxy_that_is_not_there(pull, client, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert "needs a network to 127.0.0.1: " in pull().error
    assert "HTTPS_PROXY names a proxy" in pull().error


def asked(pull, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> str:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    failed = pull()
    assert "nothing was begun" in failed.error
    assert "goes on from there" not in failed.error
    assert len(failed.error) < 500
    return str(failed.error)


def test_a_name_that_is_not_found(pull, client, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "the name hub.invalid cannot be found" in asked(pull, monkeypatch, "http://hub.invalid")


def test_nobody_there(pull, client, monkeypatch) -> None:
    assert "needs a network to 127.0.0.1: " in asked(pull, monkeypatch, "http://127.0.0.1:9")


def test_what_a_known_model_needs_is_said(pull, client, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert pull("diffusiongemma").error.startswith("16.81 GB to download: unsloth/")


def test_silence(hub: Hub, pull, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr("dgguf.hub.repository._TRIES", 1)
    hub.listing_faults = [Fault(stall=0.3)] * 2
    assert "nothing came from 127.0.0.1 for 0.1 s (HF_HUB_ETAG_TIMEOUT" in asked(pull, monkeypatch, hub.url)


def test_a_login_page_is_no_hub(hub: Hub, pull, monkeypatch) -> None:
    for body in (b"<html>log in</html>", b"[1]", b'{"siblings": 5}', b"{}", b'{"siblings": [{}]}'):
        hub.listing_faults = [Fault(status=200, body=body)]
        error = pull().error
        assert "answers with no list of files" in error or "its GGUF files: none" in error
    assert pull().data == DEMO


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_list_that_comes_later_is_waited_for(hub: Hub, pull, status: int) -> None:
    hub.listing_faults = [Fault(status=status, headers={"Retry-After": "0"})] * 3
    pulled = pull()
    assert pulled.data == DEMO
    assert pulled.notes.count("; trying again in 0 s") == 3


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "does not accept the token",
        ),
        (401, {"X-Error-Code": "RepoNotFound"}, f"no repository {REPOSITORY}, or none that is open"),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            f"{REPOSITORY}, then set HF_TOKEN or log in with `hf auth login`",
        ),
        (403, {}, "may not read it"),
        (404, {"X-Error-Code": "RepoNotFound"}, f"no repository {REPOSITORY}"),
        (418, {}, "418"),
        (
            429,
            {"Retry-After": "3600"},
            "too many requests from here (429 Too Many Requests), and asks to wait 3600 s",
        ),
        (429, {"RateLimit": '"api";r=0;t=900'}, "asks to wait 900 s"),
    ],
)
def test_what_the_hub_answers(hub: Hub, pull, status: int, headers: dict[str, str], words: str) -> None:
    hub.listing_faults = [Fault(status=status, headers=headers)] * 4
    assert words in pull().error


def test_a_certificate_nobody_signed(pull, client, monkeypatch, tmp_path) -> None:
    files = tmp_path / "c.pem", tmp_path / "k.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-subj", "/CN=x", "-out", str(files[0]), "-keyout", str(files[1])]
    try:
        subprocess.run(made, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, files))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                context.wrap_socket(self.request, server_side=True).close()

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            error = asked(pull, monkeypatch, f"https://127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()
            thread.join()
    assert "the certificate of 127.0.0.1 is not trusted (" in error
    assert "SSL_CERT_FILE names" in error


@pytest.mark.usefixtures("with_links")
@pytest.mark.parametrize("where", ["a file", "a link to nothing", "a file above"])
def test_a_cache_that_is_no_folder(hub: Hub, pull, monkeypatch, tmp_path, where: str) -> None:
    place = tmp_path / "x"
    if where == "a link to nothing":
        place.symlink_to(tmp_path / "none" / "none")
    else:
        place.write_text("")
    cache = place / "hub" / "hub" if where == "a file above" else place
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    failed = pull()
    assert failed.error.startswith(f"the cache cannot be used: {place}")
    assert failed.error.endswith("; HF_HOME moves it")
    with pytest.raises(Exception, match="is not on this machine"):
        find_model(MODEL)


def test_offline_is_said(dgguf, hub: Hub) -> None:
    failed = dgguf("pull", MODEL, HF_HUB_OFFLINE="1")
    assert failed.returncode == 1
    assert "HF_HUB_OFFLINE is set" in failed.stderr
    assert not hub.requests
