"""Families: the architectures that a model's name may ask for."""
