"""The same images in every layout that people have give the same classes, splits and labels."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from transmix.cli import main
from transmix.data.dataset import DataError
from transmix.data.evaluated import Asked, open_part_of, open_part_of_run
from transmix.data.parts import Choice
from transmix.data.settings import Data
from transmix.data.source import load_data, open_data
from transmix.doctor import examine
from transmix.recipes import dump_recipe
from transmix.runs.folder import read_choice, read_recipe

CLASSES = ("n02_cat", "n09_dog")
COUNTS = {"train": 10, "val": 3}
FIFTH = Choice(val_fraction=0.2)


def encoded(split, name, number, kind="PNG"):
    """Return a picture that tells split, class and number by its brightness."""
    value = 5 * (number + 10 * CLASSES.index(name) + 20 * (split == "val"))
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (value, value, value)).save(buffer, kind, **({"quality": 100} if kind == "JPEG" else {}))
    return buffer.getvalue()


def samples(*which):
    of = which or COUNTS
    return [(split, name, number) for split in of for name in CLASSES for number in range(COUNTS[split])]


def put(path, sample, kind="PNG"):
    put_bytes(path, encoded(*sample, kind))


def put_bytes(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_table(path, rows, mark=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=mark).writerows(rows)


def folders(root, train="train", val="val", which=("train", "val")):
    for split, name, number in samples(*which):
        put(root / {"train": train, "val": val}[split] / name / f"{number}.png", (split, name, number))


def intel(root):
    folders(root, "seg_train/seg_train", "seg_test/seg_test")
    put(root / "seg_pred" / "seg_pred" / "1.png", ("val", CLASSES[0], 0))


def unpacked_with_litter(root):
    folders(root / "archive" / "pets", "Train", "Test")
    litter = ("archive/__MACOSX/pets/._x.png", "archive/pets/Train/__MACOSX/x.png", "archive/pets/Test/.DS_Store")
    for name in (*litter, "archive/pets/Train/n02_cat/Thumbs.db", "archive/pets/Train/desktop.ini"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"litter")


def flat(root, folder="images"):
    """Write the images flat; return (split, name, label)."""
    rows = []
    for split, name, number in samples():
        rows.append((split, f"{split}_{name}_{number}.png", name))
        put(root / folder / rows[-1][1], (split, name, number))
    return rows


def one_csv_with_a_column_of_splits(root):
    rows = [(number, name, label, split) for number, (split, name, label) in enumerate(flat(root))]
    write_table(root / "metadata.csv", [("", "File Name", "Class", "Split"), *rows])


def one_csv_with_paths(root):
    rows = []
    for split, name, number in samples():
        put(root / split / f"{name}{number}.png", (split, name, number))
        rows.append((f"{split}\\{name}{number}.png", name))
    write_table(root / "labels.csv", [("path", "label"), *rows], ";")


def two_csv_without_suffixes(root):
    rows = flat(root)
    for split in COUNTS:
        listed = [(name.removesuffix(".png"), label) for part, name, label in rows if part == split]
        write_table(root / f"{split}.csv", [("id", "breed"), *listed])


def same_names_in_both_folders(root):
    """As Kaggle's competitions: train.csv is about train_images, where names occur again in test_images."""
    for split, folder, file in (("train", "train_images", "train"), ("val", "test_images", "test")):
        mine = samples(split)
        for row, one in enumerate(mine):
            put(root / folder / f"{row}.png", one)
        write_table(
            root / f"{file}.csv", [("image_id", "label"), *((f"{row}.png", one[1]) for row, one in enumerate(mine))]
        )


def tsv_without_header(root):
    rows = flat(root)
    for split in COUNTS:
        write_table(
            root / f"{split}.tsv", [(f"images/{name}", label) for part, name, label in rows if part == split], "\t"
        )


def text_lists(root):
    rows = flat(root, "all of them")
    for split in COUNTS:
        lines = [f"{name} {label}\n" for part, name, label in rows if part == split]
        (root / f"{split}_list.txt").write_text("# file, class\n\n" + "".join(lines), encoding="utf-8-sig")


def numbers_with_names(root):
    rows = flat(root)
    (root / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    for split in COUNTS:
        lines = [f"images/{name} {2 - CLASSES.index(label)}\n" for part, name, label in rows if part == split]
        (root / f"{split}.txt").write_text("".join(lines))


def food101(root):
    for split, name, number in samples():
        put(root / "images" / name / f"{split}{number}.jpg", (split, name, number), "JPEG")
    for split, file in (("train", "train"), ("val", "test")):
        lines = [f"{name}/{split}{number}" for part, name, number in samples() if part == split]
        (root / "meta").mkdir(exist_ok=True)
        (root / "meta" / f"{file}.txt").write_text("\n".join(lines))
    (root / "meta" / "classes.txt").write_text("\n".join(CLASSES))
    (root / "meta" / "labels.txt").write_text("Small cat\nDog\n")
    (root / "README.txt").write_text("Food pictures\n")


def imagenet(root, **where):
    """Write class folders to train on, and flat validation images called by number."""
    for _, name, number in samples("train"):
        put(root / "train" / name / f"{name}_{number}.JPEG", ("train", name, number), "JPEG")
    for row, one in enumerate(samples("val"), start=1):
        put(root / "val" / f"ILSVRC2012_val_{row:08d}.JPEG", one, "JPEG")


def imagenet_of_kaggle(root):
    imagenet(root / "ILSVRC" / "Data" / "CLS-LOC")
    rows = [(f"ILSVRC2012_val_{row:08d}", f"{one[1]} 1 2 3 4 ") for row, one in enumerate(samples("val"), start=1)]
    write_table(root / "LOC_val_solution.csv", [("ImageId", "PredictionString"), *reversed(rows)])


def imagenet_with_devkit(root):
    from scipy.io import savemat

    imagenet(root)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    synsets = np.array([(2, "n02_cat"), (1, "n09_dog")], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(kit / "meta.mat", {"synsets": synsets})
    number = {"n02_cat": "2", "n09_dog": "1"}
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "\n".join(number[one[1]] for one in samples("val")) + "\n"
    )


def imagenet_with_synsets(root):
    imagenet(root)
    path = root / "imagenet_2012_validation_synset_labels.txt"
    path.write_text("\n".join(one[1] for one in samples("val")))


def tiny_imagenet(root):
    for _, name, number in samples("train"):
        put(root / "train" / name / "images" / f"{name}_{number}.JPEG", ("train", name, number), "JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_{number}.JPEG\t0\t32\t44\t62\n")
    for row, one in enumerate(samples("val")):
        put(root / "val" / "images" / f"val_{row}.JPEG", one, "JPEG")
    rows = [(f"val_{row}.JPEG", one[1], 0, 32, 44, 62) for row, one in enumerate(samples("val"))]
    write_table(root / "val" / "val_annotations.txt", rows, "\t")
    (root / "wnids.txt").write_text("\n".join(reversed(CLASSES)))
    (root / "words.txt").write_text("n02_cat\tcat, true cat\nn09_dog\tdog\n")


def hugging_face(root, as_json=False):
    for split in COUNTS:
        mine = [(f"{name}{number}.png", name) for part, name, number in samples() if part == split]
        for file, name in mine:
            put(root / split / file, (split, name, int(file.removeprefix(name).removesuffix(".png"))))
        if as_json:
            lines = [json.dumps({"file_name": file, "label": label, "caption": "x"}) for file, label in mine]
            (root / split / "metadata.jsonl").write_text("\n".join(lines))
        else:
            write_table(
                root / split / "metadata.csv", [("file_name", "caption", "label"), *((f, "x", n) for f, n in mine)]
            )


def hugging_face_json(root):
    hugging_face(root, as_json=True)


def cub(root):
    """As CUB-200: numbers of images and of classes, tied in files of their own."""
    files = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")}
    for number, (split, name, one) in enumerate(reversed(samples()), start=1):
        put(root / "CUB" / "images" / name / f"{split} {one}.jpg", (split, name, one), "JPEG")
        values = (f"{name}/{split} {one}.jpg", 2 - CLASSES.index(name), int(split == "train"), "60.0 27.0 325.0 304.0")
        for lines, value in zip(files.values(), values, strict=True):
            lines.append(f"{number} {value}")
    files["classes"] = [f"{2 - CLASSES.index(name)} {name}" for name in CLASSES]
    for name, lines in files.items():
        (root / "CUB" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "attributes.txt").write_text("1 has_bill_shape::curved\n")


DIVIDED = [
    folders, intel, unpacked_with_litter, one_csv_with_a_column_of_splits, one_csv_with_paths, two_csv_without_suffixes,
    same_names_in_both_folders, tsv_without_header, text_lists, numbers_with_names, food101, imagenet_of_kaggle,
    imagenet_with_devkit, imagenet_with_synsets, tiny_imagenet, hugging_face, hugging_face_json, cub,
]  # fmt: skip


def only_train(root):
    folders(root, which=["train"])


def class_folders_alone(root):
    folders(root, train=".", which=["train"])


def class_folders_deeper(root):
    folders(root, train="archive/pets", which=["train"])


def one_list_of_all(root):
    rows = []
    for _, name, number in samples("train"):
        put(root / f"{name}_{number}.png", ("train", name, number))
        rows.append((f"{name}_{number}", name))
    write_table(root / "labels.csv", [("image", "label"), *reversed(rows)])


def one_list_of_two_folders(root):
    """As HAM10000, whose images lie in two folders that are no classes."""
    rows = []
    for _, name, number in samples("train"):
        put(root / f"part_{number % 2 + 1}" / f"{name}_{number}.png", ("train", name, number))
        rows.append((f"x{number}", f"{name}_{number}", name, "rosendahl"))
    write_table(root / "HAM_metadata.csv", [("lesion_id", "image_id", "dx", "dataset"), *rows])


def one_hot(root):
    """As ISIC's lists of the true classes."""
    rows = []
    for _, name, number in samples("train"):
        put(root / "ISIC_input" / f"{name}_{number}.jpg", ("train", name, number), "JPEG")
        rows.append((f"{name}_{number}", float(name == CLASSES[1]), float(name == CLASSES[0])))
    write_table(root / "ISIC_GroundTruth.csv", [("image", *reversed(CLASSES)), *rows])


def one_parquet_file(root):
    root.mkdir(exist_ok=True)
    table = {"image": [encoded(*one) for one in samples("train")], "label": [name for _, name, _ in samples("train")]}
    pq.write_table(pa.table(table), root / "pets.parquet")


UNDIVIDED = [
    only_train, class_folders_alone, class_folders_deeper, one_list_of_all, one_list_of_two_folders, one_hot,
    one_parquet_file,
]  # fmt: skip


def found(split, classes):
    """Return what a split holds: (class, number) by brightness."""
    values = [round(float(np.mean(split.images[index])) / 5) for index in range(len(split))]
    return sorted((classes[label], value) for label, value in zip(split.labels.tolist(), values, strict=True))


def expected(split):
    past = 20 * (split == "val")
    return sorted((name, number + 10 * CLASSES.index(name) + past) for _, name, number in samples(split))


HELD_OUT_FIFTH = [("n02_cat", 1), ("n02_cat", 7), ("n09_dog", 17), ("n09_dog", 18)]


def tree(tmp_path, make):
    root = tmp_path / "pets"
    root.mkdir()
    make(root)
    return root


@pytest.mark.parametrize("make", DIVIDED)
def test_the_same_images_give_the_same_splits_and_labels_to_train_evaluate_and_doctor(tmp_path, make):
    root = tree(tmp_path, make)
    data = load_data(Data(str(root)), seed=0)
    assert data.classes == CLASSES
    assert found(data.train, data.classes) == expected("train")
    assert found(data.val, data.classes) == expected("val")
    other = open_part_of(str(root), Asked())
    assert found(other.val, other.classes) == expected("val")
    trained_on = open_part_of(str(root), Asked("train"))
    assert found(trained_on.val, trained_on.classes) == expected("train")
    report = examine(root, progress=False)
    assert list(report.images.values()) == [20, 6]
    assert report.class_names == CLASSES
    assert report.layout == data.parts.layout != ""
    assert ("the data set is in" in str(data.notes)) == (make in (unpacked_with_litter, imagenet_of_kaggle, cub))
    assert report.sound, report.findings


@pytest.mark.parametrize("make", UNDIVIDED)
def test_without_parts_a_fraction_is_held_out_the_same_in_every_layout(tmp_path, make):
    root = tree(tmp_path, make)
    data = open_data(root, choice=FIFTH)
    assert (data.classes, data.parts.held_out) == (CLASSES, "0.2 of train")
    if make not in (one_list_of_two_folders, one_hot):  # where the order of the paths is another
        assert found(data.val, data.classes) == HELD_OUT_FIFTH
    assert sorted(found(data.train, data.classes) + found(data.val, data.classes)) == expected("train")
    report = examine(root, progress=False, choice=FIFTH)
    assert report.images == {"train": 16, "0.2 of train": 4}
    assert report.sound, report.findings
    inside = root / "archive" / "pets" if make is class_folders_deeper else root
    command = f"transmix train --data {inside} --val-fraction 0.2 --out RUN"
    with pytest.raises(DataError) as refused:
        open_data(root)
    assert str(refused.value).endswith(command)
    report = examine(root, progress=False)
    assert command in report.of("refused")[0].detail
    assert report.layout
    if make is not only_train:
        every = open_part_of(str(root), Asked())
        assert (found(every.val, every.classes), every.parts.held_out) == (expected("train"), "all")


@pytest.fixture
def listed(tmp_path):
    """Flat images and a list of all of them, to be spoilt."""
    root = tmp_path / "pets"
    one_list_of_all(root)
    return root


def rows_of(root):
    with (root / "labels.csv").open() as file:
        return list(csv.reader(file))


def refusal(root, choice=FIFTH):
    with pytest.raises(DataError) as refused:
        open_data(root, choice=choice)
    return str(refused.value).replace(str(root), "PETS")


SPOILT = {
    "a row without its image": (
        lambda rows: [*rows, ("gone", "cat"), ("lost", "cat")],
        "PETS/labels.csv: 2 of the 22 listed images are not in PETS: gone, lost; bring them, or take their lines out",
    ),
    "two labels for an image": (
        lambda rows: [*rows, ("n02_cat_1", "n09_dog")],
        "PETS/labels.csv: n02_cat_1.png is n02_cat and n09_dog; images have one class each",
    ),
    "no label": (
        lambda rows: [rows[0], (rows[1][0], " "), *rows[2:]],
        "PETS/labels.csv: n09_dog_9.png has no label; write one, or take the line out",
    ),
    "columns of other names": (
        lambda rows: [("photo no", "kind"), *rows[1:]],
        "PETS/labels.csv: which of photo no, kind are the images and labels? Name the column: --image-column NAME "
        "--label-column NAME",
    ),
    "a line that is too short": (
        lambda rows: [("label", "image"), *([b, a] for a, b in rows[1:]), ("cat",)],
        "PETS/labels.csv line 22: too few columns; write 2 in each line",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_list_that_does_not_fit_is_refused_with_the_remedy(listed, what):
    spoil, message = SPOILT[what]
    write_table(listed / "labels.csv", spoil(rows_of(listed)))
    assert refusal(listed).endswith(message)


def test_columns_can_be_named_and_are_kept(listed):
    write_table(listed / "labels.csv", [("photo no", "kind"), *rows_of(listed)[1:]])
    choice = Choice(val_fraction=0.2, image_column="photo no", label_column="kind")
    data = open_data(listed, choice=choice)
    assert data.parts.columns == ("photo no", "kind")
    assert found(data.val, data.classes) == HELD_OUT_FIFTH


def test_what_a_list_repeats_or_leaves_out_is_counted_and_said(listed):
    put(listed / "more" / "x.png", ("val", CLASSES[0], 0))
    write_table(listed / "labels.csv", [*rows_of(listed), rows_of(listed)[1]])
    data = open_data(listed, choice=FIFTH)
    assert found(data.val, data.classes) == HELD_OUT_FIFTH
    assert [note.replace(str(listed), "PETS") for note in data.notes] == [
        "PETS/labels.csv: 1 lines repeat an image, which is read once",
        "1 images are in no label list and are not used: more/x.png",
    ]
    report = examine(listed, progress=False, choice=FIFTH)
    assert [finding.places for finding in report.of("unlisted")] == [("more/x.png",)]
    assert len(report.of("list")) == 1
    assert report.sound


def test_images_in_two_lists_are_said(tmp_path):
    two_csv_without_suffixes(tmp_path)
    with (tmp_path / "val.csv").open("a") as file:
        file.write("train_n02_cat_0,n02_cat\n")
    assert "1 images are listed in train and in val: scores come out too good" in open_data(tmp_path).notes
    assert [len(finding.places) for finding in examine(tmp_path, progress=False).of("leakage")] == [2]


def test_names_that_two_folders_hold_are_not_guessed(listed):
    names = [f"{name}.png" for name, _ in rows_of(listed)[1:]]
    for folder in ("large", "small"):
        (listed / folder).mkdir()
        for name in names:
            (listed / folder / name).write_bytes((listed / name).read_bytes())
    assert found(open_data(listed, choice=FIFTH).val, CLASSES) == HELD_OUT_FIFTH  # those beside the list
    for name in names:
        (listed / name).unlink()
    assert refusal(listed) == (
        "PETS/labels.csv: the folders large, small hold images of the same names; write folder/name"
    )


def test_two_lists_are_refused_and_one_can_be_named(listed):
    write_table(listed / "clean_labels.csv", rows_of(listed)[:-1])
    assert "PETS/clean_labels.csv and PETS/labels.csv both list all images; move one away, or name one" in refusal(
        listed
    )
    data = open_data(listed / "labels.csv", choice=FIFTH)
    assert found(data.val, data.classes) == HELD_OUT_FIFTH
    report = examine(listed / "labels.csv", progress=False, choice=FIFTH)
    assert (report.images, report.sound) == ({"train": 16, "0.2 of train": 4}, True)


def test_a_list_in_a_folder_for_lists_can_be_named(tmp_path):
    food101(tmp_path)
    data = open_data(tmp_path / "meta" / "train.txt")
    assert found(data.val, data.classes) == expected("val")
    assert examine(tmp_path / "meta" / "train.txt", progress=False).sound


def test_class_folders_come_before_a_list_and_it_is_said(tmp_path):
    folders(tmp_path)
    rows = [(f"{name}/{number}.png", "pet") for _, name, number in samples("train")]
    write_table(tmp_path / "train.csv", [("image", "label"), *rows])
    data = open_data(tmp_path)
    assert data.classes == CLASSES
    path = tmp_path / "train.csv"
    assert data.notes == (f"{path} is not used: the folders say the classes; --data {path} takes it",)
    assert open_data(path, choice=FIFTH).classes == ("pet",)


def test_numbers_of_imagenet_are_not_taken_for_the_order_of_the_folders(tmp_path):
    imagenet_with_devkit(tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    (kit / "meta.mat").unlink()
    assert refusal(tmp_path, Choice()).startswith(
        "PETS/ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt: its numbers follow the order of the "
        "development kit, not that of the class folders; put data/meta.mat"
    )


def test_labels_that_are_numbers_are_the_classes_where_no_file_names_them(tmp_path):
    numbers_with_names(tmp_path)
    (tmp_path / "classes.txt").unlink()
    data = open_data(tmp_path)
    assert data.classes == ("1", "2")
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    assert open_data(tmp_path).classes == ("b", "c")  # 0 is the first name, as nothing says otherwise
    (tmp_path / "classes.txt").write_text("a")
    assert refusal(tmp_path, Choice()) == "PETS/train.txt: label 2 is not among the 1 class names, which count from 1"


def unlabelled(root):
    for number in range(3):
        put(root / "photos" / f"{number}.png", ("val", CLASSES[0], number))


def deeper(root):
    folders(root / "a")
    folders(root / "b")


HOLD_OUT = "to hold out a fifth of each class: transmix train --data PETS --val-fraction 0.2 --out RUN"
NEAREST = {
    "images without labels": (
        unlabelled,
        "the images in photos have no labels: put them in PETS/<class>/, or list them in PETS/labels.csv with columns "
        f"image and label; then, {HOLD_OUT}",
    ),
    "two data sets": (deeper, "PETS/a looks like one: transmix train --data PETS/a --out RUN"),
    "an archive": (lambda root: (root / "pets.zip").write_bytes(b"PK"), "unpack pets.zip first"),
    "class folders": (
        class_folders_alone,
        f"PETS: these look like class folders (n02_cat, n09_dog), not divided into train and val; {HOLD_OUT}",
    ),
    "parts to evaluate on alone": (
        lambda root: folders(root, which=["val"]),
        "PETS: no folder 'train', the images to train on; to evaluate on val: transmix evaluate RUN --data PETS",
    ),
    "a list of all images": (
        one_list_of_all,
        "PETS: its label list labels.csv (columns image and label) is of all images, not divided into train and val; "
        f"{HOLD_OUT}",
    ),
    "a test part without labels": (
        lambda root: (two_csv_without_suffixes(root), (root / "val.csv").unlink(), flat(root, "test")),
        f"PETS/test: no class folders; put the images in test/<class>/, or list them in test.csv; {HOLD_OUT}",
    ),
}


@pytest.mark.parametrize("what", NEAREST)
def test_a_refusal_ends_with_the_nearest_command_that_works(tmp_path, what):
    make, message = NEAREST[what]
    root = tree(tmp_path, make)
    assert refusal(root, Choice()).endswith(message)
    if "transmix evaluate" in message:
        assert len(open_part_of(str(root), Asked()).val) == 6
    if "transmix train" in message:
        with_fraction = FIFTH if "--val-fraction" in message else Choice()
        inside = root / "a" if make is deeper else root
        if make is not unlabelled:
            assert len(open_data(inside, choice=with_fraction).val)


def test_classes_of_one_image_each_have_none_to_hold_out(tmp_path):
    for name in CLASSES:
        put(tmp_path / name / "0.png", ("train", name, 0))
    assert refusal(tmp_path) == "PETS: no class has two images, so that none can be held out; add images"


def test_a_part_that_is_given_alone_names_the_whole(tmp_path):
    folders(tmp_path)
    assert refusal(tmp_path / "train", Choice()).endswith(
        f"of one part of {tmp_path}; take all parts: --data {tmp_path}"
    )


def spoil_one_hot(root, *cells):
    one_hot(root)
    with (root / "ISIC_GroundTruth.csv").open("a") as file:
        file.write(",".join(cells) + "\n")


def test_columns_of_zeros_and_ones_are_classes_only_if_each_image_has_one(tmp_path):
    for cells, what in {
        ("n02_cat_1", "1", "1.0"): "n09_dog, n02_cat are all 1; images have one class each: take the line out",
        ("n02_cat_1", "0.0", "0"): "no column is 1; images have one class each: take the line out",
        ("n02_cat_1", "1"): "too few columns; write 3 in each line",
    }.items():
        spoil_one_hot(tmp_path, *cells)
        assert refusal(tmp_path) == f"PETS/ISIC_GroundTruth.csv line 22: {what}"
    spoil_one_hot(tmp_path, "n02_cat_1", "0.5", "0.5")
    assert "which of image, n09_dog, n02_cat are the labels? Name" in refusal(tmp_path)


def test_the_columns_of_classes_can_be_named_and_attributes_beside_class_folders_are_not_read(tmp_path):
    one_hot(tmp_path / "pets")
    path = tmp_path / "pets" / "ISIC_GroundTruth.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},patient", *(f"{row},p{number}" for number, row in enumerate(rows))]))
    assert "which of image, n09_dog, n02_cat, patient are the labels? Name" in refusal(tmp_path / "pets")
    named = replace(FIFTH, label_column="n09_dog,n02_cat")
    data = open_data(tmp_path / "pets", choice=named)
    assert (data.classes, data.parts.columns) == (CLASSES, ("image", "n09_dog,n02_cat"))
    class_folders_alone(tmp_path / "folders")
    rows = [(f"{name}/{number}.png", 1, int(number > 4)) for _, name, number in samples("train")]
    write_table(tmp_path / "folders" / "attributes.csv", [("file", "indoors", "young"), *rows])
    data = open_data(tmp_path / "folders", choice=FIFTH)
    assert (data.classes, found(data.val, data.classes)) == (CLASSES, HELD_OUT_FIFTH)


def test_files_of_cub_that_do_not_fit_are_refused_with_the_number(tmp_path):
    cub(tmp_path)
    root = tmp_path / "CUB"
    for name in ("image_class_labels.txt", "train_test_split.txt", "classes.txt"):
        lines = (root / name).read_text().splitlines()
        (root / name).write_text("\n".join(lines[:-1]))
        number = lines[-1].split()[0]
        with pytest.raises(DataError) as refused:
            open_data(root)
        assert str(refused.value) == f"{root / name}: no line begins with {number}; fetch it again"
        (root / name).write_text("\n".join(lines))
    (root / "train_test_split.txt").unlink()
    assert sorted(found((data := open_data(root, choice=FIFTH)).train, data.classes))
    assert (data.parts.held_out, len(data.train) + len(data.val)) == ("0.2 of train", 26)
    (root / "images.txt").write_text("001.jpg\n")
    assert refusal(root) == "PETS/images.txt: 001.jpg is not a number and what it stands for; fetch it again"


def bright_is_dog(weights, brightness):
    """Return weights of a ViT of one block that says dog from a brightness on."""
    made = {name: torch.full_like(one, float(".weight" in name and "norm" in name)) for name, one in weights.items()}
    width, sign = len(made["norm.weight"]), torch.tensor([1.0, -1.0])
    made["patch_embed.proj.weight"][:2] = sign.view(2, 1, 1, 1) / made["patch_embed.proj.weight"][0].numel()
    made["patch_embed.proj.bias"][:2] = -sign * (brightness - 0.5) / 0.5
    made["blocks.0.attn.qkv.weight"][2 * width :] = torch.eye(width)
    made["blocks.0.attn.proj.weight"][:] = torch.eye(width)
    made["head.weight"][0, 1] = made["head.weight"][1, 0] = 1
    return made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, small_recipe):
    """A recipe of one step, and for each kind of tree weights that are wrong about some of its held-out images."""
    folder = tmp_path_factory.mktemp("tiny")
    options: Any = {"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 1}
    changes = {"image_size": 32, "model_options": options, "ema_decay": None, "max_steps": 1, "lr": 1e-9, "pad": 4}
    changes |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "drop_path": 0.0, "batch_size": 4}
    (folder / "tiny.yaml").write_text(dump_recipe(small_recipe("unset", **changes)))
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=2, **options)
    for name, first_dog in (("divided", 21), ("undivided", 18)):
        save_file(bright_is_dog(model.state_dict(), 5 * (first_dog - 0.5) / 255), folder / f"{name}.safetensors")
    return folder


def image_files(root, tmp_path):
    """Return the image files of a tree, those in Parquet files written to files first."""
    tables = sorted(root.glob("*.parquet"))
    for number, encoded in enumerate(row for table in tables for row in pq.read_table(table)["image"].to_pylist()):
        put_bytes(tmp_path / "taken out" / f"{number}.png", encoded)
    every = [path for path in (tmp_path / "taken out" if tables else root).rglob("*") if path.is_file()]
    return [
        path for path in every if path.suffix.lower() in (".png", ".jpg", ".jpeg") and path.read_bytes() != b"litter"
    ]


@pytest.mark.parametrize("make", DIVIDED + UNDIVIDED)
def test_every_layout_goes_through_the_commands_of_the_readme(tmp_path, make, tiny, monkeypatch):
    root, run = tree(tmp_path, make), tmp_path / "run"
    if make is not folders:  # pictures take most of the time, and are the same for every layout
        monkeypatch.setattr("transmix.training.loop.draw_boxes", lambda *_: None)
        monkeypatch.setattr("transmix.report.run.write_report", lambda run: run)
    cpu = ["--workers", "0", "--threads", "1", "--device", "cpu"]
    fraction = [] if make in DIVIDED else ["--val-fraction", "0.2"]
    weights = tiny / ("divided.safetensors" if make in DIVIDED else "undivided.safetensors")
    recipe = ["--recipe", str(tiny / "tiny.yaml"), "--init", str(weights)]
    assert main(["doctor", str(root), "--workers", "0", *fraction]) == 0
    assert main(["train", "--data", str(root), "--out", str(run), *recipe, *fraction, *cpu]) == 0
    assert main(["evaluate", str(run), *cpu]) == 0
    files = image_files(root, tmp_path)
    assert (
        main(["predict", str(run), *map(str, files), "--labels", "none", "--out", str(tmp_path / "p.csv"), *cpu]) == 0
    )
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row[f"class_{rank}"] for row in rows for rank in (1, 2)} == set(CLASSES)
    predicted = {round(np.asarray(Image.open(row["image"])).mean() / 5): row["class_1"] for row in rows}
    data = open_part_of_run(read_recipe(run).data, 0, read_choice(run), Asked())
    held_out = found(data.val, data.classes)
    assert held_out == expected("val") if make in DIVIDED else len(held_out) == 4
    scores = json.loads((run / "evaluation.json").read_text())["scores"]["model"]
    assert scores["images"] == len(held_out)
    right = {name: [predicted[value] == label for label, value in held_out if label == name] for name in CLASSES}
    assert scores["per_class_accuracy"] == [np.mean(right[name]) for name in CLASSES]
    assert 0.5 <= scores["top1"] < 1  # so that other predictions would be seen
