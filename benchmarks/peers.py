"""Loops as users of plain PyTorch write them: one image at a time, float32, contiguous, meters read in every step.

Written for this comparison from what the named projects' loops do in a step; none of their code is here. They take the
same networks as ours, so that only the way of driving them differs.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

PAD = 4
Batches = Iterable[tuple[Tensor, Tensor]]
Features = list[Tensor]


class Pictures(Dataset):
    """Arrays in memory, padded, cropped and mirrored one by one by Pillow: torchvision's CIFAR10 and its transforms."""

    def __init__(self, arrays: np.ndarray, labels: Sequence[int], augment: bool = True) -> None:
        self.arrays, self.labels, self.augment = arrays, list(labels), augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        picture = self.open(row)
        return tensor(moved(picture) if self.augment else picture), self.labels[row]

    def open(self, row: int) -> Image.Image:
        return Image.fromarray(self.arrays[row])


class Files(Pictures):
    """The same from one PNG file an image: BackdoorBench's poisoned sets, and any ImageFolder."""

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        self.paths, labels = zip(*files, strict=True)
        super().__init__(np.empty(0), labels)

    def open(self, row: int) -> Image.Image:
        with Image.open(self.paths[row]) as picture:
            return picture.convert("RGB")


def moved(picture: Image.Image) -> Image.Image:
    """Padded by four black pixels, cropped back at random, mirrored in half of the cases."""
    width, height = picture.size
    padded = Image.new("RGB", (width + 2 * PAD, height + 2 * PAD))
    padded.paste(picture, (PAD, PAD))
    left, top = random.randrange(2 * PAD + 1), random.randrange(2 * PAD + 1)
    picture = padded.crop((left, top, left + width, top + height))
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else picture


def tensor(picture: Image.Image) -> Tensor:
    """Float32 [3,H,W] in 0..1: torchvision's ToTensor."""
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(picture.height, picture.width, 3).permute(2, 0, 1).contiguous().float().div(255)


def loader(images: Dataset, batch: int, workers: int = 0, shuffle: bool = True) -> DataLoader:
    """A DataLoader; its workers stay from epoch to epoch."""
    return DataLoader(
        images, batch, shuffle=shuffle, num_workers=workers, drop_last=shuffle, persistent_workers=workers > 0
    )


class Meter:
    """A running mean of Python numbers: the AverageMeter of nearly every script."""

    def __init__(self) -> None:
        self.sum = self.count = 0.0

    def update(self, value: float, n: int) -> None:
        self.sum, self.count = self.sum + value * n, self.count + n


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)


def accuracy(logits: Tensor, y: Tensor) -> float:
    return (logits.argmax(1) == y).float().mean().item()


def train(net: nn.Module, batches: Batches, solver: torch.optim.Optimizer, device: str = "cpu") -> None:
    """An epoch of supervised training, as in NAD, BackdoorBench and pytorch-cifar."""
    losses, right = Meter(), Meter()
    net.train()
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        logits = net(x)
        loss = F.cross_entropy(logits, y)
        losses.update(loss.item(), len(x))
        right.update(accuracy(logits, y), len(x))
        solver.zero_grad()
        loss.backward()
        solver.step()


def evaluate(net: nn.Module, batches: Batches, device: str = "cpu") -> float:
    """Accuracy in eval mode, with the meters of training."""
    losses, right = Meter(), Meter()
    net.eval()
    with torch.no_grad():
        for x, y in batches:
            x, y = x.to(device), y.to(device)
            logits = net(x)
            losses.update(F.cross_entropy(logits, y).item(), len(x))
            right.update(accuracy(logits, y), len(x))
    return right.sum / right.count


def listed(net: nn.Module, x: Tensor) -> tuple[Features, Tensor]:
    """Features of the stem and of every group, and logits: RepDistiller's `model(x, is_feat=True)`."""
    features = []
    for name, part in net.named_children():
        x = part(x)
        if name.startswith(("conv", "block", "layer")):
            features.append(x)
    return features, x


class Criterion(nn.Module):
    """What a distillation adds: weights of the labels, of the softened logits and of the features, and modules."""

    labels, logits, features, temperature = 1.0, 0.0, 1.0, 4.0
    teacher_trains = False

    def forward(self, ours: Features, theirs: Features) -> Tensor:
        return ours[-1].new_zeros(())


class KD(Criterion):
    """Softened logits alone."""

    labels, logits, features = 0.1, 0.9, 0.0


class AT(Criterion):
    """Attention maps: mean of squares over channels, normalised; RepDistiller's, NAD's with other weights."""

    features = 1000.0

    def forward(self, ours: Features, theirs: Features) -> Tensor:
        return sum((self.map(a) - self.map(b)).pow(2).mean() for a, b in zip(ours[1:], theirs[1:], strict=True))

    @staticmethod
    def map(f: Tensor) -> Tensor:
        return F.normalize(f.pow(2).mean(1).flatten(1))


class Hint(Criterion):
    """FitNet's regressor on one layer."""

    features = 100.0

    def __init__(self, student: nn.Module, teacher: nn.Module, x: Tensor) -> None:
        super().__init__()
        (a, b) = (listed(net, x)[0][2].shape[1] for net in (student, teacher))
        self.regress = nn.Sequential(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b), nn.ReLU())

    def forward(self, ours: Features, theirs: Features) -> Tensor:
        return F.mse_loss(self.regress(ours[2]), theirs[2])


class Overhaul(Criterion):
    """Connected features before their ReLU and a margin: the loop of overhaul-distillation, the teacher in train mode.

    The margins cost nothing in a step, so −1 stands for all.
    """

    features, teacher_trains = 1e-3, True

    def __init__(self, student: nn.Module, teacher: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.norms = [self.behind(student), self.behind(teacher)]
        pairs = zip(*(listed(net, x)[0][1:] for net in (student, teacher)), strict=True)
        self.connect = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a.shape[1], b.shape[1], 1, bias=False), nn.BatchNorm2d(b.shape[1]))
            for a, b in pairs
        )

    @staticmethod
    def behind(net: nn.Module) -> list[Callable[[Tensor], Tensor]]:
        """The norm that a group's output goes into."""
        parts = dict(net.named_children())
        return [parts["block2"].layer[0].bn1, parts["block3"].layer[0].bn1, parts["bn1"]]

    def forward(self, ours: Features, theirs: Features) -> Tensor:
        total = ours[-1].new_zeros(())
        for i, (a, b) in enumerate(zip(ours[1:], theirs[1:], strict=True)):
            with torch.no_grad():
                b = torch.max(self.norms[1][i](b), b.new_tensor(-1.0))
            a = self.connect[i](self.norms[0][i](a))
            loss = F.mse_loss(a, b, reduction="none") * ((a > b) | (b > 0)).float()
            total = total + loss.sum() / len(a) / 2 ** (2 - i)
        return total


def softened(ours: Tensor, theirs: Tensor, t: float) -> Tensor:
    """Hinton's term."""
    return F.kl_div(F.log_softmax(ours / t, 1), F.softmax(theirs / t, 1), reduction="batchmean") * t**2


def distill(
    student: nn.Module, teacher: nn.Module, batches: Batches, criterion: Criterion, device: str = "cpu"
) -> nn.Module:
    """An epoch as in RepDistiller: feature lists of both, three terms, meters read in every step."""
    criterion.to(device)
    solver = sgd([*student.parameters(), *criterion.parameters()])
    losses, right = Meter(), Meter()
    student.train()
    teacher.train(criterion.teacher_trains)
    for x, y in batches:
        x, y = x.to(device), y.to(device)
        ours, logits = listed(student, x)
        with torch.no_grad():
            theirs, target = listed(teacher, x)
        soft = softened(logits, target, criterion.temperature)
        loss = criterion.labels * F.cross_entropy(logits, y) + criterion.logits * soft
        loss = loss + criterion.features * criterion(ours, theirs)
        losses.update(loss.item(), len(x))
        right.update(accuracy(logits, y), len(x))
        solver.zero_grad()
        loss.backward()
        solver.step()
    return student


def nad(net: nn.Module, batches: Batches, device: str = "cpu") -> nn.Module:
    """A copy is fine-tuned, then its attention is distilled back: an epoch each."""
    teacher = copy.deepcopy(net)
    train(teacher, batches, sgd(teacher.parameters()), device)
    return distill(net, teacher, batches, AT(), device)


def stamped(arrays: np.ndarray, side: int = 3) -> np.ndarray:
    """A white patch in the corner of every image, one by one."""
    found = []
    for array in arrays:
        array = array.copy()
        array[-side:, -side:] = 255
        found.append(array)
    return np.stack(found)


def disturbed(arrays: np.ndarray) -> np.ndarray:
    """Every image turned, shifted, recoloured, blurred and partly erased by Pillow."""
    found = []
    for array in arrays:
        picture, side = Image.fromarray(array), len(array)
        shift = tuple(random.randint(-side // 8, side // 8) for _ in range(2))
        picture = picture.rotate(random.uniform(-15, 15), Image.Resampling.BILINEAR, translate=shift)
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = change(picture).enhance(random.uniform(0.6, 1.4))
        if random.random() < 0.5:
            picture = picture.filter(ImageFilter.GaussianBlur(0.7))
        changed = np.array(picture)
        if random.random() < 0.5:
            top, left = random.randrange(side), random.randrange(side)
            changed[top : top + side // 3, left : left + side // 3] = 0
        found.append(changed)
    return np.stack(found)


def pgd(net: nn.Module, batches: Batches, steps: int, device: str = "cpu") -> list[Tensor]:
    """PGD towards class 0 within 8 grey levels: the loops of torchattacks and ART."""
    net.eval()
    found = []
    for x, _ in batches:
        x = x.to(device)
        target, at = torch.zeros(len(x), dtype=torch.long, device=device), x.clone().detach()
        for _ in range(steps):
            at.requires_grad = True
            loss = -F.cross_entropy(net(at), target)
            gradient = torch.autograd.grad(loss, at)[0]
            at = at.detach() + 2 / 255 * gradient.sign()
            at = torch.clamp(x + torch.clamp(at - x, -8 / 255, 8 / 255), 0, 1).detach()
        found.append(at.cpu())
    return found


def cleanse(net: nn.Module, batches: Batches, classes: int, steps: int, device: str = "cpu") -> list[float]:
    """Neural Cleanse, class by class: Adam on one mask and one pattern, both through tanh; the norms of the masks."""
    net.eval().requires_grad_(False)
    norms = []
    for k in range(classes):
        mask = pattern = None
        done, cost, hits = 0, 1e-3, Meter()
        while done < steps:
            for x, _ in batches:
                x = x.to(device)
                if mask is None:
                    mask = torch.zeros(1, *x.shape[2:], device=device, requires_grad=True)
                    pattern = torch.zeros(x.shape[1:], device=device, requires_grad=True)
                    solver = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
                m, p = torch.tanh(mask) / 2 + 0.5, torch.tanh(pattern) / 2 + 0.5
                logits = net((1 - m) * x + m * p)
                y = torch.full((len(x),), k, device=device)
                loss = F.cross_entropy(logits, y) + cost * m.abs().sum()
                solver.zero_grad()
                loss.backward()
                solver.step()
                hits.update(accuracy(logits, y), len(x))
                cost = cost * 1.5 if hits.sum / hits.count > 0.99 else cost / 1.5
                done += 1
                if done == steps:
                    break
        norms.append(m.abs().sum().item())
    return norms


def dm(
    by_class: Sequence[Tensor], each: int, real: int, iterations: int, network: Callable[[], nn.Module],
    change: Callable[[], Callable[[Tensor], Tensor]],
) -> Tensor:  # fmt: skip
    """Distribution matching as DatasetCondensation does it: a class at a time, two forwards each, then one step.

    Args:
        by_class: float images of each class.
        each: synthetic images a class.
        real: real images of a class in a step.
        iterations: steps, a fresh network each.
        network: makes one; what enters its last layer is matched.
        change: draws an augmentation that real and synthetic images share.
    """
    made = torch.cat([own[:each] for own in by_class]).clone().requires_grad_()
    solver = torch.optim.SGD([made], lr=1.0, momentum=0.5)
    for _ in range(iterations):
        *body, _ = network().train().requires_grad_(False).children()
        embed = nn.Sequential(*body)
        loss = torch.zeros(())
        for k, own in enumerate(by_class):
            x, shared = own[np.random.permutation(len(own))[:real]], change()
            theirs = embed(shared(x)).detach()
            ours = embed(shared(made[k * each : (k + 1) * each]))
            loss = loss + (theirs.mean(0) - ours.mean(0)).square().sum()
        solver.zero_grad()
        loss.backward()
        solver.step()
        loss.item()
    return made.detach()
