"""Data: images and labels, cut, augmented and opened."""

from .augment import PLAIN, Augment
from .images import ImageSet, Late, Roles, as_8_bit, roles, split
from .siamese import Siamese
from .views import Views

__all__ = ["PLAIN", "Augment", "ImageSet", "Late", "Roles", "Siamese", "Views", "as_8_bit", "roles", "split"]
