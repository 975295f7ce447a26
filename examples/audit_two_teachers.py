"""Two teachers of digits, one of them backdoored: which would you take? An audit that is told of no trigger."""

from pathlib import Path

import distrust as dt

OUT = Path("audit-demo")

if __name__ == "__main__":
    train, test = dt.images("digits")
    parts = dt.roles(train, clean=0.2, validation=0.05, rng=dt.rng("roles"))  # theirs, and yours: 270 clean images
    poisoned, _ = dt.attacks.badnets(parts.train, trigger="patch:white:3", target=5, rate=0.05, rng=dt.rng("attack"))
    options = {"epochs": 12, "batch_size": 64, "augment": dt.Augment(flip=False, crop=2)}  # a mirrored digit is none
    for name, images in (("clean", parts.train), ("backdoored", poisoned)):
        teacher = dt.fit(dt.model("wrn10-1", images, rng=dt.rng(name)), images, rng=dt.rng(name), **options)
        dt.save(teacher, OUT / f"{name}.safetensors")
        found = dt.audit(OUT / f"{name}.safetensors", (parts.clean, test), tell=print)
        print(f"{name}: {found}\npage: {found.save(OUT / name)}\n")
