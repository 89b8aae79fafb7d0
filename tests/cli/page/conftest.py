"""Reports to be drawn, and a headless browser to look at them with."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from robustq.core import png
from robustq.core.report import Proportion, Report

HOSTILE = "<img src=//x.invalid onerror=alert(1)>\"'|`[a](b)\x1b[2J\nÿ" + "w" * 60
NAMES = ("float", "4-bit", "ternary", "pruned", HOSTILE)


@pytest.fixture(scope="session")
def benchmark() -> dict[str, Any]:
    """A benchmark of five models with everything a page can show; the last has a hostile name."""
    models = [model(number, name) for number, name in enumerate(NAMES)]
    threat = {"name": "Pgd", "norm": "linf", "radius": 0.1, "options": {"steps": 40, "restarts": 1}}
    report = Report("benchmark", recipe={"data": {"name": HOSTILE}, "run": {"seed": 3}, "attack": [{"name": "pgd"}]})
    report.content = {
        "data": {"name": HOSTILE, "split": "test", "n": 1000, "sha256": "d" * 64},
        "threat": {"pgd": threat, "square": {**threat, "name": "Square"}},
        "baseline": {"4-bit": "float"},
        "models": models,
        "sweep": {"attack": "pgd", "name": "pgd", "norm": "linf", "options": {}, "n": 200, "radii": [0.0, 0.1, 0.2]},
        "examples": {
            "attack": "pgd",
            "norm": "linf",
            "radius": 0.1,
            "reduced": 1,
            "class_names": [HOSTILE, "bag"],
            "images": [{"index": 5, "label": 0, "png": picture(0.2)}, {"index": 7, "label": 1, "png": picture(0.4)}],
        },
    }
    report.warn(f"{HOSTILE}: beware")
    report.miss(f"{HOSTILE}: too large")
    return json.loads(report.to_json())


@pytest.fixture(scope="session")
def training() -> dict[str, Any]:
    """A training run of twelve epochs."""
    report = Report("train", recipe={"model": {"arch": "resnet"}, "train": {"epochs": 12}})
    history = [
        {
            "epoch": e, "lr": 0.1 / e, "loss": 2.3 / e, "clean": share(500 + 30 * e), "robust": share(200 + 40 * e),
            "exact": True, "seconds": 3.0, "sparsity": 0.08 * e,
        }
        for e in range(1, 13)
    ]  # fmt: skip
    layer = {
        "name": HOSTILE,
        "shape": [8, 1, 3, 3],
        "scheme": "quantized",
        "bits": 2,
        "relative_error": 0.4,
        "zeros": 9,
    }
    report.content = {
        "input": None,
        "output": {"path": "small.rq.safetensors", "bytes": 12345},
        "bytes": 12345,
        "bits_per_weight": 2.1,
        "sparsity": 0.5,
        "channel_sparsity": 0.0,
        "history": history,
        "validation": {"epoch": 11, "clean": share(830), "robust": share(640)},
        "layers": [layer],
    }
    return json.loads(report.to_json())


def model(number: int, name: str) -> dict[str, Any]:
    details = {"name": "pgd", "options": {}, "norm": "linf", "radius": 0.1, "forwards": 9, "backwards": 9}
    answer = {"clean_prediction": 0, "prediction": 1, "fooled": number > 2, "norm": 0.1}
    return {
        "name": name,
        "clean": share(900 - 10 * number),
        "attacks": {"pgd": share(800 - 90 * number), "square": share(810 - 90 * number)},
        "worst_case": share(800 - 90 * number),
        "bytes": 306_800 // (1 + number % 4),
        "bits_per_weight": 32.0 / (1 + number),
        "sparsity": 0.1 * number,
        "channel_sparsity": 0.0,
        "latency_ms": 0.4,
        "latency": {"1": 0.4},
        "randomized": False,
        "details": {"pgd": {**details, "seconds": 1.5}},
        "warnings": [],
        "complete": True,
        "packed": None,
        "sha256": str(number) * 64,
        "parent": "0" * 64 if number else None,
        "curve": [{"eps": eps, "accuracy": share(int(900 - 4000 * eps - 20 * number))} for eps in (0.0, 0.1, 0.2)],
        "checks": [check(1, "pass"), check(2, "skipped"), check(3, "fail" if number == 4 else "warn")],
        "examples": [{**answer, "adversarial": picture(0.3), "perturbation": picture(0.5)} for _ in range(2)],
    }


def check(number: int, status: str) -> dict[str, Any]:
    found = {"id": f"RQ{number:03}", "name": f"check {number}", "status": status, "unit": "share", "threshold": 0.01}
    return {**found, "measured": 0.5, "message": HOSTILE, "remedy": "do something"}


def share(hits: int) -> dict[str, Any]:
    return Proportion(hits, 1000).to_dict()


def picture(level: float) -> str:
    return base64.b64encode(png.encode(torch.full((1, 28, 28), level))).decode()


@dataclass
class Page:
    """What one visit showed."""

    evaluate: Callable[[str], Any]
    screenshot: Callable[[], bytes]
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Browser:
    """Chromium over its debugging pipe: JSON messages that end in a zero byte."""

    def __init__(self, program: str, home: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        quiet = ("background-networking", "component-update", "sync", "default-apps", "extensions")
        line = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            f"--user-data-dir={home}", "--remote-debugging-pipe", *(f"--disable-{name}" for name in quiet),
        ]  # fmt: skip
        start = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", start, *line], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.reading, self.writing, self.rest = ours_in, ours_out, b""
        self.events: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def read(self, patience: float = 60) -> dict[str, Any]:
        """The next message."""
        end = time.monotonic() + patience
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reading], [], [], max(0.0, end - time.monotonic()))
            block = os.read(self.reading, 1 << 20) if ready else b""
            assert block, "the browser is silent"
            self.rest += block
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    @contextlib.contextmanager
    def visit(self, file: Path, width: int, dark: bool) -> Iterator[Page]:
        """The file in a window of that width."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable", session)
        self.call("Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        self.events = []
        self.call("Page.navigate", session, url=file.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())
        page = Page(
            lambda js: self.call("Runtime.evaluate", session, expression=js, returnByValue=True)["result"].get("value"),
            lambda: self.picture(session),
        )
        page.evaluate("1")  # whatever the browser had to say before has arrived then
        told = [(event.get("method"), event.get("params", {})) for event in self.events]
        page.requests = [params["request"]["url"] for name, params in told if name == "Network.requestWillBeSent"]
        loud = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        page.complaints = [json.dumps(params) for name, params in told if name in loud]
        yield page
        self.call("Target.closeTarget", targetId=target)

    def picture(self, session: str) -> bytes:
        """All of the page as a PNG."""
        size = self.call("Page.getLayoutMetrics", session)["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", session, clip=clip, captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        self.process.kill()
        self.process.wait()
        os.close(self.reading)
        os.close(self.writing)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium or Chrome; tests that need one are skipped where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    opened = Browser(program, tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()
