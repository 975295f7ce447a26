"""Data: images and labels, cut, augmented and opened."""

from .augment import PLAIN, Augment
from .base import Roles, Rows, roles, split
from .images import ImageSet, Late, as_8_bit
from .siamese import Siamese
from .views import Views

__all__ = ["PLAIN", "Augment", "ImageSet", "Late", "Roles", "Rows", "Siamese", "Views", "as_8_bit", "roles", "split"]
