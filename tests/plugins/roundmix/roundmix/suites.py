"""Accuracy on images that are turned upside down."""


def upside_down(opened, data, settings):
    right = count = 0
    for pixels, labels, _ in opened.batches(data.val):
        right += int((opened.logits(pixels.flip(-2)).argmax(1) == labels).sum())
        count += len(labels)
    yield "top1_upside_down", right / count
