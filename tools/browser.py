"""A headless Chromium, spoken to over its debugging pipe: enough to open a page, run script in it, press keys, and take
pictures. No package is needed; chromium is the one on PATH, or the program that AVFLOW_CHROMIUM names.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find() -> str | None:
    """The program, or None where there is none."""
    named = os.environ.get("AVFLOW_CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser of its own. Use as a context manager.

    console: texts of warnings, errors and uncaught exceptions. requests: addresses that the page asked for.
    """

    def __init__(self, width: int = 1200, height: int = 900, timeout: float = 60.0):
        self.size, self.timeout = (width, height), timeout
        self.console: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Browser:
        program = find()
        if program is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is on PATH: install chromium or set AVFLOW_CHROMIUM")
        self._folder = tempfile.TemporaryDirectory(prefix="avflow-browser-", ignore_cleanup_errors=True)
        read_end, self._out = os.pipe()
        self._in, write_end = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--no-first-run", "--disable-background-networking", "--force-color-profile=srgb"]
        command = [program, *flags, "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}", "about:blank"]

        def pipes() -> None:  # the browser reads file 3 and writes file 4
            a, b = os.dup(read_end), os.dup(write_end)
            os.dup2(a, 3)
            os.dup2(b, 4)

        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._process = subprocess.Popen(command, preexec_fn=pipes, close_fds=False, **quiet)
        os.close(read_end)
        os.close(write_end)
        self._count, self._buffer, self._session = 0, b"", None
        try:
            targets = self._call("Target.getTargets")["targetInfos"]
            target = next(t["targetId"] for t in targets if t["type"] == "page")
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self._call(f"{domain}.enable")
            width, height = self.size
            self._call(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def open(self, path: str | Path) -> None:
        """Load a file and wait until it is drawn."""
        self._loaded = False
        self._call("Page.navigate", url=Path(path).absolute().as_uri())
        end = time.monotonic() + self.timeout
        while not self._loaded:
            self._read(end)
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page. RuntimeError where it throws."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:800])
        return found["result"].get("value")

    def media(self, scheme: str = "light", kind: str = "screen") -> None:
        """What the system prefers, "light" or "dark", and where the page is shown, "screen" or "print"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", media=kind, features=features)

    def move(self, x: float, y: float) -> None:
        """The pointer, in pixels of the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key that is no letter: "ArrowRight", "Tab", " "."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, " ": 32, "Escape": 27}
        same = dict(key=key, code="Space" if key == " " else key, windowsVirtualKeyCode=codes[key])
        self._call("Input.dispatchKeyEvent", type="keyDown", **same, **({"text": " "} if key == " " else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **same)

    def picture(self, whole: bool = False) -> bytes:
        """A PNG of the window, or of the whole page."""
        clip = {}
        if whole:
            size = self._call("Page.getLayoutMetrics")["cssContentSize"]
            box = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            clip = {"clip": box, "captureBeyondViewport": True}
        return base64.b64decode(self._call("Page.captureScreenshot", format="png", **clip)["data"])

    def pdf(self) -> bytes:
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.timeout
        while True:
            answer = self._read(end)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _read(self, end: float) -> dict[str, Any]:
        """The next message; what the page logs or asks for is noted."""
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"no answer from the browser in {self.timeout:.0f} s")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise RuntimeError("the browser ended by itself")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, values = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(values["exceptionDetails"])[:800])
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("warning", "error"):
            self.console.append(values["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("warning", "error", "assert"):
            self.console.append(json.dumps(values["args"])[:800])
        return message
