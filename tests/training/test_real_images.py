"""A few steps on real photographs, as Parquet and as a folder of JPEGs (skipped where the images are not present)."""

from transmix.data.tables import read_parquet
from transmix.training.loop import train


def test_photographs_in_parquet_train_a_few_steps(real_images, small_recipe, tmp_path):
    changes = {"image_size": 32, "crop": "random-resized", "eval_crop": 0.875, "batch_size": 16, "max_steps": 3}
    summary = train(small_recipe(real_images / "pets3", **changes), tmp_path / "run")
    assert summary["last"]["loss"] < 2


def test_cifar100_in_parquet_trains_a_few_steps(real_images, small_recipe, tmp_path, monkeypatch):
    from dataclasses import replace

    from transmix.training import loop

    whole = loop.load_data

    def some(settings, seed):
        data = whole(replace(settings, cache_gb=0.0), seed)
        return replace(
            data, val=replace(data.val, images=[data.val.images[i] for i in range(64)], labels=data.val.labels[:64])
        )

    monkeypatch.setattr(loop, "load_data", some)
    changes = {"image_size": 32, "batch_size": 64, "max_steps": 3}
    summary = train(small_recipe(real_images / "cifar100", **changes), tmp_path / "run")
    assert summary["step"] == 3


def test_a_folder_of_jpegs_trains_a_few_steps(real_images, small_recipe, tmp_path):
    import pyarrow.parquet as pq

    data = read_parquet(real_images / "pets3")
    for split in ("train", "validation"):
        table = pq.read_table(next((real_images / "pets3").glob(f"{split}-*.parquet")))
        rows = sorted(table.to_pylist(), key=lambda row: row["label"])[:: 12 if split == "train" else 20]
        for number, row in enumerate(rows):
            folder = tmp_path / "pets" / split / data.classes[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03d}.jpg").write_bytes(row["image"]["bytes"])
    changes = {"image_size": 32, "crop": "random-resized", "eval_crop": 0.875, "max_steps": 3}
    assert train(small_recipe(tmp_path / "pets", **changes), tmp_path / "run")["step"] == 3
