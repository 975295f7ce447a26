"""Networks of public checkpoints that no name of ours builds, written from their descriptions, as a user would.

`distrust measure --model benchmarks/nets.py:badnet …` builds them; names are those in the files. Where a repository
normalises its images, that is said on the command line, and where it ends in softmax, logits come out here.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class SoftGelu(nn.Module):
    """GELU approximated by a sigmoid: σ(1.702·x)·x."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return (1.702 * x).sigmoid() * x


def _named(*layers: nn.Module, **names: int) -> nn.Module:
    """Layers in a row of which some have names, and the others a place in front of no name of a file."""
    called = {place: name for name, place in names.items()}
    return nn.Sequential(OrderedDict((called.get(i, f"_{i}"), layer) for i, layer in enumerate(layers)))


def badnet(classes: int, channels: int, size: int) -> nn.Module:
    """The network of verazuo/badnets-pytorch: two 5×5 convolutions, each ReLU and mean pooling, then 512."""
    side = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(nn.Conv2d(channels, 16, 5), nn.ReLU(), nn.AvgPool2d(2)),
            conv2=nn.Sequential(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.AvgPool2d(2)),
            flat=nn.Flatten(),
            fc1=nn.Sequential(nn.Linear(32 * side**2, 512), nn.ReLU()),
            fc2=nn.Sequential(nn.Linear(512, classes)),
        )
    )


def small_vgg(classes: int, channels: int, size: int) -> nn.Module:
    """The VGG of YiZeng623/I-BAU: three groups of two 3×3 convolutions with norm and ELU, then pooling and dropout."""
    layers: list[nn.Module] = []
    inputs = channels
    for outputs, dropped in ((32, 0.3), (64, 0.4), (128, 0.4)):
        for _ in range(2):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ELU()]
            inputs = outputs
        layers += [nn.MaxPool2d(2), nn.Dropout(dropped)]
    head = nn.Linear(inputs * (size // 8) ** 2, classes)
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers), flat=nn.Flatten(), classifier=head))


def lenet5(classes: int, channels: int, size: int) -> nn.Module:
    """The LeNet of BorealisAI/advertorch: 3×3 convolutions of 32 and 64 channels, ReLU and max pooling, then 200."""
    return _named(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * (size // 4) ** 2, 200), nn.ReLU(), nn.Linear(200, classes),
        conv1=0, conv2=3, linear1=7, linear2=9,
    )  # fmt: skip


def outlier_net(classes: int, channels: int, size: int) -> nn.Module:
    """The network of hendrycks/outlier-exposure for MNIST: 5×5 convolutions of 10 and 20 channels, GELU, then 50."""
    side = ((size - 4) // 2 - 4) // 2
    return _named(
        nn.Conv2d(channels, 10, 5), nn.MaxPool2d(2), SoftGelu(),
        nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), SoftGelu(),
        nn.Flatten(), nn.Linear(20 * side**2, 50), SoftGelu(), nn.Linear(50, classes),
        conv1=0, conv2=3, fc1=7, fc2=9,
    )  # fmt: skip


def provable(classes: int, channels: int, size: int) -> nn.Module:
    """The small network of locuslab/convex_adversarial: 4×4 convolutions of stride 2, 16 and 32 channels, then 100."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, 100), nn.ReLU(), nn.Linear(100, classes),
    )  # fmt: skip
