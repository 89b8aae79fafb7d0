"""All that needs a GPU, in one run of less than ten minutes: are the CUDA kernels right, and how fast are they?

    python benchmarks/gpu.py --json gpu.json          # a GPU: correctness, then timings
    python benchmarks/gpu.py --code --json code.json  # no GPU: registers and instructions of the machine code

Every part runs in a process of its own with a time limit, so that a crash or a kernel that hangs costs nothing but that
part; what was found is written after each. hopper.cu, which is not the default, comes after all else. The exit status
is 1 where something is wrong, crashed or hung. From a checkout that is not installed:
`mkdir site && ln -s $PWD site/robustq && PYTHONPATH=site python benchmarks/gpu.py`.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("torch", "numpy", "platformdirs")
SANITIZER = "compute-sanitizer"
LEAST = 5.0  # seconds for which a part is worth starting
STUCK = ", and it does not end"
Row = dict[str, Any]
Variant = tuple[str, tuple[tuple[str, int], ...]]  # source, settings


@dataclass(frozen=True)
class Part:
    """seconds: its limit; needs: parts that must have ended well (a timing of wrong results means nothing)."""

    name: str
    seconds: float
    needs: tuple[str, ...] = ()
    under: tuple[str, ...] = ()  # a tool that runs it
    run: str = ""  # the part that the tool runs


PARTS = (
    Part("compile", 150),
    Part("right: linear", 80),
    Part("right: convolutions", 40),
    Part("right: situations", 40),
    Part("right: networks", 40),
    Part("speed: copies", 30),
    Part("speed: linear", 120, ("right: linear",)),
    Part("speed: convolutions", 60, ("right: convolutions",)),
    Part("speed: networks", 60, ("right: networks",)),
    Part("right: specialised", 60),
    Part("speed: specialised", 100, ("right: specialised",)),
    Part("memory", 120, under=(SANITIZER, "--tool", "memcheck", "--error-exitcode", "9"), run="right: few"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", action="store_true", help="machine code only; needs no GPU")
    parser.add_argument("--json", help="write what was found to this file, after every part")
    parser.add_argument("--seconds", type=float, default=560, help="for all parts together")
    parser.add_argument(
        "--only", action="append", help="this part alone; may be repeated", choices=[p.name for p in PARTS]
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"not installed: {', '.join(absent)}")
    if chosen.part:
        child(chosen.part, chosen.json)
    elif chosen.code:
        from gpu_code import machine_code

        save(chosen.json, {"code": list(machine_code())})
    else:
        measure(chosen)


def measure(chosen: argparse.Namespace) -> None:
    """All parts, or those that are asked for."""
    parts = [part for part in PARTS if not chosen.only or part.name in chosen.only]
    found = {"device": device_name(), "parts": {}}
    run_all(parts, found, chosen.seconds, command, lambda: save(chosen.json, found))
    print("\n".join(["", *verdicts(found["parts"])]))
    if any(bad(result) for result in found["parts"].values()):
        raise SystemExit(1)


def device_name() -> str:
    import torch

    from robustq.kernels.cuda import support

    if (missing := support.reason()) is not None:
        raise SystemExit(f"no GPU kernels here: {missing}")
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def save(path: str | None, found: Any) -> None:
    if path:
        Path(path).write_text(json.dumps(found, indent=2) + "\n")


def command(part: Part, rows: str) -> list[str] | None:
    """What runs a part, which writes its rows to a file; None where its tool is not there."""
    tool = list(part.under)
    if tool:
        place = shutil.which(tool[0]) or shutil.which(f"/usr/local/cuda/bin/{tool[0]}")
        if place is None:
            return None
        tool[0] = place
    return [*tool, sys.executable, __file__, "--part", part.run or part.name, "--json", rows]


def run_all(
    parts: Sequence[Part],
    found: Row,
    seconds: float,
    command_of: Callable[[Part, str], list[str] | None],
    saved: Callable[[], None],
) -> None:
    """Runs the parts one after the other and adds to found["parts"] each one's status, seconds and rows."""
    end = time.monotonic() + seconds
    for part in parts:
        left, before = end - time.monotonic(), found["parts"]
        unmet = [name for name in part.needs if name in before and bad(before[name])]
        if unmet:
            result: Row = {"status": f"skipped: {', '.join(unmet)} went wrong"}
        elif any(result["status"].endswith(STUCK) for result in before.values()):
            result = {"status": "skipped: a process still has the GPU"}
        elif left < LEAST:
            result = {"status": "skipped: no time left"}
        else:
            result = run_part(part, min(part.seconds, left), command_of)
        found["parts"][part.name] = result
        print(f"== {part.name}: {result['status']} ({result.get('seconds', 0):.0f} s)", flush=True)
        saved()


def run_part(part: Part, seconds: float, command_of: Callable[[Part, str], list[str] | None]) -> Row:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, log = Path(folder) / "rows", Path(folder) / "log"
        arguments = command_of(part, str(rows))
        if arguments is None:
            return {"status": f"skipped: there is no {part.under[0]}"}
        with log.open("w") as errors:
            process = subprocess.Popen(arguments, stderr=errors)
            try:
                code = process.wait(seconds)
                status = "done" if code == 0 else f"failed with exit status {code}"
            except subprocess.TimeoutExpired:
                # A tool that watches may just be slow.
                status = (
                    f"skipped: no end after {seconds:.0f} s" if part.under else f"hung: killed after {seconds:.0f} s"
                )
                process.kill()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    status += STUCK
        lines = rows.read_text().splitlines() if rows.exists() else []
        result: Row = {"status": status, "seconds": time.monotonic() - begin, "rows": [json.loads(x) for x in lines]}
        if status != "done":
            result["log"] = log.read_text(errors="replace").splitlines()[-25:]
            print("\n".join(result["log"]), flush=True)
        return result


def bad(result: Row) -> bool:
    """Whether a part went wrong; one that was left out did not."""
    if result["status"].startswith("skipped"):
        return False
    return result["status"] != "done" or not all(row.get("right", True) for row in result.get("rows", ()))


def child(name: str, rows: str) -> None:
    """One part, in a process of its own: each row to the file as soon as it is known."""
    import torch

    device = torch.device("cuda")
    torch.manual_seed(0)
    with open(rows, "w", buffering=1) as file:
        for row in rows_of(name, device):
            file.write(json.dumps(row) + "\n")
            if "right" in row:
                print(f"{'ok' if row['right'] else 'WRONG':6}{row['error']:.1e}  {row['case']}", flush=True)
            else:
                print(json.dumps(row), flush=True)
        torch.cuda.synchronize()


def rows_of(name: str, device: Any) -> Iterator[Row]:
    import gpu_networks
    import gpu_right
    import gpu_speed

    return {
        "compile": compile_all,
        "right: linear": gpu_right.linear_layers,
        "right: few": gpu_right.few,
        "right: convolutions": gpu_right.convolutions,
        "right: situations": gpu_right.situations,
        "right: networks": gpu_networks.right,
        "right: specialised": gpu_right.specialised,
        "speed: copies": gpu_speed.copies,
        "speed: linear": gpu_speed.linear_layers,
        "speed: convolutions": gpu_speed.convolutions,
        "speed: networks": gpu_networks.speed,
        "speed: specialised": gpu_speed.specialised,
    }[name](device)


def compile_all(device: Any) -> Iterator[Row]:
    """Every variant that a part launches, on all processors at once, into the cache that they read."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import gpu_right

    from robustq.kernels.cuda import machine

    arch = machine.architecture(device)
    asked = {variant for variant in built_ahead(arch) if ("ELEMENT", 1) not in variant[1]}
    gpu_right.machine.launch = lambda launch, _: asked.add((launch.source, tuple(sorted(launch.defines.items()))))
    for part in (gpu_right.linear_layers, gpu_right.convolutions, gpu_right.specialised):
        if part is not gpu_right.specialised or arch == "sm_90a":
            list(part(device))  # its answers are noise: nothing runs
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1), get_context("spawn")) as pool:
        sizes = list(pool.map(compile_one, [(*variant, arch) for variant in sorted(asked)]))
    yield {"variants": len(sizes), "bytes": sum(sizes)}


def built_ahead(arch: str) -> Iterator[Variant]:
    """The variants that a build may hold, as `products` asks for them."""
    from robustq.kernels.cuda import compiler

    for line in compiler.source("variants.txt").splitlines():
        source, *settings = line.split()
        defines = {key: int(value) for key, value in (setting.split("=") for setting in settings)}
        if source == "gemm.cu":
            defines["WGMMA"] = int(arch == "sm_90a")
        if source != "hopper.cu" or arch == "sm_90a":
            yield source, tuple(sorted(defines.items()))


def compile_one(asked: tuple[str, tuple[tuple[str, int], ...], str]) -> int:
    from robustq.kernels.cuda import machine

    source, defines, arch = asked
    return len(machine.machine_code(source, arch, dict(defines)))


def verdicts(parts: dict[str, Row]) -> Iterator[str]:
    """What the run says, a line each: what is right, the targets, and which kernel should be the default."""
    checked = [row for result in parts.values() for row in result.get("rows", ()) if "right" in row]
    wrong = [row for row in checked if not row["right"]]
    yield f"right: {len(checked) - len(wrong)} of {len(checked)} cases"
    yield from (f"WRONG: {row['case']}: {row['error']:.1e}" for row in wrong[:20])
    yield from (f"{name}: {result['status']}" for name, result in parts.items() if result["status"] != "done")
    yield from targets(parts)
    for row in parts.get("speed: networks", {}).get("rows", ()):
        us = row["us"]
        times = ", ".join(f"{name} {us['torch bf16'] / us[name]:.2f}" for name in us if name != "torch bf16")
        yield f"{row['network']} batch {row['batch']}, times as fast as torch bf16: {times}"
    if pairs := parts.get("speed: specialised", {}).get("rows"):
        ratios = [row["gemm.cu"] / row["hopper.cu"] for row in pairs]
        mean = statistics.geometric_mean(ratios)
        spread = f"geometric mean of {len(ratios)}, from {min(ratios):.2f} to {max(ratios):.2f}"
        better = "hopper.cu" if mean > 1 else "gemm.cu"
        yield f"hopper.cu is {mean:.2f} times as fast as gemm.cu ({spread}): the default should be {better}"


def targets(parts: dict[str, Row]) -> Iterator[str]:
    """K1: 80% of the bandwidth of a copy and 6 times cuBLAS bfloat16; K2: 1.3 times cuBLAS."""
    copy = next(iter(parts.get("speed: copies", {}).get("rows", ())), {}).get("bytes_per_second")
    rows = parts.get("speed: linear", {}).get("rows", ())
    torch_us = {(r["outputs"], r["columns"], r["batch"]): r["us"] for r in rows if r["kernel"] == "torch bf16"}
    for row in rows:
        place = (row["outputs"], row["columns"], row["batch"])
        if row["kernel"] != "2 bits int8" or place not in torch_us:
            continue
        times, shape = torch_us[place] / row["us"], f"{place[0]}x{place[1]} batch {place[2]}, 2 bits int8"
        if place[2] <= 8:
            share = f"; alone {row['bytes_per_second'] / copy:.0%} of a copy's bandwidth (target 80%)" if copy else ""
            yield f"K1 {shape}: {times:.1f} times cuBLAS bf16 (target 6){share}"
        elif place[2] >= 512:
            yield f"K2 {shape}: {times:.2f} times cuBLAS bf16 (target 1.3)"


if __name__ == "__main__":
    main()
