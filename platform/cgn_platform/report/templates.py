"""The templates of the page and of the model card, in `dashboards/`."""

from pathlib import Path

import jinja2

import cgn_platform


def dashboards() -> Path:
    """The folder of the templates: in the installed package, or at the root of a checkout."""
    package = Path(cgn_platform.__path__[0])
    installed = package / "dashboards"
    return installed if installed.is_dir() else package.parents[1] / "dashboards"


def environment(*, html: bool) -> jinja2.Environment:
    """Jinja's environment for these templates. HTML is escaped; an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(dashboards()),
        autoescape=html,  # noqa: S701 - Markdown needs no escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
