"""Networks that condensed sets are tried on besides the ConvNet. Zhao, Mopuri, Bilen, arXiv 2006.05929, released code.

None has BatchNorm, whose statistics a handful of images cannot give. Linear layers are made for the images' size.
"""

from __future__ import annotations

from torch import nn

from ._parts import Given, chain

VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # between poolings


def mlp(given: Given, width: int = 128) -> nn.Module:
    """Two hidden layers of `width` units."""
    inputs = given.channels * given.size[0] * given.size[1]
    layers = [nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return _classifier(given, layers, width)


def lenet(given: Given) -> nn.Module:
    """Two convolutions of 6 and 16 channels with maximum pooling, then 120 and 84 units; pads grey images by 2.

    Raises:
        BadInput: images of fewer than 16 pixels a side (grey: 12).
    """
    padding = 2 if given.channels == 1 else 0
    given.at_least(16 - 2 * padding, "lenet", "convnet2")
    height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in given.size)
    layers: list[nn.Module] = [nn.Conv2d(given.channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    layers += [nn.Linear(16 * height * width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return _classifier(given, layers, 84)


def alexnet_small(given: Given) -> nn.Module:
    """Five convolutions of 128, 192, 256, 192, 192 channels, three of them with maximum pooling.

    Raises:
        BadInput: images of fewer than 8 pixels a side.
    """
    given.at_least(8, "alexnet-small", "convnet2")
    layers: list[nn.Module] = [nn.Conv2d(given.channels, 128, 5, padding=2 + given.grey), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    for before, after in ((192, 256), (256, 192), (192, 192)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    height, width = ((side + 2 * given.grey) // 8 for side in given.size)
    return _classifier(given, [*layers, nn.MaxPool2d(2), nn.Flatten()], 192 * height * width)


def vgg11(given: Given) -> nn.Module:
    """VGG-11 with instance norm and one linear layer.

    Raises:
        BadInput: images of fewer than 32 pixels a side, but for grey ones of 28.
    """
    given.at_least(32 - 2 * given.grey, "vgg11", "vgg-small")
    layers: list[nn.Module] = []
    before, padding = given.channels, 1 + given.grey
    for widths in VGG11:
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=padding), nn.GroupNorm(width, width), nn.ReLU()]
            before, padding = width, 1
        layers.append(nn.MaxPool2d(2))
    height, width = ((side + 2 * given.grey) // 32 for side in given.size)
    return _classifier(given, [*layers, nn.Flatten()], before * height * width)


def _classifier(given: Given, layers: list[nn.Module], outputs: int) -> nn.Module:
    classifier = nn.Linear(outputs, given.classes)
    return chain(normalize=given.normalize, features=nn.Sequential(*layers), classifier=classifier)
