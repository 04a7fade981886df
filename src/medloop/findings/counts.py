"""How many images a workspace holds with findings and without, by whom they were decided."""

from __future__ import annotations

import numpy as np

from medloop.store.view import decided, read_looks, winners
from medloop.store.workspace import Workspace


def count_images(workspace: Workspace) -> dict[str, int]:
    """Count images: ``machine``, ``person``, ``with``, ``without``; and ``findings`` in them."""
    database = workspace.log.database
    with database.snapshot():
        looks = read_looks(database)
    kept, seen = winners(looks)
    person = decided(looks)
    none = np.empty(0, np.int64)
    image = np.concatenate([none, *(look.image[kept[look.seq]] for look in looks)])
    holding = len(np.unique(image))
    return {
        "machine": len(np.setdiff1d(seen, person)),
        "person": len(np.intersect1d(seen, person)),
        "with": holding,
        "without": len(seen) - holding,
        "findings": len(image),
    }
