"""Figures, and one self-contained page."""
