"""The page, the table and the JSON say the same, whatever is in a name."""

import json
from html.parser import HTMLParser

import pytest

from transmix.compare import as_json, compare_runs, read_run, write_comparison
from transmix.metrics import log_metrics

SCORES = {
    "none": [0.8812, 0.8903, 0.8955],
    "cutmix": [0.9, 0.92, 0.911],
    "mixup_cutmix": [0.904, 0.9133, 0.912],
    "transmix": [0.93, 0.931, 0.94],
}

METRICS = log_metrics()


class Tables(HTMLParser):
    """Collects the cells of every table with an id, and the tags and attributes of the page."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.rows, self.cell = {}, [], None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.rows = self.tables.setdefault(dict(attributes).get("id"), [])
        elif tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.rows[-1].append(" ".join(self.cell.split()))
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def written(folders, page):
    comparison = compare_runs([read_run(folder) for folder in folders])
    paths = write_comparison(comparison, page, command="transmix compare")
    return comparison, [path.read_text() for path in paths]


def number(text):
    return float(text.replace("−", "-").replace("+", ""))


def check_numbers(html, numbers):
    """Every number of the tables is that of the JSON, rounded as its column says."""
    tables = Tables(html).tables
    names = {metric.label: name for name, metric in METRICS.items()}
    checked = 0

    def same(text, value, metric):
        nonlocal checked
        checked += 1
        assert number(text) == pytest.approx(metric.factor * value, abs=0.5001 * 10**-metric.decimals)

    heads, *rows = tables["scores"]
    for row, group in zip(rows, numbers["groups"], strict=True):
        assert row[:2] == [group["name"], str(len(group["seeds"]))]
        for head, cell in list(zip(heads, row, strict=True))[2:]:
            name = names[head.split(" (")[0]]
            if name not in group["means"]:
                assert cell == "–"
                continue
            mean, sd = cell.split(" ± ")
            same(mean, group["means"][name]["mean"], METRICS[name])
            same(sd, group["means"][name]["sd"], METRICS[name])
    heads, *rows = tables["runs"]
    runs = [(group, run) for group in numbers["groups"] for run in group["runs"]]
    for row, (group, run) in zip(rows, runs, strict=True):
        assert row[:2] == [group["name"], str(run["seed"])]
        for head, cell in list(zip(heads, row, strict=True))[2:-1]:
            name = names[head.split(" (")[0]]
            if name in run["scores"]:
                same(cell, run["scores"][name], METRICS[name])
    metric = METRICS[numbers["compared"]]
    _, *rows = tables["differences"]
    for row, one in zip(rows, numbers["differences"], strict=True):
        found = one["scores"][numbers["compared"]]
        assert row[0] == f"{one['group']} − {one['baseline']}"
        assert row[3] == str(found["n"])
        assert row[6] == one["common"]
        same(row[1], found["mean"], metric)
        for cell, value in zip(row[2].split(" to "), (found["low"], found["high"]), strict=True):
            same(cell, value, metric)
        for cell, p in ((row[4], found["p"]), (row[5], one["p_holm"])):
            assert cell == ("< 0.001" if p < 0.001 else f"{p:.3f}")
    return checked


@pytest.fixture
def page(made_runs, tmp_path):
    return written(made_runs(**SCORES), tmp_path / "compare.html")


def test_page_values_are_those_of_the_json(page):
    comparison, (html, _, text) = page
    numbers = json.loads(text)
    assert check_numbers(html, numbers) > 100
    assert {key: numbers[key] for key in as_json(comparison)} == json.loads(json.dumps(as_json(comparison)))
    for one in numbers["differences"]:
        assert one["verdict"] in html


def test_a_number_that_is_not_that_of_the_json_would_be_seen(page):
    _, (html, _, text) = page
    numbers = json.loads(text)
    numbers["groups"][1]["means"]["ema_top1"]["mean"] += 0.0002
    with pytest.raises(AssertionError):
        check_numbers(html, numbers)


def test_the_markdown_table_says_the_same(page):
    comparison, (_, markdown, _) = page
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(line) for line in rows[: 2 + len(SCORES)]}) == 1  # lines up
    cells = [cell.strip() for cell in next(line for line in rows if line.startswith("| cutmix")).strip("|").split("|")]
    assert cells[:3] == ["cutmix", "3", "91.03 ± 1.00"]
    assert "p by Holm" in markdown
    for one in comparison.compared:
        assert f"{one.group} − {one.baseline}: {one.verdict}" in markdown


def test_the_verdict_comes_first_and_counts_what_is_more_than_noise(page):
    comparison, (html, markdown, text) = page
    beyond = [one for one in comparison.compared if one.verdict.startswith("More than noise")]
    said = json.loads(text)["verdict"]
    assert said.startswith(f"Of 4 differences of EMA top-1, of the EMA, {len(beyond) or 'none'} ")
    for one in comparison.compared:
        assert (f"{one.group} − {one.baseline} (" in said) == (one in beyond)
    assert said.endswith("Next: more seeds, which would tell smaller differences.")
    assert markdown.startswith(said[:40])
    assert 0 < html.index('class="verdict"') < html.index("What the differences are worth")


def test_the_page_says_what_scores_and_intervals_are_worth(page):
    _, (html, _, _) = page
    for words in ("after the LAST epoch", "optimistic", "n = 3 is few", "Holm", "4 comparisons are made at once"):
        assert words in html


def test_the_page_stands_alone_and_is_small(page):
    _, (html, _, _) = page
    tags = Tables(html).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "img"}
    assert not [
        value
        for _, attributes in tags
        for name, value in attributes.items()
        if name in ("src", "href") and "#" not in value
    ]
    assert "http" not in html.replace("http-equiv", "")
    assert len(html) < 300_000


HOSTILE = "<script>alert(1)</script>|`*\u202e\x1b[31m"


def test_hostile_names_come_out_as_text(made_run, tmp_path):
    environment = {"command": HOSTILE, "packages": {"torch": HOSTILE}, "device": HOSTILE}
    runs = [
        made_run(tmp_path / (mix + HOSTILE.replace("/", "")), mix, environment=environment, model=mix + HOSTILE)
        for mix in ("cutmix", "transmix")
    ]
    _, (html, markdown, _) = written(runs, tmp_path / "compare.html")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "\x1b" not in html + markdown
    assert "\u202e" not in html + markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| cutmix")]
    assert r"\<script\>alert(1)</script\>\|\`\*" in rows[0].replace(r"\</", "</")


def test_a_page_of_one_group_or_one_seed_or_many_groups_can_be_made(made_run, made_runs, tmp_path):
    alone = made_runs(cutmix=[0.9, 0.91])
    _, (html, _, _) = written(alone, tmp_path / "alone.html")
    assert "What the differences are worth" not in html
    assert "One group with finished runs: nothing to compare." in html
    many = [made_run(tmp_path / f"m{n}", "cutmix", 0, 0.5 + n / 100, lr=(n + 1) / 20) for n in range(12)]
    _, (html, _, text) = written(many, tmp_path / "many.html")
    assert len(json.loads(text)["differences"]) == 11
    assert "One seed: no interval" in html
    assert "Nothing can be said about noise: no difference of EMA top-1 of the EMA can be believed yet." in html


def test_in_a_browser_it_reads_well_and_asks_nobody(page, made_runs, tmp_path, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme, width in (("light", 1200), ("dark", 390)):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        context.set_default_timeout(180_000)
        view, asked, problems = context.new_page(), [], []
        view.on("request", lambda request, asked=asked: asked.append(request.url))
        view.on("console", lambda message, problems=problems: problems.append(message.text))
        view.goto((tmp_path / "compare.html").as_uri())
        assert len(asked) == 1
        assert view.evaluate("document.documentElement.scrollWidth") == width
        assert view.locator("figure svg .series path").count() >= 4 * len(SCORES)
        view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert problems == []  # before axe, whose script the page's policy lets in only from outside
        serious = [
            one["id"] for one in axe.run(view).response["violations"] if one["impact"] in ("serious", "critical")
        ]
        assert serious == []
        context.close()
