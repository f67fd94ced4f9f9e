"""A page in headless Chromium (DevTools protocol) and Firefox (WebDriver BiDi), by one socket.

Both speak JSON over WebSockets (RFC 6455); what a test needs of them are these few lines.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

PREFERENCES = {
    "browser.download.folderList": 2,
    "browser.download.useDownloadDir": True,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "media.autoplay.default": 0,
    "network.proxy.type": 1,  # what goes to any network goes to a proxy that is not there
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
}


class Socket:
    """Messages of text over a WebSocket; `call` numbers a command and waits for its answer."""

    def __init__(self, url: str) -> None:
        place = urllib.parse.urlsplit(url)
        self._socket = socket.create_connection((str(place.hostname), place.port or 80), 60)
        self._rest = b""
        self._number = 0
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .encode()
        )  # fmt: skip
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._socket.recv(4096)
        head, self._rest = self._rest.split(b"\r\n\r\n", 1)
        assert b" 101 " in head, head

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            more = self._socket.recv(1 << 16)
            assert more, "the browser has closed"
            self._rest += more
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def send(self, text: str) -> None:
        data, mask = text.encode(), os.urandom(4)
        size = len(data)
        assert size < 1 << 16, "needs a longer head"
        head = bytes([0x81, 0x80 | size]) if size < 126 else struct.pack("!BBH", 0x81, 0xFE, size)
        pattern = mask * (size // 4 + 1)
        self._socket.sendall(
            head + mask + bytes(a ^ b for a, b in zip(data, pattern, strict=False))
        )

    def receive(self) -> str:
        data = b""
        while True:
            first, size = self._take(2)
            if size > 125:
                size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
            part = self._take(size)
            if first & 15 < 3:  # neither a ping nor a pong
                data += part
                if first & 0x80:
                    return data.decode()

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        self.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.receive())
            if answer.get("id") == self._number:
                assert "result" in answer, f"{method}: {answer}"
                return answer["result"]


class Chromium:
    """One page."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        """Where it saves."""
        self._socket = Socket(url)
        self._socket.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def open(self, url: str) -> None:
        self._socket.call("Page.enable")
        self._socket.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression, waited for if it is a promise."""
        answer = self._socket.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def choose(self, selector: str, path: Path) -> None:
        """A file for an input."""
        root = self._socket.call("DOM.getDocument")["root"]["nodeId"]
        node = self._socket.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._socket.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def press(self, key: str) -> None:
        """A key, by its name."""
        code = {"Tab": 9, " ": 32, "ArrowLeft": 37}[key]
        facts = {"key": key, "windowsVirtualKeyCode": code}
        text = {"text": key} if key == " " else {}
        self._socket.call("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
        self._socket.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def accessible(self) -> list[dict[str, str]]:
        """What a screen reader is told: role and name of each thing."""
        nodes = self._socket.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {key: str(node.get(key, {}).get("value", "")) for key in ("role", "name")}
            for node in nodes
            if not node["ignored"]
        ]

    def screenshot(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._socket.call("Emulation.setEmulatedMedia", features=[scheme])
        self._socket.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        shot = self._socket.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def wait(self, script: str, seconds: float = 60) -> None:
        wait(self, script, seconds)


class Firefox:
    """One page."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        """Where it saves."""
        self._socket = Socket(url)
        self._socket.call("session.new", capabilities={})
        tree = self._socket.call("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]

    def open(self, url: str) -> None:
        self._socket.call(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    def _evaluate(self, script: str) -> Any:
        target = {"context": self._context}
        answer = self._socket.call(
            "script.evaluate",
            expression=script,
            target=target,
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", answer
        return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of an expression, waited for if it is a promise."""
        value = self._evaluate(f"(async () => JSON.stringify(await ({script})) ?? 'null')()")[
            "value"
        ]
        return json.loads(value)

    def choose(self, selector: str, path: Path) -> None:
        """A file for an input."""
        node = self._evaluate(f"document.querySelector({json.dumps(selector)})")
        element = {"sharedId": node["sharedId"]}
        self._socket.call(
            "input.setFiles", context=self._context, element=element, files=[str(path)]
        )

    def wait(self, script: str, seconds: float = 60) -> None:
        wait(self, script, seconds)


Page = Chromium | Firefox


def wait(page: Page, script: str, seconds: float) -> None:
    """Wait until an expression is true; what the page says stands in the failure."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({script})"):
        if time.monotonic() > end:
            pytest.fail(f"not in {seconds} s: {script}; the page: {page.evaluate(SAID)}")
        time.sleep(0.05)


SAID = "document.body.innerText.slice(0, 2000)"


def browser(*names: str) -> str:
    """Path of a browser; the test is skipped, and the summary says so, where it is missing."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"NO {names[0].upper()}: the page was not opened with it; install it")
    return found


@contextlib.contextmanager
def started(command: Sequence[str | Path], folder: Path, pattern: str) -> Iterator[str]:
    """Run a browser; the address that it tells on standard error."""
    log = folder / "browser.log"
    environment = {**os.environ, "HOME": str(folder)}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        end = time.monotonic() + 60
        while not (found := re.search(pattern, log.read_text(errors="replace"))):
            text = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None and time.monotonic() < end, text
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Chromium]:
    """Headless Chromium with an empty page; it saves into ``folder`` and reaches no network."""
    command = [
        browser("chromium", "chromium-browser"), "--headless=new", "--no-sandbox", "--disable-gpu",
        "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "--no-first-run",
        "--proxy-server=127.0.0.1:9", "--autoplay-policy=no-user-gesture-required", *flags,
        "about:blank",
    ]  # fmt: skip
    with started(command, folder, r"DevTools listening on (ws://\S+)") as whole:
        place = urllib.parse.urlsplit(whole).netloc
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{place}/json/list") as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        yield Chromium(pages[0]["webSocketDebuggerUrl"], folder)


@contextlib.contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """Headless Firefox with an empty page; it saves into ``folder`` and reaches no network."""
    profile = folder / "profile"
    profile.mkdir()
    chosen = PREFERENCES | {"browser.download.dir": str(folder)}
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in chosen.items()]
    (profile / "user.js").write_text("\n".join(lines))
    command = [
        browser("firefox-esr", "firefox"), "--headless", "--no-remote", "--profile", profile,
        "--remote-debugging-port", "0", "about:blank",
    ]  # fmt: skip
    with started(command, folder, r"WebDriver BiDi listening on (ws://\S+)") as place:
        yield Firefox(f"{place}/session", folder)
