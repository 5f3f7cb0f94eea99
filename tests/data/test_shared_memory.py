"""Loader workers that run out of shared memory are one line with the remedy; other errors stay as they are."""

import pytest

from transmix.data.dataset import DataError
from transmix.data.loader import in_shared_memory

REMEDY = (
    "the processes that load images ran out of shared memory (/dev/shm): load with fewer, or with none (--workers 0), "
    "or give the container more (docker run --shm-size=8g)"
)

# What torch 2.15 raises in the process that trains, its traceback of the worker shortened.
OF_TORCH = {
    "allocating": RuntimeError(
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n"
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_27158_2293715918_0>: "
        "No space left on device (28)\n"
    ),
    "writing": RuntimeError("unable to write to file </torch_27158_2293715918_0>: No space left on device (28)"),
    "mapping": RuntimeError("unable to mmap 1228800 bytes from file </torch_1_2_3>: Cannot allocate memory (12)"),
    "bus error": RuntimeError(
        "DataLoader worker (pid 271) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        "of shared memory. Please try to raise your shared memory limit."
    ),
    "of the system": OSError(28, "No space left on device"),
}


def batches(error):
    yield 1
    raise error


@pytest.mark.parametrize("kind", OF_TORCH)
def test_out_of_shared_memory_is_one_line_with_the_remedy(kind, says):
    loaded = in_shared_memory(batches(OF_TORCH[kind]))
    assert next(loaded) == 1
    with says(DataError, REMEDY):
        next(loaded)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: device-side assert"), ValueError("shared memory"), KeyError(1)]
)
def test_any_other_error_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught:
        list(in_shared_memory(batches(error)))
    assert caught.value is error


def test_training_and_evaluation_say_it_alike(images, small_recipe, tmp_path, monkeypatch, capsys):
    from torch.utils.data import DataLoader

    from transmix.cli import main
    from transmix.recipes import dump_recipe
    from transmix.training.loop import train

    def none(error):
        yield from ()
        raise error

    train(small_recipe(images, max_steps=1, ema_decay=None), tmp_path / "run")
    (tmp_path / "r.yaml").write_text(dump_recipe(small_recipe(images)))
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: none(OF_TORCH["allocating"]))
    capsys.readouterr()
    for words in (
        ["train", "--recipe", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "new")],
        ["evaluate", str(tmp_path / "run"), "--workers", "0"],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err == f"transmix: {REMEDY}\n"
