"""Reports as Markdown: what is in them, and what hostile names cannot do."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustq.cli import markdown, toml
from robustq.core.recipe import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Robustq = Callable[..., Any]


def test_a_benchmark_as_markdown(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    line = ("bench", plain, "--data", quadrants, "--attack", "pgd,fgsm", "--eps", "0.1", "--limit", "20")
    found = robustq(*line, "--markdown", "r.md", "--json", "--min-acc", "1")
    (entry,) = found.report["models"]
    text = (tmp_path / "r.md").read_text()
    head, row, *_ = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| model")
    )
    low, high = (f"{100 * end:.1f}" for end in entry["worst_case"]["ci95"])
    assert row[head.index("worst case")] == f"{100 * entry['worst_case']['value']:.1f}% [{low}, {high}]"
    assert len(head) == len(row)
    assert "Gate missed" in text
    assert entry["sha256"] in text
    recipe = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert recipe is not None
    assert Recipe.from_dict(tomllib.loads(recipe[1])).to_dict() == found.report["recipe"]


def test_compression_as_markdown_on_standard_output(robustq: Robustq, plain: Path) -> None:
    found = robustq("compress", plain, "--bits", "4", "-o", "c.safetensors", "--markdown", "-", "-q")
    assert found.out.startswith("# robustq compress\n")
    assert found.out.count("| quantized |") == 3
    assert found.err == ""


def test_standard_output_takes_one_document(robustq: Robustq, plain: Path) -> None:
    found = robustq("compress", plain, "--bits", "4", "--markdown", "-", "--json")
    assert found.code == 2
    assert "both want standard output" in found.err
    found = robustq("compress", plain, "--bits", "4", "--markdown", "-", "-o", "-")
    assert (found.code, found.out) == (2, "")


def test_documents_do_not_replace_files_or_each_other(robustq: Robustq, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "r.md").write_text("mine")
    found = robustq("compress", plain, "--bits", "4", "-o", "c", "--markdown", "r.md")
    assert found.code == 2
    assert "exists already" in found.err
    assert (tmp_path / "r.md").read_text() == "mine"
    assert not (tmp_path / "c").exists()
    found = robustq("compress", plain, "--bits", "4", "-o", "c", "--markdown", "./c", "--force")
    assert found.code == 2
    assert "the same file" in found.err
    found = robustq("bench", plain, "-o", "c", "--markdown", "c")
    assert "the same file" in found.err


def test_nothing_is_written_of_a_run_that_failed(robustq: Robustq, tmp_path: Path) -> None:
    assert robustq("bench", "absent.pt", "--markdown", "r.md").code == 2
    assert not (tmp_path / "r.md").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script&gt;"),
        ("[x](javascript:y)", r"\[x\](javascript:y)"),
        ("two\nlines\x1b[2J", r"two lines\\x1b\[2J"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("# a", r"\# a"),
        ("https://x.y www.x.y a@b", r"https\://x.y www\.x.y a\@b"),
        ("`$~~*_", r"\`\$\~\~\*\_"),
        ("51.2% [48.1, 54.3]", "51.2% [48.1, 54.3]"),
        ("[48.1, 54.3](x)", r"\[48.1, 54.3\](x)"),
        ("4-bit 0.30 -", "4-bit 0.30 -"),
    ],
)
def test_escaping(name: str, text: str) -> None:
    assert markdown.escape(name) == text


@given(st.text())
def test_no_text_breaks_a_row_or_the_page(name: str) -> None:
    text = markdown.escape(name)
    assert "\n" not in text
    assert "<" not in text
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", text)


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans() | st.lists(st.text())))
def test_toml_gives_back_what_went_in(args: dict[str, Any]) -> None:
    plain = {"keep_fp": ["first"], "model": {"args": args, "arch": None}, "attack": [{"name": "pgd"}, {"name": "b"}]}
    found = tomllib.loads(toml.dumps(json.loads(json.dumps(plain))))
    assert found.get("model", {}).get("args", {}) == args
    assert [attack["name"] for attack in found["attack"]] == ["pgd", "b"]
    assert "arch" not in found.get("model", {})
