"""MkDocs hook: what the pages say of recipes, settings, commands and files of the repository is read from those.

`<!-- generated: recipes -->` in a page (settings, tables, commands likewise) stands for what is read: it cannot drift.
A link to a file of the repository outside docs/ (`../examples/plain_loop.py`) leads to a copy of it in the site.
An equation (a fence `math`, which code hosts show too) becomes a drawing in the page.
"""

import ast
import html
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "transmix"
AS_TEXT = {".py", ".md", ".sbatch", ".yaml", ".yml", ".toml", ".cff", ""}
"""Files that a browser would offer to save instead of showing them."""


def on_page_markdown(markdown: str, *, page: Any, files: Any, config: Any, **_: Any) -> str:
    """Fill in what is generated, and lead links out of docs/ to copies."""
    filled = re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), markdown)
    filled = re.sub(r"^```math\n(.*?)\n```$", lambda found: equation(found[1]), filled, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\]\((\.\./[^)#\s]+)\)", lambda found: f"]({_target(found[1], page, files, config)})", filled)


def _target(link: str, page: Any, files: Any, config: Any) -> str:
    """Return the link as it is if it leads to a page, else to the copy of a file of the repository, made here."""
    from mkdocs.structure.files import File

    here = Path(config.docs_dir, page.file.src_uri).parent
    path = Path(os.path.normpath(here / link))
    if path.is_relative_to(config.docs_dir) or not path.is_file() or not path.is_relative_to(ROOT):
        return link
    name = f"files/{path.relative_to(ROOT).as_posix()}" + (".txt" if path.suffix in AS_TEXT else "")
    if files.get_file_from_path(name) is None:
        files.append(File.generated(config, name, content=path.read_bytes()))
    return os.path.relpath(name, Path(page.file.src_uri).parent)


def equation(tex: str) -> str:
    """Return an equation as a drawing in the page, in the colour of its text: no script or font from elsewhere."""
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    with mpl.rc_context({"mathtext.fontset": "cm"}):
        path = TextPath((0, 0), f"${tex}$", size=20, prop=FontProperties())
    box, lines = path.get_extents(), []
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    for points, code in path.iter_segments(curves=True, simplify=False):
        lines.append(letters[int(code)] + ("" if code == 79 else " ".join(f"{value:.2f}" for value in points)))
    view = f"{box.x0 - 1:.1f} {-box.y1 - 1:.1f} {box.width + 2:.1f} {box.height + 2:.1f}"
    said = html.escape(re.sub(r"\\\\(mathrm|[,])|[{}]", "", tex))
    return (
        f'<p class="equation"><svg role="img" aria-label="{said}" viewBox="{view}" width="{box.width + 2:.0f}" '
        f'height="{box.height + 2:.0f}"><path transform="scale(1,-1)" d="{"".join(lines)}"/></svg></p>\n'
    )


# Recipes

FIRST = ("digits", "finetune")
"""The recipes that a newcomer needs."""


@dataclass(frozen=True)
class Recipe:
    """A recipe file as its head comment describes it."""

    name: str
    title: str
    facts: list[tuple[str, list[str]]]  # (what, lines)
    settings: str


def recipe_files() -> Iterator[Recipe]:
    """Yield the recipes that come with the package, small images first."""
    paths = sorted((PACKAGE / "recipes").glob("*.yaml"), key=lambda path: (path.stem not in FIRST, path.stem))
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
        title, *head = (line.removeprefix("#").removeprefix(" ") for line in lines[:end])
        facts: list[tuple[str, list[str]]] = []
        for line in filter(str.strip, head):
            if line.startswith(" "):
                facts[-1][1].append(line)
            else:
                what, _, text = line.partition(":" if line.startswith("differs from ") else " ")
                facts.append((what, [text.strip()] if text.strip() else []))
        yield Recipe(path.stem, title, facts, "\n".join(lines[end:]))


def recipes_text() -> str:
    """Return a table of the recipes, then each with its facts and settings."""
    recipes = list(recipe_files())
    rows = ["| recipe | image | model | mix | epochs | batch |", "|---|---|---|---|---|---|"]
    parts = []
    for recipe in recipes:
        data, model, mixing, training = (
            yaml.safe_load(recipe.settings)[section] for section in ("data", "model", "mixing", "optimization")
        )
        rows.append(
            f"| [`{recipe.name}`](#{recipe.name}) | {data['image_size']} | `{model['model']}` | {mixing['mix']} "
            f"| {training['epochs']} | {training['batch_size'] or 'fitted'} |"
        )
        facts = "\n\n".join(f"{what[0].upper()}{what[1:]}\n{_definition(what, lines)}" for what, lines in recipe.facts)
        settings = "\n".join(f"    {line}" for line in ["```yaml", *recipe.settings.splitlines(), "```"])
        parts.append(f'## {recipe.name}\n\n{recipe.title}\n\n{facts}\n\n??? note "Settings"\n\n{settings}')
    return "\n\n".join(["\n".join(rows), *parts])


def _definition(what: str, lines: list[str]) -> str:
    """Return the lines of one fact as a definition: a command as code, deeper lines as a list, the rest as prose."""
    if what == "command":
        command, *rest = (line.strip() for line in lines)
        command, _, note = command.partition("      ")
        return f":   `{command}` {note.strip()} {' '.join(rest)}".rstrip()
    if what.endswith("line by line"):
        return ":   " + "\n    ".join(f"- {line.strip()}" for line in lines)
    return ":   " + " ".join(line.strip() for line in lines)


# Settings and commands: dataclasses whose fields have docstrings, read without running anything


@dataclass(frozen=True)
class Option:
    """One field of a dataclass, as an option of the command line."""

    flag: str
    values: str
    default: str
    text: str


def settings_text() -> str:
    """Return a table of settings for every section of a recipe."""
    path = PACKAGE / "recipes" / "settings.py"
    sections = (part for part in _class("Recipe", path)[0].body if isinstance(part, ast.AnnAssign))
    parts = []
    for section in sections:
        kind, _ = _class(ast.unparse(section.annotation), path)
        parts.append(f"## {ast.unparse(section.target)}\n\n{ast.get_docstring(kind)}\n\n{_table(options(kind, path))}")
    return "\n\n".join(parts)


def tables_text() -> str:
    """Return the tables of mixing methods and of label rules: what each does, its settings, what a rule looks at."""
    parts = []
    for option, folder, file, name in (("mix", "mixing", "methods", "METHODS"), ("labels", "labels", "rules", "RULES")):
        path = PACKAGE / folder / f"{file}.py"
        entries, _ = _meaning(name, path)
        rules = option == "labels"
        rows = [f"| `{option}` | what it does | settings |" + (" looks at |" if rules else "")]
        rows.append("|---|---|---|" + ("---|" if rules else ""))
        for key, value in zip(entries.keys, entries.values, strict=True):
            kind, _ = _class(ast.unparse(value), path)
            does = (ast.get_docstring(kind) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            fields = [part for part in kind.body if isinstance(part, ast.AnnAssign) and part.value is not None]
            values = {ast.unparse(part.target): ast.unparse(part.value) for part in fields}  # type: ignore[arg-type]
            constants = {ast.unparse(part.target) for part in fields if "ClassVar" in ast.unparse(part.annotation)}
            needs = ", ".join(ast.literal_eval(values.get("needs", "()"))) or "nothing"
            said = {name: value for name, value in values.items() if name not in constants}
            settings = ", ".join(f"`{name}={default}`" for name, default in said.items())
            rows.append(f"| `{ast.literal_eval(key)}` | {does} | {settings} |" + (f" {needs} |" if rules else ""))
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def verbs() -> dict[str, str]:
    """Return the verbs of the command line and what each is for."""
    return ast.literal_eval(_meaning("VERBS", PACKAGE / "cli" / "__init__.py")[0])


def commands_text() -> str:
    """Return a table of the verbs, then each with its options."""
    rows = [f"| [`{verb}`](#transmix-{verb}) | {what} |" for verb, what in verbs().items()]
    parts = (f"## transmix {verb}\n\n{_command(PACKAGE / 'cli' / f'{verb}.py')}" for verb in verbs())
    return "\n\n".join(["\n".join(["| command | |", "|---|---|", *rows]), *parts])


def _command(path: Path) -> str:
    classes = [node for node in _tree(path).body if isinstance(node, ast.ClassDef)]
    kinds = [node for node in classes if _is_dataclass(node) and not node.name.startswith("_")]
    return "\n\n".join(f"{_prose(ast.get_docstring(kind) or '')}\n\n{_table(options(kind, path))}" for kind in kinds)


def options(kind: ast.ClassDef, path: Path) -> list[Option]:
    """Return the fields of a dataclass; those of a dataclass in it take its place (a recipe's: a link to them)."""
    found = []
    for field, after in zip(kind.body, [*kind.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        name, annotation = ast.unparse(field.target), ast.unparse(field.annotation)
        inner = re.sub(r"^Annotated\[(.*?)((, tyro\.conf\.[^,]*)|(, '[^']*')|(, [A-Z_]+))+\]$", r"\1", annotation)
        node, place = _meaning(inner, path)
        if inner == "Recipe":
            found.append(Option("--...", "", "", "Every setting of a recipe: [Settings](settings.md)."))
        elif _is_dataclass(node):
            found += options(node, place)
        else:
            positional = "Positional" in annotation
            flag = name.upper() if positional else f"--{name.replace('_', '-')}"
            said = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            default = "required" if field.value is None else _default(field.value, path)
            found.append(Option(flag, _values(inner, path), default, " ".join(said.split())))
    return found


def _values(kind: str, path: Path) -> str:
    """Return a type in the words of who types it in: choices, or what kind of thing."""
    for name in re.findall(r"\b[A-Z]\w+", kind):
        node, _ = _meaning(name, path)
        kind = kind.replace(name, ast.unparse(node)) if isinstance(node, ast.Subscript) else kind
    kind = re.sub(r"dict\[.*\]", "NAME=VALUE ...", kind.replace(" | None", ""))
    kind = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace(", ", " or ").replace("'", ""), kind)
    kind = re.sub(r"tuple\[(.*)\]", lambda found: found[1].replace(", ...", " ...").replace(",", ""), kind)
    words = {"str": "text", "bool": "flag", "Path": "path"}
    kind = re.sub(r"\b(str|bool|Path)\b", lambda found: words[found[1]], kind)
    return kind.replace(" | ", " or ")


def _default(value: ast.expr, path: Path) -> str:
    if isinstance(value, ast.Name):
        meaning, _ = _meaning(value.id, path)
        value = meaning if isinstance(meaning, ast.expr) else value
    text = ast.unparse(value)
    if text in ("None", "False", "()", "tyro.MISSING") or text.startswith("field("):
        return ""
    return re.sub(r"Path\('(.*)'\)|[(),']", lambda found: found[1] or "", text)


def _table(rows: list[Option]) -> str:
    lines = ["| option | values | default | |", "|---|---|---|---|"]
    for row in rows:
        default = f"`{row.default}`" if row.default not in ("", "required") else row.default
        text = row.text.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{row.flag}` | {row.values} | {default} | {text} |")
    return "\n".join(lines)


def _prose(docstring: str) -> str:
    """Return a docstring whose lines `word, word: what` stay lines."""
    return re.sub(r"\n *(?=\w[\w, ]*: )", "  \n", docstring)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _meaning(name: str, path: Path) -> tuple[Any, Path]:
    """Return what a name stands for in a file, followed through imports from the package, and where that is."""
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, path
        if isinstance(node, ast.Assign) and (value := _assigned(node).get(name)):
            return value, path
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            module = ROOT / (node.module or "").replace(".", "/")
            source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            return _meaning(name, source) if source.is_relative_to(PACKAGE) else (None, path)
    return None, path


def _assigned(node: ast.Assign) -> dict[str, ast.expr]:
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return dict(zip(map(ast.unparse, target.elts), value.elts, strict=True))
    return {ast.unparse(target): value}


def _class(name: str, path: Path) -> tuple[ast.ClassDef, Path]:
    node, place = _meaning(name, path)
    if not isinstance(node, ast.ClassDef):
        raise LookupError(f"{path} has no class {name}")
    return node, place


def _is_dataclass(node: Any) -> bool:
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)


GENERATED: dict[str, Callable[[], str]] = {
    "recipes": recipes_text,
    "settings": settings_text,
    "tables": tables_text,
    "commands": commands_text,
}
