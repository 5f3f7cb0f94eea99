"""The site builds without a warning, holds what it must, and every link in it leads somewhere."""

import contextlib
import html
import importlib
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

import transmix
from transmix.cli import VERBS
from transmix.recipes import Recipe

mkdocs = pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
pytest.importorskip("material")

SETTINGS = {
    f"--{field.name.replace('_', '-')}" for part in fields(Recipe()) for field in fields(getattr(Recipe(), part.name))
}
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def build(docs, out, **changes):
    """Build pages with the project's own configuration; a warning is an error."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(docs), site_dir=str(out), strict=True, **changes)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build_site(config)
    finally:
        config.plugins.on_shutdown()
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site; building it is the test."""
    return build(DOCS, tmp_path_factory.mktemp("site"))


def text_of(page):
    """Return a built page without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.fixture
def page(tmp_path):
    """Build a site of one page with this text, under the project's configuration without the API."""
    docs = tmp_path / "docs"
    shutil.copytree(DOCS / "stylesheets", docs / "stylesheets")

    def built(text):
        (docs / "index.md").write_text(f"# Title\n\n## Somewhere\n\n{text}\n")
        return build(docs, tmp_path / "site", nav=["index.md"], plugins=["search"]) / "index.html"

    return built


def test_a_page_alone_builds(page):
    assert "Somewhere" in page("[link](index.md#somewhere)").read_text()


@pytest.mark.parametrize("link", ["method.md", "index.md#here", "../README.md", "../transmix/nowhere.py"])
def test_a_link_that_leads_nowhere_stops_the_build(link, page, caplog):
    from mkdocs.exceptions import Abort

    with pytest.raises(Abort):
        page(f"[link]({link})")
    assert link in caplog.text


def test_every_page_is_built_and_nothing_of_it_comes_from_elsewhere(site):
    pages = {path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")}
    expected = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert pages == {"." if name == "index" else name.removesuffix("/index") for name in expected}
    loaded = re.compile(
        r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?(?:https?:)?//[^>]+"""
    )
    for page in site.rglob("*.html"):
        found = [tag for tag in loaded.findall(page.read_text(encoding="utf-8")) if "canonical" not in tag]
        assert not found, (page, found)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?https?:|@import", style.read_text(encoding="utf-8")), style
    assert not list(site.rglob("*.py"))


def test_files_of_the_repository_that_pages_link_to_are_in_the_site(site):
    links = [
        (page, link)
        for page in DOCS.rglob("*.md")
        for link in re.findall(r"\]\((\.\./[^)#\s]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).resolve().is_relative_to(DOCS)
    ]
    assert links
    for page, link in links:
        assert (page.parent / link).resolve().is_file(), (page, link)
    assert (site / "files" / "LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_every_public_name_has_its_place_in_the_api(site):
    pages = [path.read_text(encoding="utf-8") for path in (site / "api").rglob("*.html")]
    anchors = {anchor for page in pages for anchor in re.findall(r'id="?(transmix\.[\w.]+)', page)}
    for name in transmix.__all__:
        assert f"transmix.{name}" in anchors, name
    for name in importlib.import_module("transmix.attention").__all__:
        assert {f"transmix.{name}", f"transmix.attention.{name}"} & anchors, name
    for name in importlib.import_module("transmix.recipes").__all__:
        assert name == "Recipe" or f"transmix.recipes.{name}" in anchors, name
    assert not [anchor for anchor in anchors if "._" in anchor and ".__" not in anchor]


def test_every_command_and_all_its_options_are_on_the_page_of_commands(site, capsys):
    pytest.importorskip("tyro")
    text = text_of(site / "commands" / "index.html")
    for verb, what in VERBS.items():
        assert f"transmix {verb}" in text
        assert what in text
        if verb == "train":  # its options are the settings, on a page of their own
            continue
        module = importlib.import_module(f"transmix.cli.{verb}")
        with contextlib.suppress(SystemExit):
            module.main(["--help"])
        told = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out)) - {"--help"}
        section = re.split(rf"^transmix {verb}\s*¶", text, flags=re.MULTILINE)[1].split("¶")[0]
        told -= SETTINGS if "--...\n" in section else set()  # they are on a page of their own too
        missing = {flag for flag in told if flag not in section and not flag.startswith("--no-")}
        assert not missing, (verb, missing)


def test_every_setting_is_on_the_page_of_settings_with_its_default(site):
    from transmix.recipes.settings import Recipe

    text = text_of(site / "settings" / "index.html")
    for name, section in Recipe.__dataclass_fields__.items():
        assert re.search(rf"^{name}\s*¶", text, flags=re.MULTILINE)
        for setting, field in section.default_factory.__dataclass_fields__.items():
            row = re.search(rf"^--{setting.replace('_', '-')}\n(.*)\n(.*)\n(.+)$", text, flags=re.MULTILINE)
            assert row, setting
            if type(field.default) in (int, float):
                assert float(row[2]) == field.default
            elif isinstance(field.default, str):
                assert row[2] == field.default
            elif isinstance(field.default, tuple):
                assert tuple(map(float, row[2].split())) == field.default


def test_every_recipe_is_there_with_all_of_its_settings(site):
    page = site / "recipes" / "index.html"
    text = text_of(page)
    for path in (ROOT / "transmix" / "recipes").glob("*.yaml"):
        assert f'id="{path.stem}"' in page.read_text(encoding="utf-8")
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        settings = [line.strip() for line in lines if not line.startswith("#")]
        assert all(line in text for line in settings), path.stem
        said = " ".join(" ".join(line.lstrip("#") for line in lines if line.startswith("#")).split())
        words = re.findall(r"[a-z]{4,}", said)
        assert len(words) > 20
        assert not [word for word in words if word not in text.lower()], path.stem


def test_every_example_is_shown_word_for_word(site):
    shown = "".join(text_of(page) for page in (site / "loops").rglob("*.html"))
    for path in (ROOT / "examples").glob("*.py"):
        assert path.read_text(encoding="utf-8").strip() in shown, path.name


def test_every_layout_of_data_is_described():
    source = importlib.import_module("transmix.data.source")
    page = (DOCS / "data.md").read_text(encoding="utf-8")
    for layout in source.LAYOUTS:
        assert re.search(r"[A-Za-z-]+", layout)[0].lower() in page.lower()
    for name in ("folder", "parquet", "tar_shards", "cifar", "published", "idx_files"):
        assert f"[`read_{name}`][" in page


def test_every_method_and_rule_is_in_its_table_with_its_settings(site):
    from dataclasses import fields

    from transmix.labels import RULES
    from transmix.mixing import METHODS

    text = text_of(site / "method" / "index.html")
    for name, entry in (METHODS | RULES).items():
        row = re.search(rf"^{name}\n(.+)\n((?:.+\n)*?)\n", text + "\n\n", flags=re.MULTILINE)
        assert row, name
        assert row[1].split(".")[0] in " ".join(entry.__doc__.split())
        assert all(f"{field.name}={field.default!r}" in text for field in fields(entry))
