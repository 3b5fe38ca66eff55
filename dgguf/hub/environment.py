"""What huggingface_hub and its client take from the environment, checked before they trip over it."""

import logging
import os
import re
from urllib.parse import urlsplit

from dgguf.errors import DownloadError

_TIMEOUTS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
_LONGEST = 10**6  # seconds; the sockets of some systems take no more than a few thousand times this
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


def host() -> str:
    """The name of the hub's machine, for messages."""
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).hostname or constants.ENDPOINT


def check_import() -> None:
    """See that huggingface_hub can be imported, which reads most of its variables then.

    Raises:
        DownloadError: a variable that is no number or no URL, by name.
    """
    for name in _TIMEOUTS:
        value = os.environ.get(name) or "0"
        if not re.fullmatch(r"\s*\d{1,9}\s*", value) or int(value) > _LONGEST:
            raise DownloadError(
                f"{name} is {value!r}, but must be a whole number of seconds: correct or unset it"
            )
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint is not None and not (_is_url(endpoint, "https?") and not re.search(r"[{}]", endpoint)):
        raise DownloadError(
            f"HF_ENDPOINT is {endpoint!r}, but must be the URL of a hub, such as https://huggingface.co: "
            "correct or unset it"
        )


def _is_url(text: str, schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no number
        return bool(re.fullmatch(rf"({schemes})://\S+", text, re.IGNORECASE) and parts.hostname)
    except ValueError:
        return False


def check_network() -> None:
    """See that requests can be made with this environment; none is made.

    Raises:
        DownloadError: a variable or a file of huggingface_hub's that cannot be used, by name.
    """
    check_import()
    from huggingface_hub.utils import get_session

    if not os.environ.get("HF_HUB_VERBOSITY") and not os.environ.get("HF_DEBUG"):
        logging.getLogger("huggingface_hub").setLevel(
            logging.ERROR
        )  # warnings that a server may send would be shown as they are
    _check_certificates()
    proxies = {name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value}
    for name, value in proxies.items():
        if not _is_url(value if "://" in value else f"http://{value}", "https?|socks5h?"):
            raise DownloadError(
                f"{name} is no URL of a proxy, such as http://host:port or socks5://host:port"
            )
    named = " or ".join(sorted(proxies)) or "the system's settings"
    try:
        get_session()
    except ImportError:
        raise DownloadError(f"the proxy of {named} speaks SOCKS: `pip install socksio` first") from None
    except OSError as error:
        names = [name for name in _CERTIFICATES if os.environ.get(name)]
        raise DownloadError(f"{' or '.join(names) or 'the certificates'} cannot be used: {error}") from None
    except Exception as error:  # of whatever type: it is about a URL
        raise DownloadError(f"the proxy of {named} cannot be used: {error}") from None
    _check_headers()


def _check_certificates() -> None:
    for name, is_right, kind in (
        ("SSL_CERT_FILE", os.path.isfile, "file"),
        ("SSL_CERT_DIR", os.path.isdir, "folder"),
    ):
        if (path := os.environ.get(name)) and not is_right(path):
            raise DownloadError(f"{name} names {path}, which is no {kind}: correct or unset it")


def _check_headers() -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    where = "HF_TOKEN" if os.environ.get("HF_TOKEN") else constants.HF_TOKEN_PATH
    try:
        headers = build_hf_headers()
    except Exception as error:  # a file that cannot be read, or a login that fails in one of many ways
        raise DownloadError(f"the token of the hub cannot be had from {where}: {error}") from error
    if not re.fullmatch(r"Bearer [!-~]+", headers.get("authorization", "Bearer x")):
        raise DownloadError(
            f"{where}: this is no token of the hub, which has letters and digits of ASCII only"
        )
    if not re.fullmatch(r"[ -~]*", headers["user-agent"]):
        raise DownloadError("HF_HUB_USER_AGENT_ORIGIN may have ASCII characters only: correct or unset it")
