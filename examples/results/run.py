"""Run the recorded results again: train each row by its recipe, measure it, and write docs/results/ROW.json.

    python examples/results/run.py --list
    python examples/results/run.py dnr-05 --data-dir DATA --out runs
    python examples/results/run.py --all --data-dir DATA --out runs

Run it from the root of the checkout. A row is an entry of rows.toml and a recipe beside it; what it starts from is made
first. Training and measuring are `robustq` commands that can be typed as well: they are printed, and recorded. What is
already there of the same recipe and start is not made again; a training that was stopped goes on where it was.
`python docs/generate.py` writes docs/results.md from the JSON files.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORDS = ROOT / "docs" / "results"
MODEL = ".rq.safetensors"

Row = dict[str, Any]


def table() -> dict[str, Any]:
    """rows.toml: {"group": ..., "row": ..., "target": ...}, rows with the entries of their group filled in."""
    content = tomllib.loads((HERE / "rows.toml").read_text(encoding="utf-8"))
    groups = {group["name"]: group for group in content["group"]}
    content["row"] = [{"seeds": [0], **groups[row["group"]].get("rows", {}), **row} for row in content["row"]]
    return content


def main(arguments: list[str] | None = None) -> int:
    """The exit status: that of the first command that fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ROW")
    parser.add_argument("--all", action="store_true", help="every row of the CPU tier")
    parser.add_argument("--list", action="store_true", help="print the rows, and whether each is recorded")
    parser.add_argument("--data-dir", type=Path, help="folder of the data sets; without it they are downloaded")
    parser.add_argument("--models", type=Path, default=Path(), help="folder of published checkpoints to start from")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for models and reports")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", default="1")
    given = parser.parse_args(arguments)
    rows = {row["name"]: row for row in table()["row"]}
    if given.list:
        for name, row in rows.items():
            print(f"{name:28} {row['tier']:4} {'recorded' if (RECORDS / f'{name}.json').is_file() else 'not run'}")
        return 0
    names = [n for n, row in rows.items() if row["tier"] == "cpu"] if given.all else given.names
    if unknown := [name for name in names if name not in rows]:
        parser.error(f"there is no row {', '.join(unknown)}; --list names them")
    given.out, given.models = given.out.resolve(), given.models.resolve()
    given.data_dir = given.data_dir and given.data_dir.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            runs = [run(rows, rows[name], seed, given) for seed in rows[name]["seeds"]]
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
        record(rows[name], runs, given)
    return 0


def run(rows: dict[str, Row], row: Row, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one row with one seed; what its record says of it."""
    start = begin(rows, row, seed, given)
    found: dict[str, Any] = {"seed": seed, "start_sha256": start and sha256(start)}
    if not row.get("train", True):
        assert start is not None
        return {**found, "bytes": start.stat().st_size, "measured": measure(row, seed, start, given)}
    found |= train(row, seed, start, given)
    return {**found, "measured": measure(row, seed, made(row, seed, given), given)}


def begin(rows: dict[str, Row], row: Row, seed: int, given: argparse.Namespace) -> Path | None:
    """The checkpoint a row starts from: another row's, trained first where it is missing, or a published one."""
    if "start" not in row:
        return None
    if row["start"] not in rows:
        return given.models / row["start"]
    parent = rows[row["start"]]
    first = seed if seed in parent["seeds"] else parent["seeds"][0]
    train(parent, first, begin(rows, parent, first, given), given)
    return made(parent, first, given)


def train(row: Row, seed: int, start: Path | None, given: argparse.Namespace) -> dict[str, Any]:
    """One training run, or what is kept of it where it is already there."""
    recipe, out = HERE / f"{row.get('recipe', row['name'])}.toml", made(row, seed, given)
    key = {"recipe_sha256": sha256(recipe), "start_sha256": start and sha256(start), "set": row.get("set", [])}
    options = ["--recipe", _relative(recipe), "--seed", str(seed)]
    options += [word for entry in row.get("set", []) for word in ("--set", entry)]
    options += ["--init", str(start)] if start else []
    words = ["train", *options, *_place(given), "-o", str(out), "--force"]
    done = _once(_kept(row, seed, "train", given), key, words, out, given)
    report = done["report"]
    return {
        "command": done["command"],
        "recipe_sha256": key["recipe_sha256"],
        "model_sha256": sha256(out),
        "bytes": report["bytes"],
        "train": {k: report[k] for k in ("history", "validation", "environment", "warnings")},
        "train_seconds": done["seconds"],
    }


def measure(row: Row, seed: int, model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """{label: report} on test images: the model as it is, and as each entry of `also` changes it."""
    found = {}
    views = [{"label": "", "arch": row.get("arch", [])}, *row.get("also", [])]
    for view in views:
        test = row["test"]
        options = ["--data", str(given.data_dir / test["file"]) if "file" in test else test["data"]]
        options += [] if "file" in test else ["--split", "test"]
        options += ["--limit", str(test["limit"])] if "limit" in test else []
        options += ["--attack", view.get("attack", row.get("attack", "none"))]
        options += ["--eps", row["eps"]] if "attack" in row else []
        options += [*view["arch"], *row.get("normalization", [])]
        key = {"model_sha256": sha256(model), "options": options}
        kept = _kept(row, seed, "-".join(["bench", *view["label"].split()]), given)
        done = _once(kept, key, ["bench", str(model), *options, *_place(given)], model, given)
        report = done["report"]
        facts = {k: report[k] for k in ("data", "threat", "models", "environment", "warnings")}
        found[view["label"] or "default"] = {"command": done["command"], "seconds": done["seconds"], **facts}
    return found


def made(row: Row, seed: int, given: argparse.Namespace) -> Path:
    """Where the model of a row and a seed is written."""
    return given.out / f"{row['name']}-s{seed}{MODEL}"


def record(row: Row, runs: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Write docs/results/ROW.json, without the folders of this machine."""
    content = {"schema": "robustq.results/1", "name": row["name"], "hardware": hardware(), "runs": runs}
    RECORDS.mkdir(parents=True, exist_ok=True)
    text = _without_folders(json.dumps(content, indent=1) + "\n", given)
    (RECORDS / f"{row['name']}.json").write_text(text, encoding="utf-8")


def hardware() -> dict[str, Any]:
    """The processor's name as the system tells it, and how many there are."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "logical_cpus": os.cpu_count()}


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _kept(row: Row, seed: int, stage: str, given: argparse.Namespace) -> Path:
    """Where the report of one command is kept."""
    return given.out / f"{row['name']}-s{seed}.{stage}.json"


def _once(kept: Path, key: dict[str, Any], words: list[str], model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Run `robustq WORDS` unless its report and its model are there for the same key; report, command and times."""
    command = " ".join(["robustq", *words])
    if kept.is_file() and model.is_file():
        done = json.loads(kept.read_text(encoding="utf-8"))
        if done["key"] == key:
            return done
    print(command, file=sys.stderr, flush=True)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = [sys.executable, "-m", "robustq.cli", *words, "--json"]
    output = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds = {"wall": round(wall, 1), "cpu": round(cpu, 1)}
    recorded = _without_folders(command, given)
    done = {"key": key, "command": recorded, "seconds": seconds, "report": json.loads(output)}
    kept.write_text(json.dumps(done), encoding="utf-8")
    return done


def _without_folders(text: str, given: argparse.Namespace) -> str:
    """What only holds on this machine by another name."""
    for folder, name in ((given.out, "runs"), (given.models, "MODELS"), (given.data_dir, "DATA")):
        text = text.replace(str(folder), name)
    return text


def _place(given: argparse.Namespace) -> list[str]:
    folder = ["--data-dir", str(given.data_dir)] if given.data_dir else []
    return [*folder, "--device", given.device, "--threads", given.threads, "--quiet"]


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
