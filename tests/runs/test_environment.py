"""What else a result depends on."""

import json
import subprocess

import pytest
import torch

from transmix.distributed import World
from transmix.runs.folder import commit, environment


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "file").write_text("first")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_the_commit_is_named_and_whether_files_differ_from_it(checkout):
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD")
    (checkout / "other").write_text("not tracked")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD")
    (checkout / "file").write_text("second")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD") + "+"


def test_an_installed_package_has_none_even_where_a_folder_above_is_a_checkout(checkout, monkeypatch):
    (checkout / "site-packages").mkdir()
    assert commit(checkout / "site-packages") is None
    monkeypatch.setenv("PATH", "")
    assert commit(checkout) is None  # no git


def test_it_can_be_written_and_says_where_and_with_what():
    found = environment(World(0, 2, 2, torch.device("cpu")))
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["torch"] in torch.__version__  # which may name a build as well
    assert (found["processes"], found["threads"]) == (2, torch.get_num_threads())
