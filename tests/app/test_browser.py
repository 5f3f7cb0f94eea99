"""The page as people use it, in a real browser: drop, drag, switch, copy."""

import contextlib
import io
import json
import re
import threading

import pytest

pytest.importorskip("gradio", reason="gradio is not installed")

from transmix.app import events
from transmix.app.page import build_page
from transmix.app.parts import attention_part
from transmix.app.picture import SAMPLES, sample
from transmix.app.serve import private_files, served
from transmix.app.values import Setting, class_names, percents, show


@pytest.fixture(scope="module")
def address(page_model, free_port):
    with private_files(), served(build_page(page_model), free_port()) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 1100})
    context.set_default_timeout(180_000)
    page = context.new_page()
    page.seen = {"requests": [], "errors": []}
    page.on("request", lambda request: page.seen["requests"].append(request.url))
    page.on("pageerror", lambda error: page.seen["errors"].append(str(error)))
    page.on("console", lambda line: page.seen["errors"].append(line.text) if line.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("#share-own")
    yield page
    context.close()


def box_on_page(page):
    sides = [int(float(page.locator(f"#box-{side} input").input_value())) for side in ("top", "left", "tall", "wide")]
    top, left, tall, wide = sides
    return top, left, top + tall, left + wide


def frame_of(page):
    """Where the picture lies in the window, scrolled so that the mouse reaches all of it."""
    page.evaluate("scrollTo(0, 0)")
    return page.locator("#stage .tm-stage").bounding_box()


def described(page):
    """What the box in the picture says of itself."""
    return (page.locator("#stage .tm-box").get_attribute("aria-label") or "")[len("Box of image B: ") :].split(" pix")[
        0
    ]


def until(page, check, wanted):
    """Wait until the page is as wanted, however long a busy machine takes."""
    for _ in range(1800):
        if check(page) == wanted:
            return
        page.wait_for_timeout(100)
    assert check(page) == wanted


def until_it_shows(page, setting, own, partner, page_model):
    """Wait until the page has every number of a setting, and return what is to be shown."""
    shown = show(setting, *map(page_model.image, (own, partner)), page_model)
    shares = {rule: percents(label) for rule, label in shown.labels.items()}
    rows = [[rule, f"{own:.1f} %", f"{partner:.1f} %"] for rule, (own, partner) in shares.items()]
    picture = re.findall(r'<image[^>]* xlink:href="([^"]+)"', attention_part(shown, setting))[-1]
    until(page, numbers, [*rows, f"{shares[setting.rule][0]:.1f} %", setting.rule])
    until(page, lambda page: page.locator("#attention image").last.get_attribute("xlink:href"), picture)
    return shown


def numbers(page):
    """What the page says of the label at one moment: a row for every rule, A's share, and the rule that gives it."""
    return page.evaluate("""() => {
        const text = (at, selector) => (at.querySelector(selector) || {textContent: ''}).textContent;
        const rows = [...document.querySelectorAll('tr[data-rule]:not(.tm-not)')].map((row) => [
            row.dataset.rule, text(row, 'td:nth-of-type(1)'), text(row, 'td:nth-of-type(3)')]);
        const chosen = document.querySelector('tr.tm-chosen');
        return [...rows, text(document, '#share-own'), chosen ? chosen.dataset.rule : ''];
    }""")


def test_drag_switch_upload_and_copy(page, address, page_model, files):
    own, partner = map(sample, SAMPLES)
    first = box_on_page(page)
    until_it_shows(page, Setting(first), own, partner, page_model)

    frame = frame_of(page)  # dragging the box: press in its middle, move, release
    middle = [frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2]
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - frame["width"] / 8, middle[1] + frame["height"] / 8, steps=5)
    page.mouse.up()
    moved = first[0] + 28, first[1] - 28, first[2] + 28, first[3] - 28  # an eighth of 224 pixels, down and to the left
    until(page, box_on_page, moved)
    until_it_shows(page, Setting(moved), own, partner, page_model)

    page.get_by_label("area", exact=True).check()  # a rule, and a file of one's own
    until_it_shows(page, Setting(moved, rule="area"), own, partner, page_model)
    page.get_by_label("attention", exact=True).check()
    until_it_shows(page, Setting(moved, rule="attention"), own, partner, page_model)
    page.locator("#image-a input[type=file]").set_input_files(files["rotated"])
    shown = until_it_shows(page, Setting(moved, rule="attention"), files["rotated"], partner, page_model)

    until(page, lambda page: files["rotated"].name in page.locator("#code .cm-content").inner_text(), True)
    code = page.locator("#code .cm-content").inner_text()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "copied.py", "exec"), {})
    lam = [float(one) for one in re.findall(r"(\d\.\d{3}) · A \+", said.getvalue())]
    assert lam == pytest.approx([shown.lam[rule] for rule in ("area", "attention", "trained")], abs=0.00051)

    assert all(url.startswith((address, "data:", "blob:")) for url in page.seen["requests"])
    assert page.seen["errors"] == []


def type_into(page, field, number):
    page.locator(f"{field} input[type=number]").fill(str(number))
    page.keyboard.press("Tab")


def choose(page, name, option):
    page.get_by_label(name, exact=True).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_the_box_ends_where_the_pointer_does_however_fast_it_moved(page):
    for side, number in (("tall", 40), ("wide", 40), ("top", 180), ("left", 180)):
        type_into(page, f"#box-{side}", number)
    until(page, box_on_page, (180, 180, 220, 220))
    assert described(page) == "top 180, left 180, height 40, width 40"
    frame = frame_of(page)
    at = lambda y, x: (frame["x"] + frame["width"] * x / 224, frame["y"] + frame["height"] * y / 224)  # noqa: E731
    page.mouse.move(*at(20, 30))
    page.mouse.down()
    page.mouse.move(*at(150, 110), steps=12)
    page.mouse.up()
    until(page, box_on_page, (20, 30, 150, 110))
    until(page, described, "top 20, left 30, height 130, width 80")
    corner = at(150, 110)
    page.mouse.move(*corner)
    page.mouse.down()
    page.mouse.move(*at(90, 200), steps=12)
    page.mouse.up()
    until(page, box_on_page, (20, 30, 90, 200))
    until(page, described, "top 20, left 30, height 70, width 170")


def test_an_answer_that_comes_late_does_not_undo_a_drag(page, monkeypatch):
    answer, asked, hold = events.answer, [], threading.Event()

    def late(*question):
        asked.append(question)
        assert hold.wait(600)
        return answer(*question)

    monkeypatch.setattr(events, "answer", late)
    page.locator("#box-left input[type=number]").fill("77")
    until(page, lambda _: len(asked), 1)  # it is asked for, and not answered
    type_into(page, "#ratio", 0.5)  # quickly, one after the other
    for side, number in (("top", 12), ("tall", 60), ("wide", 50)):
        type_into(page, f"#box-{side}", number)
    frame = frame_of(page)
    at = lambda y, x: (frame["x"] + frame["width"] * x / 224, frame["y"] + frame["height"] * y / 224)  # noqa: E731
    page.mouse.move(*at(200, 10))
    page.mouse.down()
    page.mouse.move(*at(214, 50), steps=3)
    page.mouse.up()
    dragged = "top 200, left 10, height 14, width 40"
    until(page, described, dragged)
    assert len(asked) == 1  # all this was before the first answer
    hold.set()
    until(page, box_on_page, (200, 10, 214, 50))
    until(page, lambda _: asked[-1][0].box, (200, 10, 214, 50))  # the last question is of the last box
    page.get_by_label("area", exact=True).check()  # asked last, so answered last: then nothing is on its way any more
    until(page, lambda page: numbers(page)[-1], "area")
    assert described(page) == dragged
    assert box_on_page(page) == (200, 10, 214, 50)
    assert len(asked) > 1
    page.get_by_label("attention", exact=True).check()
    until(page, lambda page: numbers(page)[-1], "attention")


def test_what_is_typed_is_brought_inside_and_the_ratio_keeps_the_shape(page):
    type_into(page, "#box-top", 56)
    type_into(page, "#box-left", 500)
    until(page, lambda page: page.locator("#box-left input").input_value(), "224")
    until(page, lambda page: page.locator("#box-wide input").input_value(), "0")
    for side, number in (("left", 70), ("tall", 100), ("wide", 50)):
        type_into(page, f"#box-{side}", number)
    until(page, box_on_page, (56, 70, 156, 120))
    until(page, described, "top 56, left 70, height 100, width 50")
    type_into(page, "#ratio", 0.6)
    area = 0.4 * 224 * 224
    tall, wide = round((area * 2) ** 0.5), round((area / 2) ** 0.5)
    until(page, lambda page: box_on_page(page)[2] - box_on_page(page)[0], tall)
    until(page, lambda page: box_on_page(page)[3] - box_on_page(page)[1], wide)
    type_into(page, "#ratio", 7)
    until(page, lambda page: page.locator("#label").text_content(), "1.000 · A + 0.000 · B")
    assert page.locator("#ratio input").input_value() == "1"
    type_into(page, "#ratio", 0.75)
    until(page, lambda page: page.locator("#remarks p").count(), 0)
    assert page.seen["errors"] == []


def test_heads_layers_and_blends(page, page_model, files):
    page.get_by_role("button", name="Example photographs").click()
    page.get_by_label("trained", exact=True).check()
    samples = tuple(map(sample, SAMPLES))
    box = box_on_page(page)
    until_it_shows(page, Setting(box), *samples, page_model)
    choose(page, "Head", "1")
    until_it_shows(page, Setting(box, head=1), *samples, page_model)
    choose(page, "Layer", "3")
    until_it_shows(page, Setting(box, layer=3, head=1), *samples, page_model)
    until(page, lambda page: "layer 3, head 1" in page.locator("#attention").text_content(), True)
    choose(page, "Method", "mixup")
    until(page, lambda page: page.locator("#stage .tm-box").is_hidden(), True)
    type_into(page, "#ratio", 0.4)  # of a box it would become the nearest that whole pixels allow
    until_it_shows(page, Setting(box, lam=0.4, method="mixup", layer=3, head=1), *samples, page_model)
    choose(page, "Method", "fmix")
    until_it_shows(page, Setting(box, method="fmix", layer=3, head=1), *samples, page_model)
    assert page.locator("#box-top input").is_disabled()
    page.get_by_role("button", name="Draw again").click()
    until_it_shows(page, Setting(box, method="fmix", seed=1, layer=3, head=1), *samples, page_model)
    choose(page, "Method", "cutmix")
    until(page, lambda page: page.locator("#stage .tm-box").is_hidden(), False)


def test_another_tab_has_a_state_of_its_own(page, browser, address):
    type_into(page, "#box-top", 5)
    until(page, lambda page: box_on_page(page)[0], 5)
    context = browser.new_context()
    context.set_default_timeout(180_000)
    other = context.new_page()
    other.goto(address)
    other.wait_for_selector("#share-own")
    assert box_on_page(other) == (56, 56, 168, 168)
    context.close()


def test_a_run_opens_on_its_validation_images_with_the_names_of_their_classes(browser, run_model, free_port):
    with private_files(), served(build_page(run_model), free_port()) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 1100})
        context.set_default_timeout(180_000)
        page = context.new_page()
        page.goto(address)
        for number in range(3):
            own, partner = run_model.pair(number)
            shown = show(
                Setting((4, 4, 12, 12)), *map(run_model.image, (own, partner)), run_model, (run_model.label(own), 0)
            )
            names = class_names((own, partner), run_model)
            assert set(names) == {"dark", "light"}
            label = shown.labels["trained"]
            words = f"{label.own:.3f} · {names[0]} + {label.partner:.3f} · {names[1]}"
            until(page, lambda page, words=words: page.locator("#label").all_text_contents(), [words])
            until(page, lambda page, own=own: f"data.val.image({own})" in page.locator("#code").inner_text(), True)
            assert page.locator("#image-a").inner_text().split("\n")[0] == f"Image A {names[0]}"
            page.get_by_role("button", name="Another pair").click()
        assert run_model.weights in page.locator("header").inner_text()
        assert page.locator("#focus").text_content().startswith("Half of the attention lies on ")
        context.close()


def test_a_wrong_file_is_a_sentence_and_the_page_stays(page, files, tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    label = page.locator("#label").text_content()
    page.locator("#image-b input[type=file]").set_input_files(tmp_path / "notes.txt")
    note = page.locator("#remarks .tm-error")
    note.wait_for()
    assert note.text_content() == (
        "notes.txt: cannot read the image (not an image, or of a kind that is not read); replace or remove it."
    )
    assert page.locator("#label").text_content() == label
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(40 * 2**20)
    sent = len([url for url in page.seen["requests"] if "upload" in url])
    page.locator("#image-b input[type=file]").set_input_files(tmp_path / "huge.png")
    until(page, lambda _: note.text_content(), "huge.png: 40 MB are too much; up to 32 MB are read.")
    assert len([url for url in page.seen["requests"] if "upload" in url]) == sent
    page.get_by_role("button", name="Remove image B").click()
    until(page, lambda page: page.locator("#share-own").count(), 0)
    assert page.locator("#remarks").text_content().strip().startswith("There is no image B yet")
    page.get_by_role("button", name="Example photographs").click()
    page.wait_for_selector("#share-own")


def test_nothing_serious_for_who_cannot_see_or_use_a_mouse(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    found = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    ours = [one for one in found if "tm-" in json.dumps(one["nodes"])]
    assert [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in ours] == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#stage .tm-box").focus()
    top = box_on_page(page)[0]
    page.keyboard.press("ArrowUp")
    until(page, lambda page: box_on_page(page)[0] < top, True)


@pytest.mark.parametrize("width", [390, 900, 1100, 1280])
def test_the_shares_are_seen_whole_at_any_width(page, width):
    page.set_viewport_size({"width": width, "height": 1100})
    table = page.locator("table.tm-shares")
    edges = table.evaluate(
        "one => [one.getBoundingClientRect().right, one.parentElement.getBoundingClientRect().right]"
    )
    assert edges[0] <= min(edges[1], width) + 1
    for field in page.locator(".tm-numbers input[type=number]").all():  # no number is cut
        assert field.evaluate("one => one.scrollWidth <= one.clientWidth")
