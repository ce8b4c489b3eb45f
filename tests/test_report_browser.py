"""The page of python -m report in a headless Chromium: no errors, no network, filters, keys, phone, dark mode."""

import json
import shutil
from pathlib import Path

import made_run
import noise
import pytest

import launch
from model import momentum
from report.__main__ import main

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

BROWSER, DRIVER = (next(filter(None, map(shutil.which, names)), None)
                   for names in (("chromium", "chromium-browser"), ("chromedriver",)))
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no Chromium with its driver: apt-get "
                                "install chromium chromium-driver")
HOSTILE = '</script><img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a run that mines, with a second run beside it, and a class of a hostile name."""
    root = tmp_path_factory.mktemp("made")
    made = made_run.make(root)
    other = made_run.make(root, "two", "--seed", "1")
    lists = [[line.split(",")[0] for line in (root / f"splits/mine/{part}_split01.csv").read_text().splitlines()]
             for part in ("test", "train")]
    hostile = HOSTILE.replace("/", "")
    made_run.add_features(made.features, "mine", [*lists[0], *(f"x/{hostile}/v{i}" for i in range(40))],
                          [*lists[1], *(f"x/{hostile}/w{i}" for i in range(3))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(momentum, "select_backbone", noise.small_backbone)
        assert launch.exit_code(lambda: main([str(made.folder), "--against", str(other.folder)])) == 0
    return made.folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def prefer(browser, colours: str) -> None:
    setting = {"name": "prefers-color-scheme", "value": colours}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [setting]})


@pytest.fixture
def opened(browser, page):
    """The page as a visitor finds it, on a desktop in light colours."""
    prefer(browser, "light")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get("about:blank")
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def content(browser) -> dict:
    return json.loads(browser.find_element(By.ID, "data").get_attribute("textContent"))


def cards(browser) -> list:
    return browser.find_elements(By.CSS_SELECTOR, "#r-cards > li")


def choose(browser, identity: str, value: str) -> None:
    Select(browser.find_element(By.ID, identity)).select_by_value(value)


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def test_it_opens_without_errors_and_without_network(opened, page):
    urls = [message["params"]["request"]["url"] for entry in opened.get_log("performance")
            if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"]
    assert {url for url in urls if not url.startswith("data:")} == {page.as_uri()}
    for section in opened.find_elements(By.TAG_NAME, "section"):
        assert section.is_displayed() and not section.find_elements(By.CSS_SELECTOR, ":scope > .missing + .command")
    assert opened.title.endswith(": report")  # no name has run as a script


def test_the_policy_stops_what_would_use_the_network(opened):
    """The check of requests above could be blind: here is one that must not leave."""
    opened.execute_script("fetch('http://127.0.0.1:9/').catch(() => {}); new Image().src = 'http://127.0.0.1:9/x.png'")
    opened.execute_async_script("setTimeout(arguments[0], 200)")
    said = " ".join(entry["message"] for entry in opened.get_log("browser"))
    assert said.count("Content Security Policy") >= 2


def test_filters_and_order_change_the_cards(opened):
    data = content(opened)["retrieval"]
    label = data["classes"].index("ApplyEyeMakeup")
    choose(opened, "r-class", str(label))
    assert {card.get_attribute("data-class") for card in cards(opened)} == {"ApplyEyeMakeup"}
    assert len(cards(opened)) == sum(query["clip"][1] == label for query in data["queries"])
    choose(opened, "r-class", "")
    rights = sum(query["near"][0][2] for query in data["queries"])
    wrongs = len(data["queries"]) - rights
    assert min(rights, wrongs) > 0
    for value, mark, count in (("right", "1", rights), ("wrong", "0", wrongs)):
        choose(opened, "r-right", value)
        assert len(cards(opened)) == min(count, 24)
        assert {card.get_attribute("data-right") for card in cards(opened)} == {mark}
        assert f"of {count} queries shown" in opened.find_element(By.ID, "r-status").text
    choose(opened, "r-right", "")

    def hits() -> list[int]:
        return [len(card.find_elements(By.CSS_SELECTOR, "ol > .is-right")) for card in cards(opened)]
    worst = hits()
    assert worst == sorted(worst)
    choose(opened, "r-order", "best")
    best = hits()
    assert best == sorted(best, reverse=True) and best[0] > worst[0]
    choose(opened, "r-order", "list")
    assert cards(opened)[0].find_element(By.TAG_NAME, "small").text.startswith(data["queries"][0]["clip"][0])


def test_more_cards_come_on_request(opened):
    assert len(cards(opened)) == 24
    opened.find_element(By.ID, "r-more").click()
    assert len(cards(opened)) == 46 and not opened.find_element(By.ID, "r-more").is_displayed()
    assert opened.switch_to.active_element == cards(opened)[24]


def test_film_strips_are_drawn(opened):
    choose(opened, "r-class", "0")
    opened.execute_script("document.getElementById('retrieval').scrollIntoView()")
    opened.execute_async_script("setTimeout(arguments[0], 400)")
    images = opened.find_elements(By.CSS_SELECTOR, "#r-cards img.strip")
    assert len(images) > 4 and all(image.get_property("naturalWidth") > 100 for image in images[:4])
    assert all(image.get_attribute("alt") for image in images)


def test_every_control_and_the_cards_are_reached_by_keys(opened):
    seen = set()
    for _ in range(120):
        press(opened, Keys.TAB)
        active = opened.switch_to.active_element
        seen.add(active.get_attribute("id") or active.get_attribute("class").split(" ")[0] or active.tag_name)
        if active.tag_name == "body":
            break
    assert {"theme", "r-class", "r-right", "r-order", "r-more", "m-class", "m-right", "p-colour", "p-class", "map-plot",
            "card", "query", "plot", "matrix", "bars", "skip"} <= seen
    opened.execute_script("document.querySelector('#r-cards [tabindex=\"0\"]').focus()")
    for key, place in ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_DOWN, 3), (Keys.ARROW_LEFT, 2), (Keys.ARROW_UP, 0),
                       (Keys.END, 23), (Keys.ARROW_RIGHT, 24)):  # the last one brings more
        press(opened, key)
        assert opened.switch_to.active_element == cards(opened)[place]
    assert len(cards(opened)) > 24
    assert opened.execute_script("return getComputedStyle(document.activeElement).outlineWidth") == "3px"


def test_charts_and_the_map_tell_their_values_by_keys(opened):
    tip = opened.find_element(By.ID, "tip")
    data = content(opened)
    opened.execute_script("document.querySelector('.plot').focus()")
    press(opened, Keys.ARROW_RIGHT)
    assert f"training steps {data['charts'][0]['range'][1]:.0f}" in tip.text and "training: " in tip.text
    press(opened, Keys.ARROW_LEFT)
    assert f"training steps {data['charts'][0]['range'][1]:.0f}" not in tip.text
    opened.execute_script("document.getElementById('map-plot').focus()")
    press(opened, Keys.ARROW_RIGHT)
    first = tip.text
    assert "nearest: " in first and tip.find_elements(By.TAG_NAME, "img")
    here = "return document.querySelector('#map-plot .here').dataset.x"
    before = float(opened.execute_script(here))
    press(opened, Keys.ARROW_LEFT if before > 180 else Keys.ARROW_RIGHT)
    after = float(opened.execute_script(here))
    assert (after < before) == (before > 180) and tip.text != first
    press(opened, Keys.ESCAPE)
    assert not tip.is_displayed()


def test_the_mining_gallery_shows_a_query_stage_by_stage(opened):
    data = content(opened)["mining"]
    buttons = opened.find_elements(By.CSS_SELECTOR, "#m-queries button")
    assert len(buttons) == len(data["queries"]) == 16
    opened.execute_script("arguments[0].focus()", buttons[0])
    press(opened, Keys.END, Keys.ENTER)
    assert [button.get_attribute("aria-pressed") for button in buttons].count("true") == 1
    assert buttons[-1].get_attribute("aria-pressed") == "true"
    panel = opened.find_element(By.ID, "m-cascade")
    stages = panel.find_elements(By.CLASS_NAME, "stage")
    assert [stage.find_element(By.TAG_NAME, "h3").text for stage in stages] == [
        "Stage 1: other view, flow, keeps 5 of 8", "Stage 2: own view, RGB, keeps 3 of 5",
        "Stage 3: other view, flow, keeps 2 of 3"]
    for stage, said in zip(stages, data["queries"][-1]["stages"], strict=True):
        assert len(stage.find_elements(By.CSS_SELECTOR, ".entries > li")) == len(said["shown"])
        assert len(stage.find_elements(By.CSS_SELECTOR, ".entries .is-right")) == said["hits"]
        assert len(stage.find_elements(By.CSS_SELECTOR, ".entries .strip")) == 2 * len(said["shown"])


def test_a_confusion_matrix_counts_every_clip_and_leads_to_them(opened):
    [found] = content(opened)["confusion"]
    cells = opened.find_elements(By.CSS_SELECTOR, "#confusion .cell")
    assert len(cells) == len(found["cells"]) and sum(count for _, _, count in found["cells"]) == 46
    said = [int(cell.get_attribute("data-tip").split(": ")[-1].split(" of ")[0]) for cell in cells]
    assert said == [count for _, _, count in found["cells"]]
    opened.find_element(By.CSS_SELECTOR, "#confusion button[data-class]").click()
    name = opened.find_element(By.CSS_SELECTOR, "#confusion button[data-class]").get_attribute("data-class")
    shown = {(card.get_attribute("data-class"), card.get_attribute("data-right")) for card in cards(opened)}
    assert shown == {(name, "0")}


def test_a_phone_needs_no_scrolling_sideways(opened):
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    assert opened.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    beyond = opened.execute_script("""return [...document.querySelectorAll("main *")].filter((element) =>
        element.getBoundingClientRect().right > 391 && !element.closest(".scroll, svg")).map((it) => it.outerHTML)""")
    assert beyond == []
    sizes = opened.execute_script("""return [...document.querySelectorAll("main p, main li, main td, main .tick")]
        .filter((element) => element.textContent.trim() && element.getClientRects().length)
        .map((element) => element.namespaceURI.endsWith("svg") ? element.getBoundingClientRect().height
             : parseFloat(getComputedStyle(element).fontSize))""")
    assert min(sizes) >= 9  # pixels


def background(browser) -> tuple[str, str]:
    return tuple(browser.execute_script("const style = getComputedStyle(document.body);"
                                        "return [style.backgroundColor, style.color]"))


def test_dark_mode_comes_from_the_system_or_the_button(opened):
    light = background(opened)
    prefer(opened, "dark")
    dark = background(opened)

    def brightness(colour: str) -> int:
        return sum(map(int, colour[4:-1].split(",")))
    assert brightness(light[0]) > 600 > 150 > brightness(dark[0]) and brightness(dark[1]) > 500
    button = opened.find_element(By.ID, "theme")
    button.click()
    assert background(opened) == light and button.get_attribute("aria-label") == "Colours: light"
    button.click()
    assert background(opened) == dark and button.get_attribute("aria-label") == "Colours: dark"
    button.click()
    prefer(opened, "light")
    assert background(opened) == light
