"""Every built-in architecture: shapes, recognition from a state dict, refusal of what it cannot be."""

import math

import pytest
import torch

from robustq.core import registry, rng
from robustq.core.architecture import create, identify
from robustq.core.errors import OptionError

CASES = [
    ("lenet", {"width": 6, "size": 28, "channels": 1, "classes": 10}),
    ("lenet", {"width": 3, "size": 32, "channels": 3, "classes": 4}),
    ("resnet", {"depth": 8, "width": 4, "shortcut": "A", "channels": 1, "classes": 10}),
    ("resnet", {"depth": 14, "width": 4, "shortcut": "B", "channels": 3, "classes": 7}),
    ("vgg", {"depth": 11, "width": 4, "channels": 3, "classes": 10}),
    ("vgg", {"depth": 16, "width": 4, "channels": 1, "classes": 3}),
    ("enresnet", {"depth": 8, "members": 2, "width": 4, "channels": 3, "classes": 10}),
]
IDS = [f"{name}-{'-'.join(str(v) for v in options.values())}" for name, options in CASES]


def test_every_model_has_a_case() -> None:
    assert {name for name, _ in CASES} == set(registry.names("model"))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_logits_have_one_column_a_class(name: str, options: dict[str, int]) -> None:
    size = options.get("size", 28)
    logits = create(name, options).eval()(torch.rand(3, options["channels"], size, size))
    assert logits.shape == (3, options["classes"])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_state_dict_alone_tells_the_class(name: str, options: dict[str, int]) -> None:
    found = identify({key: tuple(t.shape) for key, t in create(name, options).state_dict().items()})
    assert found is not None
    assert found.name == name
    assert found.options == options


def test_parameter_counts_are_the_published_ones() -> None:
    def count(name: str, **options: int | str) -> int:
        return sum(p.numel() for p in create(name, options).parameters())

    # He et al. 2016, table 6: 0.27M, 0.46M and 0.85M; option A adds no parameters.
    assert count("resnet", depth=20) == 269_722
    assert count("resnet", depth=32) == 464_154
    assert count("resnet", depth=56) == 853_018
    assert count("lenet") == 61_706  # LeNet-5 with a full second convolution


@pytest.mark.parametrize("name", ["resnet", "enresnet"])
def test_depth_must_be_6n_plus_2(name: str) -> None:
    with pytest.raises(OptionError, match=r"depth is 21, not 6n \+ 2"):
        create(name, {"depth": 21})


def test_option_a_shortcut_subsamples_and_pads_channels_on_both_sides() -> None:
    block = create("resnet", {"depth": 8, "width": 4, "channels": 1}).get_submodule("layer2.0.shortcut")
    x = torch.arange(2 * 4 * 4 * 4, dtype=torch.float32).view(2, 4, 4, 4)
    out = block(x)
    assert out.shape == (2, 8, 2, 2)
    assert (out[:, :2] == 0).all()
    assert (out[:, 6:] == 0).all()
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])


class TestEnResNet:
    x = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))

    @staticmethod
    def net(**options: float | str) -> torch.nn.Module:
        with rng.seeded("enresnet test"):
            return create("enresnet", {"depth": 8, "width": 4, "channels": 1, **options}).eval()

    def test_without_noise_it_is_the_mean_of_its_members(self) -> None:
        net = self.net(members=3, noise=0)
        members = torch.stack([member(self.x) for member in net.get_submodule("members").children()])
        assert torch.equal(net(self.x), members.mean(0))

    def test_noise_is_on_in_eval_mode_and_follows_the_seed(self) -> None:
        net = self.net(members=2)

        def logits(seed: int) -> torch.Tensor:
            with rng.seeded(seed):
                return net(self.x)

        assert torch.equal(logits(0), logits(0))
        assert not torch.equal(logits(0), logits(1))

    def test_per_sample_noise_ignores_the_rest_of_the_batch(self) -> None:
        noise = self.net().get_submodule("members.0.layer1.0.noise")
        with rng.seeded(3):
            alone = noise(self.x[:1])
        with rng.seeded(3):
            together = noise(torch.cat([self.x[:1], 100 * self.x[1:]]))
        assert torch.equal(alone[0], together[0])

    def test_variance_falls_as_one_over_the_number_of_equal_members(self) -> None:
        single = self.net(members=1, noise=0.2)
        four = self.net(members=4, noise=0.2)
        for member in four.get_submodule("members").children():
            member.load_state_dict(single.get_submodule("members.0").state_dict())

        def variance(net: torch.nn.Module) -> float:
            with rng.seeded("draws"), torch.no_grad():
                return float(torch.stack([net(self.x) for _ in range(200)]).var(0).mean())

        assert variance(four) / variance(single) == pytest.approx(1 / 4, rel=0.25)


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("depth", [8, 20, 38, 56, 110])
def test_ensembles_of_the_papers_depths(depth: int, members: int) -> None:
    with torch.device("meta"):
        net = create("enresnet", {"depth": depth, "members": members})
    layers = [name for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    own = [name for name in layers if name.startswith("members.0.") and "shortcut" not in name]
    assert len(own) == depth
    assert len({name.split(".")[1] for name in layers}) == members


def test_wrn_34_10() -> None:
    with torch.device("meta"):
        net = create("enresnet", {"depth": 34, "widen": 10, "members": 5})
    shapes = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    member = {name: math.prod(s) for name, s in shapes.items() if name.startswith("members.0.")}
    # 46.16 million parameters, as the wide ResNet-34-10 of the literature has.
    assert sum(n for name, n in member.items() if "running" not in name and "tracked" not in name) == 46_160_474
    assert shapes["members.4.conv1.weight"] == (16, 3, 3, 3)
    assert shapes["members.0.layer3.4.conv2.weight"] == (640, 640, 3, 3)
    found = identify(shapes)
    assert found is not None
    assert {k: found.options[k] for k in ("depth", "widen", "members")} == {"depth": 34, "widen": 10, "members": 5}
    with pytest.raises(OptionError, match="depth is 32, not 6n \\+ 4"):
        create("enresnet", {"depth": 32, "widen": 10})
