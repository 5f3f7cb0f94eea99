"""The model card (README.md) of an export: the model, its scores, and how to load it."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from transmix import __version__
from transmix.export.error import ExportError
from transmix.metrics import METRICS, TRAINING_METRICS, in_log
from transmix.models.loaded import LoadedModel
from transmix.recipes.mixing import title
from transmix.training.optimizer import peak_lr


def card(loaded: LoadedModel, formats: Sequence[str]) -> str:
    """Return the model card as Markdown, with the metadata header of the Hugging Face hub.

    Raises:
        ExportError: the model does not come from a run.
    """
    recipe, chosen, classes = loaded.recipe, loaded.chosen, loaded.classes or ()
    if recipe is None or chosen is None:
        raise ExportError(f"{loaded.target} is not a run; only a run has a model card")
    model, image, scores = recipe.model, loaded.preprocessing.as_json(), chosen.scores
    start = f"the weights {Path(model.init).name}" if model.init else "its published weights"
    # Nothing is escaped: it is Markdown. A value that the template asks for and does not get is an error.
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("card.md").render(
        loaded=loaded,
        recipe=recipe,
        head=loaded.settings.class_attention,
        classes=classes,
        formats=sorted(set(formats)),
        image=image,
        grey=image.get("grey_range"),
        weights=f"{sum(weight.numel() for weight in loaded.model.parameters()) / 1e6:.2f}",
        start=start if model.init or model.pretrained else "random weights",
        data=Path(recipe.data.data or "").name,
        lr=f"{TRAINING_METRICS['lr'].label} {peak_lr(recipe.optimization):g}",
        mixing=title(recipe.mixing.mix, recipe.mixing.labels),
        epoch=scores.get("epoch"),
        scores=[
            f"{metric.label} {metric.write(scores[in_log(name)])}"
            for name, metric in METRICS.items()
            if in_log(name) in scores and (name != "top5" or len(classes) > 5)
        ],
        version=__version__,
    )
    return text.rstrip("\n") + "\n"
