"""Families: parameter counts, names and initial weights are the published ones; every size works and learns."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
from tests.pictures import EVERY, pictures
from torch import nn

from distrust.errors import BadInput, NotFound
from distrust.models import (
    PAIRS,
    check_fits,
    group_ends,
    model,
    refuse_batch_norm,
    resolve,
    taps,
    teacher_student,
)
from distrust.seeds import rng


def parameters(net):
    return sum(p.numel() for p in net.parameters())


VGG11 = (3, 64, 128, 256, 256, 512, 512, 512, 512)


def wrn_formula(depth, width, classes):
    """Convolutions without bias, two numbers per normalised channel, a linear layer."""
    total, inputs = 3 * 16 * 9, 16
    for outputs in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            total += 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs * outputs
            total += inputs * outputs if inputs != outputs else 0
            inputs = outputs
    return total + 2 * inputs + inputs * classes + classes


def resnet_formula(widths, blocks, classes, padded=False):
    total, inputs = 3 * widths[0] * 9 + 2 * widths[0], widths[0]
    for outputs in widths:
        for _ in range(blocks):
            total += 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
            total += inputs * outputs + 2 * outputs if inputs != outputs and not padded else 0
            inputs = outputs
    return total + inputs * classes + classes


def convnet_formula(depth, width, channels, classes, pixels_left):
    total = sum(9 * (width if i else channels) * width + width + 2 * width for i in range(depth))
    return total + width * pixels_left * classes + classes


VGG8 = sum(9 * a * b + b + 2 * b for a, b in [(3, 64), (64, 128), (128, 256), (256, 512), (512, 512)])


@pytest.mark.parametrize(
    ("name", "classes", "published", "counted"),
    [
        # NAD (arXiv 2101.05930) trains WRN-16-1; the public definition has 175,066 parameters.
        ("wrn16-1", 10, 175_066, wrn_formula(16, 1, 10)),
        # 5.87 M at 100 classes.
        ("wrn28-4", 100, 5_872_180, wrn_formula(28, 4, 100)),
        ("wrn40-2", 100, 2_255_156, wrn_formula(40, 2, 100)),  # 2.26 M: CRD, arXiv 1910.10699, appendix
        ("resnet56", 100, 861_620, resnet_formula((16, 32, 64), 9, 100)),  # 0.86 M: the same appendix
        ("resnet20", 100, 278_324, resnet_formula((16, 32, 64), 3, 100)),  # 0.28 M: the same
        # 0.27 M and 1.7 M: He et al., arXiv 1512.03385, table 6
        ("resnet20-a", 10, 269_722, resnet_formula((16, 32, 64), 3, 10, padded=True)),
        ("resnet110-a", 10, 1_727_962, resnet_formula((16, 32, 64), 18, 10, padded=True)),
        (
            "resnet18",
            10,
            11_173_962,
            resnet_formula((64, 128, 256, 512), 2, 10),
        ),  # the public CIFAR definition
        ("vgg-small", 100, 3_965_028, VGG8 + 512 * 100 + 100),  # VGG-8, 3.97 M: the same appendix
        ("convnet3", 10, 320_010, convnet_formula(3, 128, 3, 10, 16)),  # arXiv 2006.05929
        # Those of its released code, counted there layer by layer.
        ("mlp", 10, 411_146, 3072 * 128 + 128 + 128 * 128 + 128 + 1290),
        ("lenet", 10, 62_006, 456 + 2416 + 400 * 120 + 120 + 120 * 84 + 84 + 850),
        ("alexnet-small", 10, 1_872_202, 9728 + 614_592 + 442_624 + 442_560 + 331_968 + 30_730),
        ("vgg11", 10, 9_231_114, sum(9 * a * b + 3 * b for a, b in pairwise(VGG11)) + 5130),
    ],
)
def test_parameter_counts_are_the_published_ones(name, classes, published, counted):
    assert counted == published
    assert parameters(model(name, classes=classes)) == published


def test_a_stem_of_stride_two_halves_every_map_and_keeps_the_weights_shapes():
    plain, half = model("wrn16-1", classes=10), model("wrn16-1-s2", classes=10)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in half.state_dict().items()}
    x = torch.rand(2, 3, 32, 32)
    for net, sides in ((plain, (32, 16, 8)), (half, (16, 8, 4))):
        with taps(net, resolve(net, "auto", (3, 32, 32))) as read:
            assert tuple(feature.shape[-1] for feature in read(x).features.values()) == sides


def test_parameter_names_are_those_of_public_checkpoints():
    def names(name):
        return {path for path, _ in model(name, classes=10).named_parameters()}

    wrn = names("wrn16-1")
    assert {"conv1.weight", "block1.layer.0.bn1.weight", "block2.layer.0.convShortcut.weight"} <= wrn
    assert {"block3.layer.1.conv2.weight", "bn1.weight", "fc.weight", "fc.bias"} <= wrn
    assert "block1.layer.0.convShortcut.weight" not in wrn  # the width does not change there
    assert "block1.layer.0.convShortcut.weight" in names("wrn10-2")
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight", "fc.bias"} <= names("resnet8")
    assert {"layer4.0.shortcut.0.weight", "layer1.1.bn2.bias", "linear.bias"} <= names("resnet18")
    assert {"layer2.0.conv1.weight", "layer3.0.bn2.bias", "linear.bias"} <= names("resnet8-a")
    assert not [name for name in names("resnet8-a") if "shortcut" in name or "downsample" in name]
    assert {"block0.0.weight", "block0.0.bias", "block4.1.weight", "classifier.bias"} <= names("vgg-small")
    assert {"features.0.weight", "features.1.weight", "classifier.weight"} <= names("convnet3")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 16, 24)])
def test_every_family_takes_every_size(name, shape):
    images = pictures(*shape, classes=3, n=3)
    net = model(name, images)
    check_fits(net, images)
    assert net(images.pixels()).shape == (3, 3)
    assert net.spec == {"name": name, "classes": 3, "channels": shape[0], "size": net.spec["size"]}
    assert net.spec["size"] == (shape[1] if shape[1] == shape[2] else list(shape[1:]))


def test_grey_mnist_is_padded_to_32_as_published():
    net = model("convnet3-w8", classes=10, channels=1, size=28)
    assert group_ends(net)["features.2"] == (8, 32, 32)
    assert net.classifier.in_features == 8 * 4 * 4
    assert model("convnet3-w8", classes=10, channels=3, size=28).classifier.in_features == 8 * 3 * 3


@pytest.mark.parametrize("name", ["mlp", "lenet", "alexnet-small", "vgg11"])
def test_the_victims_of_condensed_sets_take_colour_and_grey_and_have_no_batch_norm(name):
    for shape in [(3, 32, 32), (1, 28, 28), (3, 40, 32)]:
        images = pictures(*shape, classes=3, n=3)
        net = refuse_batch_norm(model(name, images))
        assert net(images.pixels()).shape == (3, 3)
        assert resolve(net, "embedding", shape) == ["classifier:input"]
    if name != "mlp":
        with pytest.raises(BadInput, match=r"pixels a side; these are 6×6\. Take"):
            model(name, classes=10, size=6)


@pytest.mark.parametrize("name", ["wrn16-2", "resnet20", "vgg-small"])
def test_he_initialisation(name):
    net = model(name, classes=10)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()
        if isinstance(module, nn.Linear):
            assert module.bias.eq(0).all()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wrn15-1", "Take wrn10-1 or wrn16-1"),
        ("wrn4-2", "Take wrn10-2 or wrn16-2"),
        ("resnet57", "Take resnet56, resnet62"),
        ("resnet35", "Take resnet32, resnet38 or a depth of ImageNet's: 18, 34, 50, 101, 152"),
        ("pyramidnet111-a84", "Take depth 110 or 116"),
        ("pyramidnet2-a84", "Take depth 8 or 14"),
        ("pyramidnet170-a84", "Take depth 164 or 173"),
        ("pyramidnet56", "Take pyramidnet56-a84"),
        ("resnet2", "Take resnet8, resnet14"),
        ("resnet18-a", "Take resnet14-a or resnet20-a"),
        ("convnet6", "32×32 pixels can be halved 5 times. Take convnet3"),
    ],
)
def test_a_depth_that_does_not_fit(name, hint):
    with pytest.raises(BadInput, match=hint):
        model(name, classes=10)


def skeleton(name, classes, size=32):
    """The model without its numbers: enough to count and to trace, and quick for large ones."""
    with patch("distrust.models.registry.seeded", nullcontext), torch.device("meta"):
        return model(name, classes=classes, size=size)


def imagenet_formula(blocks, classes, bottleneck, stem=7):
    """Two or three convolutions a block, each with a norm; a projection with one where the width changes."""
    total, inputs = 3 * 64 * stem**2 + 2 * 64, 64
    for width, n in zip((64, 128, 256, 512), blocks, strict=True):
        outputs = 4 * width if bottleneck else width
        for _ in range(n):
            if bottleneck:
                total += inputs * width + 9 * width**2 + width * outputs + 2 * (2 * width + outputs)
            else:
                total += 9 * inputs * width + 9 * width**2 + 4 * width
            total += inputs * outputs + 2 * outputs if inputs != outputs else 0
            inputs = outputs
    return total + inputs * classes + classes


def pyramid_formula(blocks, alpha, classes, bottleneck):
    """A norm before each convolution and one after the block's last; shortcuts are free."""
    total, inputs = 3 * 16 * 9 + 2 * 16, 16
    for k in range(1, 3 * blocks + 1):
        w = 16 + (2 * alpha * k + 3 * blocks) // (6 * blocks)  # to the nearest
        outputs = 4 * w if bottleneck else w
        total += inputs * w + 9 * w * w + w * outputs if bottleneck else 9 * inputs * w + 9 * w * w
        total += 2 * (inputs + outputs + (2 * w if bottleneck else w))
        inputs = outputs
    return total + 2 * inputs + inputs * classes + classes


def mobilenet_formula(classes):
    """A depthwise and a 1×1 convolution for each pair of widths, two norms."""
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    total = 3 * 32 * 9 + 2 * 32
    total += sum(9 * a + 2 * a + a * b + 2 * b for a, b in zip(widths, widths[1:], strict=False))
    return total + 1024 * classes + classes


@pytest.mark.parametrize(
    ("name", "classes", "published", "counted"),
    [
        # torchvision's documentation of its weights (num_params).
        ("resnet18-224", 1000, 11_689_512, imagenet_formula((2, 2, 2, 2), 1000, False)),
        ("resnet34-224", 1000, 21_797_672, imagenet_formula((3, 4, 6, 3), 1000, False)),
        ("resnet50-224", 1000, 25_557_032, imagenet_formula((3, 4, 6, 3), 1000, True)),
        ("resnet101-224", 1000, 44_549_160, imagenet_formula((3, 4, 23, 3), 1000, True)),
        ("resnet152-224", 1000, 60_192_808, imagenet_formula((3, 8, 36, 3), 1000, True)),
        # The public CIFAR definition.
        ("resnet34", 10, 21_282_122, imagenet_formula((3, 4, 6, 3), 10, False, 3)),
        ("resnet50", 10, 23_520_842, imagenet_formula((3, 4, 6, 3), 10, True, 3)),
        # Overhaul's README (github.com/clovaai/overhaul-distillation): 26.84 M, 3.91 M, 4.23 M. To the last
        # digit, as the two below: pytorchcv's own checks (github.com/osmr/imgclsmob).
        ("pyramidnet200", 100, 26_844_952, pyramid_formula(22, 240, 100, True)),
        ("pyramidnet110", 100, 3_913_536, pyramid_formula(18, 84, 100, False)),
        ("mobilenet-224", 1000, 4_231_976, mobilenet_formula(1000)),
        ("pyramidnet110-a270", 10, 28_485_477, pyramid_formula(18, 270, 10, False)),
        ("pyramidnet164-a270", 10, 27_216_021, pyramid_formula(18, 270, 10, True)),
    ],
)
def test_large_models_have_the_published_parameter_counts(name, classes, published, counted):
    assert counted == published
    assert parameters(skeleton(name, classes)) == published


def test_an_imagenet_depth_wins_over_6n_plus_2():
    for name, wide in [("resnet44", False), ("resnet50", True), ("resnet56", False), ("resnet152", True)]:
        assert hasattr(skeleton(name, 10), "layer4") == wide


def test_names_of_large_models_are_those_of_public_checkpoints():
    def names(name):
        return set(skeleton(name, 10).state_dict())

    large = names("resnet50-224")
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv3.weight", "layer1.0.downsample.0.weight"} <= large
    assert {"layer4.2.bn3.running_var", "fc.weight", "fc.bias"} <= large
    assert "layer1.0.downsample.0.weight" not in names("resnet34-224")  # the width does not change there
    assert {"layer1.0.shortcut.1.bias", "layer4.2.conv3.weight", "linear.bias"} <= names("resnet50")
    assert {"layer1.0.bn3.weight", "layer3.17.conv2.weight", "bn_final.bias", "fc.bias"} <= names("pyramidnet110")
    assert {"layer3.21.conv3.weight", "layer3.21.bn4.weight"} <= names("pyramidnet200")
    assert {"model.0.0.weight", "model.13.3.weight", "model.13.4.running_mean", "fc.bias"} <= names("mobilenet-224")


@pytest.mark.parametrize(
    ("name", "size", "ends"),
    [
        ("resnet50", 32, {"layer1": (256, 32), "layer2": (512, 16), "layer3": (1024, 8), "layer4": (2048, 4)}),
        ("resnet34-224", 224, {"layer1": (64, 56), "layer2": (128, 28), "layer3": (256, 14), "layer4": (512, 7)}),
        ("resnet152-224", 224, {"layer1": (256, 56), "layer2": (512, 28), "layer3": (1024, 14), "layer4": (2048, 7)}),
        ("pyramidnet110", 32, {"layer1": (44, 32), "layer2": (72, 16), "layer3": (100, 8)}),
        ("pyramidnet200", 32, {"layer1": (384, 32), "layer2": (704, 16), "layer3": (1024, 8)}),
        ("mobilenet", 32, {"model.3": (128, 16), "model.5": (256, 8), "model.11": (512, 4), "model.13": (1024, 2)}),
        (  # Overhaul's places; the stem's size is no group
            "mobilenet-224",
            224,
            {"model.3": (128, 56), "model.5": (256, 28), "model.11": (512, 14), "model.13": (1024, 7)},
        ),
    ],
)
def test_group_ends_of_large_models(name, size, ends):
    found = group_ends(skeleton(name, 10, size))
    assert found == {path: (width, side, side) for path, (width, side) in ends.items()}


def test_a_shortcut_without_weights_takes_every_second_pixel_between_channels_of_zeros():
    block = model("resnet8-a", classes=3).get_submodule("layer2.0")
    x = torch.arange(16.0 * 25).reshape(1, 16, 5, 5)
    found = block.shortcut(x)
    assert found.shape == (1, 32, 3, 3) and torch.equal(found[:, 8:24], x[:, :, ::2, ::2])
    assert not found[:, :8].any() and not found[:, 24:].any()


@pytest.mark.parametrize("name", [*EVERY[-4:], "resnet50", "pyramidnet164-a8"])
@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 17, 30)])
def test_every_parameter_of_a_large_model_learns(name, shape):
    net = model(name, classes=3, channels=shape[0], size=shape[1:])
    x = torch.rand(2, *shape, generator=rng("x"))
    nn.functional.cross_entropy(net(x), torch.tensor([0, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "resnet50", "resnet18-224"])
def test_the_last_norm_of_a_block_is_its_branchs(name):
    net, ran = model(name, classes=3), []
    for path, module in net.layer2[0].named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, path=path: ran.append(path))
    net(torch.zeros(2, 3, 16, 16))
    assert ran[0] in ("shortcut.1", "downsample.1")
    assert ran[-1] == ("bn3" if name == "resnet50" else "bn2")


def test_a_pyramids_shortcut_has_no_parameters():
    net = model("pyramidnet8-a12", classes=3).eval()
    block, x = net.layer2[0], torch.rand(2, net.layer2[0].bn1.num_features, 5, 4, generator=rng("x"))
    nn.init.zeros_(block.bn3.weight)  # silences the branch
    y = block(x)
    assert y.shape == (2, 24, 3, 2)
    torch.testing.assert_close(y[:, :20], nn.functional.avg_pool2d(x, 2, ceil_mode=True))
    assert y[:, 20:].eq(0).all()


def test_pairs_match_group_by_group():
    assert list(PAIRS) == list("abcdef")
    for letter, names in PAIRS.items():
        assert teacher_student(letter) == names
        size = 224 if "-224" in names[0] else 32
        teacher, student = (group_ends(skeleton(name, 10, size)).values() for name in names)
        assert [end[1:] for end in teacher] == [end[1:] for end in student]


def test_a_pair_by_names():
    assert teacher_student("wrn16-2>wrn16-1") == ("wrn16-2", "wrn16-1")
    assert teacher_student(" resnet56 > mine.py:make ") == ("resnet56", "mine.py:make")
    for text in ("g", "wrn16-2", "wrn16-2>", ">wrn16-1", ""):
        with pytest.raises(NotFound, match="no pair .*Known: TEACHER>STUDENT, a, b, c, d, e, f"):
            teacher_student(text)
