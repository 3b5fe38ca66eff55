"""What the network's and the hub's errors mean: a reason in words, and whether trying again may help."""

import importlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt; the last one from then on
_LONGEST_PAUSE = 300  # seconds that a server may ask to wait
_PASSING_STATUS = frozenset((408, 416, 425, 429))  # 416: without resuming it may do


class UnusableAnswerError(Exception):
    """An answer that is none to what was asked, such as other bytes of a file."""


def client_library() -> Any:
    """The library of huggingface_hub's client: httpx, or httpx2 since its version 2."""
    from huggingface_hub.errors import HTTPError

    return importlib.import_module(HTTPError.__module__.partition(".")[0])


def network_errors() -> tuple[type[Exception], ...]:
    """What requests raise; not OSError, but for the hub's own errors, which are both."""
    library = client_library()
    return (library.HTTPError, library.InvalidURL, library.StreamError, UnusableAnswerError)


class Patience:
    """How often and after which pauses something is tried again.

    Args:
        tries: failures in a row after which the error is raised.
        say: is told before each pause.
        connecting: whether to try again where no connection comes about, as without a network.
    """

    def __init__(self, tries: int, say: Callable[[str], None], *, connecting: bool = True) -> None:
        self._tries, self._say, self._connecting, self._failures = tries, say, connecting, 0

    def progressed(self) -> None:
        """The failures before do not count any more."""
        self._failures = 0

    def wait(self, error: Exception) -> None:
        """Wait as long as is fit; raise the error again where that does not help."""
        pause, library = wanted_pause(error), client_library()
        no_connection = isinstance(error, library.ConnectError | library.ConnectTimeout | library.ProxyError)
        is_passing = _is_passing(error) and (self._connecting or not no_connection)
        if self._failures >= self._tries or not is_passing or (pause or 0) > _LONGEST_PAUSE:
            raise error
        if pause is None:
            pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        self._say(f"{reason(error)}; trying again in {pause:.0f} s")
        time.sleep(pause)


def _is_passing(error: Exception) -> bool:
    import ssl

    from huggingface_hub.errors import HfHubHTTPError

    library = client_library()
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in _PASSING_STATUS
    if isinstance(error, library.UnsupportedProtocol) or _cause(error, ssl.SSLCertVerificationError):
        return False
    return isinstance(error, library.TransportError | library.DecodingError | UnusableAnswerError)


def wanted_pause(error: Exception) -> float | None:
    """Seconds that the hub asks to wait; None if it does not say."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        return None
    for header, pattern in (("retry-after", r"\s*(\d+)\s*"), ("ratelimit", r".*;\s*t=(\d+).*")):
        found = re.fullmatch(pattern, error.response.headers.get(header, ""))
        if found and error.response.status_code in (429, 503):
            return float(found[1][:9])
    return None


def reason(error: Exception) -> str:
    """What an error of `network_errors` means, without a full stop."""
    import socket
    import ssl

    from huggingface_hub.errors import HfHubHTTPError

    library, at = client_library(), _host(error)
    if isinstance(error, HfHubHTTPError):
        return _status(error)
    if isinstance(error, library.TimeoutException):
        seconds = error.request.extensions.get("timeout", {}).get("read")
        variable = "HF_HUB_ETAG_TIMEOUT" if "/api/" in error.request.url.path else "HF_HUB_DOWNLOAD_TIMEOUT"
        return f"nothing came from {at} for {seconds} s ({variable} is how long to wait)"
    if isinstance(error, library.ProxyError):
        return f"the proxy in front of {at} refuses: {error}"
    if found := _cause(error, ssl.SSLCertVerificationError):
        why = getattr(found, "verify_message", "") or str(found)
        return (
            f"the certificate of {at} is not trusted ({why}); SSL_CERT_FILE names a file of others to trust"
        )
    if _cause(error, socket.gaierror):
        return f"the name {at} cannot be found"
    return " ".join(str(error).split()) or type(error).__name__


def _status(error: Any) -> str:
    response = error.response
    at, code = response.url.host, f"{response.status_code} {response.reason_phrase}".strip()
    if response.status_code == 401:
        return f"{at} does not accept the token of HF_TOKEN or `hf auth login`: make a new one or unset it"
    if response.status_code == 403:
        return f"{at} refuses ({code}): the token of HF_TOKEN or `hf auth login` may not read it"
    if response.status_code == 429:
        pause = wanted_pause(error)
        later = f", and asks to wait {pause:.0f} s" if pause else ""
        return f"{at} has had too many requests from here ({code}){later}"
    return f"{at} answers {code}"


def _host(error: Exception) -> str:
    request = getattr(error, "_request", None)  # the property raises where there is none
    if request is None:
        from huggingface_hub import constants

        return urlsplit(constants.ENDPOINT).hostname or "the hub"
    return str(request.url.host)


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The error of this kind from which another one came."""
    return next((found for found in _causes(error) if isinstance(found, kind)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
