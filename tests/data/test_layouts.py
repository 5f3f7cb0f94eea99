"""The same images in every layout that people have give the same classes, splits and labels."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.evaluated import Asked, open_part_of
from transmix.data.parts import Choice
from transmix.data.settings import Data
from transmix.data.source import load_data, open_data
from transmix.doctor import examine

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
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(*sample, kind))


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


DIVIDED = [
    folders, intel, unpacked_with_litter, one_csv_with_a_column_of_splits, one_csv_with_paths, two_csv_without_suffixes,
    same_names_in_both_folders, tsv_without_header, text_lists, numbers_with_names, food101, imagenet_of_kaggle,
    imagenet_with_devkit, imagenet_with_synsets, tiny_imagenet, hugging_face, hugging_face_json,
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


def one_parquet_file(root):
    root.mkdir(exist_ok=True)
    table = {"image": [encoded(*one) for one in samples("train")], "label": [name for _, name, _ in samples("train")]}
    pq.write_table(pa.table(table), root / "pets.parquet")


UNDIVIDED = [
    only_train, class_folders_alone, class_folders_deeper, one_list_of_all, one_list_of_two_folders, one_parquet_file,
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
    assert report.sound, report.findings


@pytest.mark.parametrize("make", UNDIVIDED)
def test_without_parts_a_fraction_is_held_out_the_same_in_every_layout(tmp_path, make):
    root = tree(tmp_path, make)
    data = open_data(root, choice=FIFTH)
    assert (data.classes, data.parts.held_out) == (CLASSES, "0.2 of train")
    if make is not one_list_of_two_folders:  # where the order of the paths is another
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
    assert command in examine(root, progress=False).of("refused")[0].detail
    if make is not only_train:
        every = open_part_of(str(root), Asked())
        assert (found(every.val, every.classes), every.parts.held_out) == (expected("train"), "all")
