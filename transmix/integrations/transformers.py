"""Hugging Face's Trainer: training batches are mixed and labelled by attention; evaluation is unchanged.

Mixing happens in `compute_loss`, on the device, and not in a collator with a `compute_loss_func`, because
- evaluation uses the same collator, and a column that marks training examples is removed as unused;
- every loader worker has a copy of the mixer's generator, so workers and epochs would repeat the same draws;
- accelerate may split a collated batch over processes, so partners could be in another process;
- if "labels" is not a tensor, the Trainer cannot count labels, but assumes that a `compute_loss_func` divides by the
  count: gradient accumulation would sum means.
"""

from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from transmix.data.seeding import derive_seed
from transmix.losses import MixedBCE
from transmix.transmix import TransMix


class TransMixTrainer(Trainer):
    """A `transformers.Trainer` that trains on mixed images with labels by attention.

    The loss is cross-entropy, or binary cross-entropy if the model's own loss is (`config.problem_type`). Evaluation
    and prediction are the Trainer's own: plain images, the model's own loss, ordinary metrics. Data sets, collator,
    loader workers, gradient accumulation, precision, compilation and several processes work as usual. The random draws
    depend on (args.seed, optimizer step, micro-batch, process), not on the generator of `transmix`. So processes mix
    differently, and a resumed run draws the same as an uninterrupted one.

    Args:
        args: those of `Trainer`. Batches need "labels" and the model's main input, images (B, C, H, W).
        transmix: reads the model that is trained, and holds smoothing and the mixer's settings.
        settings: those of `Trainer`.

    Raises:
        ValueError: an argument of `Trainer` that would be ignored, or that prevents reading attention.

    Example:
        >>> tm = TransMix(model, smoothing=0.1)
        >>> trainer = TransMixTrainer(model, arguments, train_dataset=train, eval_dataset=test, transmix=tm)
        >>> trainer.train()
    """

    def __init__(self, *args: Any, transmix: TransMix, **settings: Any):
        super().__init__(*args, **settings)
        if reason := why_not(self):
            raise ValueError(f"TransMixTrainer does not support these arguments: {reason}")
        self.transmix = transmix
        # The Trainer then takes the loss as one batch's mean, and divides it by the number of accumulated batches.
        self.model_accepts_loss_kwargs = False
        self._step, self._micro = -1, 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch, mixed in training mode, and the model's outputs if requested.

        Raises:
            KeyError: a training batch without images or labels.
            AttentionError: `transmix` does not read this model.
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        images = getattr(self.model, "main_input_name", "pixel_values")
        if missing := [name for name in (images, "labels") if name not in inputs]:
            remedy = "A data set whose transform makes them needs TrainingArguments(remove_unused_columns=False)"
            without = f"no {' and no '.join(map(repr, missing))}, only {', '.join(inputs)}"
            raise KeyError(f"a training batch has {without}. {remedy}")
        self.transmix.mixer.generator.manual_seed(self._key())
        mixed = self.transmix.mix(inputs[images], inputs["labels"])
        others = {name: value for name, value in inputs.items() if name not in (images, "labels")}
        outputs = model(**{images: mixed.images}, **others)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if problem_of(getattr(self.model, "config", None), inputs["labels"]) == "multi_label_classification":  # type: ignore[union-attr]
            self.transmix.criterion = MixedBCE(self.transmix.criterion.smoothing)
        loss = self.transmix.loss(logits, mixed)
        return (loss, outputs) if return_outputs else loss

    def _key(self) -> int:
        """Return the key of this micro-batch's random draws."""
        step = self.state.global_step
        self._step, self._micro = step, self._micro + 1 if step == self._step else 0
        return derive_seed(self.args.seed, "mix", step, self._micro, self.args.process_index)


def problem_of(config: Any, labels: Tensor) -> str:
    """Return the problem type of a model, by the rule that Transformers' models use."""
    if kind := getattr(config, "problem_type", None):
        return kind
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def why_not(trainer: Trainer) -> str | None:
    """Return why a Trainer's arguments do not work with labels by attention; None if they do."""
    if trainer.args.label_smoothing_factor:
        return "label_smoothing_factor does not know mixed labels; give it to TransMix(model, smoothing=...)"
    if trainer.compute_loss_func is not None:
        return "compute_loss_func would be ignored; the loss is TransMix's"
    if trainer.model_init is not None:
        return "model_init makes a new model, which TransMix does not read; pass the model that it reads"
    config = getattr(trainer.model, "config", None)
    if getattr(config, "problem_type", None) == "regression" or getattr(config, "num_labels", 2) == 1:
        why = "the model is made for regression (problem_type='regression', or num_labels=1, which means it)"
        return f"{why}, and TransMix mixes labels of classes; two classes are num_labels=2"
    if trainer.args.n_gpu > 1:
        what = f"nn.DataParallel over {trainer.args.n_gpu} GPUs runs copies of the model, which TransMix does not read"
        return f"{what}; start one process per GPU with torchrun, or show one GPU with CUDA_VISIBLE_DEVICES"
    return None
