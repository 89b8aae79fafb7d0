"""Block-circulant weights: the projection against least squares, its algebra, and the FFT identities."""

import math

import pytest
import torch

from robustq.core.errors import OptionError
from robustq.core.structures.circulant import Circulant, expand, project

SHAPES = [((6, 6), 3), ((7, 5), 2), ((5, 7), 4), ((4, 4), 4), ((9, 9), 2), ((6, 5, 3, 3), 4), ((4, 6, 3), 3)]


def weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nearest(w: torch.Tensor, block: int) -> torch.Tensor:
    return expand(project(w, block)[0], tuple(w.shape))


def test_golden():
    vectors, energy = project(torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 10]]), 3)
    assert vectors.shape == (1, 1, 1, 3)
    assert vectors.flatten().tolist() == pytest.approx([16 / 3, 5, 5])
    assert energy == pytest.approx(3 * (256 / 9 + 50) / 304)


def test_first_column_convention():
    dense = expand(torch.tensor([[[[1.0, 2.0, 3.0]]]]), (3, 3))
    assert dense.tolist() == [[1, 3, 2], [2, 1, 3], [3, 2, 1]]


@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_projection_is_least_squares_over_existing_entries(shape, block):
    w = weight(*shape)
    vectors, energy = project(w, block)
    size = vectors.numel()
    basis = torch.stack([expand(unit.reshape(vectors.shape), shape).flatten() for unit in torch.eye(size)], 1)
    solution = torch.linalg.lstsq(basis.double(), w.flatten().double()[:, None], driver="gelsd").solution
    assert torch.allclose(vectors.flatten().double(), solution.flatten(), atol=1e-5)
    assert energy == pytest.approx(float(nearest(w, block).square().sum() / w.square().sum()), rel=1e-5)


@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_orthogonal_projection(shape, block):
    a, b = weight(*shape), weight(*shape, seed=1)
    pa, pb = nearest(a, block), nearest(b, block)
    assert torch.allclose(nearest(pa, block), pa, atol=1e-6)
    assert torch.allclose(nearest(2 * a - 3 * b, block), 2 * pa - 3 * pb, atol=1e-5)
    assert float((pa * b).sum()) == pytest.approx(float((a * pb).sum()), abs=1e-4)
    assert float(((a - pa) * pb).sum()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("shape", "block"), SHAPES)
def test_parameter_count_and_tiles(shape, block):
    vectors, _ = project(weight(*shape), block)
    p, q, positions = math.ceil(shape[0] / block), math.ceil(shape[1] / block), math.prod(shape[2:])
    assert vectors.shape == (positions, p, q, block)
    matrix = nearest(weight(*shape), block).reshape(shape[0], shape[1], -1)
    for r in range(shape[0] - 1):
        for s in range(shape[1] - 1):
            if r // block == (r + 1) // block and s // block == (s + 1) // block:
                assert torch.equal(matrix[r, s], matrix[r + 1, s + 1])


@pytest.mark.parametrize("block", [3, 4, 5])
def test_fft_matvec_is_the_dense_one(block):
    p, q = 2, 3
    c, x = weight(1, p, q, block).double(), weight(q, block, seed=2).double()
    fast = torch.fft.irfft((torch.fft.rfft(c[0]) * torch.fft.rfft(x)).sum(1), n=block)
    assert torch.allclose(fast.flatten(), expand(c, (p * block, q * block)) @ x.flatten(), atol=1e-12)


def test_gradients_follow_the_fft_formulas():
    block, p, q = 4, 2, 3
    c = weight(1, p, q, block).double().requires_grad_()
    x = weight(q, block, seed=2).double().requires_grad_()
    g = weight(p, block, seed=3).double()
    (expand(c, (p * block, q * block)) @ x.flatten() * g.flatten()).sum().backward()
    fc, fx, fg = torch.fft.rfft(c[0].detach()), torch.fft.rfft(x.detach()), torch.fft.rfft(g)
    assert c.grad is not None
    assert x.grad is not None
    assert torch.allclose(c.grad[0], torch.fft.irfft(fx.conj()[None] * fg[:, None], n=block), atol=1e-12)
    assert torch.allclose(x.grad, torch.fft.irfft((fc.conj() * fg[:, None]).sum(0), n=block), atol=1e-12)


def test_products_and_transposes_stay_circulant():
    a, b = (expand(weight(1, 1, 1, 5, seed=s), (5, 5)) for s in (0, 1))
    for matrix in (a @ b, a.T):
        assert torch.allclose(nearest(matrix, 5), matrix, atol=1e-5)


def test_random_weights_keep_one_kth_of_their_energy():
    for block in (2, 4, 8):
        assert project(weight(256, 256), block)[1] == pytest.approx(1 / block, rel=0.05)
    assert project(torch.zeros(4, 4), 2)[1] == 1.0


def test_method_leaves_small_layers_alone():
    found = Circulant(block=4).project({"first": weight(8, 3, 3, 3), "body": weight(8, 8, 3, 3), "fc": weight(10, 16)})
    assert list(found) == ["body", "fc"]
    assert found["fc"].shape == (10, 16)
    assert torch.allclose(found["body"].dense(), nearest(weight(8, 8, 3, 3), 4), atol=1e-3)


def test_training_sees_what_is_exported_and_reaches_every_entry():
    latent = {"w": weight(6, 5).requires_grad_(), "small": weight(3, 8).requires_grad_()}
    session = Circulant(block=4).attach(latent, 10)
    seen = session.view({**latent, "bias": torch.ones(2)})
    packed = session.encode({**latent, "bias": torch.ones(2)})
    assert list(packed) == ["w"]
    assert torch.equal(packed["w"].dense(), seen["w"].detach())
    assert seen["small"] is latent["small"]
    upstream = weight(6, 5, seed=4)
    (seen["w"] * upstream).sum().backward()
    assert latent["w"].grad is not None
    assert torch.allclose(latent["w"].grad, nearest(upstream, 4), atol=1e-6)  # the projection is its own adjoint


@pytest.mark.parametrize("block", [0, 6])
def test_block_must_fit(block):
    with pytest.raises(OptionError, match=f"block of {block} does not fit a weight of 7 outputs and 5 inputs"):
        project(weight(7, 5), block)


def test_block_of_one_is_no_structure():
    with pytest.raises(OptionError, match="outside"):
        Circulant(block=1)
