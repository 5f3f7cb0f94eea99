"""Parquet files in the hub's layout are read with their names, and every unusable row is named."""

import io
import json
import pickle
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from transmix.data.dataset import DataError, keep_decoded
from transmix.data.source import open_data
from transmix.data.tables import holds_parquet, read_parquet

NAMES = ["cat", "dog"]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def picture(value, size=(4, 6)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def features(**names):
    columns = {column: {"_type": "ClassLabel", "names": listed} for column, listed in names.items()}
    return {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, **columns}}}).encode()}


def write(path, labels, values=None, metadata=None, image="image", label="label", plain=False, **more):
    """Write a file whose image i has the value values[i], None is null; columns may also come ready-made."""
    values = list(range(len(labels))) if values is None else values
    encoded = [None if value is None else picture(value) for value in values]
    if not plain:
        encoded = [content and {"bytes": content, "path": None} for content in encoded]
    ready = pa.array(encoded, pa.binary() if plain else STRUCT)
    image, images = ("image", image) if isinstance(image, pa.Array) else (image, ready)
    labels = labels if isinstance(labels, pa.Array) else pa.array(labels, pa.int64())
    columns = {image: images, label: labels, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata(features(label=NAMES) if metadata is None else metadata)
    pq.write_table(table, path)


def write_val(root, **options):
    write(root / "validation-00000-of-00001.parquet", [1, 0], values=[50, 51], **options)


def shades(split):
    return [int(split.images[index][0, 0, 0]) for index in range(len(split))]


def refuses(root, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_parquet(root)


@pytest.fixture
def pets(tmp_path):
    """Training images in two shards, to be read in the order of their names."""
    write(tmp_path / "train-00001-of-00002.parquet", [1, 1], values=[30, 31])
    write(tmp_path / "train-00000-of-00002.parquet", [0, 1, 0], values=[20, 21, 22])
    write_val(tmp_path)
    return tmp_path


def test_shards_are_read_in_order_with_the_names_of_the_schema(pets):
    data = read_parquet(pets)
    assert data.name == pets.name
    assert data.classes == ("cat", "dog")
    assert shades(data.train) == [20, 21, 22, 30, 31]
    assert data.train.labels.tolist() == [0, 1, 0, 1, 1]
    assert data.train.labels.dtype == np.int64
    assert shades(data.val) == [50, 51]
    assert data.val.labels.tolist() == [1, 0]
    assert data.val.masks is None
    assert data.train.images.size(0) == data.train.images[0].shape[:2] == (4, 6)


def test_files_may_lie_in_a_folder_called_data(pets):
    (pets / "data").mkdir()
    for path in pets.glob("*.parquet"):
        path.rename(pets / "data" / path.name)
    assert holds_parquet(pets)
    assert shades(read_parquet(pets).train) == [20, 21, 22, 30, 31]


@pytest.mark.parametrize("options", [{"image": "img"}, {"plain": True}, {"image": "img", "plain": True}])
def test_the_image_column_may_be_called_img_and_be_plain_binary(tmp_path, options):
    write(tmp_path / "train.parquet", [0, 1], values=[20, 21], **options)
    write_val(tmp_path, **options)
    assert shades(read_parquet(tmp_path).train) == [20, 21]


def test_pickled_images_are_the_same(pets):
    images = pickle.loads(pickle.dumps(read_parquet(pets).train.images))
    assert [int(images[index][0, 0, 0]) for index in range(5)] == [20, 21, 22, 30, 31]
    assert images.where(3) == str(pets / "train-00001-of-00002.parquet") + " row 0"


def test_forked_workers_read_the_same_images(pets):
    images = read_parquet(pets).train.images
    loader = DataLoader(images, batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert [int(image[0, 0, 0]) for image in loader] == [20, 21, 22, 30, 31]


def test_a_broken_image_is_named_by_file_and_row_within_it(pets):
    path = pets / "train-00001-of-00002.parquet"
    write(path, [1, 1], image=pa.array([{"bytes": picture(30)}, {"bytes": b"junk"}], STRUCT))
    images = read_parquet(pets).train.images
    for read in (images.__getitem__, images.size):
        assert read(3) is not None
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))} row 1: cannot read the image"):
            read(4)


def test_the_only_named_label_column_is_taken_whatever_it_is_called(tmp_path):
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.parquet", [0, 1], label="breed", metadata=features(breed=NAMES), label_id=[7, 7])
    data = read_parquet(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("label", "other", "numbers"),
    [("label", "coarse_label", [0, 0]), ("fine_label", "coarse_label", [0, 0]), ("label", "fine_label", [1, 0])],
)
def test_of_several_named_label_columns_the_usual_one_is_taken(tmp_path, label, other, numbers):
    metadata = features(**{other: ["animal", "plant"], label: NAMES})
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.parquet", [0, 1], label=label, metadata=metadata, **{other: numbers})
    data = read_parquet(tmp_path)
    assert (data.classes, data.train.labels.tolist()) == (("cat", "dog"), [0, 1])


@pytest.mark.parametrize("label", ["label", "fine_label"])
def test_without_metadata_the_classes_are_numbers(tmp_path, label):
    write(tmp_path / "train.parquet", [0, 2, 1, 1], label=label, metadata={})
    write(tmp_path / "test.parquet", [2, 1, 0], label=label, metadata={})
    data = read_parquet(tmp_path)
    assert data.classes == ("0", "1", "2")
    assert data.train.labels.tolist() == [0, 2, 1, 1]


SECOND = "train-00001-of-00002.parquet"
OTHER_NAMES = "class names differ from those of train-00000-of-00002.parquet"
TYPES = "labels are integers, strings or booleans; name another"
DAMAGED = {
    "a label below 0": ({"labels": [1, -1, 1]}, " row 1: label -1 is not among the 2 classes"),
    "a label without a name": ({"labels": [1, 2, 1]}, " row 1: label 2 is not among the 2 classes"),
    "a null label": ({"labels": [1, 0, None]}, " row 2: the label is null"),
    "null bytes": ({"labels": [1, 0], "values": [30, None], "plain": True}, " row 1: the image is null"),
    "a null image": ({"labels": [1, 0], "values": [30, None]}, " row 1: the image is null"),
    "bytes that are null": ({"labels": [1], "image": pa.array([{"bytes": None}], STRUCT)}, " row 0: the image is null"),
    "no image column": ({"labels": [1], "image": "photo"}, ": no column image among photo, label; every file needs"),
    "paths": (
        {"labels": [1], "image": pa.array(["a.png"])},
        ": column image is string; images are binary or a struct with a field bytes",
    ),
    "no Parquet": (b"version https://git-lfs.github.com/spec/v1\n", ": not a readable Parquet file"),
    "no JSON": ({"labels": [1], "metadata": {b"huggingface": b"{"}}, ": its metadata for Hugging Face is no JSON"),
    "no rows": ({"labels": []}, ": no rows"),
    "other names": (
        {"labels": [1, 0], "metadata": features(label=["dog", "elk"])},
        f": {OTHER_NAMES} (missing: cat; unexpected: elk); write all",
    ),
    "no names": ({"labels": [1, 1], "metadata": {}}, f": {OTHER_NAMES} (one of the two has none); write all"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_shard_that_cannot_be_used_is_an_error_that_names_file_and_row(pets, content, message):
    path = pets / SECOND
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, **content)
    refuses(pets, SECOND + message)


UNUSABLE = {
    "a gap": ({"labels": [0, 2, 2]}, "train.parquet: no image of class 1"),
    "an absurd label": ({"labels": [0, 10**12]}, "train.parquet row 1: label 1000000000000 is not among the 2 classes"),
    "no label column": ({"labels": [0, 1], "label": "breed"}, "which of image, breed are the labels?"),
    "several label columns": (
        {"labels": [0, 1], "label": "breed", "colour": [0, 0], "metadata": features(breed=NAMES, colour=["red"])},
        "which of breed, colour are the labels? Name the column: --label-column NAME",
    ),
    "fractions": ({"labels": pa.array([0.0, 1.0], pa.float32())}, f"train.parquet: column label is float; {TYPES}"),
    "lists": ({"labels": pa.array([[0], [1]])}, f"train.parquet: column label is list<element: int64>; {TYPES}"),
    "bytes": ({"labels": pa.array([b"a", b"b"])}, f"train.parquet: column label is binary; {TYPES}"),
}


@pytest.mark.parametrize(("content", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_labels_that_cannot_be_used_are_an_error(tmp_path, content, message):
    for name in ("train", "test"):
        write(tmp_path / f"{name}.parquet", **({"metadata": {}} | content))
    refuses(tmp_path, message)


def test_names_in_another_order_are_matched_by_name(pets):
    write_val(pets, metadata=features(label=["elk", "dog", "cat"]))
    write(pets / "train-00001-of-00002.parquet", [1, 0], values=[30, 31], metadata=features(label=["dog", "cat"]))
    refuses(pets, "1.parquet row 1: not among the classes of train (cat, dog): elk; drop such rows")
    write_val(pets, metadata=features(label=["dog", "cat"]))
    data = read_parquet(pets)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1, 0, 0, 1]
    assert data.val.labels.tolist() == [0, 1]


def test_a_class_without_training_images_is_an_error_and_without_held_out_ones_is_said(tmp_path):
    metadata = features(label=[*NAMES, "elk", "fox"])
    for name in ("train", "validation"):
        write(tmp_path / f"{name}.parquet", [0, 1, 2, 3], metadata=metadata)
    write(tmp_path / "validation.parquet", [1, 1, 0], metadata=metadata)
    data = open_data(tmp_path)
    assert data.val.labels.tolist() == [1, 1, 0]
    assert data.notes == ("validation has no image of class elk, fox: no score says how well it is recognised",)
    write(tmp_path / "train.parquet", [1, 1, 0], metadata=metadata)
    refuses(tmp_path, "train.parquet: no image of class elk, fox")


def test_missing_splits_are_an_error(tmp_path):
    assert not holds_parquet(tmp_path)
    refuses(tmp_path, f"{tmp_path}: no files train-*.parquet, the images to train on")
    write(tmp_path / "train-00000-of-00001.parquet", [0, 1])
    refuses(tmp_path, "no files val-*.parquet or valid-*.parquet or validation-*.parquet")


def test_a_missing_shard_is_an_error(pets):
    (pets / "train-00001-of-00002.parquet").unlink()
    refuses(pets, "1 files of train, but their names say there are 2; complete the download")


def test_the_real_cifar100_is_read(real_images):
    data = read_parquet(real_images / "cifar100")
    assert (len(data.train), len(data.val), len(data.classes)) == (50_000, 10_000, 100)
    assert data.classes[:3] == ("apple", "aquarium_fish", "baby")
    assert data.classes[-1] == "worm"
    assert np.bincount(data.train.labels).tolist() == [500] * 100
    assert np.bincount(data.val.labels).tolist() == [100] * 100
    shard = pq.read_table(real_images / "cifar100" / "train-00001-of-00002.parquet")
    image = data.train.images[25_000 + 17]
    expected = Image.open(io.BytesIO(shard["img"][17].as_py()["bytes"]))
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image, np.asarray(expected))
    assert data.train.labels[25_000 + 17] == shard["fine_label"][17].as_py()


def test_the_real_pets_are_read(real_images):
    data = read_parquet(real_images / "pets3")
    assert (len(data.train), len(data.val)) == (449, 150)
    assert data.classes == ("Abyssinian", "Bengal", "american_bulldog")
    assert data.train.images[3].shape[:2] == data.train.images.size(3)
    kept = keep_decoded(data.val, limit_bytes=2**30)
    assert isinstance(kept.images, list)
    np.testing.assert_array_equal(kept.images[149], data.val.images[149])
