"""A headless Chromium that is driven through its debugging pipe: no other package, and no port."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The pipe's ends must be 3 and 4 in the browser.
_START = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 3); os.dup2(w, 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
PATIENCE = 120.0  # seconds for whatever is waited for, on a busy machine


def needs_chromium(test):
    """Marks a test for the gate's stage `browser`."""
    installed = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
    return pytest.mark.browser(pytest.mark.posix(installed(test)))


class Chromium:
    """The browser; make `page`s of it within its context."""

    def __init__(self, folder):
        self._folder = folder
        self._number = 0
        self._rest = b""
        self.pages = {}

    def __enter__(self):
        import fcntl  # which Windows has not

        pairs = [[fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in pair] for pair in (os.pipe(), os.pipe())]
        (to_read, self._to), (self._from, from_write) = pairs
        command = [sys.executable, "-c", _START, str(to_read), str(from_write), CHROMIUM, "--headless=new"]
        command += ["--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio", "--hide-scrollbars"]
        command += ["--remote-debugging-pipe", "--enable-precise-memory-info", "--js-flags=--expose-gc"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(from_write)
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method, session=None, **parameters):
        """Ask for something, and wait for its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        until = time.monotonic() + PATIENCE
        while True:
            given = self._next(until)
            if given.get("id") == number:
                if "error" in given:
                    raise RuntimeError(f"{method}: {given['error']}")
                return given["result"]
            if page := self.pages.get(given.get("sessionId")):
                page.happened(given["method"], given["params"])

    def _next(self, until):
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            piece = os.read(self._from, 1 << 20)
            if not piece:
                raise EOFError("Chromium has ended")
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def page(self, url, **options):
        return Page(self, url, **options)


class Page:
    """A tab.

    Attributes:
        faults: what stood in the console as an error or a warning, and what was thrown.
        asked: addresses that were asked for.
    """

    def __init__(self, browser, url, *, size=(1200, 800), theme="dark", reduced=False):
        self._browser = browser
        self.faults, self.asked = [], []
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        browser.pages[self._session] = self
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.look(size, theme, reduced)
        self.go(url)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._browser.call("Target.closeTarget", targetId=self._target)

    def call(self, method, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def happened(self, method, event):
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.faults.append(" ".join(str(each.get("value", "")) for each in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.faults.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(event["request"]["url"])

    def look(self, size=(1200, 800), theme="dark", reduced=False):
        """Set the size of the window in points, and what the person has asked the system for."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        motion = "reduce" if reduced else "no-preference"
        wanted = {"prefers-color-scheme": theme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        self.call("Emulation.setEmulatedMedia", features=features)

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def do(self, expression):
        """What a JavaScript expression gives; a promise is waited for."""
        given = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in given:
            details = given["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return given["result"].get("value")

    def until(self, expression, seconds=PATIENCE):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + seconds
        while not (value := self._look(f"(v => typeof v === 'object' && v ? true : v)({expression})")):
            if time.monotonic() > end:
                raise AssertionError(f"never true: {expression}\n{self.do('document.body.innerText')[:2000]}")
            time.sleep(0.02)
        return value

    def _look(self, expression):
        """As `do`; None while the page goes to another one."""
        try:
            return self.do(expression)
        except RuntimeError as error:
            if "navigated" not in str(error):
                raise
            return None

    def click(self, selector):
        """Click the middle of an element, as a mouse does."""
        query = json.dumps(selector)
        self.do(f"document.querySelector({query}).scrollIntoView({{block: 'center'}})")
        box = self.do(f"document.querySelector({query}).getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def press(self, text, within="document"):
        """Click the button that has a text."""
        shown = f"b => b.textContent === {json.dumps(text)} && b.offsetParent"
        found = f"[...{within}.querySelectorAll('button, summary')].filter({shown})"
        self.until(f"{found}.length")
        self.do(f"{found}.at(-1).click()")

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, name, text=""):
        codes = {
            "Enter": 13,
            "Tab": 9,
            "Escape": 27,
            "ArrowLeft": 37,
            "ArrowRight": 39,
            "End": 35,
            "Home": 36,
        }
        key = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name]}
        typed = {"text": "\r"} if name == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def picture(self, path=None):
        """What is seen, as a PNG; also in a file."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data
