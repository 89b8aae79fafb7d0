"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

from robustq.core import bundled, save

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_library_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(bundled.model("float"), "float.rq.safetensors")
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 15
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["float", "float-2"]
    assert 0.3 < float(lines[0].split()[2]) <= float(lines[0].split()[1])


def test_commands_and_options_of_the_examples_exist() -> None:
    import typer

    from robustq.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for call in re.findall(r"robustq (\w[^|>&#]*)", line):
                name, *words = call.split()
                known = {flag for parameter in commands[name].params for flag in parameter.opts}
                assert {word for word in words if re.match(r"--?[a-z]", word)} <= known, call
