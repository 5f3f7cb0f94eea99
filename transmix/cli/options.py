"""Parse options to a dataclass with tyro; its errors become one line."""

import contextlib
import io
import re
from dataclasses import replace
from typing import Any, TypeVar

import tyro
import yaml

from transmix.cli.help import help_text, name_value_words
from transmix.error import one_line
from transmix.recipes import Recipe, RecipeError
from transmix.recipes.file import MOVED, RENAMED
from transmix.recipes.mixing import rule_name
from transmix.recipes.settings import Option

Options = TypeVar("Options")

_REGISTRY = tyro.constructors.ConstructorRegistry()

PAIRS = ("--labels-options", "--mix-options", "--mix-weights", "--model-options")
"""Options that take NAME=VALUE words; given several times, they add up."""


def parse(kind: type[Options], verb: str, arguments: list[str], default: Options | None = None) -> Options:
    """Fill a dataclass from command line arguments; --help prints and exits.

    Raises:
        RecipeError: an unknown option (the message names the nearest), a missing option, or a value of the wrong type.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text(verb, {kind: default}))
        raise SystemExit(0)
    complaint = io.StringIO()
    options: dict[str, Any] = {"registry": _REGISTRY} | ({} if default is None else {"default": default})
    try:
        with contextlib.redirect_stderr(complaint):
            how = (tyro.conf.OmitArgPrefixes,)
            return tyro.cli(kind, prog=f"transmix {verb}", args=arguments, config=how, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise RecipeError(f"{_one_line(complaint.getvalue())}; see transmix {verb} --help") from None


def split_options(arguments: list[str]) -> list[list[str]]:
    """Split a command line into options, each with its values; the first item holds the words before any option.

    Names get hyphens and are separated from their value: --lr_batch=1 is ["--lr-batch", "1"].
    """
    parts: list[list[str]] = [[]]
    for word in arguments:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            parts.append([name.replace("_", "-"), *([value] if equals else [])])
        else:
            parts[-1].append(word)
    return parts


def words_of(arguments: list[str], option: str) -> list[str] | None:
    """Return all words after an option; None if it is not given."""
    found = [words for name, *words in filter(None, split_options(arguments)) if name == option]
    return [word for words in found for word in words] if found else None


def value_of(arguments: list[str], option: str, absent: Any = None) -> Any:
    """Return the last value of an option; `absent` if it is not given."""
    words = words_of(arguments, option)
    return absent if words is None else (words or [""])[-1]


def with_current_names(arguments: list[str]) -> list[str]:
    """Return a command line with old names of settings replaced by current ones.

    Old options that are settings of the label rule now become words of --labels-options.

    Raises:
        RecipeError: an old option without a value, or a setting under both its names.
    """
    first, *options = split_options(arguments)
    words, given, pairs, old = list(first), {option[0] for option in options}, {}, []
    for name, *values in options:
        key = name.removeprefix("--").replace("-", "_")
        if key in MOVED:
            if not values or not values[0]:
                raise RecipeError(f"{name} needs a value")
            old.append(f"{MOVED[key]}={values[0]}")
            words += values[1:]
        elif name in PAIRS:
            pairs.setdefault(name, []).extend(values)
        elif key in RENAMED and f"--{RENAMED[key]}" in given:
            raise RecipeError(f"--{RENAMED[key]} is given twice, once under its old name; keep one")
        else:
            words += [f"--{RENAMED[key]}" if key in RENAMED else name, *values]
    if old:
        pairs.setdefault("--labels-options", []).extend(old)
        names = [pair.partition("=")[0] for pair in pairs["--labels-options"]]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise RecipeError(f"{twice} of the labels is given twice, once under its old name; keep one")
    return [*words, *(word for name, taken in pairs.items() for word in (name, *taken))]


def as_defaults(recipe: Recipe, arguments: list[str]) -> Recipe:
    """Return a recipe as the defaults of a command line.

    A mix on the command line implies its own labels, unless --labels is given too. Settings of the recipe's label rule
    are not passed on to another rule. --init replaces the recipe's pretrained.

    Raises:
        RecipeError: settings of a label rule where labels are by area.
    """
    mix, labels = (value_of(arguments, option) for option in ("--mix", "--labels"))
    mixing, before = recipe.mixing, rule_name(recipe.mixing)
    if mix is not None and labels is None:
        mixing = replace(mixing, labels=None)
    asked = mixing.labels if labels is None else None if labels == "None" else labels
    after = rule_name(replace(mixing, mix=mix or mixing.mix, labels=asked))
    if after == "area" and labels is None and words_of(arguments, "--labels-options") is not None:
        raise RecipeError("--labels-options are for a label rule, and labels are by area here; give --labels too")
    if after != before:
        mixing = replace(mixing, labels_options={})
    return with_given_start(replace(recipe, mixing=mixing), arguments)


def with_given_start(recipe: Recipe, arguments: list[str]) -> Recipe:
    """Return a recipe that is not pretrained if the command line says --init."""
    if words_of(arguments, "--init") is None:
        return recipe
    return replace(recipe, model=replace(recipe.model, pretrained=False))


def given_options(base: Recipe, given: Recipe) -> Recipe:
    """Return a recipe in which the given NAME=VALUE settings are merged over those of `base`.

    NAME= removes one.
    """

    def over(section: str, *names: str) -> Any:
        before, after = getattr(base, section), getattr(given, section)
        both = {name: getattr(before, name) | getattr(after, name) for name in names}
        kept = {name: {key: value for key, value in one.items() if value is not None} for name, one in both.items()}
        return replace(after, **kept)

    mixing = over("mixing", "mix_options", "mix_weights", "labels_options")
    return replace(given, mixing=mixing, model=over("model", "model_options"))


def _one_line(box: str) -> str:
    """Return the main text of tyro's error box: the problem and the options that it suggests."""
    # With borders, where the output can show them, the title is part of the border; without, a line over a rule.
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    is_rule = [bool(line) and set(line) <= {"─", "-"} for line in lines]
    if not box.lstrip().startswith("╭") and is_rule[1:2] == [True]:
        lines, is_rule = lines[2:], is_rule[2:]
    end = is_rule.index(True) if True in is_rule else len(lines)
    problem, rest = " ".join(filter(None, lines[:end])), lines[end:]
    if "nrecognized" in problem:
        near = list(dict.fromkeys(re.findall(r"^--\w[\w-]*", "\n".join(rest), flags=re.MULTILINE)))
        problem += f"; did you mean {' or '.join(near[:2])}?" if near else ""
    return problem.rstrip(".") or "the command line was not understood"


@_REGISTRY.primitive_rule
def _name_value_pairs(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Let tyro parse a dict from NAME=VALUE words."""
    if info.type != dict[str, Option]:
        return None

    def read(words: list[str]) -> dict[str, Option]:
        options: dict[str, Any] = {}
        for name, equals, text in (word.partition("=") for word in words):
            if not (name and equals):
                raise ValueError(f"expected NAME=VALUE, not {name!r}")
            try:
                value = yaml.safe_load(text)
            except Exception as error:  # YAML's own, and on odd scalars nearly any other
                raise ValueError(f"{name}={text} is not YAML: {one_line(error)}") from error
            options[name] = tuple(value) if isinstance(value, list) else value
        return options

    def is_dict(value: object) -> bool:
        return isinstance(value, dict)

    return tyro.constructors.PrimitiveConstructorSpec("*", "NAME=VALUE ...", read, is_dict, name_value_words)
