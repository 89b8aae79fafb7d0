"""`robustq --version [--verbose]`."""


def versions(verbose: bool) -> str:
    """One line, or with `verbose` also Python, torch and which kernels are native and why the others are not."""
    from importlib.metadata import version

    line = f"robustq {version('robustq')}"
    if not verbose:
        return line
    import torch  # noqa: F401  (the environment of a report describes torch only where it was loaded)

    from robustq.core.report import environment

    facts = environment()
    facts.pop("robustq")
    return "\n".join([line, *_lines(facts)])


def _lines(facts: dict[str, object], indent: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
