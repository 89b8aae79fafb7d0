"""Auto-PGD: optima of linear models, the checkpoint rule by hand, scale invariance, targets, and refusals."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.aim import aim
from robustq.core.attacks.apgd import ApgdCe, ApgdDlr, ApgdT, Stepped
from robustq.core.attacks.attack import begin
from robustq.core.attacks.dlr import dlr, targeted_dlr
from robustq.core.attacks.norms import NORMS
from robustq.core.attacks.pace import Sparse
from robustq.core.driver import craft, perturb
from robustq.core.errors import OptionError
from robustq.core.stepping import advance, gradient

SHAPE = (2, 3, 3)
KEY = (0, "test", 0)
ALL = [ApgdCe, ApgdDlr, ApgdT]


def linear(classes: int = 3, seed: int = 0, scale: float = 1.0) -> nn.Sequential:
    """All logits are 0 for the grey image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, classes))
    weight = scale * torch.randn(classes, 18, generator=torch.Generator().manual_seed(seed))
    net[1].get_parameter("weight").data.copy_(weight)
    net[1].get_parameter("bias").data.copy_(-0.5 * weight.sum(1))
    return net


def images(n: int, low: float = 0.0, high: float = 1.0, seed: int = 1) -> Tensor:
    return low + (high - low) * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def margins(net: nn.Sequential, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(n, classes) lead of y over each class (inf for y itself), and (n, classes, 18) the gradients of these leads."""
    weight = net[1].get_parameter("weight").detach()
    slopes = weight[y][:, None] - weight
    lead = (slopes * (x - 0.5).flatten(1)[:, None]).sum(2)
    return lead.scatter(1, y[:, None], float("inf")), slopes


@pytest.mark.parametrize("attack", ALL)
@pytest.mark.parametrize(("norm", "dual", "near"), [("linf", 1.0, 1e-4), ("l2", 2.0, 1e-3), ("l1", math.inf, 0.02)])
def test_linear_models_fall_exactly_beyond_their_analytic_margin(
    attack: type[Stepped], norm: str, dual: float, near: float
) -> None:
    net, x = linear(), images(40, 0.4, 0.6)
    with torch.no_grad():
        y = net(x).argmax(1)
    lead, slopes = margins(net, x, y)
    distance = (lead / torch.linalg.vector_norm(slopes, ord=dual, dim=2).clamp_min(1e-9)).amin(1)
    eps = float(distance.median())
    assert distance.max() < 0.4  # the box is not in the way
    found = perturb(attack(eps=eps, norm=norm, steps=100), net, x, y)
    apart = (distance - eps).abs() > near
    assert apart.sum() > 25
    assert not (found.fooled & (distance > eps + near)).any()
    missed = int((~found.fooled & (distance < eps - near)).sum())
    assert missed <= (1 if norm == "l1" else 0)  # sparse steps are a heuristic: they may end in another corner
    assert 10 < found.fooled.sum() < 30


@settings(max_examples=20, deadline=None)
@given(
    norm=st.sampled_from(list(NORMS)),
    name=st.sampled_from(["apgd-ce", "apgd-dlr", "apgd-t"]),
    eps=st.floats(0.0, 2.0),
    seed=st.integers(0, 1000),
)
def test_points_stay_in_the_ball_and_in_the_box(norm: str, name: str, eps: float, seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    x, y = images(5, seed=seed), torch.arange(5) % 4
    attack = registry.create(name, {"norm": norm, "eps": eps, "steps": 12}, "attack")
    found = craft(attack, net, x, y, KEY, torch.arange(5))
    assert (NORMS[norm].size(found - x) <= eps + 1e-6).all()
    assert 0 <= found.min() <= found.max() <= 1


def test_the_first_point_touches_the_sphere() -> None:
    x, y = images(4, 0.4, 0.6), torch.zeros(4, dtype=torch.long)
    for norm, shape in NORMS.items():
        start = begin(ApgdCe(eps=0.1, norm=norm), x, y, KEY, torch.arange(4))["x"]
        assert torch.allclose(shape.size(start - x), torch.full((4,), 0.1), atol=1e-6)


def run(attack: Stepped, values: list[list[float]]) -> list[dict[str, Tensor]]:
    """The states after each update, for objectives given by hand: values[t][image], gradient t + 1."""
    n = len(values[0])
    x, y = torch.full((n, 1, 1, 1), 0.5), torch.zeros(n, dtype=torch.long)
    state = begin(attack, x, y, KEY, torch.arange(n))
    states = []
    for t, row in enumerate(values):
        given = state | {"value": torch.tensor(row)}
        new = attack.update(given, torch.zeros(n, 2), torch.full((n, 1, 1, 1), float(t + 1)), KEY)
        state = state | new | {"taken": state["taken"] + 1}
        states.append(state)
    return states


def test_checkpoints_come_at_22_then_19_steps_and_halve_only_what_stalls() -> None:
    rising = [float(t) for t in range(60)]
    swinging = [float(t % 2) for t in range(60)]
    states = run(ApgdCe(eps=0.1), [[a, b] for a, b in zip(rising, swinging, strict=True)])
    lengths = torch.stack([s["length"] for s in states])
    assert lengths[:, 0].unique().tolist() == pytest.approx([0.2])
    # Values 0..22 make 22 steps: the update that sees value 22 is at the first checkpoint, 22 + 19 at the second.
    assert lengths[:, 1].tolist() == pytest.approx([0.2] * 22 + [0.1] * 19 + [0.05] * 16 + [0.025] * 3)


def test_a_halved_image_goes_on_from_its_best_point() -> None:
    values = [[float(t == 3)] for t in range(23)]  # the best value comes with the fourth point
    states = run(ApgdCe(eps=0.1), values)
    best = states[2]["x"]  # made by the third update, evaluated by the fourth
    assert torch.equal(states[-1]["best"], best)
    length = 0.1
    ahead = (0.5 + (best + length - 0.5).clamp(-0.1, 0.1)).clamp(0, 1)
    moved = best + 0.75 * (ahead - best) + 0.25 * (best - states[-2]["x"])
    assert torch.allclose(states[-1]["x"], 0.5 + (moved - 0.5).clamp(-0.1, 0.1), atol=1e-6)


def test_dlr_by_hand() -> None:
    logits, y = torch.tensor([[4.0, 1.0, 3.0, -2.0], [4.0, 1.0, 3.0, -2.0]]), torch.tensor([0, 1])
    assert dlr(logits, y).tolist() == pytest.approx([(3 - 4) / (4 - 1), (4 - 1) / (4 - 1)])
    found = targeted_dlr(logits, y, torch.tensor([3, 2]))
    assert found.tolist() == pytest.approx([(-2 - 4) / (4 - (1 - 2) / 2), (3 - 1) / (4 - (1 - 2) / 2)])
    three = targeted_dlr(logits[:, :3], y, torch.tensor([1, 2]))
    assert three.tolist() == pytest.approx([(1 - 4) / (4 - 2), (3 - 1) / (4 - 2)])


@pytest.mark.parametrize("attack", [ApgdDlr, ApgdT])
def test_dlr_attacks_do_not_see_the_scale_of_the_logits(attack: type[Stepped]) -> None:
    x, y = images(20), torch.arange(20) % 3
    one, large = (perturb(attack(eps=0.05, steps=10), linear(scale=s), x, y) for s in (1.0, 1024.0))
    assert torch.equal(one.fooled, large.fooled)
    assert torch.allclose(one.adversarial, large.adversarial, atol=1e-6)


def test_targets_are_the_likeliest_other_classes_of_the_image_in_turn() -> None:
    aims: list[list[int]] = []

    class Spy(ApgdT):
        def objective(self, state: dict[str, Tensor], logits: Tensor) -> Tensor:
            aims.append(aim(state).tolist())
            return super().objective(state, logits)

    def net(x: Tensor) -> Tensor:
        return torch.tensor([[5.0, 2.0, 4.0, 3.0]]) + 0 * x.flatten(1).sum(1, keepdim=True)

    found = perturb(Spy(eps=0.1, steps=1), net, images(2), torch.zeros(2, dtype=torch.long))
    assert aims == [[2, 2], [3, 3], [1, 1]]  # 3 classes beside the label, although 9 targets are asked for
    assert found.robust.all()


def test_batches_and_order_change_nothing() -> None:
    x, y, attack = images(30), torch.arange(30) % 5, ApgdT(eps=0.1, steps=12, targets=2)
    whole = perturb(attack, linear(5), x, y, drop=False, micro_batch=30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    mixed = perturb(attack, linear(5), x[order], y[order], index=order, micro_batch=4)
    assert torch.equal(mixed.fooled, whole.fooled[order])
    assert torch.equal(mixed.first_step, whole.first_step[order])
    assert torch.allclose(mixed.adversarial, whole.adversarial[order], atol=1e-4)


def test_a_randomized_model_is_judged_at_the_best_point() -> None:
    x, y = torch.full((2, 1, 1, 1), 0.5), torch.zeros(2, dtype=torch.long)
    state = begin(ApgdCe(eps=0.1), x, y, KEY, torch.arange(2)) | {"best": x + 0.05}
    assert torch.equal(ApgdCe(eps=0.1).final(state, randomized=True), x + 0.05)
    assert torch.equal(ApgdCe(eps=0.1).final(state, randomized=False), state["x"])


def test_with_two_classes_dlr_attacks_climb_the_margin() -> None:
    net, x = linear(2), images(30, 0.4, 0.6)
    with torch.no_grad():
        y = net(x).argmax(1)
    targeted, untargeted, plain = (perturb(attack(eps=0.02), net, x, y).fooled for attack in (ApgdT, ApgdDlr, ApgdCe))
    assert torch.equal(targeted, plain)
    assert torch.equal(untargeted, plain)
    assert 0 < plain.sum() < 30


@pytest.mark.parametrize(
    ("options", "found"),
    [({"steps": 0}, "steps is 0"), ({"targets": 0}, "targets is 0"), ({"step": 0.1}, "no option 'step'")],
)
def test_wrong_options_are_named(options: dict[str, Any], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create("apgd-t", {"eps": 0.1} | options, "attack")


def test_inwards_it_comes_from_larger_balls_and_counts_the_last_one_only() -> None:
    attack = ApgdCe(eps=0.5, norm="l1", steps=10, inwards=True)
    assert attack.stages == [(1.5, 3), (1.0, 3), (0.5, 4)]
    net, x = linear(), images(8, 0.3, 0.7)
    with torch.no_grad():
        y = net(x).argmax(1)
    state, sizes, counted = begin(attack, x, y, KEY, torch.arange(8)), [], []
    for _ in range(10):
        logits, grad, value = gradient(attack, net, state)
        sizes.append(float(NORMS["l1"].size(state["x"] - x).max()))
        counted.append(bool(attack.success(state, -torch.eye(3)[y]).all()))
        state = advance(attack, state, logits, grad, value, KEY)
    assert sizes == pytest.approx([1.5] * 3 + [1.0] * 3 + [0.5] * 4, abs=1e-3)
    assert counted == [False] * 6 + [True] * 4
    assert NORMS["l1"].size(attack.final(state, True) - x).max() <= 0.5


def test_sparsity_follows_the_best_point_by_hand() -> None:
    clean = torch.full((2, 1, 3, 5), 0.5)
    best = clean.clone()
    best[0, 0, 0, 0] = best[1, 0, 0, :3] = 0.6
    state = {"clean": clean, "best": best, "count": torch.tensor([9, 3]), "share": torch.tensor([0.2, 0.2])}
    state |= {"length": torch.tensor([0.4, 0.4]), "radius": torch.tensor([1.0, 1.0])}
    back, changed = Sparse().checked(state, torch.tensor([True, True]))
    assert back.tolist() == [True, False]  # 1 of 9 entries is left: progress; 3 of 3 is none
    assert changed["length"].tolist() == pytest.approx([1.0, 0.4 / 1.5])
    assert changed["share"].tolist() == pytest.approx([1 / 15 / 1.5, 3 / 15 / 1.5])
    assert changed["count"].tolist() == [1, 3]
    grad = torch.arange(15.0).view(1, 1, 3, 5).repeat(2, 1, 1, 1)
    moved = Sparse().moved(state | {"share": torch.tensor([0.21, 0.0])}, clean, grad, "l1") - clean
    assert torch.allclose(moved[0].flatten()[-4:], torch.full((4,), 0.1), atol=1e-6)
    assert not moved[0].flatten()[:-4].any()
    assert moved[1].flatten()[-1].item() == pytest.approx(0.4, abs=1e-6)
