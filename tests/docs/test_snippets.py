"""What the pages show runs: every block of Python, every `transmix` command, in order of the page."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch

from transmix.cli import VERBS

pytest.importorskip("timm")

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page, language):
    """Return (why it is not run or None, text) of each block of a page."""
    found = FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    return [(why or None, text) for why, kind, text in found if kind == language]


def commands(text):
    """Return the arguments of each `transmix` command in a block, started by torchrun or not."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    assert all("transmix" in line for line in words if line), f"not a transmix command: {text}"
    return [line[line.index("transmix") + 1 :] for line in words if line]


def with_blocks(language):
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def one_thread():
    """One thread, one seed, and the number of threads as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class UnderstoodError(Exception):
    """Raised in place of what a command would do, once its options are parsed."""


def check_understood(arguments, monkeypatch):
    """Parse a command line with the parser that the command itself uses."""
    verb, *rest = arguments
    module = importlib.import_module(f"transmix.cli.{verb}")
    if not hasattr(module, "parse"):
        module.main(rest)  # verbs that read and print a little
        return
    parse = module.parse

    def parse_alone(*given, **named):
        parse(*given, **named)
        raise UnderstoodError

    with monkeypatch.context() as patch:
        patch.setattr(module, "parse", parse_alone)
        with pytest.raises(UnderstoodError):
            module.main(rest)


@pytest.mark.parametrize("page", with_blocks("python"))
def test_every_block_of_python_runs_one_after_the_other(page, one_thread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for why, text in blocks(page, "python"):
        code = compile(text, page, "exec")
        if why is None:
            exec(code, names)


def test_every_command_is_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = [
        arguments for page in with_blocks("bash") for _, text in blocks(page, "bash") for arguments in commands(text)
    ]
    for arguments in seen:
        check_understood(arguments, monkeypatch)
    assert {arguments[0] for arguments in seen} >= set(VERBS)


def test_a_wrong_option_would_be_seen(tmp_path, monkeypatch):
    from transmix.recipes import RecipeError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"did you mean .*--epochs"):
        check_understood(["train", "--epoch", "3", "--out", "x"], monkeypatch)


def test_every_command_that_is_not_marked_runs_and_later_pages_find_its_run(one_thread, tmp_path, monkeypatch):
    import transmix.data.digits as digits

    ink, labels, photos = digits.load_sources()
    few = digits.Sources(ink[:400], labels[:400], photos)  # of 1,797, and each drawn once
    monkeypatch.setattr(digits, "load_sources", lambda: few)
    monkeypatch.setattr(
        digits.digits_on_textures,
        "__kwdefaults__",
        digits.digits_on_textures.__kwdefaults__ | {"train_copies": 1, "val_copies": 1},
    )
    monkeypatch.chdir(tmp_path)
    runs_first = sorted(with_blocks("bash"), key=lambda page: page not in ("index.md", "start.md"))
    texts = [text for page in runs_first for why, text in blocks(page, "bash") if why is None]
    seen = list(dict.fromkeys(tuple(arguments) for text in texts for arguments in commands(text)))
    for verb, *rest in seen:
        few_steps = ["--max-steps", "2", "--threads", "1"] if verb == "train" else []
        code = importlib.import_module(f"transmix.cli.{verb}").main([*rest, *few_steps])
        assert code in ((0, 1) if verb == "doctor" else (0, None)), (verb, rest)  # 1: the few digits leak a little
    assert {"train", "evaluate", "show", "export", "report"} <= {verb for verb, *_ in seen}
    assert (tmp_path / "runs" / "digits" / "summary.json").is_file()
