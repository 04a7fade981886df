"""Propose labels without being trained on images here."""
