"""A bare install, torch and nothing else, trains by three lines, and every command says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transmix.cli import VERBS, main

BLOCK = '''
import sys, warnings
warnings.simplefilter("ignore")
ALLOWED = {"torch", "torchgen", "functorch", "transmix", *sys.argv[1].split()}
ALLOWED |= {"typing_extensions", "filelock", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec"}
ALLOWED |= {"setuptools", "triton", "nvidia", "cuda"}

class OnlyTorch:
    """Finds no package but torch, what torch needs, and this one."""

    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in ALLOWED | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)

sys.meta_path.insert(0, OnlyTorch())
'''

COMMANDS = """
import contextlib, io, json
from transmix.cli import main

found = []
for words in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    found.append((code, out.getvalue().splitlines(), err.getvalue().splitlines()))
print(json.dumps(found))
"""

THREE_LINES = """
import torch
from torch import nn
import transmix

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return x + nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.blocks, self.head = nn.Sequential(Attention(), Attention()), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        return self.head(self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0])

model = Small()
tm = transmix.TransMix(model, smoothing=0.1, module="blocks.1", prefix_tokens=1)
for _ in range(4):
    mixed = tm.mix(torch.rand(5, 3, 16, 12), torch.tensor([0, 1, 2, 0, 1]))
    tm.loss(model(mixed.images), mixed).backward()
print("numpy" in sys.modules)
"""


def run(code, *words):
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code, *words], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_with_torch_alone_every_command_and_typo_ends_in_a_line_that_says_what_to_install():
    import json

    verbs = [[verb, *more] for verb in VERBS for more in ([], ["--help"], ["x", "--out", "y"])]
    typos = [["trian"], ["frobnicate"], ["Train", "--help"]]
    found = json.loads(run(COMMANDS, "", json.dumps([*verbs, *typos, [], ["--help"], ["--version"]])))
    for words, (code, out, err) in zip(verbs, found, strict=False):
        assert (code, out, len(err)) == (2, [], 1), (words, out, err)
        assert err[0].endswith(f" is not installed; install what {words[0]} needs: pip install 'transmix[train]'")
    for code, out, err in found[len(verbs) : -3]:
        assert (code, out, len(err)) == (2, [], 1)
        assert err[0].endswith(" (commands need more than torch: pip install 'transmix[train]')")
    assert found[len(verbs)][2][0].startswith("transmix: no command 'trian'; did you mean train? (")
    nothing, helped, version = found[-3:]
    assert (nothing[0], helped[0], version[:1] + version[2:]) == (2, 0, [0, []])
    assert nothing[1] == helped[1]
    assert helped[1][-1] == "(commands need more than torch: pip install 'transmix[train]')"


def test_with_torch_alone_the_three_lines_train_and_numpy_is_not_missed():
    assert run(THREE_LINES, "") == "False"


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [("gradio", ["app"], "app"), ("matplotlib", ["show", "curves", "x"], "train"), ("tyro", ["train"], "train")],
)
def test_a_package_of_an_extra_that_is_missing_is_named_with_it(package, words, extra, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("transmix.cli.", "transmix.app", "transmix.visual"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert main(words) == 2
    line = f"transmix: {package} is not installed; install what {words[0]} needs: pip install 'transmix[{extra}]'\n"
    assert capsys.readouterr().err == line


def test_help_of_a_whole_install_does_not_speak_of_installing(capsys):
    main(["--help"])
    assert "pip install" not in capsys.readouterr().out
