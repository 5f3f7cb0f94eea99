"""Imports point one way, between folders and between files, and functions are of one screen."""

import ast
import re
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "transmix"

LEVELS = (
    ("attention", "error", "warnings", "printable"),
    ("mixing", "labels", "losses", "plugins", "metrics", "transmix", "methods"),
    ("data", "distributed"),
    ("recipes", "runs"),
    ("models",),
    ("evaluation", "visual", "training"),
    ("report", "compare", "app", "export", "integrations", "doctor", "pack", "predict", "cli"),
)
"""Folders and files at the top, from what knows nothing of the others upwards. A level knows those below it, and
itself without going round in circles."""

ALONE = {"attention": {"error"}, "mixing": {"warnings"}}
"""What imports nothing of ours, or next to nothing."""

LINES, PARAMETERS = 60, 8
MIRRORS = {
    ("transmix/transmix.py", "__init__"),  # TransMix
    ("transmix/mixing/mixer.py", "__init__"),  # Mixer, timm's parameters
    ("transmix/integrations/timm.py", "__init__"),  # timm's Mixup
    ("transmix/attention/row.py", "weights_of_sdpa"),  # torch's scaled_dot_product_attention
}
"""Functions whose parameters are those of somebody else's."""


def modules(package=PACKAGE):
    """Name -> file."""
    found = {}
    for path in package.rglob("*.py"):
        name = ".".join([package.name, *path.relative_to(package).with_suffix("").parts])
        found[name.removesuffix(".__init__")] = path
    return found


def imports(files):
    """Module -> modules that it imports, at the top, in a function or for types alone."""
    edges = defaultdict(set)
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transmix":
                for one in node.names:
                    whole = f"{node.module}.{one.name}"
                    edges[name].add(whole if whole in files else node.module)
            elif isinstance(node, ast.Import):
                edges[name] |= {one.name for one in node.names if one.name.split(".")[0] == "transmix"}
    return edges


def room(name):
    return name.split(".")[1] if "." in name else None


def circles(edges):
    """Groups that import each other, however far round: those that each of a group reaches, and is reached by."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for after in edges.get(waiting.pop(), ()):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return seen

    all_reached = {name: reached(name) for name in edges}
    return sorted(name for name, seen in all_reached.items() if name in seen)


def between_rooms(edges):
    found = defaultdict(set)
    for name, others in edges.items():
        found[room(name)] |= {room(other) for other in others} - {room(name), None}
    found.pop(None, None)
    return found


def upward(rooms, levels=LEVELS):
    level = {name: at for at, names in enumerate(levels) for name in names}
    return sorted((one, other) for one, others in rooms.items() for other in others if level[other] > level[one])


def test_no_file_and_no_folder_imports_itself_by_way_of_others():
    edges = imports(modules())
    assert circles(edges) == []
    assert circles(between_rooms(edges)) == []


def test_folders_know_those_below_them_alone():
    rooms = between_rooms(imports(modules()))
    rooms.pop("__main__", None)
    assert set(rooms) <= {name for names in LEVELS for name in names}
    assert upward(rooms) == []
    for name, allowed in ALONE.items():
        assert rooms[name] <= allowed, name


def test_neither_data_nor_what_is_below_it_imports_recipes():
    rooms = between_rooms(imports(modules()))
    assert [name for names in LEVELS[:3] for name in names if "recipes" in rooms.get(name, ())] == []


def test_a_circle_and_an_import_upwards_would_be_seen(tmp_path):
    package = tmp_path / "transmix"
    (package / "data").mkdir(parents=True)
    (package / "cli").mkdir()
    (package / "data" / "one.py").write_text("def f():\n    from transmix.cli.two import g\n")
    (package / "cli" / "two.py").write_text("from transmix.data import one\n")
    edges = imports(modules(package))
    assert circles(edges) == ["transmix.cli.two", "transmix.data.one"]
    assert circles(between_rooms(edges)) == ["cli", "data"]
    assert upward(between_rooms(edges)) == [("data", "cli")]


def functions():
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path.relative_to(PACKAGE.parent).as_posix(), node


def test_every_function_fits_on_a_screen():
    assert [(path, one.name) for path, one in functions() if one.end_lineno - one.lineno >= LINES] == []


def test_no_function_has_more_than_a_handful_of_parameters():
    many = set()
    for path, one in functions():
        given = one.args
        names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if count + bool(given.vararg) + bool(given.kwarg) > PARAMETERS:
            many.add((path, one.name))
    assert many == MIRRORS


def test_the_alias_alone_joins_a_mix_and_its_labels():
    """No code asks whether a mix is "transmix": the one line that names it is the default of a recipe."""
    pattern = re.compile(r'\b(mix|mixes)\b.*"transmix"')
    found = [
        (path.name, line.strip())
        for path in modules().values()
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]
    assert found == [("settings.py", 'mix: str = "transmix"')]
    assert pattern.search('if recipe.mixing.mix == "transmix":')
