"""With skip, a bad image costs a run nothing but itself: the same stand-in for every process, a bound, and a list."""

import errno
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from transmix.cli import main
from transmix.data.augment import EvaluationCrop, TrainingAugmentation
from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, Split, UnreadableImageError, keep_decoded, printable
from transmix.data.decode import decode_image
from transmix.data.folder import read_folder
from transmix.data.loader import TrainingBatches, TrainingSamples, evaluation_batches
from transmix.data.sampler import EpochSampler
from transmix.data.settings import Augmentation
from transmix.evaluation.evaluate import evaluate
from transmix.training.loop import train

SIZE = 12
BROKEN = ("train/dark/003.png", "train/light/007.png", "val/light/001.png")


@pytest.fixture(scope="module")
def broken(images, tmp_path_factory):
    """The small data set with two training images and a validation image spoilt."""
    root = tmp_path_factory.mktemp("broken") / "images"
    shutil.copytree(images, root)
    for name, content in zip(BROKEN, (b"", b"<html>", (root / BROKEN[2]).read_bytes()[:-200]), strict=True):
        (root / name).write_bytes(content)
    return root


def augment():
    return TrainingAugmentation(Augmentation(random_erasing=0.5), SIZE)


def batches(split, workers=0, epochs=(0, 1), bad=None, rank=0, world=1, seed=3):
    """Batches of two epochs, in steps of 8 images."""
    order = EpochSampler(len(split), seed, 4, 8, rank=rank, world=world)
    loader = TrainingBatches(TrainingSamples(split, augment(), seed), order, workers, False, bad or BadImages(9))
    found = []
    for epoch in epochs:
        order.start_at(epoch)
        found += [(images, labels, keys) for (images, labels), keys in zip(loader, order, strict=True)]
    return found


def equal(some, others):
    pairs = zip(some, others, strict=True)
    return all(a[0].equal(b[0]) and a[1].equal(b[1]) and a[2] == b[2] for a, b in pairs)


def test_workers_processes_and_memory_do_not_change_what_stands_in(broken):
    split = read_folder(broken).train
    first = batches(split)
    assert all(images.shape == (4, 3, SIZE, SIZE) for images, _, _ in first)
    assert equal(first, batches(split, workers=2))
    assert equal(first, batches(keep_decoded(split, 10**9, max_bad=2)))
    shares = [batches(split, rank=rank, world=2) for rank in (0, 1)]
    by_key = {key: image for images, _, keys in first for image, key in zip(images, keys, strict=True)}
    together = {
        key: image for share in shares for images, _, keys in share for image, key in zip(images, keys, strict=True)
    }
    assert by_key.keys() == together.keys()
    assert all(by_key[key].equal(together[key]) for key in by_key)


def test_all_other_images_and_labels_are_those_of_the_whole_data_set(images, broken):
    whole, split = read_folder(images).train, read_folder(broken).train
    bad = {index for index in range(len(split)) if str(split.images.source(index)).endswith(BROKEN[:2])}
    assert len(bad) == 2
    stand_ins = []
    for (before, labels, keys), (after, new_labels, _) in zip(batches(whole), batches(split), strict=True):
        for row, (epoch, index, _) in enumerate(keys):
            if index in bad:
                stand_ins.append((epoch, index, after[row].numpy().tobytes(), int(new_labels[row])))
                assert not before[row].equal(after[row])
            else:
                assert before[row].equal(after[row])
                assert labels[row] == new_labels[row]
    assert len(stand_ins) == 4
    assert len({pixels for _, _, pixels, _ in stand_ins}) == 4  # another one in each epoch, and for each image


def test_a_stand_in_brings_its_own_label(broken):
    split = read_folder(broken).train
    split = Split(split.images, np.arange(len(split)) + 100)
    for images, labels, keys in batches(split):
        for image, label, (epoch, index, repeat) in zip(images, labels, keys, strict=True):
            source = int(label) - 100
            again = TrainingSamples(split, lambda pixels, key: pixels, 3).load((epoch, source, repeat))
            assert again[2] == ()
            if source != index:
                assert image.shape == (3, SIZE, SIZE)
                with pytest.raises(UnreadableImageError):
                    split.image(index)


def test_another_image_stands_in_in_another_epoch_and_for_another_seed(broken):
    split = read_folder(broken).train
    index = next(index for index in range(len(split)) if str(split.images.source(index)).endswith(BROKEN[0]))
    split = Split(split.images, np.arange(len(split)))

    def sources(seed):
        samples = TrainingSamples(split, lambda pixels, key: pixels, seed)
        return [[samples.load((epoch, index, repeat))[1] for epoch in range(12)] for repeat in (0, 1)]

    assert len(set(sources(3)[0])) > 6
    assert sources(3)[0] == sources(3)[1]  # all repeats of an image in an epoch are of one image
    assert sources(3) == sources(3) != sources(4)


def test_each_bad_image_is_listed_once_with_its_reason_over_epochs_processes_and_resumes(broken, tmp_path):
    split, val = read_folder(broken).train, read_folder(broken).val
    path = tmp_path / "bad_images.txt"
    for _ in range(2):  # a run, and the same resumed
        for rank in (0, 1):
            bad = BadImages(3, path)
            batches(split, workers=rank, epochs=(0, 1, 2), bad=bad, rank=rank, world=2)
            list(evaluation_batches(val, EvaluationCrop(SIZE, 1.0), 2, 0, False, (rank, 2), bad))
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert sorted(place for place, _ in lines) == sorted(str(broken / name) for name in BROKEN)
    assert {place.rsplit("/", 1)[1]: reason for place, reason in lines}["007.png"].startswith("not an image")
    assert BadImages(3, path).count() == 3


def test_odd_names_stay_on_their_line_and_are_recognised(tmp_path):
    names = ["a\nb\t.png", os.fsdecode(b"\xff.png"), "ü.png"]
    for _ in range(2):
        BadImages(5, tmp_path / "list.txt").add([(name, "two\nlines") for name in names])
    assert (tmp_path / "list.txt").read_text(encoding="utf-8").splitlines() == [
        "a\\nb\\t.png\ttwo\\nlines",
        "\\udcff.png\ttwo\\nlines",
        "ü.png\ttwo\\nlines",
    ]
    assert printable("plain é 图") == "plain é 图"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decoded", [False, True])
def test_more_bad_images_than_allowed_are_an_error(broken, tmp_path, workers, decoded):
    split = read_folder(broken).train
    message = r"^more than max_bad_images 1 images cannot be read: .+ \(transmix doctor"
    bad = BadImages(1, tmp_path / "list.txt")
    with pytest.raises(DataError, match=message):
        keep_decoded(split, 10**9, max_bad=1) if decoded else batches(split, workers=workers, bad=bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_the_first_bad_image_is_an_error_without_a_workers_traceback(broken, workers):
    data = read_folder(broken)
    message = r"^{}/0\d\d\.png: cannot read the image \([^\n]+\); replace or remove it$"
    with pytest.raises(UnreadableImageError, match=message.format(f"{broken}/train/(dark|light)")):
        batches(data.train, workers=workers, bad=BadImages())
    with pytest.raises(UnreadableImageError, match=message.format(f"{broken}/val/light")):
        list(evaluation_batches(data.val, EvaluationCrop(SIZE, 1.0), 3, workers, False))


@pytest.mark.timeout(60)
def test_where_nothing_can_be_read_the_search_for_a_stand_in_ends(broken, tmp_path):
    for name in ("a.png", "b.png", "c.png", "d.png"):
        (tmp_path / "train" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "x" / name).write_bytes(b"")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    split = read_folder(tmp_path).train
    order = EpochSampler(len(split), 0, 2, 2)
    for workers in (0, 1):
        with pytest.raises(DataError, match="images cannot be read"):
            list(TrainingBatches(TrainingSamples(split, augment(), 0), order, workers, False, BadImages(1000)))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_what_may_be_gone_the_next_time_is_never_skipped(monkeypatch, number, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)

    def gives_out(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image, "open", gives_out)
    with pytest.raises(DataError, match=r"a\.png: cannot read the image now") as raised:
        decode_image(path, where=str(path))
    assert not isinstance(raised.value, UnreadableImageError)


def test_the_error_survives_the_way_out_of_a_process():
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableImageError("a.png", "empty")))  # our own bytes
    assert (str(error), error.where, error.reason) == (str(UnreadableImageError("a.png", "empty")), "a.png", "empty")


# Evaluation.


def scores(split, world=1, batch=3, workers=0, bad=None):
    """Scores over all processes' shares, by a linear model of the mean colour."""
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[-1.0, 0.3, -0.2], [0.5, 0.4, 0.9]]))
        model[2].bias.zero_()
    shares = (
        evaluation_batches(split, EvaluationCrop(SIZE, 1.0), batch, workers, False, (rank, world), bad or BadImages(99))
        for rank in range(world)
    )
    return evaluate(model, itertools.chain(*shares), 2, "cpu", normalise=lambda images: images / 255)


@pytest.mark.parametrize(("world", "batch", "workers"), [(1, 3, 0), (1, 1, 2), (2, 3, 0), (3, 2, 0), (8, 4, 0)])
def test_a_bad_validation_image_counts_in_no_score(broken, world, batch, workers):
    split = read_folder(broken).val
    sound = [index for index in range(len(split)) if not str(split.images.source(index)).endswith(BROKEN[2])]
    assert len(sound) == len(split) - 1
    without = Split([split.images[index] for index in sound], split.labels[sound])
    bad, expected = BadImages(1), scores(without)
    found = scores(split, world, batch, workers, bad)
    assert found["images"] == 7
    assert bad.count() == 1
    for name in ("loss", "top1", "top5", "calibration_error"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    assert found["confusion"].equal(expected["confusion"])
    with_black = Split([*without.images, np.zeros((4, 4, 3), np.uint8)], np.append(without.labels, 1))
    assert scores(with_black)["loss"] != pytest.approx(expected["loss"], abs=1e-4)  # had it counted as black


def test_rows_that_count_are_marked_and_all_rows_keep_their_place(broken):
    split = read_folder(broken).val
    seen = list(evaluation_batches(split, EvaluationCrop(SIZE, 1.0), 4, 0, False, bad=BadImages(1)))
    assert [labels.tolist() for _, labels, _ in seen] == [[0] * 4, [1] * 4]
    assert seen[0][2] is None
    assert seen[1][2].tolist() == [True, False, True, True]
    assert not seen[1][0][1].any()


def test_decoded_and_not_decoded_validation_images_are_left_out_alike(broken):
    split = read_folder(broken).val
    decoded = keep_decoded(split, 10**9, max_bad=1)
    assert isinstance(decoded.images, np.ndarray)
    assert list(decoded.bad) == [5]
    assert scores(decoded)["loss"] == scores(split)["loss"]


# Decoding once.


def test_images_of_several_sizes_with_bad_ones_among_them_are_decoded(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "x").mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (5 + index % 2, 4), (index, 0, 0)).save(tmp_path / split / "x" / f"{index}.png")
    (tmp_path / "train" / "x" / "0.png").write_bytes(b"")
    (tmp_path / "train" / "x" / "3.png").write_bytes(b"text")
    split = keep_decoded(read_folder(tmp_path).train, 10**6, max_bad=2)
    assert sorted(split.bad) == [0, 3]
    assert [int(split.image(index)[0, 0, 0]) for index in (1, 2, 4, 5)] == [1, 2, 4, 5]
    with pytest.raises(UnreadableImageError, match=r"3\.png: cannot read the image \(not an image"):
        split.image(3)
    with pytest.raises(UnreadableImageError, match=r"0\.png"):
        keep_decoded(read_folder(tmp_path).train, 10**6)


# A whole run.


def test_a_run_skips_lists_and_resumes_bit_for_bit(broken, small_recipe, tmp_path, capsys):
    from safetensors.torch import load_file

    changes = {"on_bad_image": "skip", "max_bad_images": 3}
    whole = train(small_recipe(broken, **changes, cache_gb=4.0), tmp_path / "whole")
    train(small_recipe(broken, **changes, cache_gb=4.0, max_steps=3), tmp_path / "parts")
    parts = train(small_recipe(broken, **changes, cache_gb=0.0, workers=1), tmp_path / "parts", resume=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(a[name].equal(b[name]) for name in a)
    assert whole["last"]["val_loss"] == parts["last"]["val_loss"]
    assert whole["last"]["bad_images"] == 3
    for name in ("whole", "parts"):
        lines = (tmp_path / name / "bad_images.txt").read_text().splitlines()
        assert sorted(line.split("\t")[0] for line in lines) == sorted(str(broken / one) for one in BROKEN)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "whole"), "--workers", "0"]) == 2
    assert "001.png: cannot read the image" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "whole"), "--workers", "0", "--on-bad-image", "skip"]) == 0
    assert f"left out because they cannot be read: {broken / BROKEN[2]}" in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert evaluation["scores"]["model"]["images"] == 7


def test_a_run_with_too_many_bad_images_is_an_error_and_so_is_one_by_default(broken, small_recipe, tmp_path):
    for changes in ({}, {"on_bad_image": "skip", "max_bad_images": 1}):
        with pytest.raises(DataError, match=r"cannot be read|cannot read the image"):
            train(small_recipe(broken, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()
