"""What this machine has, and what is missing for what."""

from __future__ import annotations

import platform
import shutil
import sqlite3
from importlib import metadata
from typing import Any

from medloop import __version__
from medloop.engine.local import cores

_NEEDED = ("numpy", "scipy", "scikit-learn", "Pillow", "safetensors", "matplotlib")
_OPTIONAL = {"torch": "student 'network'", "transformers": "pretrained models"}


def examine() -> dict[str, Any]:
    """Look at Python, packages, cores, accelerator and disk."""
    packages = {name: _version(name) for name in (*_NEEDED, *_OPTIONAL)}
    return {
        "medloop": __version__,
        "python": platform.python_version(),
        "cores": cores(),
        "sqlite": sqlite3.sqlite_version,
        "packages": packages,
        "accelerator": _accelerator() if packages["torch"] else None,
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "missing": {
            name: f"{what}: pip install 'medloop[models]'"
            for name, what in _OPTIONAL.items()
            if packages[name] is None
        },
    }


def words(found: dict[str, Any]) -> str:
    """Say it in a few lines."""
    lines = [
        f"medloop {found['medloop']} on Python {found['python']}, {found['cores']} cores, "
        f"{found['free_disk_gb']} GB free here, SQLite {found['sqlite']}.",
        f"Accelerator: {found['accelerator'] or 'none, the processor is used'}.",
    ]
    lines += [f"  {name} {version or 'missing'}" for name, version in found["packages"].items()]
    lines += [f"{name} is missing: needed for {what}" for name, what in found["missing"].items()]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    if torch.backends.mps.is_available():
        return "Apple GPU"
    return None
