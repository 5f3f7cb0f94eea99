"""The newest checkpoints and the best stay, damaged ones go aside, and the last whole one is never removed."""

import errno
import os

import pytest

from transmix.runs.checkpoint import remove_old_checkpoints, save_checkpoint, settle_checkpoints, verify_checkpoint


def steps(root):
    return [int(name[5:]) for name in sorted(os.listdir(root)) if name.startswith("step-")]


def refuse(path, *rest):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.fixture
def six(checkpoint, tmp_path):
    for step in range(1, 7):
        save_checkpoint(tmp_path, checkpoint(step))
    return tmp_path


def damage(root, *damaged):
    for step in damaged:
        (root / f"step-{step:08d}" / "model.safetensors").write_bytes(b"")


def test_old_checkpoints_go_and_the_best_stays(six):
    remove_old_checkpoints(six, keep=2, best_step=3)
    assert sorted(os.listdir(six)) == ["step-00000003", "step-00000005", "step-00000006"]
    remove_old_checkpoints(six, keep=2, best_step=None)
    assert steps(six) == [5, 6]


@pytest.mark.parametrize(
    ("damaged", "best", "left"),
    [
        ((5, 6), None, [4, 5, 6]),
        ((6,), None, [5, 6]),
        ((4, 5, 6), None, [3, 4, 5, 6]),
        ((5, 6), 2, [2, 5, 6]),
        ((2, 5, 6), 2, [2, 4, 5, 6]),
        ((1, 2, 3, 4, 5, 6), None, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_last_one_that_verifies_is_never_removed(damaged, best, left, six):
    damage(six, *damaged)
    remove_old_checkpoints(six, keep=2, best_step=best)
    found = steps(six)
    assert [step for step in found if step not in damaged] == [step for step in left if step not in damaged]
    assert set(found) >= {5, 6}


def test_what_cannot_be_removed_is_no_error_and_goes_the_next_time(six, monkeypatch):
    rename = os.rename

    monkeypatch.setattr(os, "rename", refuse)
    remove_old_checkpoints(six, keep=2, best_step=None)
    assert steps(six) == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(os, "rename", rename)
    remove_old_checkpoints(six, keep=2, best_step=None)
    assert sorted(os.listdir(six)) == ["step-00000005", "step-00000006"]
    remove_old_checkpoints(six / "absent", keep=2, best_step=None)


def test_damaged_checkpoints_of_one_step_never_overwrite_each_other(six, checkpoint):
    contents = [b"first", b"second", b"third"]
    for content in contents:
        save_checkpoint(six, checkpoint(6))
        (six / "step-00000006" / "model.safetensors").write_bytes(content)
        found, said = settle_checkpoints(six)
        assert found == six / "step-00000005"
        assert len(said) == 1
    names = ["damaged-step-00000006", "damaged-step-00000006-2", "damaged-step-00000006-3"]
    assert [(six / name / "model.safetensors").read_bytes() for name in names] == contents
    remove_old_checkpoints(six, keep=1, best_step=None)
    assert sorted(os.listdir(six)) == [*names, "step-00000005"]


def test_all_damaged_are_set_aside_older_ones_too_and_it_is_said_if_none_is_left(six):
    damage(six, 2, 6)
    found, said = settle_checkpoints(six)
    assert found == six / "step-00000005"
    assert [line.split("; ")[-1] for line in said] == [
        "set aside as damaged-step-00000002",
        "set aside as damaged-step-00000006",
    ]
    damage(six, 1, 3, 4, 5)
    found, said = settle_checkpoints(six)
    assert found is None
    assert len(said) == 5
    assert said[-1] == "no whole checkpoint is left; the run starts from its first step"


def test_a_damaged_checkpoint_that_cannot_be_set_aside_is_left_out_all_the_same(six, monkeypatch):
    size = (six / "step-00000006" / "model.safetensors").stat().st_size
    damage(six, 6)

    monkeypatch.setattr(os, "rename", refuse)
    found, said = settle_checkpoints(six)
    assert found == six / "step-00000005"
    assert said == [
        f"left out a checkpoint: {six}/step-00000006/model.safetensors is damaged: 0 bytes, {size} were written; "
        f"it cannot be set aside: Read-only file system (check the disk)"
    ]


def test_a_checkpoint_whose_replacement_never_came_is_put_back(six):
    (six / "step-00000006").rename(six / ".step-00000006.replaced")
    (six / ".step-00000006.77.tmp").mkdir()
    found, said = settle_checkpoints(six)
    assert (found, said) == (six / "step-00000006", [])
    verify_checkpoint(six / "step-00000006")
    assert not list(six.glob(".*"))
    assert settle_checkpoints(six / "absent") == (None, [])
