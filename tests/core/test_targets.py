"""Which tensors are weights, and which are kept."""

import pytest
import torch

from robustq.core.errors import OptionError
from robustq.core.targets import find


def tensors(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}


NET = tensors(
    conv1__weight=(8, 3, 3, 3),
    bn1__weight=(8,),
    bn1__bias=(8,),
    bn1__running_mean=(8,),
    layer1__0__conv1__weight=(8, 8, 3, 3),
    layer1__0__downsample__0__weight=(8, 8, 1, 1),
    layer1__0__conv2__weight=(8, 8, 3, 3),
    fc__weight=(10, 8),
    fc__bias=(10,),
)


def test_default_keeps_first_and_last():
    found = find(NET)
    assert found.names == ("layer1.0.conv1.weight", "layer1.0.downsample.0.weight", "layer1.0.conv2.weight")
    assert found.kept == ("conv1.weight", "fc.weight")


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (("none",), ()),
        (("first",), ("conv1.weight",)),
        (("last",), ("fc.weight",)),
        (("downsample",), ("layer1.0.downsample.0.weight",)),
        (("last", "downsample"), ("layer1.0.downsample.0.weight", "fc.weight")),
        (("layer1.0.conv2.weight",), ("layer1.0.conv2.weight",)),
        (("layer1.0.conv2", "bn1"), ("layer1.0.conv2.weight",)),
        ((), ()),
    ],
)
def test_keep_fp(keep, kept):
    found = find(NET, keep)
    assert found.kept == kept
    assert set(found.names) | set(kept) == {name for name in NET if NET[name].ndim > 1}


def test_shapes_and_kinds_that_are_weights():
    weights = tensors(
        a__weight=(4, 3, 5), b__weight=(4, 4, 2, 2, 2), lstm__weight_ih_l0=(8, 4), attn__in_proj_weight=(12, 4)
    )
    weights |= tensors(patch_embed__proj__weight=(8, 3, 4, 4), mlp_tokens__fc1__weight=(6, 4), kernel=(4, 4))
    assert find(weights, ("none",)).names == tuple(weights)


def test_what_is_left_alone():
    weights = tensors(
        embed__weight=(100, 8),
        token_embedding__weight=(100, 8),
        transformer__wte__weight=(100, 8),
        wpe__weight=(10, 8),
        pos_embed=(1, 10, 8),
        cls_token=(1, 1, 8),
        relative_position_bias_table=(9, 4),
        norm__weight=(4, 8, 8),
        LayerNorm__weight=(8, 8),
        odd__weight=(8, 8),
        odd__running_mean=(8,),
        affine__weight=(4, 4),
        affine__bias=(4, 4),
        normalize__mean=(1, 3, 1, 1),
        scale=(1, 8, 1, 1),
        one__weight=(1, 1),
    )
    weights["codes.weight"] = torch.ones(4, 4, dtype=torch.int64)
    weights["empty.weight"] = torch.ones(0, 4)
    assert find(weights) == find({})


def test_safetensors_order_by_name_finds_the_true_ends():
    shuffled = {name: NET[name] for name in sorted(NET)}
    alphabetical = dict(sorted({**shuffled, "zero.conv.weight": torch.ones(8, 8, 3, 3)}.items()))
    assert find(alphabetical).kept == ("conv1.weight", "fc.weight")
    vgg = tensors(classifier__0__weight=(32, 64), classifier__3__weight=(10, 32))
    vgg |= tensors(
        features__0__weight=(8, 3, 3, 3), features__10__weight=(8, 8, 3, 3), features__2__weight=(8, 8, 3, 3)
    )
    assert find(vgg).kept == ("classifier.3.weight", "features.0.weight")
    plain = {f"{n}.weight": torch.ones(s) for n, s in (("0", (4, 8)), ("10", (8, 2)), ("2", (2, 4)))}
    assert find(plain).kept == ("0.weight", "10.weight")


def test_one_layer_is_both_ends():
    assert find(tensors(fc__weight=(10, 8))).kept == ("fc.weight",)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (("frist",), "Did you mean 'first'"),
        (("layer1.0.conv3.weight",), "Did you mean 'layer1.0.conv"),
        (("none", "first"), "not both"),
    ],
)
def test_refusals(keep, said):
    with pytest.raises(OptionError, match=said):
        find(NET, keep)
