"""Hugging Face's Trainer equals a loop that draws alike; its evaluation stays plain."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from explicit import sharpen
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from transmix import AttentionError, TransMix
from transmix.data.seeding import derive_seed

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import TrainingArguments, ViTConfig, ViTForImageClassification  # noqa: E402

from transmix.integrations.transformers import TransMixTrainer  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "huggingface_trainer.py"
CLASSES, LR, SEED = 3, 0.02, 5
ATTENTION = "vit.layers.1.attention"


def a_model():
    """A tiny ViT whose attention is far from uniform."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return sharpen(ViTForImageClassification(ViTConfig(image_size=(32, 48), patch_size=8, num_labels=CLASSES, **sizes)))


def made(model, **settings):
    return TransMix(model, smoothing=0.1, **settings)


@pytest.fixture
def noise():
    rng = torch.Generator().manual_seed(0)
    return [
        {
            "pixel_values": torch.randn(3, 32, 48, generator=rng),
            "labels": int(torch.randint(CLASSES, (), generator=rng)),
        }
        for _ in range(20)
    ]


@pytest.fixture
def real(photographs):
    """Twelve photographs, each twice."""
    images, labels = photographs
    pixels = (images - 0.5) / 0.25
    return [{"pixel_values": one, "labels": int(label)} for one, label in zip(pixels, labels, strict=True)] * 2


def arguments(folder, **changes):
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": LR, "max_grad_norm": 0}
    settings |= {"optim": "sgd", "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"}
    settings |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "seed": SEED}
    settings |= {"use_cpu": True, "dataloader_pin_memory": False}
    return TrainingArguments(output_dir=str(folder), **settings | changes)


def a_trainer(examples, folder, transmix=None, model=None, kind=TransMixTrainer, **changes):
    model = model or a_model()
    return kind(
        model,
        arguments(folder, **changes),
        train_dataset=examples,
        eval_dataset=examples,
        compute_metrics=lambda seen: {"accuracy": (seen.predictions.argmax(1) == seen.label_ids).mean().item()},
        transmix=transmix or made(model),
    )


def trained(trainer, **settings):
    """(Losses of every step, last weights)."""
    trainer.train(**settings)
    return [log["loss"] for log in trainer.state.log_history if "loss" in log], trainer.model.state_dict()


def the_loop(examples, accumulate=1, amp=None):
    """The same of a loop of one's own, which draws by (seed, step, micro-batch, process)."""
    model = a_model().train()
    tm = made(model)
    batches = [
        (torch.stack([one["pixel_values"] for one in rows]), torch.tensor([one["labels"] for one in rows]))
        for rows in DataLoader(examples, batch_size=4, collate_fn=list)
    ]
    steps = [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]
    losses, boxes = [], []
    for step, micro_batches in enumerate(steps):
        total = 0
        for micro, (images, labels) in enumerate(micro_batches):
            tm.mixer.generator.manual_seed(derive_seed(SEED, "mix", step, micro, 0))
            mixed = tm.mix(images, labels)
            boxes.append(mixed.mask is not None)
            with torch.autocast("cpu", amp, enabled=amp is not None):
                logits = model(mixed.images).logits
            loss = tm.loss(logits, mixed) / len(micro_batches)
            loss.backward()
            total += loss.item()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= LR * weight.grad
                weight.grad = None
        losses.append(total)
    assert len(set(boxes)) == 2  # Mixup and CutMix both came up
    return losses, model.state_dict()


def assert_equal(one, two):
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert all(torch.allclose(one[1][name], weight, atol=1e-5) for name, weight in two[1].items())


SETTINGS = {
    "plain": {},
    "accumulated, the last step of fewer batches": {"gradient_accumulation_steps": 2},
    "two workers": {"dataloader_num_workers": 2},
    "compiled": {"torch_compile_backend": "eager"},
    "checkpointed": {"gradient_checkpointing": True},
    "bfloat16": {"bf16": True},
    "evaluated after every step": {"eval_strategy": "steps", "eval_steps": 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_trainer_equals_the_loop(settings, noise, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # torch_compile leaves its choice there
    expected = the_loop(
        noise, settings.get("gradient_accumulation_steps", 1), torch.bfloat16 if "bf16" in settings else None
    )
    assert_equal(trained(a_trainer(noise, tmp_path, **settings)), expected)


def test_the_trainer_equals_the_loop_on_photographs(real, tmp_path):
    trainer = a_trainer(real, tmp_path, gradient_accumulation_steps=2, dataloader_num_workers=1)
    assert_equal(trained(trainer), the_loop(real, 2))


def test_labels_by_area_are_rejected(noise, tmp_path):
    model = a_model()
    tm = made(model)
    tm.relabel = lambda mixed: (tm.reader.take().row, mixed)[1]
    with pytest.raises(AssertionError):
        assert_equal(trained(a_trainer(noise, tmp_path, tm, model)), the_loop(noise))


def test_the_batchs_mean_lam_is_rejected(noise, tmp_path):
    model = a_model()
    tm = made(model)
    whole = tm.criterion
    tm.criterion = lambda logits, mixed: whole(logits, replace(mixed, lam=mixed.lam.mean().expand_as(mixed.lam)))
    with pytest.raises(AssertionError):
        assert_equal(trained(a_trainer(noise, tmp_path, tm, model)), the_loop(noise))


def test_whole_losses_added_up_over_micro_batches_are_rejected(noise, tmp_path):
    trainer = a_trainer(noise, tmp_path, gradient_accumulation_steps=2)
    trainer.loss_is_scaled_for_ga = trainer.model_accepts_loss_kwargs = True
    with pytest.raises(AssertionError):
        assert_equal(trained(trainer), the_loop(noise, 2))


def test_evaluation_sees_plain_images_and_labels(noise, tmp_path):
    model, mixed = a_model(), []
    tm = made(model)
    mix = tm.mix
    tm.mix = lambda *batch: mixed.append(mix(*batch)) or mixed[-1]
    trainer = a_trainer(noise, tmp_path, tm, model, per_device_eval_batch_size=20)
    for train_first in (False, True):
        if train_first:
            trainer.train()
        drawn = len(mixed)
        said = trainer.evaluate()
        with torch.no_grad():
            logits = model.eval()(torch.stack([one["pixel_values"] for one in noise])).logits
        labels = torch.tensor([one["labels"] for one in noise])
        assert said["eval_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert said["eval_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
        assert torch.allclose(torch.from_numpy(trainer.predict(noise).predictions), logits, atol=1e-5)
        assert len(mixed) == drawn
    assert len(mixed) == 5


class Own(nn.Module):
    """A model of no Hugging Face class, which returns a tuple."""

    def __init__(self):
        super().__init__()
        self.inner = a_model()

    def forward(self, pixel_values, labels=None):
        return (self.inner(pixel_values).logits,)


def test_a_model_that_returns_tuples_trains_alike(noise, tmp_path):
    model = Own()
    losses, _ = trained(a_trainer(noise, tmp_path, made(model.inner), model))
    assert_equal((losses, model.inner.state_dict()), the_loop(noise))


def test_a_resumed_run_mixes_as_if_it_had_not_stopped(noise, tmp_path):
    runs = []
    for settings in ({}, {"resume_from_checkpoint": str(tmp_path / "checkpoint-2")}):
        model = Own()
        trainer = a_trainer(noise, tmp_path, made(model.inner), model, save_strategy="steps", save_steps=2)
        runs.append(trained(trainer, **settings))
    assert_equal(*runs)


def test_other_seeds_and_processes_draw_otherwise(noise, tmp_path):
    first = a_trainer(noise, tmp_path)
    keys = [first._key(), first._key(), a_trainer(noise, tmp_path, seed=6)._key()]
    other = a_trainer(noise, tmp_path)
    other.args.distributed_state.process_index = 1
    try:
        keys.append(other._key())
    finally:
        other.args.distributed_state.process_index = 0
    assert len(set(keys)) == 4


# -------------------------------------------------------------------------------------------------- refusals

CANNOT = "TransMixTrainer does not support these arguments: "


def assert_refused(text, make):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        make()
    assert str(error.value) == CANNOT + text


def test_smoothing_has_one_place(noise, tmp_path):
    assert_refused(
        "label_smoothing_factor does not know mixed labels; give it to TransMix(model, smoothing=...)",
        lambda: a_trainer(noise, tmp_path, label_smoothing_factor=0.1),
    )


def test_another_loss_is_refused(tmp_path):
    model = a_model()
    assert_refused(
        "compute_loss_func would be ignored; the loss is TransMix's",
        lambda: TransMixTrainer(model, arguments(tmp_path), compute_loss_func=print, transmix=made(model)),
    )


def test_a_model_made_later_is_refused(tmp_path):
    assert_refused(
        "model_init makes a new model, which TransMix does not read; pass the model that it reads",
        lambda: TransMixTrainer(args=arguments(tmp_path), model_init=a_model, transmix=made(a_model())),
    )


def test_data_parallel_is_refused(tmp_path):
    model, several = a_model(), arguments(tmp_path)
    several._n_gpu = 2
    assert_refused(
        "nn.DataParallel over 2 GPUs runs copies of the model, which TransMix does not read; "
        "start one process per GPU with torchrun, or show one GPU with CUDA_VISIBLE_DEVICES",
        lambda: TransMixTrainer(model, several, transmix=made(model)),
    )


def test_a_batch_without_labels_is_an_error(noise, tmp_path):
    unlabelled = [{"pixel_values": one["pixel_values"]} for one in noise]
    with pytest.raises(KeyError) as error:
        a_trainer(unlabelled, tmp_path).train()
    assert error.value.args[0] == (
        "a training batch has no 'labels', only pixel_values. A data set whose transform makes them needs "
        "TrainingArguments(remove_unused_columns=False)"
    )


def test_a_transmix_that_reads_another_model_is_an_error(noise, tmp_path):
    with pytest.raises(AttentionError, match="no attention was recorded: the model that is read is gone"):
        a_trainer(noise, tmp_path, made(a_model())).train()


# --------------------------------------------------------------------------------------------------- example


def test_the_example_runs_as_it_stands(capsys, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("sys.argv", [str(EXAMPLE)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "'eval_accuracy': " in capsys.readouterr().out


def test_the_example_trains_on_photographs_in_parquet(real_images, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    settings = {"output_dir": str(tmp_path), "max_steps": 2, "disable_tqdm": True}
    trainer = runpy.run_path(str(EXAMPLE))["main"](real_images / "pets3", **settings)
    assert [len(data) for data in (trainer.train_dataset, trainer.eval_dataset)] == [449, 150]
    assert trainer.model.config.num_labels == 3
    assert trainer.state.global_step == 2
