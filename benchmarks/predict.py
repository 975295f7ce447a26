"""Does an evaluation cost more than its forwards, and what does a usual loop cost?"""

from __future__ import annotations

from collections.abc import Iterator

import distrust as dt
from distrust.measurement import predict

from . import bare, peers
from .measure import Row, Scale, compare
from .pictures import pictures

BATCH = 128  # of `predict`
GOALS = {"bare forwards": 0.95, "PIL DataLoader, 0 workers": 1.0}


def rows(scale: Scale) -> Iterator[Row]:
    """Each network beside its bare forwards; WRN-16-1 beside a DataLoader, too."""
    side, device = scale.of(32, 32, 8), scale.device
    networks = scale.of(
        {"wrn16-1": 10240, "wrn16-2": 5120, "resnet18": 640}, {"wrn16-1": 2560, "wrn16-2": 1280}, {"wrn10-1": BATCH}
    )
    for network, count in networks.items():
        images = pictures(count, side)
        model = dt.model(network, images).to(device).eval()
        ways = {
            "predict": lambda model=model, images=images: predict(model, images),
            "bare forwards": bare.predict(model, images, BATCH, device),
        }
        if network == next(iter(networks)):
            arrays = images.x.permute(0, 2, 3, 1).contiguous().numpy()
            batches = peers.loader(peers.Pictures(arrays, images.y.tolist(), augment=False), BATCH, shuffle=False)
            ways["PIL DataLoader, 0 workers"] = lambda model=model, batches=batches: peers.evaluate(
                model, batches, device
            )
        yield from compare(f"{network}, {count} images", ways, GOALS, scale.rounds(5), device=device)
