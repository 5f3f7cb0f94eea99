"""How to load an exported model, as code for its README; each prints the class of image.jpg and its probability."""

from collections.abc import Sequence

OPEN = 'Image.open("image.jpg").convert("RGB")'

TIMM = """import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    logits = model(transform(Image.open("image.jpg").convert("RGB"))[None])
probabilities = logits.softmax(dim=1)[0]
print(model.pretrained_cfg["label_names"][int(probabilities.argmax())], float(probabilities.max()))"""

TRANSMIX = TIMM.replace(
    "from PIL import Image\n", "from PIL import Image\n\nfrom transmix.models.loaded import load_model\n"
).replace('timm.create_model("local-dir:.", pretrained=True).eval()', 'load_model(".").model')

HUGGINGFACE = """import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("./").eval()
processor = AutoImageProcessor.from_pretrained("./")
with torch.inference_mode():
    logits = model(**processor(Image.open("image.jpg").convert("RGB"))).logits
probabilities = logits.softmax(dim=1)[0]
print(model.config.id2label[int(probabilities.argmax())], float(probabilities.max()))"""

ONNX = """import json

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
about = session.get_modelmeta().custom_metadata_map
size, resize = int(about["image_size"]), int(about["resize"])
mean, std, classes = (json.loads(about[name]) for name in ("mean", "std", "classes"))

image = Image.open("image.jpg").convert("RGB")
width, height = (side * resize // min(image.size) for side in image.size)
left, top = round((width - size) / 2), round((height - size) / 2)
image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
pixels = (np.asarray(image, np.float32) / 255 - np.float32(mean)) / np.float32(std)

(logits,) = session.run(["logits"], {"pixel_values": pixels.transpose(2, 0, 1)[None]})
probabilities = np.exp(logits[0] - logits[0].max())
probabilities /= probabilities.sum()
print(classes[int(probabilities.argmax())], float(probabilities.max()))"""


READ = """import numpy as np
from PIL import Image


def read(path):
    image = Image.open(path)
    if image.mode.startswith("I") or image.mode == "F":  # grey of more than 8 bits
        low, high = LOW_HIGH  # what is black and white
        share = (np.asarray(image, np.float64) - low) / (high - low)
        image = Image.fromarray(np.rint(255 * share.clip(0, 1)).astype(np.uint8))
    return image.convert("RGB")


"""


def with_grey_range(code: str, grey: Sequence[float]) -> str:
    """Return a program that scales grey images of more than 8 bits by a range (low, high) when it opens one."""
    return READ.replace("LOW_HIGH", f"{grey[0]}, {grey[1]}") + code.replace(OPEN, 'read("image.jpg")')
