"""After a resume the log has every line that the checkpoint has seen, once, and no other."""

import csv
import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transmix.runs.error import RunError
from transmix.runs.log import RunLog, read_rows, training_windows


def fill(log, steps, per_epoch=4):
    """Log as a run does: a read every second step, the epoch's row after the read at its end."""
    for step in steps:
        if step % 2 == 0:
            log.write("train", step, {"loss": 1 / step})
        if step % per_epoch == 0:
            log.write("epoch", step, {"epoch": step // per_epoch, "loss": 1 / step, "top1": step / 100})


@pytest.fixture
def undisturbed(tmp_path):
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    fill(RunLog(folder, 0, False), range(1, 13))
    return {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")}


def a_torn_line_before_another_run_went_on(content):
    at = content.index(b"\n", content.index(b'"step": 8')) + 1
    return content[:at] + b'{"kind"\n' + content[at:]


DAMAGES = {
    "nothing": lambda content: content,
    "a torn last line": lambda content: content + b'{"kind": "train", "st',
    "zeros at the end": lambda content: content + bytes(4096),
    "no text": lambda content: content + b"\xff\xfe\n[1]\n7\n{}\n" + b"[" * 100_000 + b"\n",
    "a torn line before another run went on": a_torn_line_before_another_run_went_on,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("step", [4, 6, 8, 12])
def test_a_resumed_log_ends_with_the_bytes_of_one_that_was_never_disturbed(step, damage, undisturbed, tmp_path):
    log = RunLog(tmp_path, 0, False)
    fill(log, range(1, step + 1))
    rows = log.rows
    log.sync()
    fill(log, range(step + 1, 13))  # no checkpoint has seen these
    log.path.write_bytes(damage(log.path.read_bytes()))
    (tmp_path / "metrics.csv").write_text("epoch,lo")
    again = RunLog(tmp_path, step, False, rows)
    assert again.rows == rows
    assert [row["step"] for row in again.epochs] == list(range(4, step + 1, 4))
    fill(again, range(step + 1, 13))
    assert {name: (tmp_path / name).read_bytes() for name in undisturbed} == undisturbed


def test_an_epochs_row_that_came_after_the_checkpoint_of_its_step_is_cut(undisturbed, tmp_path):
    log = RunLog(tmp_path, 0, False)
    fill(log, range(1, 8))
    log.write("train", 8, {"loss": 1 / 8})
    rows = log.rows  # stopped while epoch 2 was evaluated: saved here
    log.write("epoch", 8, {"epoch": 2, "loss": 0.5, "top1": 0.5})
    again = RunLog(tmp_path, 8, False, rows)
    again.write("epoch", 8, {"epoch": 2, "loss": 1 / 8, "top1": 0.08})
    fill(again, range(9, 13))
    assert {name: (tmp_path / name).read_bytes() for name in undisturbed} == undisturbed
    by_step_alone = RunLog(tmp_path, 8, False)
    by_step_alone.write("epoch", 8, {"epoch": 2, "loss": 1 / 8, "top1": 0.08})
    assert [row["step"] for row in read_rows(by_step_alone.path) if row["kind"] == "epoch"] == [4, 8, 8]


def test_a_line_that_is_there_twice_is_kept_once(undisturbed, tmp_path):
    lines = undisturbed["metrics.jsonl"].splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(line * 2 for line in lines))
    RunLog(tmp_path, 12, False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == undisturbed["metrics.jsonl"]


def test_without_a_checkpoint_the_log_starts_empty(tmp_path):
    fill(RunLog(tmp_path, 0, False), range(1, 13))
    log = RunLog(tmp_path, 0, False)
    assert (log.rows, log.epochs) == (0, [])
    assert log.path.read_bytes() == b""


def test_missing_files_are_made_anew_and_go_on_from_the_checkpoint(tmp_path):
    log = RunLog(tmp_path, 8, False, 6)
    assert (log.rows, log.epochs) == (0, [])
    fill(log, range(9, 13))
    assert [row["step"] for row in read_rows(log.path)] == [10, 12, 12]
    with log.csv_path.open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["3"]
    assert read_rows(tmp_path / "absent.jsonl") == []


def test_columns_that_come_later_are_in_the_csv_from_the_start(tmp_path):
    log = RunLog(tmp_path, 0, False)
    log.write("epoch", 4, {"epoch": 1, "loss": 0.5})
    log.write("epoch", 8, {"epoch": 2, "loss": 0.25, "note": 'a, "b"\nc'})
    with log.csv_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == ["", 'a, "b"\nc']


def test_what_the_disk_does_not_take_stops_with_a_line_that_names_the_file(tmp_path, disk):
    log = RunLog(tmp_path, 0, False)
    fill(log, range(1, 5))
    operations = {"metrics.jsonl": lambda: log.write("train", 6, {}), "metrics.csv": lambda: log._write_csv()}
    for name, operation in operations.items():

        def full(kind, path, *rest):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        before = (tmp_path / name).read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            disk.watch(patch, tmp_path, full)
            with pytest.raises(RunError) as caught:
                operation()
        assert str(caught.value) == (
            f"cannot write {tmp_path}/{name}: No space left on device (free some space there); "
            f"--resume continues from the last checkpoint"
        )
        assert caught.value.code == 1
        assert (tmp_path / name).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["metrics.csv", "metrics.jsonl"]


def test_a_row_that_was_written_in_part_is_cut_by_the_resume(tmp_path, disk):
    log = RunLog(tmp_path, 0, False)
    fill(log, range(1, 5))
    whole = log.path.read_bytes()

    def full(kind, path, *rest):
        if kind == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch, tmp_path, full)
        with pytest.raises(RunError, match="No space left"):
            log.write("train", 6, {"loss": 0.1})
    assert len(log.path.read_bytes()) > len(whole)
    assert len(read_rows(log.path)) == len(whole.splitlines())
    RunLog(tmp_path, 4, False, log.rows)
    assert log.path.read_bytes() == whole


@pytest.mark.parametrize("operation", [lambda log: log.write("train", 2, {}), lambda log: log.sync()])
def test_a_run_folder_that_is_gone_stops_with_one_line(operation, tmp_path, says):
    folder = tmp_path / "run"
    folder.mkdir()
    log = RunLog(folder, 0, False)
    folder.rename(tmp_path / "moved")
    with says(
        RunError,
        f"cannot write {folder}/metrics.jsonl: No such file or directory (if the folder was moved or removed, put it "
        f"back); --resume continues from the last checkpoint",
    ):
        operation(log)
    assert not folder.exists()


def test_a_log_that_cannot_be_read_is_named(tmp_path, says):
    (tmp_path / "metrics.jsonl").mkdir()
    with says(RunError, f"cannot read {tmp_path}/metrics.jsonl: Is a directory"):
        read_rows(tmp_path / "metrics.jsonl")


# ---------------------------------------------------------------------------------- windows of training rows


def rows_of(values, every, per_epoch):
    """The rows that training writes: the mean of each window, read every few steps and at an epoch's end."""
    rows, since = [], 0
    for step in range(1, len(values) + 1):
        if step % every == 0 or step % per_epoch == 0:
            rows.append({"kind": "train", "step": step, "loss": sum(values[since:step]) / (step - since)})
            since = step
        if step % per_epoch == 0:
            rows.append({"kind": "epoch", "step": step, "val_loss": 0.0})
    return rows


def test_a_short_window_is_joined_with_its_neighbour_by_its_steps():
    values = [1.0] * 50
    values[20] = 9.0  # step 21, alone between a read at 20 and the epoch's end at 21
    rows = rows_of(values, every=10, per_epoch=21)
    assert max(row["loss"] for row in rows if row["kind"] == "train") == 9.0  # the spike in the log
    windows = training_windows(rows, "loss")
    assert dict(windows)[21] == pytest.approx(sum(values[10:21]) / 11)
    assert max(value for _, value in windows) < 2


@settings(max_examples=60)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=90), st.integers(1, 20), st.integers(1, 30))
def test_joined_windows_have_the_mean_of_all_steps(values, every, per_epoch):
    rows = rows_of(values, every, per_epoch)
    windows = training_windows(rows, "loss")
    steps = [0, *(step for step, _ in windows)]
    total = sum(value * (end - start) for (end, value), start in zip(windows, steps, strict=False))
    assert total == pytest.approx(sum(values[: steps[-1]]), abs=1e-6)
    assert steps == sorted(set(steps))


def test_windows_of_one_length_stay_as_they_are():
    rows = rows_of([float(step) for step in range(40)], every=10, per_epoch=20)
    assert training_windows(rows, "loss") == [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]
