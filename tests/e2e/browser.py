"""
A real browser without a screen: Debian's chromium-headless-shell, spoken to over two pipes.

Source: https://chromedevtools.github.io/devtools-protocol/; messages end with a zero octet.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from tests import patience
from tests.conftest import missing
from tests.e2e.net import Netns

_PROGRAM = "chromium-headless-shell"


class Browser:
    """
    One tab.

    Args:
        netns: Where it runs.
        directory: For its profile.
    """

    def __init__(self, netns: Netns, directory: Path) -> None:
        if shutil.which(_PROGRAM) is None:
            missing(f"{_PROGRAM} is not installed: 'make test-setup' installs it")
        #: URLs of everything that was asked for.
        self.requests: list[str] = []
        #: What went to the console or is against the page's policy.
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session = ""
        theirs, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        words = [
            _PROGRAM, "--remote-debugging-pipe", "--no-sandbox", "--disable-dev-shm-usage",
            "--disable-gpu", "--no-first-run", f"--user-data-dir={directory / 'profile'}",
            "about:blank",
        ]  # fmt: skip
        self._log = (directory / "browser.log").open("wb")
        # It reads commands from descriptor 3 and answers on 4.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{theirs_out}', "bash",
             *netns.command(*words)],
            pass_fds=(theirs, theirs_out), stdout=self._log, stderr=self._log,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"},
        )  # fmt: skip
        os.close(theirs)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        try:
            self._open_tab()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open_tab(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Page", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def __exit__(self, *_: object) -> None:
        # It ends when nobody speaks to it any more; the process here is a shell that waits for it.
        os.close(self._out)
        try:
            self.process.wait(patience.LONGEST)
        finally:
            self.process.kill()
            self.process.wait()
        os.close(self._in)
        self._log.close()

    def open(self, url: str) -> None:
        """Go somewhere; it is loaded afterwards."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def say(self, expression: str) -> Any:
        """The value of some JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until some JavaScript is true; its value."""
        end = time.monotonic() + patience.LONGEST
        while not (value := self.say(expression)):
            text = self.say("document.body.innerText")
            assert time.monotonic() < end, f"in vain: {expression}\n{text}\n{self.complaints}"
            time.sleep(0.05)
        return value

    def look(self, *, dark: bool, width: int, height: int = 900) -> bytes:
        """A PNG of the page, in a scheme and at a width."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer; what happens meanwhile is kept."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {parameters['message']}")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], patience.LONGEST)
            assert ready, "the browser does not answer"
            came = os.read(self._in, 1 << 20)
            assert came, "the browser has ended"
            self._rest += came
        one, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        return message
