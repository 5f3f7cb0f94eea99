"""Hugging Face's Trainer on a folder of Parquet files in the layout of the Hub, or on noise if none is given.

python examples/huggingface_trainer.py [FOLDER with train-*.parquet and others to evaluate on]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from torchvision.transforms import v2
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from transmix import TransMix
from transmix.integrations.transformers import TransMixTrainer

AUGMENT = v2.Compose([v2.RGB(), v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])
EVALUATE = v2.Compose([v2.RGB(), v2.Resize((32, 32))])
NORMALISE = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])


def load(folder):
    """Return the splits "train" and "eval"."""
    if folder is None:
        features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog", "horse"])})
        images = list(np.random.default_rng(0).integers(0, 256, (24, 40, 48, 3), dtype=np.uint8))
        noise = Dataset.from_dict({"image": images, "label": [0, 1, 2] * 8}, features=features)
        return DatasetDict({"train": noise, "eval": noise})
    files = [str(path) for path in sorted(Path(folder).glob("*.parquet"))]
    train = [path for path in files if Path(path).name.startswith("train")]
    return load_dataset("parquet", data_files={"train": train, "eval": [path for path in files if path not in train]})


def main(folder=None, **settings):
    """Train a tiny ViT from scratch; settings are those of TrainingArguments."""
    data = load(folder)
    features = data["train"].features
    image = next(name for name, kind in features.items() if isinstance(kind, Image))
    label = next(name for name, kind in features.items() if isinstance(kind, ClassLabel))
    for split, transform in (("train", AUGMENT), ("eval", EVALUATE)):
        data[split].set_transform(
            lambda rows, transform=transform: {
                "pixel_values": [NORMALISE(transform(one)) for one in rows[image]],
                "labels": rows[label],
            }
        )
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = ViTConfig(image_size=32, patch_size=8, num_labels=features[label].num_classes, **sizes)
    model = ViTForImageClassification(config)
    tm = TransMix(model, smoothing=0.1)
    defaults = {"output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": 8, "num_train_epochs": 1}
    defaults |= {"remove_unused_columns": False, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
    trainer = TransMixTrainer(
        model,
        TrainingArguments(**defaults | settings),
        train_dataset=data["train"],
        eval_dataset=data["eval"],
        compute_metrics=lambda seen: {"accuracy": float((seen.predictions.argmax(1) == seen.label_ids).mean())},
        transmix=tm,
    )
    trainer.train()
    print({name: round(value, 4) for name, value in trainer.evaluate().items()})
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:2])
