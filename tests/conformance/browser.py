"""A real Chromium without a window, driven over a pair of pipes by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

PATIENCE: Final = 30.0  # seconds after which a test has failed
NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "chrome")

Json = dict[str, Any]


def find_chromium() -> str | None:
    """The first browser of the family that is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of one browser. Everything that it said is kept in `events`."""

    def __init__(self, program: str, profile: Path) -> None:
        from_us, self._to_browser = os.pipe()
        self._from_browser, to_us = os.pipe()
        # The shell gives the pipes the numbers that the browser expects.
        self._process = subprocess.Popen(
            [
                "bash", "-c", f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}', program,
                "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
                "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--disable-default-apps",
                "--disable-extensions", "--mute-audio", "--window-size=1280,1000",
                f"--user-data-dir={profile}", "about:blank",
            ],
            pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        self._heard = b""
        self._numbers = iter(range(1, 10**9))
        self._session = ""
        self.events: list[Json] = []
        pages = self._ask("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> Json:
        """One command to the page, and its result."""
        return self._ask(method, **parameters)

    def open(self, url: str) -> None:
        failed = self.ask("Page.navigate", url=url).get("errorText")
        assert not failed, failed

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page; promises are awaited."""
        answer = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> Any:
        """Wait, by what the page itself observes of its changes, until `condition` is true."""
        return self.value(
            f"""new Promise((resolve, reject) => {{
                const look = () => {{ try {{ return {condition}; }} catch {{ return null; }} }};
                const found = look();
                if (found) return resolve(found);
                const timer = setTimeout(
                    () => reject(new Error({json.dumps(condition)})), {PATIENCE * 1000});
                const observer = new MutationObserver(() => {{
                    const found = look();
                    if (!found) return;
                    observer.disconnect(); clearTimeout(timer); resolve(found);
                }});
                observer.observe(document, {{
                    subtree: true, childList: true, characterData: true, attributes: true }});
            }})"""
        )

    def requested(self) -> list[str]:
        """The address of everything that the page has asked for."""
        sent = (each for each in self.events if each["method"] == "Network.requestWillBeSent")
        return [each["params"]["request"]["url"] for each in sent]

    def complaints(self) -> list[Json]:
        """Errors and warnings on the page's console, and exceptions that nobody caught."""
        return [
            event["params"]
            for event in self.events
            if event["method"] == "Runtime.exceptionThrown"
            or (
                event["method"] == "Runtime.consoleAPICalled"
                and event["params"]["type"] in {"error", "warning", "assert"}
            )
            or (
                event["method"] == "Log.entryAdded"
                and event["params"]["entry"]["level"] in {"error", "warning"}
            )
        ]

    def screenshot(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def stop(self) -> None:
        """End the browser; it is ours alone."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to_browser)
        os.close(self._from_browser)

    def _ask(self, method: str, **parameters: object) -> Json:
        number = next(self._numbers)
        command: Json = {"id": number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to_browser, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                result: Json = message["result"]
                return result
            self.events.append(message)

    def _next(self) -> Json:
        until = time.monotonic() + PATIENCE + 5
        while b"\0" not in self._heard:
            left = until - time.monotonic()
            ready, _, _ = select.select([self._from_browser], [], [], max(0.0, left))
            assert ready, "the browser says nothing"
            data = os.read(self._from_browser, 1 << 16)
            assert data, "the browser has ended"
            self._heard += data
        message, _, self._heard = self._heard.partition(b"\0")
        decoded: Json = json.loads(message)
        return decoded


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser for as long as the block lasts; there must be one installed."""
    program = find_chromium()
    assert program is not None
    running = Browser(program, profile)
    try:
        yield running
    finally:
        running.stop()


OpenBrowser = Callable[[], Browser]
