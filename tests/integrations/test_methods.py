"""timm, torchvision, Hugging Face and Lightning take any method, and train with its labels."""

import pytest
import torch
from torch import nn

from transmix import Mixer, mixing
from transmix.methods import NAMED

timm = pytest.importorskip("timm")

CLASSES, SIDE = 5, 32
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": CLASSES, "img_size": SIDE, "patch_size": 8}
WITHOUT_MASKS = [name for name in NAMED if name != "objectmix"]


def a_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("deit_tiny_patch16_224", **SMALL).train()


def a_batch(size=6):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, SIDE, SIDE, generator=rng), torch.randint(0, CLASSES, (size,), generator=rng)


def a_generator():
    return torch.Generator().manual_seed(0)


def made(name, model):
    return NAMED[name](model, smoothing=0.1, generator=a_generator())


@pytest.mark.parametrize("name", WITHOUT_MASKS)
def test_timms_loop_has_the_loss_of_the_three_lines(name):
    from timm.loss import SoftTargetCrossEntropy

    from transmix.integrations.timm import TransMixup

    images, labels = a_batch()
    losses = []
    for criterion in (None, SoftTargetCrossEntropy()):
        model = a_model()
        mixup_fn = TransMixup(model, criterion, label_smoothing=0.1, transmix=made(name, model))
        mixed_images, target = mixup_fn(images, labels)
        losses.append(mixup_fn.loss(model(mixed_images), target))
    model = a_model()
    tm = made(name, model)
    mixed = tm.mix(images, labels)
    expected = tm.loss(model(mixed.images), mixed)
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    model = a_model()  # the method's own smoothing gives way to timm's, in its labels too
    mixup_fn = TransMixup(model, label_smoothing=0.1, transmix=NAMED[name](model, generator=a_generator()))
    mixed_images, target = mixup_fn(images, labels)
    torch.testing.assert_close(mixup_fn.loss(model(mixed_images), target), expected, rtol=1e-4, atol=1e-5)
    plain = nn.functional.cross_entropy(a_model()(images), labels, label_smoothing=0.1)
    assert (expected - plain).abs() > 1e-4


@pytest.mark.parametrize("method", [mixing.FMix(), mixing.ResizeMix(), mixing.SaliencyMix(), mixing.TokenMix()])
def test_torchvisions_transform_mixes_by_any_method_that_needs_no_model(method):
    pytest.importorskip("torchvision")
    from transmix.integrations.torchvision import BatchMix

    images, labels = a_batch()
    settings = {"methods": [method]}
    mix = BatchMix(Mixer(**settings, generator=torch.Generator().manual_seed(1)), num_classes=CLASSES)
    pictures, targets = mix(images, labels)
    expected = Mixer(**settings, generator=torch.Generator().manual_seed(1))(images, labels)
    assert torch.equal(pictures, expected.images)
    assert torch.equal(targets, expected.targets(CLASSES))
    record = BatchMix(Mixer(**settings), record=True)(images, labels)[1]
    assert record.mask is not None
    from torchvision import tv_tensors

    with pytest.raises(ValueError, match="BatchMix mixes one batch of images with its labels, not 2"):
        mix({"a": tv_tensors.Image(images), "b": tv_tensors.Image(images), "labels": labels})


def test_torchvisions_transform_refuses_what_needs_a_model():
    pytest.importorskip("torchvision")
    from transmix.integrations.torchvision import BatchMix

    with pytest.raises(ValueError, match=r"use TransMix\(model, mixer=...\). A mixer alone has no model"):
        BatchMix(Mixer(methods=[mixing.SMMix()]), num_classes=CLASSES)(*a_batch())


@pytest.mark.parametrize("name", ["smmix", "snapmix", "mixpro"])
def test_the_trainer_of_hugging_face_trains_with_it(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from transmix.integrations.transformers import TransMixTrainer

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    config = transformers.ViTConfig(**sizes, image_size=SIDE, patch_size=8, num_labels=CLASSES)
    model = transformers.ViTForImageClassification(config)
    images, labels = a_batch()
    rows = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=3, report_to=[], save_strategy="no", use_cpu=True
    )
    trainer = TransMixTrainer(model, arguments, train_dataset=rows, transmix=made(name, model))
    assert 0 < trainer.train().training_loss < 20


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec.*is deprecated")
@pytest.mark.parametrize("name", ["smmix", "tlalign"])
def test_lightning_trains_with_it(name):
    lightning = pytest.importorskip("lightning")
    from transmix.integrations.lightning import TransMixModule

    class Classifier(TransMixModule):
        def __init__(self):
            super().__init__()
            self.model = a_model()
            self.transmix = made(name, self.model)

        def forward(self, images):
            return self.model(images)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_steps": 2}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer, classifier = lightning.Trainer(**settings), Classifier()
    data = torch.utils.data.TensorDataset(*a_batch())
    trainer.fit(classifier, torch.utils.data.DataLoader(data, batch_size=3))
    assert trainer.callback_metrics["train_loss"].isfinite()
