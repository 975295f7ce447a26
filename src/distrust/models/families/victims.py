"""Networks that condensed sets are tried on besides the ConvNet. Zhao, Mopuri, Bilen, arXiv 2006.05929, released code.

None has BatchNorm, whose statistics a handful of images cannot give.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from ...errors import BadInput

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def mlp(*, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """Two hidden layers of 128 units.

    Args:
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels; the first layer is made for them.
    """
    layers = [
        nn.Flatten(), nn.Linear(channels * size[0] * size[1], 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
    ]  # fmt: skip
    return _chain(normalize, nn.Sequential(*layers), nn.Linear(128, classes))


def lenet(*, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """Two convolutions of 6 and 16 channels with maximum pooling, then 120 and 84 units.

    Args:
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images; grey ones are padded by 2 pixels.
        size: height and width in pixels, from 16 on (grey: 12).

    Raises:
        BadInput: smaller images.
    """
    padding = 2 if channels == 1 else 0
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
    ]  # fmt: skip
    last = [((side + 2 * padding - 4) // 2 - 4) // 2 for side in size]
    if min(last) < 1:
        raise BadInput(f"lenet needs {16 - 2 * padding} pixels a side; these are {size[0]}×{size[1]}. Take convnet2.")
    layers += [nn.Linear(16 * last[0] * last[1], 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return _chain(normalize, nn.Sequential(*layers), nn.Linear(84, classes))


def alexnet_small(*, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """Five convolutions of 128, 192, 256, 192, 192 channels, three of them with maximum pooling.

    Args:
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels, from 8 on; the linear layer is made for them.

    Raises:
        BadInput: smaller images.
    """
    grey = 2 if channels == 1 and size == (28, 28) else 0  # the published network pads these to 32
    layers: list[nn.Module] = [nn.Conv2d(channels, 128, 5, padding=2 + grey), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    for before, after in ((192, 256), (256, 192), (192, 192)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    height, width = ((side + 2 * grey) // 8 for side in size)
    if min(height, width) < 1:
        raise BadInput(f"alexnet-small needs 8 pixels a side; these are {size[0]}×{size[1]}. Take convnet2.")
    features = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten())
    return _chain(normalize, features, nn.Linear(192 * height * width, classes))


def vgg11(*, normalize: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """VGG-11 with instance norm and one linear layer.

    Args:
        normalize: first layer, images in 0..1 → normalised.
        classes: K, the number of logits.
        channels: of the images.
        size: height and width in pixels, from 32 on, or grey of 28.

    Raises:
        BadInput: smaller images.
    """
    grey = 2 if channels == 1 and size == (28, 28) else 0
    if min(size) + 2 * grey < 32:
        raise BadInput(f"vgg11 needs 32 pixels a side; these are {size[0]}×{size[1]}. Take vgg-small.")
    layers: list[nn.Module] = []
    before = channels
    for width in VGG11:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [
            nn.Conv2d(before, width, 3, padding=1 + (0 if layers else grey)), nn.GroupNorm(width, width), nn.ReLU(),
        ]  # fmt: skip
        before = width
    height, wide = ((side + 2 * grey) // 32 for side in size)
    return _chain(normalize, nn.Sequential(*layers, nn.Flatten()), nn.Linear(512 * height * wide, classes))


def _chain(normalize: nn.Module, features: nn.Module, classifier: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(normalize=normalize, features=features, classifier=classifier))
