"""Long evaluations: parts are kept and found again, deadlines leave the rest out, and parts alone decide the result."""

import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core import evaluation
from robustq.core.attacks.apgd import ApgdCe
from robustq.core.attacks.ensemble import AutoAttack
from robustq.core.attacks.pgd import Pgd
from robustq.core.attacks.transfer import Transfer
from robustq.core.benchmark import Candidate, benchmark
from robustq.core.datasets.dataset import Dataset
from robustq.core.deadline import Deadline, TimeIsUp
from robustq.core.errors import InputFileError, OptionError, OutputError
from robustq.core.evaluation import Survey, survey
from robustq.core.ledger import Ledger, described
from robustq.core.pieces import Piece, parts
from robustq.core.work import Work

ATTACK = Pgd(eps=0.05, steps=4, restarts=2)
IDENTITY = {"models": {"a": "1234"}, "attacks": {"pgd": {"eps": 0.05}}, "seed": 0}


@pytest.fixture
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(10, 1, 4, 4, generator=generator)
    return Dataset("random", "test", images, (images.flatten(1).mean(1) > 0.5).long(), 2, divisor=1.0)


class Bright(nn.Module):
    """Class 1 where the mean is above a half; `passes` counts forward passes, the one `fatal` raises."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise, self.passes, self.fatal = noise, 0, -1

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == self.fatal:
            raise KeyboardInterrupt
        mean = 4 * (x.flatten(1).mean(1) - 0.5)
        mean = mean + self.noise * torch.randn_like(mean)
        return torch.stack([-mean, mean], 1)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "parts", lambda n, attack=None: list(torch.arange(n).split(3)))


def same(one: Survey, other: Survey) -> bool:
    counts = ("forwards", "backwards", "unconfirmed", "zero_gradient", "close", "survivors", "through_rounding")
    tensors = ("robust", "first_step", "done")
    return all(torch.equal(getattr(one, n), getattr(other, n)) for n in tensors) and all(
        getattr(one, n) == getattr(other, n) for n in counts
    )


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_an_interrupted_run_goes_on_and_gives_the_same(data: Dataset, tmp_path: Path, noise: float) -> None:
    whole = survey(ATTACK, Bright(noise), data)
    model = Bright(noise)
    work = Work(ledger=Ledger(tmp_path / "state", IDENTITY))
    survey(ATTACK, model, data, work=work, job="first")
    model.passes, model.fatal = 0, model.passes // 2
    again = Work(ledger=Ledger(tmp_path / "other", IDENTITY))
    with pytest.raises(KeyboardInterrupt):
        survey(ATTACK, model, data, work=again, job="a pgd")
    kept = len(list((tmp_path / "other").glob("*.safetensors")))
    assert 0 < kept < 4
    model.fatal, model.passes = -1, 0
    resumed = survey(ATTACK, model, data, work=Work(ledger=Ledger(tmp_path / "other", IDENTITY)), job="a pgd")
    assert same(resumed, whole)
    assert model.passes < whole.forwards
    model.passes = 0
    finished = survey(ATTACK, model, data, work=Work(ledger=Ledger(tmp_path / "other", IDENTITY)), job="a pgd")
    assert same(finished, whole)
    assert model.passes == 5  # only whether it is randomized is found out again


def test_jobs_are_kept_apart(data: Dataset, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, IDENTITY)
    weak, strong = Pgd(eps=0.01), Pgd(eps=0.3)
    for job, attack in (("a/b", weak), ("a_b", strong)):
        survey(attack, Bright(), data, work=Work(ledger=ledger), job=job)
    found = [survey(weak, Bright(), data, work=Work(ledger=ledger), job=job).accuracy.hits for job in ("a/b", "a_b")]
    assert found == [survey(attack, Bright(), data).accuracy.hits for attack in (weak, strong)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"models": {"a": "5678"}}, "models a is 1234 there, 5678 here"),
        ({"attacks": {"pgd": {"eps": 0.1}}}, "attacks pgd eps is 0.05 there, 0.1 here"),
        ({"attacks": {}}, "attacks pgd is .* there, missing here"),
        ({"threads": 2}, "threads is missing there, 2 here"),
    ],
)
def test_the_state_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    Ledger(tmp_path, IDENTITY)
    Ledger(tmp_path, dict(IDENTITY))
    with pytest.raises(OptionError, match=message):
        Ledger(tmp_path, {**IDENTITY, **change})


def test_folders_and_files_that_are_no_state_are_refused(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        Ledger(tmp_path / "mine", IDENTITY)
    with pytest.raises(OutputError, match="cannot be used"):
        Ledger(tmp_path / "mine" / "thesis.tex", IDENTITY)
    ledger = Ledger(tmp_path / "state", IDENTITY)
    survey(ATTACK, Bright(), data, work=Work(ledger=ledger), job="job")
    victim = min((tmp_path / "state").glob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:20])
    with pytest.raises(InputFileError, match="holds no results of an attack"):
        survey(ATTACK, Bright(), data, work=Work(ledger=ledger), job="job")
    (tmp_path / "state" / "run.json").write_text("{")
    with pytest.raises(InputFileError, match=r"run\.json cannot be read"):
        Ledger(tmp_path / "state", IDENTITY)


def test_parts_of_another_size_are_refused(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path, IDENTITY)
    survey(ATTACK, Bright(), data, work=Work(ledger=ledger), job="job")
    monkeypatch.setattr(evaluation, "parts", lambda n, attack=None: list(torch.arange(n).split(5)))
    with pytest.raises(InputFileError, match="has 3 images, not 5"):
        survey(ATTACK, Bright(), data, work=Work(ledger=ledger), job="job")


def test_pieces_come_back_as_they_were(tmp_path: Path) -> None:
    piece = Piece(
        torch.tensor([True, False]), torch.tensor([-1, 3]), torch.tensor([torch.inf, 0.5]),
        forwards=7, seconds=0.25, through_rounding=True, survivors={"pgd": 1}, batch=16,
    )  # fmt: skip
    (tmp_path / "piece").write_bytes(piece.to_bytes())
    found = Piece.read(str(tmp_path / "piece"))
    assert torch.equal(found.robust, piece.robust)
    assert torch.equal(found.first_step, piece.first_step)
    assert found.minimal_norms is not None
    assert piece.minimal_norms is not None
    assert torch.equal(found.minimal_norms, piece.minimal_norms)
    assert (found.forwards, found.seconds, found.through_rounding, found.survivors, found.batch, found.close) == (
        7, 0.25, True, {"pgd": 1}, 16, 0
    )  # fmt: skip


def test_parts_depend_on_the_attack_alone() -> None:
    sizes = {name: len(parts(5000, attack)[0]) for name, attack in (
        ("none", None), ("pgd", Pgd(eps=0.1)), ("apgd", ApgdCe(eps=0.1, restarts=5)), ("all", AutoAttack(eps=0.1)),
    )}  # fmt: skip
    assert sizes == {"none": 1024, "pgd": 1024, "apgd": 512, "all": 64}
    whole = parts(100, AutoAttack(eps=0.1))
    assert torch.equal(torch.cat(whole), torch.arange(100))
    assert [len(part) for part in whole] == [64, 36]
    assert parts(0) == []


def test_attacks_are_told_apart_by_members_and_files(tmp_path: Path) -> None:
    whole, short = described(AutoAttack(eps=0.1)), described(AutoAttack(eps=0.1, queries=10))
    assert [m["name"] for m in whole["members"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert whole != short
    file = tmp_path / "adversarials"
    found = []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        found.append(described(Transfer(eps=0.1, files=(str(file),))))
    assert found[0] != found[1]


class Expires(Deadline):
    """Passes after so many questions."""

    def __init__(self, questions: int) -> None:
        super().__init__(1.0)
        self.left = questions

    @property
    def passed(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_deadline_leaves_the_rest_out(data: Dataset, tmp_path: Path) -> None:
    whole = survey(ATTACK, Bright(), data)
    ledger = Ledger(tmp_path, IDENTITY)
    found = survey(ATTACK, Bright(), data, work=Work(ledger=ledger, deadline=Expires(20)), job="a")
    done = int(found.done.sum())
    assert 0 < done < 10
    assert found.done.tolist() == [True] * done + [False] * (10 - done)
    assert torch.equal(found.robust[:done], whole.robust[:done])
    assert not found.robust[done:].any()
    assert found.accuracy.n == done
    late = survey(ATTACK, Bright(), data, work=Work(ledger=ledger, deadline=Expires(0)), job="a")
    assert same(late, found)  # what is known already needs no time
    assert same(survey(ATTACK, Bright(), data, work=Work(ledger=ledger), job="a"), whole)


def test_the_report_says_what_a_deadline_left_out(data: Dataset) -> None:
    attacks = {"first": Pgd(eps=0.05, steps=2), "second": Pgd(eps=0.1, steps=20), "third": Pgd(eps=0.2)}
    (whole,) = benchmark([Candidate("a", Bright())], data, {"first": attacks["first"]}, latency=False, checks="none")
    (entry,) = benchmark([Candidate("a", Bright())], data, attacks, latency=False, work=Work(deadline=Expires(60)))
    assert not entry["complete"]
    assert entry["attacks"]["first"] == whole["attacks"]["first"]
    done = entry["unfinished"]["second"]["done"]
    assert entry["unfinished"] == {"second": {"done": done, "n": 10}, "third": {"done": 0, "n": 10}}
    assert 0 < done < 10
    assert entry["attacks"]["second"]["n"] == entry["worst_case"]["n"] == done
    assert "third" not in entry["attacks"]
    assert any(f"after {done} of 10 images" in w for w in entry["warnings"])
    assert any(w.startswith("third: the time limit was reached before") for w in entry["warnings"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), (".5 m", 30), ("1.5h", 5400)]
)
def test_times(text: str, seconds: float) -> None:
    found = Deadline.parse(text)
    assert found is not None
    assert found.seconds == seconds
    assert not found.passed


@pytest.mark.parametrize("text", ["", "0", "-5", "10 d", "1:30", "ten", "1e3"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--time-limit is"):
        Deadline.parse(text)


def test_a_deadline_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Deadline.parse(None) is None
    now = time.monotonic()
    deadline = Deadline(60)
    deadline.check()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    with pytest.raises(TimeIsUp):
        deadline.check()


@dataclass(frozen=True)
class Watched(Dataset):
    """Says how many images are in memory as floats, by the tensors it handed out."""

    def batch(self, index: Tensor, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        x, y = super().batch(index, device)
        LIVE.append((len(x), weakref.ref(x)))
        PEAK.append(sum(n for n, ref in LIVE if ref() is not None))
        return x, y


LIVE: list[Any] = []
PEAK: list[int] = []


def test_memory_is_that_of_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images there are: those of one part are floats at a time, and no adversarial outlives its part."""
    monkeypatch.setattr(evaluation, "parts", lambda n, attack=None: list(torch.arange(n).split(50)))
    results: list[Any] = []
    peaks = []
    original = evaluation.perturb

    def watched(*args: Any, **settings: Any) -> Any:
        found = original(*args, **settings)
        results.append(weakref.ref(found.adversarial))
        assert sum(ref() is not None for ref in results) <= 2  # this one, and at most the one before
        return found

    monkeypatch.setattr(evaluation, "perturb", watched)
    for n in (200, 1000):
        LIVE.clear()
        PEAK.clear()
        images = torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8)
        data = Watched("many", "test", images, torch.zeros(n, dtype=torch.long), 2)
        survey(Pgd(eps=0.05, steps=1), Bright(), data, batch_size=25)
        assert len(LIVE) >= n // 50
        peaks.append(max(PEAK))
    assert peaks[0] == peaks[1] <= 100
    assert len(results) == 24
