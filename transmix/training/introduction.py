"""The first lines of a run: model, data, training, folder."""

from transmix.data.dataset import printable
from transmix.recipes.mixing import title
from transmix.training.checkpoint_state import RunState


def introduction(run: RunState) -> list[str]:
    """Return the first lines of a run that is about to start or to continue."""
    data, recipe, order = run.data, run.recipe, run.order
    held_out = printable(data.parts.held_out)
    if data.parts.columns is not None:
        held_out += "; columns " + " and ".join(map(printable, data.parts.columns))
    weights = sum(weight.numel() for weight in run.bare.parameters())
    mixing, balance, patience = recipe.mixing, recipe.data.balance, recipe.run.patience
    balanced = "" if balance == "none" else f", balanced by {balance}"
    early = "" if patience is None else f", or {patience} evaluations without a better score"
    going_on = f"; going on from step {run.step_number}" if run.step_number else ""
    return [
        f"model     {recipe.model.model}, {weights / 1e6:.2f} M weights, {recipe.data.image_size} pixels",
        f"data      {data.name}: {len(data.train)} training and {len(data.val)} validation images ({held_out}), "
        f"{len(data.classes)} classes{balanced}",
        f"training  {run.epochs} epochs of {order.steps_per_epoch} steps of {order.step_batch} images{early}; "
        f"mix {title(mixing.mix, mixing.labels)}; {_place(run)}",
        f"folder    {run.folder}{going_on}",
    ]


def _place(run: RunState) -> str:
    """Return the device and the number of processes, and whether the model is sharded."""
    world, settings = run.world, run.recipe
    place = f"{world.device.type} x {world.size}" if world.size > 1 else world.device.type
    if settings.run.shard:
        place += ", sharded" if run.sharded else " (one process: there is nothing to shard)"
    return place if settings.model.amp == "none" else f"{place}, {settings.model.amp}"
