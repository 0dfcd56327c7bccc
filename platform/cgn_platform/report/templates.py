"""The templates of the page and of the model card, in `dashboards/`."""

from pathlib import Path
from typing import Any

import jinja2

import cgn_platform
from cgn_platform.text import markdown


def dashboards() -> Path:
    """The folder of the templates: in the installed package, or at the root of a checkout."""
    package = Path(cgn_platform.__path__[0])
    installed = package / "dashboards"
    return installed if installed.is_dir() else package.parents[1] / "dashboards"


def environment(*, html: bool) -> jinja2.Environment:
    """Jinja's environment for these templates. Texts are escaped; an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(dashboards()),
        autoescape=html,  # noqa: S701 - in Markdown, `finalize` escapes
        finalize=None if html else _escape_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )


def _escape_markdown(value: Any) -> Any:
    """Escape a text of Markdown; numbers and what a macro has written already are left alone."""
    return markdown(value) if isinstance(value, str) else value
