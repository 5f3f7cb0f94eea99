import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from transmix.data.dataset import DataError, ImageData, Split
from transmix.evaluation.shifts import (
    ALEXNET_ERRORS,
    CORRUPTIONS,
    average_precision,
    corruption_errors,
    open_shifted,
    read_baseline,
    read_class_map,
    shifts,
)
from transmix.evaluation.suites import Settings
from transmix.recipes import RecipeError

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def measured(opened, data, **settings):
    return dict(shifts(opened, data, Settings(**settings)))


@pytest.fixture(scope="module")
def natural(tmp_path_factory, write_folders):
    """A folder of three of the six classes, as ImageNet-A has 200 of 1,000."""
    return write_folders(tmp_path_factory.mktemp("shifts") / "natural", {"bee": 5, "dog": 3, "eel": 4})


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory, write_folders):
    """Fifteen corruptions at five severities, with one image a class; a file that is shared is a link."""
    root = tmp_path_factory.mktemp("shifts") / "corrupted"
    first = write_folders(root / CORRUPTIONS[0] / "1", dict.fromkeys(CLASSES, 1))
    for corruption in CORRUPTIONS:
        for severity in range(1, 6):
            place = root / corruption / str(severity)
            if place != first:
                place.mkdir(parents=True)
                for index, name in enumerate(CLASSES):
                    other = CLASSES[(index + severity + len(corruption)) % 6]  # so that errors differ
                    (place / name).symlink_to(first / other, target_is_directory=True)
    return root


def folder_logits(opened, logits_of, folder):
    """Read a folder by hand: logits of all classes, and labels by name."""
    from PIL import Image

    files = sorted(folder.glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = np.array([CLASSES.index(file.parent.name) for file in files])
    return logits_of(opened, Split(images, labels))


def test_natural_shifts_are_scored_among_the_classes_of_the_folder_alone(opened, noise, logits_of, natural):
    one = opened()
    found = measured(one, noise(), shift_data=(str(natural),))
    logits, labels = folder_logits(one, logits_of, natural)
    kept = torch.tensor([1, 3, 4])
    right = kept[logits[:, kept].argmax(1)] == labels
    assert found["natural/images"] == 12
    assert found["natural/classes"] == 3
    assert found["natural/top1"] == pytest.approx(right.double().mean().item())
    assert found["natural/top1"] != pytest.approx((logits.argmax(1) == labels).double().mean().item())
    confidence = logits[:, kept].softmax(1).amax(1)
    by_confidence = right[confidence.argsort(descending=True)].double()
    aurra = (by_confidence.cumsum(0) / torch.arange(1, 13)).mean().item()
    assert found["natural/aurra"] == pytest.approx(aurra, abs=1e-6)
    rms = abs(confidence.double().mean() - right.double().mean()).item()  # 12 images are one bin
    assert found["natural/rms_calibration_error"] == pytest.approx(rms, abs=1e-6)


def test_a_class_map_gives_the_same_scores_under_other_names(opened, noise, natural, tmp_path):
    renamed = tmp_path / "natural"
    shutil.copytree(natural, renamed)
    names = {"bee": "n02206856", "dog": "n02084071", "eel": "n01443537"}
    for old, new in names.items():
        (renamed / old).rename(renamed / new)
    back = {new: old for old, new in names.items()}
    (tmp_path / "map.json").write_text(json.dumps(back))
    rows = "".join(f"{folder},{name}\r\n" for folder, name in back.items())
    (tmp_path / "map.csv").write_text("\ufefffolder,class\r\n" + rows)
    plain = measured(opened(), noise(), shift_data=(str(natural),))
    for file in ("map.json", "map.csv"):
        mapped = measured(opened(), noise(), shift_data=(str(renamed),), class_map=str(tmp_path / file))
        assert mapped == pytest.approx(plain, abs=1e-6, nan_ok=True)
    wrong = back | {"n02206856": "dog", "n02084071": "bee"}
    (tmp_path / "map.json").write_text(json.dumps(wrong))
    swapped = measured(opened(), noise(), shift_data=(str(renamed),), class_map=str(tmp_path / "map.json"))
    assert swapped["natural/calibration_error"] != pytest.approx(plain["natural/calibration_error"])


def test_two_folders_may_be_one_class(write_folders, tmp_path):
    folder = open_shifted(write_folders(tmp_path / "two", {"wasp": 2, "ant": 1, "bumblebee": 3}), CLASSES, MERGED)
    assert folder.subset.tolist() == [0, 1]
    assert folder.read().labels.tolist() == [0, 1, 1, 1, 1, 1]


def test_classes_may_be_called_as_corruptions_are(opened, noise, write_folders, tmp_path):
    names = ("fog", "frost", "snow", "sun")
    one, data = opened(classes=names), noise(classes=names)
    write_folders(tmp_path / "weather", {"fog": 2, "snow": 3})
    found = measured(one, data, shift_data=(str(tmp_path / "weather"),))
    assert (found["weather/images"], found["weather/classes"]) == (5, 2)


MERGED = {"wasp": "bee", "bumblebee": "bee"}


def test_outliers_are_set_against_validation_images_of_the_same_classes(opened, noise, logits_of, natural):
    one, data = opened(), noise(60)
    found = measured(one, data, outlier_data=(str(natural),))
    kept = torch.tensor([1, 3, 4])
    inside, labels = logits_of(one, data.val)
    inside, outside = inside[torch.isin(labels, kept)], folder_logits(one, logits_of, natural)[0]
    score = [-logits[:, kept].softmax(1).amax(1) for logits in (outside, inside)]
    truth = np.repeat([1, 0], [len(outside), len(inside)])
    assert found["natural/aupr"] == pytest.approx(average_precision_score(truth, torch.cat(score).numpy()), abs=1e-6)
    assert (found["natural/images"], found["natural/inliers"]) == (12, len(inside))
    assert 0 < len(inside) < 60


@settings(deadline=None, max_examples=50)
@given(
    positives=st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]) | st.floats(0, 1), min_size=1, max_size=30),
    negatives=st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]) | st.floats(0, 1), max_size=30),
)
def test_average_precision_is_that_of_scikit_learn_ties_too(positives, negatives):
    truth = np.repeat([1, 0], [len(positives), len(negatives)])
    theirs = average_precision_score(truth, np.array(positives + negatives))
    assert average_precision(np.array(positives), np.array(negatives)) == pytest.approx(theirs, abs=1e-9)


def test_average_precision_of_nothing_or_of_nan_is_nan():
    assert np.isnan(average_precision(np.zeros(0), np.ones(3)))
    assert np.isnan(average_precision(np.array([np.nan]), np.ones(3)))


def test_corruption_errors_by_severity_and_their_mean_over_the_baseline(opened, noise, logits_of, corrupted):
    one = opened(batch_size=6)
    found = measured(one, noise(), shift_data=(str(corrupted),))
    for corruption in ("fog", "snow"):
        expected = []
        for severity in range(1, 6):
            logits, labels = folder_logits(one, logits_of, corrupted / corruption / str(severity))
            expected.append((logits.argmax(1) != labels).double().mean().item())
        assert found[f"corrupted/{corruption}"] == pytest.approx(expected)
        ce = sum(expected) / 5 / ALEXNET_ERRORS[corruption]
        assert found[f"corrupted/CE_{corruption}"] == pytest.approx(ce)
    every = [found[f"corrupted/CE_{corruption}"] for corruption in CORRUPTIONS]
    assert found["corrupted/mCE"] == pytest.approx(sum(every) / 15)
    assert len({str(found[f"corrupted/{corruption}"]) for corruption in CORRUPTIONS}) > 1
    errors = [found[f"corrupted/{corruption}"] for corruption in CORRUPTIONS]
    assert found["corrupted/mean_error"] == pytest.approx(np.mean(errors))


def test_the_baseline_against_itself_is_one(tmp_path):
    itself = corruption_errors({name: [error] * 5 for name, error in ALEXNET_ERRORS.items()}, ALEXNET_ERRORS)
    assert itself == pytest.approx(dict.fromkeys(CORRUPTIONS, 1.0))
    assert len(CORRUPTIONS) == 15
    ours = dict.fromkeys(CORRUPTIONS, 0.5)
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    assert read_baseline(tmp_path / "ours.json") == ours
    assert corruption_errors({"fog": [0.1, 0.2, 0.3, 0.4, 0.5]}, ours) == {"fog": pytest.approx(0.6)}


def test_missing_corruptions_severities_and_classes_are_named_before_anything_runs(opened, noise, corrupted, tmp_path):
    root = tmp_path / "less"
    shutil.copytree(corrupted, root, symlinks=True)
    shutil.rmtree(root / "frost")
    shutil.rmtree(root / "snow" / "4")
    (root / "fog" / "2" / "cat").unlink()
    given = Settings(shift_data=(str(root),))
    with pytest.raises(DataError, match=r"at severities 1 to 5 are needed .*; missing: frost, snow/4$"):
        shifts(opened(), noise(), given)
    for name, severities in (("frost", range(1, 6)), ("snow", [4])):
        for severity in severities:
            shutil.copytree(corrupted / "fog" / "1", root / name / str(severity), symlinks=True)
    with pytest.raises(DataError, match=r"less/fog/2: classes differ from the model's \(missing: cat\)"):
        shifts(opened(), noise(), given)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"cannot read the baseline's errors \(No such file or directory\)"),
        ("[1, 2", r"the baseline's errors are not JSON"),
        ("[0.5]", r"expected an error for each corruption"),
        ('{"fog": 0.5}', r"missing: gaussian_noise, .*, frost, brightness"),
        (json.dumps(dict.fromkeys(CORRUPTIONS, 0.5) | {"fog": 81.9}), r"above 0 and up to 1, not 81.9 \(fog\)"),
        (json.dumps(dict.fromkeys(CORRUPTIONS, 0.5) | {"snow": 0}), r"above 0 and up to 1, not 0 \(snow\)"),
    ],
)
def test_a_baseline_that_cannot_be_used_is_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_baseline(tmp_path / "baseline.json")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("map.json", None, r"cannot read the class map \(No such file or directory\)"),
        (
            "map.json",
            '{"a": ',
            r'not a class map .*write JSON {"folder": "class"}, or CSV with the header folder,class',
        ),
        ("map.json", '{"a": 1}', r"not a class map \(expected a class name for every folder name\)"),
        ("map.json", '["a"]', r"not a class map"),
        ("map.csv", "a,b\nn01,ant\n", r"not a class map \('folder'\)"),
        ("map.csv", "folder,class\nn01\n", r"not a class map \(expected a class name"),
    ],
)
def test_a_class_map_that_cannot_be_used_is_refused(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_class_map(tmp_path / name)


def test_folders_that_do_not_fit_are_refused_before_anything_runs(opened, noise, natural, write_folders, tmp_path):
    one, data = opened(), noise()
    with pytest.raises(RecipeError, match=r"the suite 'shifts' needs images: --shift-data FOLDER"):
        shifts(one, data, Settings())
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        shifts(one, data, Settings(shift_data=("nowhere",)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no class folders; put the images in empty/<class>/"):
        shifts(one, data, Settings(shift_data=(str(tmp_path / "empty"),)))
    strange = write_folders(tmp_path / "strange", {"ant": 1, "gnu": 1, "hen": 1})
    with pytest.raises(DataError, match=r"no class for the class folders gnu, hen; .*ant, bee, cat and 3 more; .*-map"):
        shifts(one, data, Settings(shift_data=(str(strange),)))
    again = write_folders(tmp_path / "natural", {"ant": 1})
    with pytest.raises(DataError, match=r"two folders to evaluate on are called natural; rename one"):
        shifts(one, data, Settings(shift_data=(str(natural), str(again))))
    without = ImageData("noise", CLASSES, data.val, replace(data.val, labels=np.zeros(23, dtype=np.int64)))
    with pytest.raises(
        DataError, match=r"noise: no validation image has a class of .*natural: there are no inliers to compare with"
    ):
        shifts(one, without, Settings(outlier_data=(str(natural),)))


def test_a_class_folder_without_images_is_an_error_when_it_is_read(opened, noise, write_folders, tmp_path):
    folder = write_folders(tmp_path / "half", {"ant": 2, "bee": 0})
    with pytest.raises(DataError, match=r"half: no images in class folder bee; add some or remove the folder"):
        measured(opened(), noise(), shift_data=(str(folder),))
