"""The templates of the report and of the model card, and how they are filled."""

from pathlib import Path

import jinja2

import cgn_platform


def dashboards() -> Path:
    """The folder of the templates: within the installed package, or at the root of a checkout."""
    package = Path(cgn_platform.__path__[0])
    installed = package / "dashboards"
    return installed if installed.is_dir() else package.parents[1] / "dashboards"


def environment(*, html: bool) -> jinja2.Environment:
    """Where templates are loaded from. HTML is escaped; an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(dashboards()),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
