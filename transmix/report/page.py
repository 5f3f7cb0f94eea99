"""Render a page from a template: everything is escaped, missing values are errors, files are written atomically."""

from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from transmix.printable import printable, shorten
from transmix.runs.atomic_write import replace_file, why
from transmix.runs.error import RunError

HERE = Path(__file__).parent
NO_BREAK = "\u00a0"  # the space that keeps a number and its unit on one line
LONGEST = 2000  # letters of one value; the rest of a longer one is left out


def render(template: str | Path, **values: Any) -> str:
    """Fill a template, which usually extends base.html.

    Every value is escaped (except in a .txt); control characters, including text direction, are shown as codes. A value
    of type `Markup` is inserted unchanged.

    Args:
        template: name of a template in this folder, or a path.
        values: all variables of the template.

    Raises:
        jinja2.UndefinedError: a variable of the template is missing.
    """
    path = HERE / template
    environment = Environment(
        loader=FileSystemLoader([path.parent, HERE]),
        autoescape=path.suffix == ".html",
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capital"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template(path.name).render(version=metadata.version("transmix"), **values)


def write_page(path: Path, html: str) -> None:
    """Write a page atomically: readers see the old or the new one, never a part.

    Raises:
        RunError: it cannot be written.
    """
    try:
        replace_file(path, html.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {why(error)}", 1) from error


def _shown(value: Any) -> Any:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return NO_BREAK.join(map(printable, shorten(value, LONGEST).split(NO_BREAK)))
