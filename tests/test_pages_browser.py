"""Report and search page in a headless Chromium: no errors, no network, phone, dark mode, filters, map."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import made_run
import noise
import pytest
from searching import write_video
from test_search import answer_of

from tools.report.__main__ import main
from utils import launch

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

BROWSER, DRIVER = (next(filter(None, map(shutil.which, names)), None)
                   for names in (("chromium", "chromium-browser"), ("chromedriver",)))
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no Chromium with its driver: apt-get "
                                "install chromium chromium-driver")
HOSTILE = "<img src=x onerror='document.title=1'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a run that mines, with a class whose name is markup."""
    root = tmp_path_factory.mktemp("made")
    made = made_run.make(root)
    made_run.add_features(made.features, "mine", [*made.data.test, *(f"x/{HOSTILE}/v{i}" for i in range(40))],
                          [*made.data.train, *(f"x/{HOSTILE}/w{i}" for i in range(3))])
    first, _ = (write_video(root / f"videos/{video}.avi", frames=20) for video in made.data.test[:2])
    subprocess.run(["ffmpeg", "-v", "error", "-i", first, first.with_suffix(".webm")], check=True)
    first.unlink()
    with pytest.MonkeyPatch.context() as patch:
        noise.install_network(patch.setattr)
        assert launch.exit_code(lambda: main([str(made.folder), "--videos", str(root / "videos")])) == 0
    return made.folder / "report.html"


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver, page):
    """The page on a desktop in light colours; whatever a test does leaves no error in the console."""
    emulate(driver, 1280, "light")
    driver.get_log("browser"), driver.get_log("performance")
    driver.get(page.as_uri())
    yield driver
    assert driver.get_log("browser") == [] and driver.title.endswith(": report")  # no name has run as a script


def emulate(driver, width: int, colours: str) -> None:
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
    setting = {"name": "prefers-color-scheme", "value": colours}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [setting]})


def requests(browser) -> set[str]:
    """What the browser has asked for since its log was read."""
    urls = [message["params"]["request"]["url"] for entry in browser.get_log("performance")
            if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"]
    return {url for url in urls if not url.startswith(("data:", "blob:"))}


def scroll_through(browser) -> None:
    """Bring every chart on the screen, and wait until it is drawn."""
    for place in browser.find_elements(By.CSS_SELECTOR, "[data-figure]"):
        browser.execute_script("arguments[0].scrollIntoView()", place)
        WebDriverWait(browser, 30).until(lambda _, it=place: it.find_elements(By.CSS_SELECTOR, ".main-svg"))


def brightness(browser, script: str) -> int:
    colour = browser.execute_script(f"return {script}")
    return sum(map(int, colour[colour.index("(") + 1:-1].split(",")[:3]))


def test_it_opens_without_errors_and_without_network(browser, page):
    scroll_through(browser)
    assert requests(browser) == {page.as_uri()}
    images = browser.find_elements(By.CSS_SELECTOR, ".cards img.strip")
    assert images and images[0].get_property("naturalWidth") > 100 and images[0].get_attribute("alt")


def test_a_phone_needs_no_scrolling_sideways_and_dark_mode_reaches_the_charts(browser):
    emulate(browser, 390, "light")
    scroll_through(browser)
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
    beyond = browser.execute_script("""return [...document.querySelectorAll("main *")].filter((element) =>
        element.getBoundingClientRect().right > 391 && !element.closest(".scroll, svg")).map((it) => it.outerHTML)""")
    assert beyond == []
    page, tick = "getComputedStyle(document.body).backgroundColor", (
        "getComputedStyle(document.querySelector('.xtick text')).fill")
    assert brightness(browser, page) > 600 and brightness(browser, tick) < 350
    emulate(browser, 390, "dark")
    assert brightness(browser, page) < 150
    WebDriverWait(browser, 30).until(lambda _: brightness(browser, tick) > 450)


def test_filters_choose_cards_and_the_map_shows_them(browser):
    def cards() -> list:
        return browser.find_elements(By.CSS_SELECTOR, ".cards > li:not([hidden])")
    assert len(cards()) == 24
    part = partial(browser.find_element, By.CLASS_NAME)
    part("r-more").click()
    assert len(cards()) == 46 and not part("r-more").is_displayed()
    Select(part("r-class")).select_by_visible_text("ApplyEyeMakeup")
    assert {card.get_attribute("data-class") for card in cards()} == {"ApplyEyeMakeup"}
    Select(part("r-class")).select_by_value("")
    counts = []
    for value in ("right", "wrong"):
        Select(part("r-right")).select_by_value(value)
        assert {card.get_attribute("data-right") for card in cards()} == {value}
        counts.append(int(part("r-status").text.split(" of ")[1].split()[0]))
    assert sum(counts) == 46 and min(counts) > 0
    scroll_through(browser)
    names = [text.get_property("textContent") for text in browser.find_elements(By.CSS_SELECTOR, ".legendtext")]
    assert HOSTILE in names
    point = browser.find_element(By.CSS_SELECTOR, ".map .point")
    ActionChains(browser).move_to_element(point).perform()
    card = part("map-card")
    WebDriverWait(browser, 30).until(lambda _: card.find_elements(By.TAG_NAME, "li"))
    assert len(card.find_elements(By.TAG_NAME, "li")) == 5


def test_a_click_plays_the_video_or_enlarges_the_strip(browser):
    """Of the first clip there is a video, of the second one that no browser plays, of the others none."""
    strips = browser.find_elements(By.CSS_SELECTOR, ".cards > li > .film")
    for strip, shown in zip(strips, ("video", "img", "img"), strict=False):
        strip.click()
        WebDriverWait(browser, 30).until(lambda _, it=shown: browser.execute_script(f"""
            const it = document.querySelector("#viewer[open] {it}");
            return it && (it.videoWidth || it.naturalWidth)"""))
        browser.find_element(By.CSS_SELECTOR, "#viewer button").click()
    browser.get_log("browser")  # of the file that does not play


def test_a_browser_shows_the_page_of_a_search(driver, tmp_path):
    page = answer_of(tmp_path).gallery(tmp_path / "page.html")
    driver.get_log("browser"), driver.get_log("performance")
    for width, scheme in ((1200, "light"), (360, "dark")):
        emulate(driver, width, scheme)
        driver.get(page.as_uri())
        wide, strips = driver.execute_script("""return [document.documentElement.scrollWidth,
            [...document.querySelectorAll("video")].filter((it) => it.poster && it.offsetWidth > 200).length]""")
        assert wide <= width and strips == 3
        light = brightness(driver, "getComputedStyle(document.body).backgroundColor")
        assert light > 600 if scheme == "light" else light < 150
    assert driver.get_log("browser") == [] and requests(driver) == {page.as_uri()}
    columns = "getComputedStyle(document.querySelector('.hits')).gridTemplateColumns.split(' ').length"
    assert driver.execute_script(f"return {columns}") == 1
    emulate(driver, 1280, "light")
    assert driver.execute_script(f"return {columns}") == 3
    driver.find_element(By.TAG_NAME, "video").click()  # of an AVI, which no browser plays
    WebDriverWait(driver, 30).until(lambda _: driver.find_elements(By.CSS_SELECTOR, "img.still"))
    assert "cannot play" in driver.find_element(By.CLASS_NAME, "query").text
