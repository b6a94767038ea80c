"""What is trained on, and by whom."""

from dataclasses import dataclass, field

from avader.recipe import Recipe
from avader.training.data import Images
from avader.training.group import Group


@dataclass(frozen=True)
class Task:
    """A recipe, images, and the ranks that train on them together."""

    recipe: Recipe
    images: Images
    group: Group = field(default_factory=Group)
