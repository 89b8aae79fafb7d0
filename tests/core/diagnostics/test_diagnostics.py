"""Every check fails on a model made to fail it, passes on an ordinary one, and says why where it is skipped."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from robustq.core import diagnostics
from robustq.core.attacks.apgd import ApgdCe
from robustq.core.attacks.attack import Attack, Knowledge
from robustq.core.attacks.fgsm import Fgsm
from robustq.core.attacks.noise import Noise
from robustq.core.attacks.pgd import Pgd
from robustq.core.attacks.replay import Parent
from robustq.core.benchmark import Candidate, benchmark
from robustq.core.datasets.dataset import Dataset
from robustq.core.diagnostics.finding import judged
from robustq.core.diagnostics.running import HOW
from robustq.core.diagnostics.table import BY_ID
from robustq.core.errors import OptionError
from robustq.core.evaluation import survey
from robustq.core.noise import BlockNoise

PGD = Pgd(eps=0.1, steps=10)
SURE = Pgd(eps=0.05, loss="margin", restarts=2)  # converges on these images


class Wrapped(nn.Module):
    """A network between a function of its input and one of its logits."""

    def __init__(self, before: Callable[[Tensor], Tensor] | None, after: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.before, self.after = before, after
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x if self.before is None else self.before(x))
        return logits if self.after is None else self.after(logits)


def model(before: Callable[[Tensor], Tensor] | None = None, after: Callable[[Tensor], Tensor] | None = None) -> Wrapped:
    return Wrapped(before, after).eval()


def images(n: int = 60) -> Dataset:
    """Images that the network classifies as they are labelled."""
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model()(x).argmax(1)
    return Dataset("test", "test", x, y, 5, 1.0)


def evidence(net: nn.Module, attacks: Mapping[str, Attack] | None = None, **facts: object) -> diagnostics.Evidence:
    data, attacks = images(), attacks or {"pgd": PGD}
    with torch.no_grad():
        answers = net(data.batch(torch.arange(len(data)))[0]).argmax(1)
    randomized = bool(facts.get("randomized", False))
    surveys = {n: survey(a, net, data, answers=answers, randomized=randomized) for n, a in attacks.items()}
    return diagnostics.Evidence(net, data, attacks, surveys, answers, **facts)  # type: ignore[arg-type]


def status(found: diagnostics.Evidence, mode: str = "default") -> dict[str, str]:
    return {finding.check.id: finding.status for finding in diagnostics.run(found, mode)}


def failed(found: diagnostics.Evidence, mode: str = "default") -> set[str]:
    return {name for name, value in status(found, mode).items() if value == "fail"}


def outcome(name: str, found: diagnostics.Evidence) -> str:
    """The status of one check, whatever it costs."""
    return HOW[name](BY_ID[name], found).status


class Dead(torch.autograd.Function):
    """The identity without a gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


def differentiating(x: Tensor) -> Tensor:
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(point.square().sum(), point)
    return x + 0 * grad


def test_an_ordinary_model_fails_nothing() -> None:
    found = evidence(model(), {"pgd": SURE})
    default = status(found)
    assert failed(found) == set()
    assert default["RQ015"] == "skipped"
    assert {outcome(name, found) for name in ("RQ010", "RQ015", "RQ016", "RQ017", "RQ019")} == {"pass"}
    assert {default[name] for name in ("RQ001", "RQ002", "RQ004", "RQ005", "RQ009", "RQ011", "RQ021", "RQ024")} == {
        "pass"
    }
    assert default["RQ013"] == "warn"  # sixty images


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (model(lambda x: x.detach()), "RQ001"),
        (model(Dead.apply), "RQ002"),
        (model(None, lambda logits: 1e5 * logits), "RQ003"),
        (model(None, lambda logits: logits + 0.5 * torch.randn_like(logits)), "RQ004"),
        (model(None, lambda logits: logits.softmax(1)), "RQ005"),
        (model(lambda x: x.detach()), "RQ009"),
        (model(lambda x: x - x.mean(0)), "RQ021"),
        (model(differentiating), "RQ021"),
    ],
)
def test_each_trap_is_found(net: nn.Module, expected: str) -> None:
    assert expected in failed(evidence(net))


def test_large_distances_of_logits_are_warned_of() -> None:
    assert status(evidence(model(None, lambda logits: 200 * logits)))["RQ005"] == "warn"


def test_black_box_beats_a_masked_gradient() -> None:
    found = evidence(model(lambda x: x.detach()), {"fgsm": Fgsm(eps=0.3), "noise": Noise(eps=0.3, points=200)})
    assert "RQ007" in failed(found)
    order = evidence(model(), {"noise": Noise(eps=0.1, points=5), "pgd": PGD})
    assert status(order)["RQ007"] == "skipped"  # nothing came after the gradient attack


def test_one_step_beats_an_attack_that_hardly_moves() -> None:
    found = evidence(model(), {"pgd": Pgd(eps=0.1, steps=2, step=1e-6)})
    assert "RQ011" in failed(found)


def test_steps_that_still_fool_are_not_enough() -> None:
    found = evidence(model(), {"pgd": Pgd(eps=0.2, steps=10, step=0.005)})
    last = int((found.surveys["pgd"].first_step > 9).sum())
    assert last > 0
    assert "RQ008" in failed(found)


def test_parent_replay_beats_a_masked_gradient() -> None:
    parent = Parent(model(), 60)
    found = evidence(model(lambda x: x.detach()), parent=parent)
    assert "RQ006" in failed(found)
    assert status(evidence(model(), {"pgd": SURE}, parent=parent))["RQ006"] == "pass"
    assert status(evidence(model()))["RQ006"] == "skipped"


def test_transfer_is_compared_with_the_longest_attack_and_not_with_one_step() -> None:
    parent = Parent(model(), 60)
    one_step = Fgsm(eps=0.05)
    assert status(evidence(model(), {"fgsm": one_step}, parent=parent))["RQ006"] == "skipped"
    both = evidence(model(), {"fgsm": one_step, "pgd": SURE}, parent=parent)
    assert status(both)["RQ006"] == "pass"
    label, attack = diagnostics.evidence.white_box(both) or ("", one_step)
    assert (label, attack.iterations) == ("pgd", SURE.iterations)


def test_radii_of_the_benchmark_are_a_sweep() -> None:
    attacks = {f"pgd-{eps}": Pgd(eps=eps, steps=10) for eps in (0.05, 0.1, 0.2)}
    assert status(evidence(model(), attacks))["RQ010"] == "pass"
    weak = {"pgd-1": Pgd(eps=0.1, steps=10), "pgd-2": Pgd(eps=0.2, steps=10)}
    found = evidence(model(), weak)
    found.surveys["pgd-2"].robust = found.answers == found.data.labels  # as if the larger radius had done nothing
    assert "RQ010" in failed(found)


def test_packed_weights_that_answer_otherwise_are_found() -> None:
    assert status(evidence(model(), artefact=model()))["RQ012"] == "pass"
    commonest = images().labels.bincount().argmax()
    constant = model(None, lambda logits: torch.eye(5)[commonest].expand_as(logits))
    assert "RQ012" in failed(evidence(model(), artefact=constant))


def test_a_preflight_names_dark_images_and_chance() -> None:
    found = evidence(model())
    dark = Dataset("dark", "test", found.data.images / 255, found.data.labels, 5, 1.0)
    findings = diagnostics.run(diagnostics.Evidence(found.model, dark, found.attacks, found.surveys, found.answers))
    (preflight,) = (f for f in findings if f.check.id == "RQ014")
    assert preflight.status == "fail"
    assert "no pixel is above" in preflight.text


def test_noise_is_measured_on_and_off() -> None:
    noisy = model(BlockNoise(2.0, "sample"))
    found = evidence(noisy, {"pgd": Pgd(eps=0.1, steps=3)}, randomized=True)
    (finding,) = (f for f in diagnostics.run(found) if f.check.id == "RQ025")
    assert "with the noise on" in finding.text
    assert finding.measured is not None
    foreign = model(lambda x: x + torch.randn_like(x))
    (finding,) = (f for f in diagnostics.run(evidence(foreign, randomized=True)) if f.check.id == "RQ025")
    assert finding.status == "skipped"
    assert "cannot be silenced" in finding.text


def test_expensive_checks_run_when_asked_for() -> None:
    flat = evidence(model(None, lambda logits: logits / 20), {"pgd": PGD})
    assert outcome("RQ018", flat) == "fail"  # the cross entropy of logits this small aims at no class
    assert outcome("RQ019", evidence(model(lambda x: (x * 7).round() / 7))) == "fail"
    assert outcome("RQ023", evidence(model(), {"pgd": Pgd(eps=0.1, steps=2, step=1e-9)})) == "fail"


def test_the_table_is_complete_and_its_ids_are_in_order() -> None:
    ids = [check.id for check in diagnostics.CHECKS]
    assert ids == [f"RQ{n:03}" for n in range(1, len(ids) + 1)]
    assert ids == [finding.check.id for finding in diagnostics.run(evidence(model()))]
    for check in diagnostics.CHECKS:
        assert check.fail is not None or check.warn is not None
        assert check.warn is None or check.fail is None or check.warn < check.fail


def test_entries_of_the_report() -> None:
    (entry,) = benchmark([Candidate("m", model())], images(), {"apgd-ce": ApgdCe(eps=0.1, steps=10)}, latency=False)
    for found in entry["checks"]:
        assert ("reason" if found["status"] == "skipped" else "message") in found
        assert bool(found["remedy"]) == (found["status"] in ("warn", "fail"))
    assert entry["gradient"] == "autograd"
    (silent,) = benchmark([Candidate("m", model())], images(), {"pgd": PGD}, latency=False, checks="none")
    assert silent["checks"] == []
    (clean,) = benchmark([Candidate("m", model())], images(), {}, latency=False)
    assert {found["status"] for found in clean["checks"]} == {"skipped"}


def test_one_image_of_a_sample_is_too_little_to_fail_on() -> None:
    check = BY_ID["RQ011"]
    assert [judged(check, 1.0, "", lone=lone).status for lone in (True, False)] == ["warn", "fail"]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(OptionError, match="'some'"):
        diagnostics.run(evidence(model()), "some")


def test_knowledge_is_no_option() -> None:
    informed = PGD.informed(Knowledge(randomized=True))
    assert informed.knowledge.randomized
    assert not PGD.knowledge.randomized
    assert informed.options() == PGD.options()


def test_a_check_that_cannot_be_made_is_skipped() -> None:
    found = evidence(model())
    found.model = model(None, lambda logits: logits * float("nan"))
    findings = {finding.check.id: finding for finding in diagnostics.run(found)}
    assert findings["RQ005"].status == "skipped"
    assert "NaN" in findings["RQ005"].text
