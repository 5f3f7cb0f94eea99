"""The figures of the report with their tables: curves over the epochs, and the reliability diagram."""

import math
from itertools import chain
from typing import Any

import numpy as np

from transmix.metrics import METRICS, log_metrics
from transmix.report.format import percent, points, whole
from transmix.report.history import epoch_table
from transmix.report.scores import shown_weights
from transmix.runs.read import RunRecord, number
from transmix.runs.weights import NAMES
from transmix.visual.curves import CURVES, LOOKS, SHARES, Curve, curve_figure, read_curves, swatch, thinned
from transmix.visual.html import inline_svg
from transmix.visual.palette import ON_PAGE
from transmix.visual.reliability import of_bins, reliability_figure


def curves(found: RunRecord) -> dict[str, Any]:
    """Return the curves, their legend, and every epoch as a table."""
    panels, metrics = read_curves(found.rows), log_metrics()
    end = max((row["step"] for row in found.rows), default=0)
    charts = []
    for title, lines in panels.items():
        svg, share = None, title in SHARES
        if said := [text for name, curve in lines.items() if (text := _said(name, curve, share))]:
            drawn = {name: thinned(curve) for name, curve in lines.items()}
            figure = curve_figure(drawn, share=share, ends=(0, end))
            svg = inline_svg(figure, f"{title} over the optimizer steps: {'; '.join(said)}")
        charts.append((title, svg, metrics[next(iter(CURVES[title].values()))[1]].meaning))
    names = [name for name in LOOKS if any(name in lines for lines in panels.values())]
    legend = [(inline_svg(swatch(LOOKS[name]), name), name) for name in names]
    ends = sorted({row["step"] for row in found.epochs})
    return {"charts": charts, "legend": legend, "steps": ends[1] - ends[0] if ends[1:] else None, **epoch_table(found)}


def calibration(found: RunRecord) -> dict[str, Any] | None:
    """Return the reliability diagram and its numbers, of the weights whose scores are shown if it has them."""
    kept = {name: bins for name, bins in found.reliability.items() if name in NAMES}
    if not kept:
        return None
    name = shown_weights(found) if shown_weights(found) in kept else next(iter(kept))
    parts = [kept[name][part] for part in ("hits", "confidence", "count")]
    if len({len(part) for part in parts}) > 1 or None in map(number, chain(*parts)):
        raise ValueError("reliability.json holds no bins of finite numbers")
    hits, confidence, count = map(np.array, parts)
    if not (images := count.sum()):
        raise ValueError("reliability.json counts no image")
    binned, sure = of_bins(hits, confidence, count), (confidence - hits).sum() / images
    figure = reliability_figure(binned, width=1.15 * ON_PAGE, with_notes=False)
    return {
        "weights": NAMES[name],
        "chart": inline_svg(figure, "Accuracy against confidence; the numbers are in the table below"),
        "rows": [
            (
                f"{at / len(count):.0%} to {(at + 1) / len(count):.0%}",
                whole(int(count[at])),
                *(percent(float(share[at]), 1) for share in (binned.confidence, binned.accuracy)),
            )
            for at in np.flatnonzero(count)
        ],
        "measure": METRICS["calibration_error"].label,
        "error": percent(binned.error),
        "lean": f"{points(float(abs(sure)))} {'above' if sure > 0 else 'below'}",
    }


def _said(name: str, curve: Curve, share: bool) -> str:
    """Describe the first and last value of a curve; empty if no value is finite."""
    finite = [f"{100 * value:.3g}%" if share else f"{value:.3g}" for value in curve.values if math.isfinite(value)]
    return f"{name} from {finite[0]} to {finite[-1]}" if finite else ""
