"""Making a page of a template and values: everything escaped, nothing undefined, written in full or not at all."""

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

    Every value is escaped, but in a .txt, and of control characters and the like (text direction among them) a reader
    sees the code. A value of type `Markup` comes in as it is.

    Args:
        template: name of a template of this folder, or the path of one elsewhere.
        values: what the template asks for; all of it must be given.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not given.
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
    """Write a page so that readers find the old or the new one, never a part.

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
