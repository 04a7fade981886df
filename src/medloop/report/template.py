"""Templates of pages: one file each that refers to nothing outside and runs no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from medloop.report.words import count_words, shortened
from medloop.store.files import write_atomic


def write_page(path: Path, template: str, content: dict[str, Any]) -> None:
    """Fill a template of this folder and write the page.

    Parameters
    ----------
    path : Path
    template : str
        Name of its file.
    content : dict
        What the template says.

    Raises
    ------
    WorkspaceError
        The file cannot be written.
    """
    page = _environment().get_template(template).render(content)
    # names of files need not be UTF-8
    write_atomic(path, page.encode("utf-8", "replace"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shortened"] = shortened
    environment.filters["count"] = count_words
    return environment
