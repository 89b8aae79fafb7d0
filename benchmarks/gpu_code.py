"""Part of gpu.py that needs no GPU: registers, spills and instructions of the machine code of the main variants."""

import importlib.metadata
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

from robustq.kernels.cuda import compiler

COUNTED = ("IMMA", "HMMA", "IGMMA", "LDG", "UBLKCP", "SYNCS", "LDL", "STL")
ARCHITECTURES = ["sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"]


def machine_code() -> Iterator[dict[str, Any]]:
    """Registers, spills and tensor-core instructions of the main variants for every architecture."""
    small = {"FORMAT": 0, "LIMBS": 1, "SETS": 1, "BLOCKS": 2, "LISTED": 0, "ELEMENT": 2}
    large = {"FORMAT": 0, "LIMBS": 1, "COLUMNS": 128, "STAGES": 3, "GROUPED": 0, "CONVOLUTION": 0, "ELEMENT": 2}
    hopper = {"FORMAT": 0, "LIMBS": 1, "BLOCKS": 2, "STAGES": 4, "GROUPED": 0, "ELEMENT": 2}
    variants = [
        ("K1 2 bits int8, batch 1-8", "small.cu", small),
        ("K1 2 bits accurate, batch 1-8", "small.cu", small | {"LIMBS": 2}),
        ("K1 2 bits bf16, batch 1-8", "small.cu", small | {"LIMBS": 0}),
        ("K1 4 bits accurate, batch 17-32", "small.cu", small | {"FORMAT": 1, "LIMBS": 2, "SETS": 4, "BLOCKS": 1}),
        ("K3 bitmap int8, batch 1-8", "small.cu", small | {"FORMAT": 2, "BLOCKS": 1}),
        ("K2 2 bits int8", "gemm.cu", large),
        ("K2 2 bits accurate", "gemm.cu", large | {"LIMBS": 2, "STAGES": 2}),
        ("K2 4 bits int8, groups", "gemm.cu", large | {"FORMAT": 1, "GROUPED": 1}),
        ("K2 specialised, 2 bits int8", "hopper.cu", hopper),
        ("K2 specialised, 2 bits accurate", "hopper.cu", hopper | {"LIMBS": 2}),
        ("K2 specialised, 4 bits int8, groups", "hopper.cu", hopper | {"FORMAT": 1, "BLOCKS": 1, "GROUPED": 1}),
        ("K4 2 bits int8", "gemm.cu", large | {"CONVOLUTION": 1}),
        ("K5 rows, accurate", "quantize.cu", {"LIMBS": 2, "ORDER": 0, "ELEMENT": 2}),
    ]
    listed = importlib.metadata.files("nvidia-cuda-cuobjdump") or []
    tool = next(str(f.locate()) for f in listed if f.name == "cuobjdump")
    for name, source, defines in variants:
        for arch in ARCHITECTURES if source != "hopper.cu" else ["sm_90a"]:
            extra = {"WGMMA": int(arch == "sm_90a")} if source == "gemm.cu" else {}
            compiled = compiler.compile(source, arch, defines | extra)
            registers = max(map(int, re.findall(r"Used (\d+) registers", compiled.log)))
            spills = sum(map(int, re.findall(r"(\d+) bytes spill", compiled.log)))
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(compiled.code)
                file.flush()
                text = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
            counts = {i: len(re.findall(rf"\b{i}\b", text)) for i in COUNTED}
            row = {"kernel": name, "arch": arch, "registers": registers, "spill_bytes": spills, "instructions": counts}
            print(json.dumps(row), flush=True)
            yield row
