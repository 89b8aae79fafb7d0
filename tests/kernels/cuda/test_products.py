"""What is launched: every common variant is in the list that is built ahead of time."""

import itertools

import pytest
import torch

from robustq.kernels.cuda import compiler
from robustq.kernels.cuda.layout import fragments
from robustq.kernels.cuda.products import SMALL, Epilogue, Gpu, Launch, Window, convolution, linear


def line(launch: Launch) -> str:
    defines = sorted((key, value) for key, value in launch.defines.items() if key != "WGMMA")
    return " ".join([launch.source, *(f"{key}={value}" for key, value in defines)])


def test_the_variants_built_ahead_of_time_are_those_that_are_launched() -> None:
    asked: list[Launch] = []

    def note(launch: Launch, _: torch.device) -> None:
        asked.append(launch)

    window = Window((1, 1), (1, 1), (0, 0), (1, 1))
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    for bits, mode, dtype in itertools.product((2, 4), ("int8", "accurate", "bf16"), dtypes):
        if (bits, mode) == (4, "bf16"):
            continue
        for groups, samples in itertools.product((1, 2), (1, 16, SMALL, SMALL + 1)):
            weight = fragments(torch.zeros(16, 256, dtype=torch.int8), torch.ones(groups, 16), bits)
            for gpu in (Gpu(), Gpu(wgmma=True, specialised=True)):
                linear(torch.zeros(samples, 256, dtype=dtype), weight, mode, note, gpu=gpu)
        if mode != "bf16":
            kernel = fragments(torch.zeros(16, 16, dtype=torch.int8), torch.ones(1, 16), bits)
            convolution(torch.zeros(1, 16, 2, 2, dtype=dtype), kernel, window, mode, note)
    assert {line(launch) for launch in asked} == set(compiler.source("variants.txt").splitlines())


@pytest.mark.parametrize(("samples", "kernel"), [(1, "small_linear"), (SMALL, "small_linear"), (33, "large_product")])
def test_few_samples_go_where_weights_are_read_once(samples: int, kernel: str) -> None:
    asked: list[str] = []
    weight = fragments(torch.zeros(16, 128, dtype=torch.int8), torch.ones(1, 16), 2)
    linear(torch.zeros(samples, 128), weight, "int8", lambda launch, _: asked.append(launch.function))
    assert asked == ["quantize_rows", kernel]


@pytest.mark.parametrize(("epilogue", "kernel"), [(False, "specialised_product"), (True, "large_product")])
def test_the_specialised_kernel_runs_where_it_is_asked_for_and_can(epilogue: bool, kernel: str) -> None:
    asked: list[Launch] = []
    weight = fragments(torch.zeros(300, 128, dtype=torch.int8), torch.ones(1, 300), 2)
    after = Epilogue(residual=torch.zeros(200, 300) if epilogue else None)
    gpu = Gpu(wgmma=True, specialised=True, processors=3)
    linear(torch.zeros(200, 128), weight, "int8", lambda launch, _: asked.append(launch), after, gpu)
    assert [launch.function for launch in asked] == ["quantize_rows", kernel]
    assert epilogue or (asked[1].grid, asked[1].threads) == ((3, 1), 384)  # of four tiles
