"""Where batches run: here for now; a cluster's map over batches can take its place."""

from medloop.engine.local import map_batches

__all__ = ["map_batches"]
