"""The append-only label log and the workspace on disk."""

from medloop.store.event import Event
from medloop.store.images import ImageRow
from medloop.store.log import LabelLog
from medloop.store.workspace import Workspace

__all__ = ["Event", "ImageRow", "LabelLog", "Workspace"]
