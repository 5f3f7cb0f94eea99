import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

import transmix.data.masks as m
from transmix.data.augment import EvaluationCrop, TrainingAugmentation
from transmix.data.bad_images import BadImages
from transmix.data.dataset import DataError, ImageData, Split, UnreadableImageError
from transmix.data.on_device import TrainingImages
from transmix.data.settings import Augmentation
from transmix.data.source import open_data
from transmix.data.tables import read_parquet
from transmix.models.loaded import Cover

HEIGHT, WIDTH = 12, 20


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def trimap(seed):
    return np.random.default_rng(seed).integers(1, 4, (HEIGHT, WIDTH)).astype(np.uint8)


def write_parquet(root, masks, split="validation", struct=True, name="mask"):
    """Write `split` in two files of equal length, and a training split like it."""
    picture, kind = png(np.zeros((HEIGHT, WIDTH, 3))), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    half = len(masks) // 2
    for number, rows in enumerate((masks[:half], masks[half:])):
        column = (
            pa.array([{"bytes": one, "path": None} for one in rows], kind) if struct else pa.array(rows, pa.binary())
        )
        table = pa.table({"image": [picture] * len(rows), "label": [0] * len(rows), name: column})
        for part in (split, "train"):
            pq.write_table(table, root / f"{part}-{number:05d}-of-00002.parquet")
    return root


def write_pets(root, masks):
    (root / "annotations" / "trimaps").mkdir(parents=True)
    (root / "images").mkdir()
    for name in ("a_1", "a_2"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / f"{name}.jpg")
    for part in ("trainval", "test"):
        (root / "annotations" / f"{part}.txt").write_text("a_1 1 1 1\na_2 1 1 1\n")
    for name, content in masks.items():
        (root / "annotations" / "trimaps" / f"{name}.png").write_bytes(content)
    return root


def expected(trimap):
    """Translate pixel by pixel."""
    meaning = {1: m.FOREGROUND, 2: m.BACKGROUND, 3: m.UNSURE}
    return [[meaning[int(value)] for value in row] for row in trimap]


def test_masks_that_are_drawn_with_the_images_are_given_as_they_are():
    drawn = np.random.default_rng(0).random((3, 8, 6)) < 0.5
    split = Split(np.zeros((3, 8, 6, 3), np.uint8), np.zeros(3, np.int64), drawn)
    masks = m.open_masks(ImageData("digits", ("a",), split, split))
    assert set(np.unique(masks(1))) == {m.BACKGROUND, m.FOREGROUND}
    assert all(np.array_equal(masks(index), drawn[index]) for index in range(3))


@pytest.mark.parametrize("struct", [True, False])
def test_masks_of_parquet_files_come_in_the_order_of_the_images(tmp_path, struct):
    trimaps = [trimap(seed) for seed in range(6)]
    masks = m.open_masks(read_parquet(write_parquet(tmp_path, [png(one) for one in trimaps], struct=struct)))
    assert [masks(index).tolist() for index in range(6)] == [expected(one) for one in trimaps]


def test_masks_of_oxford_pets_are_found_by_the_images_name(tmp_path):
    data = open_data(write_pets(tmp_path, {"a_2": png(trimap(2)), "a_1": png(trimap(1))}))
    masks = m.open_masks(data)
    assert [masks(0).tolist(), masks(1).tolist()] == [expected(trimap(1)), expected(trimap(2))]


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_of_two_values_has_no_unsure_pixels(tmp_path, value):
    drawn = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    drawn[3:7, 2:5] = 1
    mask = m.open_masks(read_parquet(write_parquet(tmp_path, [png(drawn * value)] * 2)))(1)
    assert np.array_equal(mask, drawn)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("drawn", [np.ones((HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH)), np.eye(HEIGHT, WIDTH)])
def test_a_mask_of_one_bit_a_pixel_is_read(tmp_path, drawn):
    file = io.BytesIO()
    Image.fromarray((drawn * 255).astype(np.uint8)).convert("1").save(file, "PNG")
    mask = m.open_masks(read_parquet(write_parquet(tmp_path, [file.getvalue()] * 2)))(1)
    assert np.array_equal(mask, drawn)


def test_a_mask_goes_through_the_crop_of_its_image():
    """Where a picture is its own mask, both must stay so: not flipped, not transposed, not shifted."""
    mask = np.zeros((60, 90), dtype=np.uint8)
    mask[10:50, 20:65] = 1
    mask[30:50, 40:70] = 0
    for crop in (EvaluationCrop(32, 0.875), EvaluationCrop(90, 1.0), Cover((24, 40), 0.9)):
        picture = crop(np.repeat(mask[..., None] * 255, 3, axis=-1))[0]
        assert (m.crop_mask(mask, crop) == (picture > 127)).float().mean() > 0.995
        assert (m.crop_mask(mask, crop).roll(1, 0) == (picture > 127)).float().mean() < 0.99


def test_a_cropped_mask_is_the_nearest_neighbours_but_for_its_edges():
    mask = np.kron(np.random.default_rng(0).integers(0, 3, (5, 7)), np.ones((30, 30))).astype(np.uint8)
    ours = m.crop_mask(mask, EvaluationCrop(64, 1.0)).numpy()
    nearest = reference.resize(
        torch.from_numpy(mask)[None], [64], interpolation=reference.InterpolationMode.NEAREST_EXACT
    )
    nearest = reference.center_crop(nearest, [64, 64])[0].numpy()
    inside = (np.roll(nearest, 1, 0) == nearest) & (np.roll(nearest, -1, 0) == nearest)
    inside &= (np.roll(nearest, 1, 1) == nearest) & (np.roll(nearest, -1, 1) == nearest)
    assert inside.mean() > 0.6
    assert np.array_equal(ours[inside], nearest[inside])


def test_where_nothing_is_resized_a_cropped_mask_is_a_part_of_it():
    mask = np.random.default_rng(0).integers(0, 3, (32, 48)).astype(np.uint8)
    assert np.array_equal(m.crop_mask(mask, EvaluationCrop(32, 1.0)).numpy(), mask[:, 8:40])


def test_data_without_masks_is_refused_by_name(tmp_path, says):
    split = Split(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 0]))
    with says(
        DataError,
        "plain: no foreground masks. They come with 'digits', with Parquet files that have a column 'mask', and with "
        "Oxford-IIIT Pet where annotations/trimaps is unpacked",
    ):
        m.open_masks(ImageData("plain", ("a",), split, split))
    write_parquet(tmp_path, [png(trimap(0))] * 2, name="other")
    first = tmp_path / "validation-00000-of-00002.parquet"
    with says(DataError, f"{first}: no foreground masks: no column 'mask' among image, label, other"):
        m.open_masks(read_parquet(tmp_path))


def test_pets_without_trimaps_are_refused(tmp_path):
    data = open_data(write_pets(tmp_path, {"a_1": png(trimap(1))}))
    with pytest.raises(DataError, match=r"a_2\.png: cannot read the mask \(No such file or directory\); unpack ann"):
        m.open_masks(data)(1)
    (tmp_path / "annotations" / "trimaps").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no foreground masks"):
        m.open_masks(data)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the mask is null; fill it in or drop the row"),
        (b"no image", "cannot read the mask"),
        (png(np.ones((WIDTH, HEIGHT))), "the mask is 20 x 12 pixels, its image 12 x 20; both must show the same"),
        (png(np.full((HEIGHT, WIDTH), 7)), "a mask of 12 x 20 with values 7; expected one channel of a trimap"),
        (png(np.ones((HEIGHT, WIDTH, 3))), "a mask of 12 x 20 x 3 with values 1; expected one channel of a trimap"),
        (png(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4), "with values 0, 1, 2, 3; expected"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(tmp_path, content, says):
    masks = m.open_masks(read_parquet(write_parquet(tmp_path, [png(trimap(0)), png(trimap(0)), content, content])))
    masks(0)
    with pytest.raises(DataError) as refused:
        masks(2)
    assert str(refused.value).startswith(f"mask of {tmp_path / 'validation-00001-of-00002.parquet'} row 0: ")
    assert says in str(refused.value)


def test_a_column_of_something_else_is_refused(tmp_path):
    write_parquet(tmp_path, [png(trimap(0))] * 2)
    path = Path(tmp_path / "validation-00001-of-00002.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "mask", pa.array([0.5] * len(table))), path)
    with pytest.raises(DataError, match="the column 'mask' must be binary or a struct with a field bytes"):
        m.open_masks(read_parquet(tmp_path))


def test_real_trimaps_show_one_animal_each(real_images):
    data = read_parquet(real_images / "pets3")
    masks, crop = m.open_masks(data), EvaluationCrop(64, 0.875)
    shares = [(m.crop_mask(masks(index), crop) == m.FOREGROUND).float().mean() for index in range(0, len(data.val), 10)]
    assert min(shares) > 0.05
    assert max(shares) < 0.95


COLOURS = [
    "AutoContrast",
    "Equalize",
    "Invert",
    "Posterize",
    "Solarize",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
]
MOVES = {
    "pad": Augmentation(crop="pad", pad=5, rand_augment=None, random_erasing=0.0),
    "random-resized": Augmentation(rand_augment=None, color_jitter=0.4, random_erasing=0.0),
    "erased": Augmentation(crop="none", rand_augment=None, random_erasing=0.7),
    "rand_augment": Augmentation(crop="none", rand_augment="rand-m9-n3-mstd0.5-inc1", random_erasing=0.3),
}


def ellipse(height=50, width=70):
    rows, columns = np.mgrid[:height, :width]
    return ((rows - 20) ** 2 / 14**2 + (columns - 40) ** 2 / 22**2 < 1).astype(np.uint8)


def moved_as_an_image(settings, picture, key):
    """Give the mask to the augmentation of images as if it were one; nothing changes its colours."""
    plain = TrainingAugmentation(replace(settings, mean=(0.0, 0.0, 0.0), color_jitter=0.0), 32)
    for operation in plain.policy.ops if settings.rand_augment else ():
        if operation.name.startswith(tuple(COLOURS)):
            operation.aug_fn = lambda image, *_, **__: image
    return plain(picture, key)


@pytest.mark.parametrize("settings", MOVES.values(), ids=MOVES)
def test_a_mask_moves_as_its_image_does(settings):
    mask = ellipse()
    find = m.augmented_masks(lambda index: mask * (index == 3), settings, 32)
    found, differ = [], 0
    for key in range(40):
        image = moved_as_an_image(settings, m.drawn(mask), key)
        erased = image[0] != image[1] if settings.random_erasing else torch.zeros(32, 32, dtype=torch.bool)  # noise
        foreground = find(3, key)
        found.append(foreground)
        assert torch.equal(foreground[~erased], image[0][~erased] >= 128)
        assert not (foreground & erased).any()
        differ += not torch.equal(foreground, find(3, key + 1))
        assert not find(2, key).any()
    assert differ > 20
    assert torch.stack(found).any(0).sum() > 300


@pytest.mark.parametrize("settings", [MOVES["pad"], MOVES["random-resized"], replace(MOVES["pad"], random_erasing=0.7)])
@pytest.mark.parametrize("broken", [(), (2,)])
def test_masks_on_the_device_move_as_the_images_there(settings, broken):
    shapes = [np.roll(ellipse(32, 32), 3 * index, 1) for index in range(4)]
    split = Split(
        np.stack([m.drawn(one) for one in shapes]),
        np.zeros(4, np.int64),
        bad={index: UnreadableImageError("x.png", "cut off") for index in broken},
    )
    kept = TrainingImages(
        split, replace(settings, color_jitter=0.0), 32, 3, "cpu", BadImages(2), masks=lambda index: shapes[index]
    )
    keys = [(0, index % 4, index // 4) for index in range(64)]
    images, labels, foreground = kept.batch(keys)
    assert labels.shape == (64,)
    boxes = kept.augment.draw(torch.tensor(keys)).erased
    erased = torch.zeros(64, 32, 32, dtype=torch.bool)
    for one, (top, left, height, width) in zip(
        erased, torch.zeros(64, 4).long() if boxes is None else boxes, strict=True
    ):
        one[top : top + height, left : left + width] = True
    assert erased.any() == bool(settings.random_erasing)
    assert torch.equal(foreground, (images[:, 0] >= 128) & ~erased)
    assert foreground.flatten(1).any(1).double().mean() > 0.8
    assert not torch.equal(foreground, foreground.roll(1, 0))
