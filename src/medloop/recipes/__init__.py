"""One published system a file, each the same loop with other parts put in."""

from __future__ import annotations

from typing import Any

from medloop.errors import UsageError, did_you_mean
from medloop.recipes.endoscopy import Endoscopy
from medloop.recipes.few_labels import FewLabels
from medloop.recipes.landmarks import Landmarks
from medloop.recipes.locate import Locate
from medloop.recipes.recipe import ObjectRecipe, Recipe
from medloop.recipes.zero_shot import ZeroShotRecipe

RECIPES: dict[str, type[Recipe]] = {
    "few-labels": FewLabels,
    "zero-shot": ZeroShotRecipe,
    "landmarks": Landmarks,
    "locate": Locate,
    "endoscopy": Endoscopy,
}


#: What stands for a recipe in a workspace whose labels came from elsewhere.
IMPORT = "import"


def recipe_of(config: dict[str, Any]) -> Recipe:
    """Build the recipe that a workspace was made with.

    Raises
    ------
    UsageError
        There is none of that name.

    Examples
    --------
    >>> recipe_of({"recipe": "few-labels", "images": "images"}).rounds
    3
    """
    name = str(config.get("recipe"))
    if name == IMPORT:
        raise UsageError("the labels of this workspace were imported: there is no loop to run.")
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}.{did_you_mean(name, RECIPES)}")
    return RECIPES[name](**config)


__all__ = ["IMPORT", "RECIPES", "ObjectRecipe", "Recipe", "recipe_of"]
