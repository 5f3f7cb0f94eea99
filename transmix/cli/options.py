"""Options to dataclass with tyro, and its complaints as one line."""

import contextlib
import io
import re
from dataclasses import replace
from typing import Any, TypeVar

import tyro
import yaml

from transmix.models.settings import Option
from transmix.recipes import Recipe, RecipeError
from transmix.recipes.file import NOW_OPTIONS, RENAMED

Options = TypeVar("Options")

_REGISTRY = tyro.constructors.ConstructorRegistry()


def parse(kind: type[Options], verb: str, arguments: list[str], default: Options | None = None) -> Options:
    """Fill a dataclass from command line arguments; --help prints and exits.

    Raises:
        RecipeError: an unknown option (with the nearest), a missing one, a value of the wrong type.
    """
    complaint = io.StringIO()
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=f"transmix {verb}",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_REGISTRY,
                **given,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise RecipeError(f"{_one_line(complaint.getvalue())}; see transmix {verb} --help") from None


def in_new_words(arguments: list[str]) -> list[str]:
    """Return a command line in the names that settings have today.

    What is a setting of the label rule now goes to --labels-options.
    """
    words, options, taken = [], [], iter(arguments)
    for word in taken:
        name, equals, value = word.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if name.startswith("--") and key in NOW_OPTIONS:
            options.append(f"{NOW_OPTIONS[key]}={value if equals else next(taken, '')}")
        elif name.startswith("--") and key in RENAMED:
            words.append(f"--{RENAMED[key].replace('_', '-')}{equals}{value}")
        else:
            words.append(word)
    if not options:
        return words
    place = next((at for at, word in enumerate(words) if word in ("--labels-options", "--labels_options")), None)
    if place is None:
        return [*words, "--labels-options", *options]
    return [*words[: place + 1], *options, *words[place + 1 :]]


def given_options(base: Recipe, given: Recipe) -> Recipe:
    """Return a recipe whose NAME=VALUE settings are those of `base` with those given over them.

    NAME= takes one away.
    """

    def over(before: dict[str, Option], after: dict[str, Option]) -> dict[str, Option]:
        return {name: value for name, value in (before | after).items() if value is not None}

    old, new = base.mixing, given.mixing
    mixing = replace(
        new,
        mix_options=over(old.mix_options, new.mix_options),
        mix_weights=over(old.mix_weights, new.mix_weights),
        labels_options=over(old.labels_options, new.labels_options),
    )
    model = replace(given.model, model_options=over(base.model.model_options, given.model.model_options))
    return replace(given, mixing=mixing, model=model)


def _one_line(box: str) -> str:
    """Return the gist of what tyro wrote into a box: the problem, and options it thinks are meant."""
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
    """Take a dict as NAME=VALUE words."""
    if info.type != dict[str, Option]:
        return None

    def read(words: list[str]) -> dict[str, Option]:
        pairs = [word.partition("=") for word in words]
        if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
            raise ValueError(f"expected NAME=VALUE, not {wrong[0]!r}")
        options = {name: _value(name, value) for name, _, value in pairs}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE ...",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{name}={_option_text(part)}" for name, part in value.items()],
    )


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except Exception as error:  # YAML's own, and on odd scalars nearly any other
        raise ValueError(f"{name}={text} is not YAML: {' '.join(str(error).split())[:200]}") from error


def _option_text(value: Option) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
