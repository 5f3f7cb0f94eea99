"""The Python that reproduces what is on the page: the public functions, the same images, the same numbers."""

from pathlib import Path

from transmix.app.model import LAST, MEAN, PageModel
from transmix.app.picture import is_sample
from transmix.app.values import Setting
from transmix.data.grey import Grey


def write_code(setting: Setting, own: Path, partner: Path, model: PageModel) -> str:
    """Write a program that prints the shares that the page shows.

    Args:
        setting: What was chosen.
        own: File of image A.
        partner: File of image B.
        model: The model.
    """
    wanted = {"import torch", "import transmix", "from transmix.models.loaded import load_model"}
    reading, device, grey = _reading(setting, model), str(model.device), model.loaded.preprocessing.grey
    if "attention_maps" in reading:
        wanted.add("from transmix.attention import attention_maps")
    read_own, read_partner = (_image(path, wanted, grey) for path in (own, partner))
    elsewhere = "" if device == "cpu" else f".to({device!r})"
    lines = [
        *_sorted(wanted),
        "",
        f"loaded = {model.code}",
        f"model, crop = loaded.model{elsewhere}, loaded.preprocessing.crop",
        "",
        "# images A and B, (3, H, W) uint8"
        + (
            "; the app's copies go when it ends, put your own here" if "decode_image" in read_own + read_partner else ""
        ),
        f"own = crop({read_own})",
        f"partner = crop({read_partner})",
        "images, labels = torch.stack([own, partner]), torch.tensor([0, 1])",
        _mixing(setting),
        "",
        f"inputs = loaded.preprocessing.normaliser({device!r})(mixed.images)",
        reading,
        "",
        f"for rule, weight in {model.weights!r}.items():",
        "    relabelled = transmix.attention_labels(",
        f"        mixed, attention, grid={model.grid}, weight=weight, downsample={setting.downsample!r}",
        "    )",
        "    lam = relabelled.lam[0].item()  # of row 0: the weight of image A's own label",
        "    share = round(100 * lam, 1)",
        '    print(f"{rule:<9}  lam {lam:.3f}  A {share:5.1f} %  B {100 - share:5.1f} %")',
        "",
        "probabilities, classes = logits[0].softmax(0).topk(min(3, logits.shape[1]))",
        "for number, probability in zip(classes.tolist(), probabilities.tolist()):",
        '    print(f"class {number}: {probability:.1%}")',
    ]
    return "\n".join(lines) + "\n"


def _sorted(imports: set[str]) -> list[str]:
    """Order imports as tools for that do: others, a blank line, transmix; `import` before `from`."""
    blocks = [
        sorted(
            (line for line in imports if ("transmix" in line) == ours), key=lambda line: (line.startswith("from"), line)
        )
        for ours in (False, True)
    ]
    return [*blocks[0], "", *blocks[1]]


def _image(path: Path, imports: set[str], grey: Grey) -> str:
    """Return the expression that reads an image, and add what it needs to the imports."""
    if is_sample(path):
        imports.add("from sklearn.datasets import load_sample_image")
        return f"load_sample_image({path.name!r})"
    imports.add("from transmix.data.decode import decode_image")
    scale = "" if grey is None else f", {grey!r}"
    return f"decode_image({str(path)!r}, {path.name!r}{scale})"


def _mixing(setting: Setting) -> str:
    if setting.blend:
        return f"mixed = transmix.mixup(images, labels, lam={setting.lam!r})"
    return f"mixed = transmix.cutmix(images, labels, box={setting.box})  # top, left, bottom, right"


def _reading(setting: Setting, model: PageModel) -> str:
    """Return the lines that make `attention` (2, P) and `logits` (2, K)."""
    if setting.layer == LAST and setting.head == MEAN:
        return "\n".join(
            [
                "with transmix.AttentionReader(model, eval=True) as reader, torch.no_grad():",
                "    logits = model(inputs)",
                "    attention = reader.take().row.cpu()  # (2, P): the row that TransMix reads",
            ]
        )
    layer = max(model.heads) if setting.layer == LAST else setting.layer
    heads = ".mean(1)[:, 0" if setting.head == MEAN else f"[:, {setting.head}, 0"
    what = "the mean over the heads" if setting.head == MEAN else f"head {setting.head}"
    return "\n".join(
        [
            "with torch.no_grad():",
            "    logits = model(inputs)",
            f"maps = attention_maps(model, inputs, layers={layer})[0].cpu()  # (2, G, N, N)",
            f"attention = maps{heads}, -{model.grid[0] * model.grid[1]}:]  # (2, P): the class token's, {what}",
        ]
    )
