"""The thread pool: its own test program, and what a Python process sees of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from robustq.kernels import backend

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "kernels" / "native"
needs_native = pytest.mark.skipif(backend.native is None, reason="the native module is not built")
START = """
import multiprocessing, os, sys, threading
import torch
from robustq.kernels import lowbit, lowbit_ops
rng = torch.Generator().manual_seed(0)
x = torch.randn(64, 1500, generator=rng)
codes = torch.randint(-1, 2, (4096, 1500), generator=rng).to(torch.int8)
packed, scale = lowbit.pack(codes, 2), torch.ones(1, 4096)
def call():  # as bytes: torch's own threads, which do not survive a fork, would compare large tensors
    return lowbit_ops.lowbit_linear(x, packed, scale, None, 2, 1500).numpy().tobytes()
torch.set_num_threads(1)
expected = call()
def own_threads():
    return len(os.listdir("/proc/self/task"))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++")
    if compiler is None or sys.platform == "win32":
        pytest.skip("no C++ compiler on this machine")
    made = tmp_path_factory.mktemp("parallel") / "parallel_test"
    sources = [str(HERE / "parallel_test.cpp"), str(NATIVE / "parallel.cpp")]
    subprocess.run([compiler, "-std=c++17", "-O1", "-pthread", "-I", str(NATIVE), *sources, "-o", made], check=True)
    return made


@pytest.mark.parametrize("case", ["ranges", "threads", "exceptions", "callers", "nested", "forks"])
def test_pool(program: Path, case: str) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, timeout=400)
    assert (done.returncode, done.stdout) == (0, "")


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, timeout=400, env=environment
    )


@needs_native
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_the_number_of_threads_is_asked_for_at_each_call_and_processes_end_in_order() -> None:
    done = run("""
alone, answers = own_threads(), [call()]
assert own_threads() == alone
for wanted in (3, 2, 4, 1):
    torch.set_num_threads(wanted)
    answers.append(call())
    print(own_threads() - alone)
assert all(answer == expected for answer in answers)
""")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["2", "2", "3", "3"], "")


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_children_have_threads_of_their_own() -> None:
    done = run("""
torch.set_num_threads(3)
assert call() == expected
def child(queue):
    torch.set_num_threads(2)
    queue.put(call() == expected)
context = multiprocessing.get_context("fork")
queue = context.Queue()
children = [context.Process(target=child, args=(queue,)) for _ in range(2)]
for one in children: one.start()
print([queue.get(timeout=60) for _ in children])
for one in children: one.join()
print([one.exitcode for one in children], flush=True)  # or the child would write it too
if (pid := os.fork()) == 0:
    sys.exit(0 if call() == expected else 3)
print(os.waitpid(pid, 0)[1], call() == expected)
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[True, True]", "[0, 0]", "0 True"]


@needs_native
def test_callers_at_once_on_several_threads_each() -> None:
    done = run("""
torch.set_num_threads(3)
wrong = []
def many():
    for _ in range(20):
        if call() != expected: wrong.append(1)
callers = [threading.Thread(target=many) for _ in range(4)]
for one in callers: one.start()
for turn in range(10):
    torch.set_num_threads(2 + turn % 3)
    if call() != expected: wrong.append(1)
for one in callers: one.join()
print(len(wrong))
""")
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
