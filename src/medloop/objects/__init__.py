"""Recipes that label objects in images, not images: where labels come from and what judges them."""
