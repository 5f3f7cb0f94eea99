"""Hugging Face data sets come with the images, labels and names that were put into them, undecoded."""

import io
import re
import sys

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.parts import Choice
from transmix.data.source import open_data
from transmix.doctor import examine
from transmix.runs.folder import read_choice, read_classes
from transmix.training.loop import train


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def part(values, labels, kind, image="image", label="label"):
    content = {image: [{"bytes": png(value), "path": None} for value in values], label: labels}
    return Dataset.from_dict(content, features=Features({image: datasets.Image(), label: kind}))


def both(kind, train=(0, 1, 0, 1), held_out=(1, 0), name="test", **columns):
    return DatasetDict(
        {
            "train": part([10, 11, 12, 13], list(train), kind, **columns),
            name: part([50, 51], list(held_out), kind, **columns),
        }
    )


def on_disk(sets, root):
    sets.save_to_disk(root / "set")
    return root / "set"


def as_parquet(sets, root):
    (root / "set").mkdir()
    for name, one in sets.items():
        one.to_parquet(root / "set" / f"{name}-00000-of-00001.parquet")
    return root / "set"


FORMS = pytest.mark.parametrize("write", [on_disk, as_parquet])
PETS = ClassLabel(names=["cat", "dog"])


def shades(split):
    return [int(split.images[index][0, 0, 0]) for index in range(len(split))]


@FORMS
def test_a_folder_gives_images_labels_and_names(tmp_path, write):
    folder = write(both(PETS), tmp_path)
    data = open_data(f"hf:{folder}")
    assert (data.name, data.classes, data.parts.columns) == ("set", ("cat", "dog"), ("image", "label"))
    assert (shades(data.train), data.train.labels.tolist()) == ([10, 11, 12, 13], [0, 1, 0, 1])
    assert (shades(data.val), data.val.labels.tolist(), data.parts.held_out) == ([50, 51], [1, 0], "test")
    assert data.train.images.source(2) == png(12)  # the bytes that were put in, decoded by nobody
    if write is as_parquet:  # our own reader of Parquet makes the same of it
        ours = open_data(folder)
        assert (ours.classes, shades(ours.train), ours.val.labels.tolist()) == (data.classes, [10, 11, 12, 13], [1, 0])


@FORMS
def test_texts_are_names_of_classes_sorted_and_columns_may_be_called_otherwise(tmp_path, write):
    sets = both(Value("string"), ("owl", "cat", "owl", "dog"), ("dog", "owl"), image="photo", label="animal")
    choice = Choice(label_column="animal")
    data = open_data(f"hf:{write(sets, tmp_path)}", choice=choice)
    assert (data.classes, data.train.labels.tolist(), data.val.labels.tolist()) == (
        ("cat", "dog", "owl"),
        [2, 0, 2, 1],
        [1, 2],
    )
    assert data.parts.columns == ("photo", "animal")


def test_numbers_without_names_are_classes_too(tmp_path):
    data = open_data(f"hf:{on_disk(both(Value('int64')), tmp_path)}")
    assert (data.classes, data.val.labels.tolist()) == (("0", "1"), [1, 0])


def test_the_part_to_hold_out_is_chosen_as_everywhere(tmp_path):
    sets = both(PETS, name="test")
    sets["validation"] = part([70, 71], [0, 1], PETS)
    folder = on_disk(sets, tmp_path)
    assert open_data(f"hf:{folder}").parts.held_out == "validation"
    assert shades(open_data(f"hf:{folder}", choice=Choice(("test",))).val) == [50, 51]
    with pytest.raises(DataError, match=rf"^hf:{folder}: no split holdout, the images to validate on; to hold out"):
        open_data(f"hf:{folder}", choice=Choice(("holdout",)))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_one_file_is_a_training_part_of_which_a_fraction_is_held_out(tmp_path, suffix):
    path = tmp_path / f"some.{suffix}"
    one = part([10, 11, 12, 13], [0, 1, 0, 1], PETS)
    one.to_parquet(path)
    if suffix == "arrow":
        one.save_to_disk(tmp_path / "saved")
        next((tmp_path / "saved").glob("*.arrow")).rename(path)
    data = open_data(f"hf:{path}", choice=Choice(val_fraction=0.5))
    assert sorted(shades(data.train) + shades(data.val)) == [10, 11, 12, 13]
    assert data.val.labels.tolist() in ([0, 1], [1, 0])


def test_a_selection_keeps_its_order(tmp_path):
    sets = both(PETS)
    sets["train"] = sets["train"].select([3, 0, 1])
    assert shades(open_data(f"hf:{on_disk(sets, tmp_path)}").train) == [13, 10, 11]


def test_images_that_are_files_are_read_from_their_paths(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            path = tmp_path / "set" / split / name / "a.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(png(20 + number))
    data = open_data(f"hf:{tmp_path / 'set'}")
    assert (data.classes, shades(data.train)) == (("cat", "dog"), [20, 21])
    assert data.train.images.source(1) == tmp_path / "set" / "train" / "dog" / "a.png"
    assert examine(f"hf:{tmp_path / 'set'}", progress=False).images == {"train": 2, "test": 2}


def test_two_steps_are_trained_and_the_run_keeps_the_columns(tmp_path, small_recipe):
    sets = both(Value("string"), ["b", "a"] * 2, ("b", "a"), image="photo", label="animal")
    sets["train"] = datasets.concatenate_datasets([sets["train"]] * 5)
    folder = on_disk(sets, tmp_path)
    train(small_recipe(f"hf:{folder}", max_steps=2, label_column="animal"), tmp_path / "run")
    assert read_classes(tmp_path / "run") == ("a", "b")
    kept = read_choice(tmp_path / "run")
    assert (kept.image_column, kept.label_column) == ("photo", "animal")
    again = small_recipe(f"hf:{folder}", max_steps=4, label_column="animal")
    assert train(again, tmp_path / "run", resume=True)["step"] == 4


# Errors.


def refuses(name, message, **choice):
    with pytest.raises(DataError, match=f"^{re.escape(name + message)}$"):
        open_data(name, choice=Choice(**choice))


def test_rows_and_columns_that_cannot_be_used_are_named(tmp_path):
    folder = on_disk(both(PETS), tmp_path)
    refuses(
        f"hf:{folder}",
        " train: no column breed among image, label; every file needs it, or name another: --label-column NAME",
        label_column="breed",
    )
    refuses(
        f"hf:{folder}",
        " train: column label is int64; images are binary or a struct with a field bytes; name another: "
        "--image-column NAME",
        image_column="label",
    )
    broken = both(PETS)
    rows = [{"image": {"bytes": png(1), "path": None}, "label": 0}, {"image": None, "label": 1}]
    broken["train"] = Dataset.from_list(rows, features=broken["train"].features)
    broken.save_to_disk(tmp_path / "broken")
    refuses(f"hf:{tmp_path / 'broken'}", " train row 1: the image is null; fill it in or drop the row")


def test_an_image_that_cannot_be_read_is_named_by_its_row(tmp_path):
    sets = both(PETS)
    rows = [
        {"image": {"bytes": content, "path": None}, "label": label} for label, content in enumerate((png(1), b"junk"))
    ]
    sets["train"] = Dataset.from_list(rows, features=sets["train"].features)
    images = open_data(f"hf:{on_disk(sets, tmp_path)}").train.images
    with pytest.raises(DataError, match=rf"^hf:{tmp_path}/set train row 1: cannot read the image \("):
        images[1]


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refuses("hf:some", " needs the package datasets: pip install 'transmix[huggingface]'")


def test_a_name_on_the_hub_without_network_is_one_line(monkeypatch):
    def unreachable(name, configuration):
        raise ConnectionError(f"Couldn't reach '{name}'\non the Hub, {configuration}")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    refuses(
        "hf:owner/pets:small",
        ": datasets cannot load it (ConnectionError: Couldn't reach 'owner/pets' on the Hub, small)"
        "; without network, give a folder or file that is here",
    )


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path):
    name = f"hf:{tmp_path / 'gone'}"
    refuses(
        name,
        f": datasets cannot load it (FileNotFoundError: Couldn't find any data file at {tmp_path / 'gone'}.); "
        "without network, give a folder or file that is here",
    )
