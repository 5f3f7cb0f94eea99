"""How far the right class's probability is above the best of the others."""

import torch

from transmix.metrics import Metric


class Margin:
    def __init__(self, num_classes, device):
        self.total, self.count = torch.zeros((), device=device), torch.zeros((), device=device)

    def update(self, logits, labels):
        probabilities = logits.float().softmax(1)
        right = probabilities.gather(1, labels[:, None])[:, 0]
        others = probabilities.scatter(1, labels[:, None], 0).amax(1)
        self.total += (right - others).sum()
        self.count += len(labels)

    def compute(self):
        yield "margin", float(self.total / self.count)


MARGIN = Metric("margin", 100, unit="%", accumulator=Margin)
