"""Logistic regression of features: a convex problem, solved on the device of the features, in float64 where it has it.

Not scikit-learn's LogisticRegression, against which it is tested: that knows no targets between 0 and 1, and in the
oldest version that we support it solves on the CPU alone.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize  # scikit-learn brings it
from torch import Tensor
from torch.nn import functional as F

from transmix.evaluation.accumulators import sum_dtype

SEARCH = {"maxiter": 1000, "gtol": 1e-5, "ftol": 1e-12}
"""Options of L-BFGS: steps at most, and the gradient of the mean loss at which it ends."""


@dataclass(frozen=True, eq=False)
class Logistic:
    """A linear layer on standardised features.

    Attributes:
        mean: (D,), of each feature over the rows that were fitted.
        scale: (D,), its standard deviation; 1 where it does not vary.
        weight: (K, D).
        bias: (K,).
        converged: whether the search found the minimum within its steps.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    converged: bool

    def __call__(self, features: Tensor) -> Tensor:
        """Return logits (..., K) of features (..., D), in the type and on the device of the weights."""
        return (features.to(self.mean) - self.mean) / self.scale @ self.weight.T + self.bias


def fit_logistic(
    features: Tensor, targets: Tensor, classes: int, c: float = 1.0, start: Logistic | None = None
) -> Logistic:
    """Fit multinomial logistic regression by L-BFGS, from zero or from another fit.

        minimise over W, b:  C * sum_i CE(W x_i + b, y_i) + |W|^2 / 2        x standardised

    It is scikit-learn's loss after a StandardScaler, and its C: a smaller C regularises more. For two classes, where
    scikit-learn has one row of W, its C is twice ours. Nothing is drawn at random.

    Args:
        features: (N, D), on the device to solve on.
        targets: (N,) int64 labels in 0..K-1; or (N, K), the weight of each class for each row.
        classes: K.
        c: C, above 0.
        start: a fit of the same features with another C.
    """
    inputs = features.to(sum_dtype(features.device))
    mean, scale = inputs.mean(0), inputs.std(0, correction=0)
    scale = torch.where(scale > 1e-6 * inputs.abs().amax(0), scale, torch.ones_like(scale))
    inputs = (inputs - mean) / scale
    targets = targets.to(inputs if targets.is_floating_point() else inputs.device)
    total = float(targets.sum()) if targets.is_floating_point() else len(targets)
    shape = classes, inputs.shape[1] + 1

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(flat).to(inputs).view(shape).requires_grad_()
        weight, bias = both[:, :-1], both[:, -1]
        loss = F.cross_entropy(inputs @ weight.T + bias, targets, reduction="sum") + weight.square().sum() / (2 * c)
        loss = loss / total
        (gradient,) = torch.autograd.grad(loss, both)
        return loss.item(), gradient.double().cpu().numpy().ravel()

    first = (
        np.zeros(shape) if start is None else torch.cat([start.weight, start.bias[:, None]], 1).double().cpu().numpy()
    )
    with torch.enable_grad():
        found = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=SEARCH)
    both = torch.from_numpy(found.x).to(inputs).view(shape)
    return Logistic(mean, scale, both[:, :-1], both[:, -1], bool(found.success))
