"""The page as a real browser shows it."""

from pathlib import Path
from typing import Any

import pytest

from robustq.cli.page import document

OVERLAPS = """
[...document.querySelectorAll('svg.chart')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  const outside = texts.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1
    || b.top < frame.top - 1 || b.bottom > frame.bottom + 1).map(([t]) => 'outside: ' + t);
  const touching = texts.flatMap(([t, a], i) => texts.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3).map(([u]) => t + ' / ' + u));
  return [...outside, ...touching];
})
"""
PALE = """
(() => {
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => parts(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (parts(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('body *')].filter(e => !e.closest('style, title, desc, defs') &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
      const style = getComputedStyle(e), front = e.closest('svg') ? style.fill : style.color;
      const [a, b] = [light(front), light(behind(e))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className.baseVal || e.className || e.tagName];
    }).filter(([ratio]) => ratio < 4.5);
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_a_benchmark_in_a_browser(
    browser: Any, benchmark: dict[str, Any], tmp_path: Path, width: int, dark: bool
) -> None:
    file = tmp_path / "report.html"
    file.write_text(document.render(benchmark))
    with browser.visit(file, width, dark) as page:
        assert page.complaints == []
        assert {url for url in page.requests if not url.startswith("data:")} == {file.as_uri()}
        assert page.evaluate("document.querySelectorAll('svg.chart').length") == 2
        assert page.evaluate("document.querySelectorAll('table').length") >= 2
        shown = "[...document.images].map(i => i.complete && i.naturalWidth === 28 && i.clientWidth > 40)"
        assert page.evaluate(shown) == [True] * (2 + 2 * 2 * 5)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate(PALE) == []
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in back[4:-1].split(",")) < 200) == dark
        assert page.screenshot().startswith(b"\x89PNG")


def test_training_curves_in_a_browser(browser: Any, training: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(document.render(training))
    with browser.visit(file, 360, False) as page:
        assert page.complaints == []
        assert page.evaluate("document.querySelectorAll('svg.chart').length") == 4  # accuracies, lr, loss, sparsity
        assert page.evaluate("document.querySelectorAll('svg.chart .line').length") == 5
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate(PALE) == []


def test_the_checks_can_fail(browser: Any, tmp_path: Path) -> None:
    """The browser does report what these tests rely on it for."""
    file = tmp_path / "bad.html"
    file.write_text(
        "<!doctype html><body style='background:#fff'><p style='color:#ccc'>pale</p><img src='http://127.0.0.1:9/x.png'>"
        "<svg class=chart viewBox='0 0 99 99'><text x=9 y=50>one</text><text x=12 y=50>two</text></svg>"
        "<script>console.error('loud')</script>"
    )
    with browser.visit(file, 360, False) as page:
        assert any("loud" in text for text in page.complaints)
        assert "http://127.0.0.1:9/x.png" in page.requests
        assert page.evaluate(OVERLAPS) == ["one / two"]
        assert len(page.evaluate(PALE)) == 1
