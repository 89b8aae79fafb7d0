"""Export: one checkpoint to one or several formats, all rendered and verified before the first file is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from . import files, registry
from .checkpoint import Checkpoint
from .errors import OptionError, OutputError
from .exporters.exporter import Exporter, put


def export(
    checkpoint: Checkpoint,
    formats: Sequence[str],
    out: str | Path | None = None,
    *,
    classifier: nn.Module | None = None,
    force: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Write the checkpoint in each format; returns one entry a file for the report.

    out         the file; with several formats, or where it is a folder, the place for <name><suffix>
                (default: the source's name in the current folder)
    classifier  x in [0, 1] -> logits (`architecture.build`); ONNX needs it
    options     format -> exporter options, such as {"onnx": {"style": "base3"}}
    Entries: path, format, bytes, verified, max_error (ONNX: of the largest logit; otherwise of the dense weights), and
    the exporter's own facts. Raises UnknownNameError, ArchitectureError, OutputError, and VerificationError, after
    which no file was written.
    """
    exporters = resolve(formats, options or {})
    places = _places(checkpoint, exporters, out)
    for path in places.values():
        files.check_output(path, force)
    rendered = {name: exporters[name].render(checkpoint, classifier) for name in exporters}
    entries = []
    for name, path in places.items():
        made = rendered[name]
        put(made.data, path, force)
        entry = {"path": str(path), "format": name, "bytes": len(made.data), "verified": made.max_error is not None}
        entries.append({**entry, "max_error": made.max_error, **made.facts})
    return entries


def render(
    checkpoint: Checkpoint,
    formats: Sequence[str],
    *,
    classifier: nn.Module | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> bytes:
    """The verified bytes of a single format, for standard output; OptionError where several are named."""
    if len(formats) != 1:
        raise OptionError(f"{len(formats)} formats do not fit into one stream.", "Name one format, or give -o FILE.")
    (exporter,) = resolve(formats, options or {}).values()
    return exporter.render(checkpoint, classifier).data


def need_class(formats: Sequence[str]) -> bool:
    """Whether one of the formats needs the network, not only its weights."""
    return any(registry.find(name, "exporter").needs_class for name in formats)


def resolve(formats: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> dict[str, Exporter]:
    """Name -> exporter, in the order given, each once; unknown names get "did you mean"."""
    if not formats:
        raise OptionError("No format is given.", f"Choose from: {', '.join(registry.names('exporter'))}.")
    for name in options:
        if name not in formats:
            raise OptionError(f"There are options for {name!r}, but the formats are {', '.join(formats)}.")
    return {name: registry.create(name, options.get(name, {}), "exporter") for name in formats}


def _places(checkpoint: Checkpoint, exporters: Mapping[str, Exporter], out: str | Path | None) -> dict[str, Path]:
    """Format -> path; never the source itself."""
    source = Path(checkpoint.source.path)
    stem = source.name.removesuffix(source.suffix).removesuffix(".rq") or "model"
    stem = "model" if stem in ("-", "<stdin>") else stem
    if out is None:
        places = {name: Path(stem + e.suffix) for name, e in exporters.items()}
    elif Path(out).is_dir():
        places = {name: Path(out) / (stem + e.suffix) for name, e in exporters.items()}
    elif len(exporters) == 1:
        places = dict.fromkeys(exporters, Path(out))
    else:
        known = [e.suffix for e in exporters.values() if str(out).endswith(e.suffix)]
        base = str(out).removesuffix(known[0]) if known else str(out)
        places = {name: Path(base + e.suffix) for name, e in exporters.items()}
    for name, path in places.items():
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(
                f"{path}: --to {name} would replace the model that is exported.", "Give another name: -o."
            )
    return places
