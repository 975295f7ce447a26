"""A network for canaries, in the form of a WRN-10: few weights, and no kink over which rounding could push anything.

Adam's first step follows the sign of every gradient, so the fewer weights, the fewer signs that hang on rounding.
"""

from torch import Tensor, nn

from distrust.models import Normalize


class Block(nn.Module):
    """Norm, SiLU, convolution, twice, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(inputs), nn.SiLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(outputs), nn.SiLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B,inputs,H,W] → [B,outputs,H/stride,W/stride]."""
        active = self.act1(self.bn1(x))
        return self.shortcut(active) + self.conv2(self.act2(self.bn2(self.conv1(active))))


class Smooth(nn.Module):
    """A stem, three blocks, a global mean and a linear layer.

    Of 8 channels or more: backward through convolutions of 4, oneDNN 3.12 writes out of bounds on AVX2.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.normalize = Normalize.identity(channels)
        self.conv1 = nn.Conv2d(channels, 8, 3, 1, 1, bias=False)
        self.block1, self.block2, self.block3 = Block(8, 8, 1), Block(8, 16, 2), Block(16, 32, 2)
        self.bn1, self.act = nn.BatchNorm2d(32), nn.SiLU()
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B,C,H,W] in 0..1 → logits [B,K]."""
        x = self.block3(self.block2(self.block1(self.conv1(self.normalize(x)))))
        return self.fc(self.act(self.bn1(x)).mean((2, 3)))
