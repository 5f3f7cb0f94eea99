"""Which part is held out, which columns are read and how class names compare, in every layout that leaves a choice."""

import io
import json
import os
import tarfile
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.parts import HELD_OUT_BEFORE, Choice
from transmix.data.source import in_classes, open_data
from transmix.doctor import examine

NFC, NFD = unicodedata.normalize("NFC", "caf\u00e9"), unicodedata.normalize("NFD", "caf\u00e9")


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def put_folders(root, part, value, classes=("cat", "dog")):
    for index, name in enumerate(classes):
        folder = root / part / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(png(value + index))


def put_parquet(root, part, value, classes=("cat", "dog"), name="{}-00000-of-00001.parquet"):
    images = [{"bytes": png(value + index), "path": None} for index in range(len(classes))]
    pq.write_table(pa.table({"image": images, "label": list(classes)}), root / name.format(part))


def put_shard(root, part, value, classes=("cat", "dog"), name="pets-{}-0000.tar"):
    path = root / name.format(part)
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index, label in enumerate(classes):
            for suffix, content in (("png", png(value + index)), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{index}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def put_shard_in_folder(root, part, value, classes=("cat", "dog")):
    put_shard(root, part, value, classes, "{}/0000.tar")


LAYOUTS = pytest.mark.parametrize("put", [put_folders, put_parquet, put_shard, put_shard_in_folder])
NAMES = ("val", "valid", "validation", "validate", "dev", "eval", "evaluation")


def held_out(data):
    """Return the part by its name, and by the first pixel of its first image."""
    return data.parts.held_out, int(data.val.images[0][0, 0, 0])


@LAYOUTS
@pytest.mark.parametrize("parts", [*(("test", name) for name in NAMES), ("test",), ("testing",)])
def test_a_part_named_for_validation_is_held_out_or_else_the_test_part(tmp_path, put, parts):
    for number, part in enumerate(("train", *parts), start=1):
        put(tmp_path, part, 10 * number)
    data = open_data(tmp_path)
    assert (held_out(data), data.notes) == ((parts[-1], 10 + 10 * len(parts)), ())
    assert int(data.train.images[0][0, 0, 0]) == 10


@pytest.mark.parametrize("put", [put_folders, put_shard_in_folder, put_parquet])
@pytest.mark.parametrize(("train", "name"), [("Train", "Valid"), ("TRAIN", "VAL"), ("Training", "Testing")])
def test_the_case_of_letters_in_a_part_does_not_matter(tmp_path, put, train, name):
    put(tmp_path, train, 10)
    put(tmp_path, name, 30)
    data = open_data(tmp_path)
    assert held_out(data) == (name, 30)
    assert int(data.train.images[0][0, 0, 0]) == 10
    assert examine(tmp_path, progress=False).images == {"train": 2, name: 2}


@pytest.mark.parametrize("put", [put_folders, put_shard_in_folder, put_parquet])
def test_parts_that_differ_in_case_alone_are_refused(tmp_path, put):
    for part in ("train", "val", "Val"):
        put(tmp_path, part, 10)
    with pytest.raises(DataError, match=r": Val and val differ in the case of letters alone; move one away$"):
        open_data(tmp_path)


@LAYOUTS
def test_the_best_weights_chosen_on_test_beside_another_part_are_said_and_a_problem(tmp_path, put):
    for part, value in (("train", 10), ("test", 20), ("val2017", 30)):
        put(tmp_path, part, value)
    data = open_data(tmp_path)
    said = (
        "the best weights are chosen on test, though val2017 could do it; scores on test come out too good: "
        "--held-out val2017"
    )
    assert (held_out(data), data.notes) == (("test", 20), (said,))
    report = examine(tmp_path, progress=False)
    assert [(finding.places, finding.detail) for finding in report.of("chosen-on-test")] == [(("test",), said)]
    assert not report.sound
    followed = open_data(tmp_path, choice=Choice(("val2017",)))
    assert (held_out(followed), followed.notes) == (("val2017", 30), ())


@LAYOUTS
def test_of_two_parts_for_validation_the_one_that_is_used_is_said(tmp_path, put):
    for part, value in (("train", 10), ("validation", 20), ("val", 30)):
        put(tmp_path, part, value)
    data = open_data(tmp_path)
    said = "val is held out, validation not used; the other way: --held-out validation"
    assert (held_out(data), data.notes) == (("val", 30), (said,))
    report = examine(tmp_path, progress=False)
    assert [finding.detail for finding in report.of("unused-part")] == [said]
    assert report.sound


@LAYOUTS
def test_a_run_of_before_keeps_the_part_that_it_held_out(tmp_path, put):
    for part, value in (("train", 10), ("valid", 20), ("test", 30)):
        put(tmp_path, part, value)
    data = open_data(tmp_path, choice=Choice(HELD_OUT_BEFORE))
    assert held_out(data) == ("test", 30)
    assert data.notes[0].startswith("the best weights are chosen on test, though valid could do it")


@LAYOUTS
def test_names_that_look_alike_are_one_class_in_every_part(tmp_path, put):
    put(tmp_path, "train", 10, (NFD, "dog"))
    put(tmp_path, "val", 20, (NFC, "dog"))
    data = open_data(tmp_path)
    assert data.classes == (NFC, "dog")
    assert data.val.labels.tolist() == [0, 1]
    assert examine(tmp_path, progress=False).sound
    assert in_classes(("dog", NFD), data).val.labels.tolist() == [1, 0]  # a run that kept the other spelling


def test_two_folders_that_are_the_same_class_name_are_refused_with_both(tmp_path):
    put_folders(tmp_path, "train", 10, (NFC, NFD))
    put_folders(tmp_path, "val", 20, (NFC,))
    with pytest.raises(DataError, match=r"train: 'cafe\\u0301' and 'caf\\xe9' are the same class name, caf\u00e9; re"):
        open_data(tmp_path)
    report = examine(tmp_path, progress=False)
    assert [finding.places for finding in report.of("bad-name")] == [(r"'train/cafe\u0301'", r"'train/caf\xe9'")]


def test_class_folders_that_are_not_utf8_are_refused_and_named(tmp_path):
    put_folders(tmp_path, "train", 10, ("cat", os.fsdecode(b"caf\x82")))
    put_folders(tmp_path, "val", 20, ("cat",))
    with pytest.raises(DataError, match=r"train: the class name 'caf\\udc82' is not UTF-8; rename it"):
        open_data(tmp_path)
    report = examine(tmp_path, progress=False)
    assert [(finding.places, finding.detail) for finding in report.of("bad-name")] == [
        (("train/caf\udc82",), "not UTF-8")
    ]


def test_odd_names_are_read_and_named(tmp_path):
    names = ("Cat", "cat", "a\tb", "c\nd")
    put_folders(tmp_path, "train", 10, names)
    put_folders(tmp_path, "val", 20, names)
    (tmp_path / "train" / "cat" / os.fsdecode(b"\xe9.png")).write_bytes(png(50))
    assert open_data(tmp_path).classes == tuple(sorted(names))
    report = examine(tmp_path, progress=False)
    assert {finding.places for finding in report.of("odd-name")} == {
        ("a\tb",),
        ("c\nd",),
        ("Cat", "cat"),
        ("train/cat/\udce9.png",),
    }
    assert report.sound


def class_label(**names):
    columns = {column: {"_type": "ClassLabel", "names": listed} for column, listed in names.items()}
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


@pytest.fixture
def cameras(tmp_path):
    """Animals as texts in `label`, and a ClassLabel of cameras beside them."""
    for part in ("train", "val"):
        images = [{"bytes": png(value), "path": None} for value in (10, 11, 12)]
        thumbs = [{"bytes": png(value), "path": None} for value in (90, 91, 92)]
        columns = {"thumb": thumbs, "image": images, "camera": [0, 1, 0], "label": ["dog", "cat", "dog"]}
        table = pa.table({**columns, "indoors": [True, False, False]})
        pq.write_table(
            table.replace_schema_metadata(class_label(camera=["canon", "nikon"])), tmp_path / f"{part}.parquet"
        )
    return tmp_path


def test_the_column_called_label_comes_before_another_class_label(cameras):
    data = open_data(cameras)
    assert data.parts.columns == ("image", "label")
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("column", "classes", "labels"),
    [("camera", ("canon", "nikon"), [0, 1, 0]), ("indoors", ("false", "true"), [1, 0, 0])],
)
def test_columns_that_are_asked_for_are_taken(cameras, column, classes, labels):
    data = open_data(cameras, choice=Choice(image_column="thumb", label_column=column))
    assert (data.classes, data.train.labels.tolist()) == (classes, labels)
    assert int(data.train.images[0][0, 0, 0]) == 90


def test_texts_of_a_dictionary_are_labels_too(tmp_path):
    for part in ("train", "val"):
        images = [{"bytes": png(value), "path": None} for value in (10, 11)]
        labels = pa.array(["dog", "cat"]).dictionary_encode()
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{part}.parquet")
    data = open_data(tmp_path)
    assert (data.classes, data.val.labels.tolist()) == (("cat", "dog"), [1, 0])


def test_of_several_columns_of_images_none_is_guessed(tmp_path):
    images = [{"bytes": png(value), "path": None} for value in (10, 11)]
    kinds = {name: {"_type": "Image"} for name in ("left", "right")}
    metadata = {b"huggingface": json.dumps({"info": {"features": kinds}}).encode()}
    for part in ("train", "val"):
        table = pa.table({"left": images, "right": images, "label": [0, 1]})
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / f"{part}.parquet")
    with pytest.raises(DataError, match=r"which of left, right are the images\? Name the column: --image-column NAME"):
        open_data(tmp_path)
    assert len(open_data(tmp_path, choice=Choice(image_column="right")).train) == 2


def test_columns_and_parts_that_a_layout_does_not_have_are_refused(tmp_path, cameras):
    with pytest.raises(DataError, match=r"no column breed among thumb, image, camera, label, indoors"):
        open_data(cameras, choice=Choice(label_column="breed"))
    with pytest.raises(DataError, match=r"no files holdout-\*\.parquet, the images to validate on; to hold"):
        open_data(cameras, choice=Choice(("holdout",)))
    put_folders(tmp_path / "folders", "train", 1)
    put_folders(tmp_path / "folders", "val", 1)
    with pytest.raises(DataError, match=r"are for Parquet files and label lists; this is class folders"):
        open_data(tmp_path / "folders", choice=Choice(label_column="label"))
