"""Accuracy on images that are turned upside down."""


def upside_down(evaluator, data, settings):
    right = count = 0
    for pixels, labels, _ in evaluator.batches(data.val):
        right += int((evaluator.logits(pixels.flip(-2)).argmax(1) == labels).sum())
        count += len(labels)
    yield "top1_upside_down", right / count
