"""The HTML gallery of an answer: names are escaped, nothing is loaded, and a browser shows it on a narrow screen."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from searching import write_video

from eval.search.answer import Answer, Hit, times
from eval.search.gallery import film_strip

EVIL = "<script>alert('x')<.avi"
BREAK = "a\nb\x1b[2J \"'&\udc80.avi"
TAGS = {"html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "b", "a", "p", "ol", "li", "dl", "div",
        "dt", "dd", "img"}
SCRIPTS = "<img src=x onerror=alert(1)>"


def answer(folder: Path, streams: tuple[str, ...] = ("rgb",), clips: int = 1) -> Answer:
    """Of a query and three hits: one of an evil name, one that is gone, and the query itself."""
    query = write_video(folder / "query.avi", 30, 1, (48, 64))
    paths = [query, write_video(folder / EVIL, 30, 2, (48, 64)), folder / BREAK]
    hits = [Hit(rank, 0.9 / rank, dict.fromkeys(streams, 0.5), str(path), f"{SCRIPTS}/{path.name}" if rank == 2 else
                path.name, 0.0, 2.0, 0.0, 2.0, path == query) for rank, path in enumerate(paths, start=1)]
    return Answer(str(query), clips, hits, f"3 clips {SCRIPTS}")


class Tags(HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_are_text_and_nothing_is_loaded(tmp_path):
    page = answer(tmp_path).html()
    tags = Tags(page)
    assert {tag for tag, _ in tags.found} <= TAGS
    pictures = [attributes["src"] for tag, attributes in tags.found if tag == "img"]
    assert len(pictures) == 15 and all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    links = [attributes["href"] for tag, attributes in tags.found if tag == "a"]
    assert len(links) == 4 and all(link.startswith("file:///") and "<" not in link for link in links)
    assert EVIL in tags.text and SCRIPTS in tags.text and 'a\\nb\\x1b[2J "\'&\\udc80.avi' in tags.text
    assert tags.text.count("cannot be read any more") == 1 and tags.text.count("(the query)") == 1
    assert page.isascii() or page.encode()  # no lone surrogate is left
    frame = Tags(answer(tmp_path)._repr_html_())
    assert [tag for tag, _ in frame.found] == ["iframe"] and "sandbox" in frame.found[0][1]
    assert frame.found[0][1]["srcdoc"] == page


def test_the_table_and_the_json_say_the_same(tmp_path):
    found = answer(tmp_path, ("rgb", "flow"), clips=2)
    lines = found.table().splitlines()
    assert lines[0].split() == ["rank", "similarity", "rgb", "flow", "time", "time", "in", "query", "video"]
    assert len(lines) == 5 and "\x1b" not in found.table() and "(the query)" in lines[2]
    read = json.loads(json.dumps(found.as_json()))
    assert [hit["path"] for hit in read["hits"]] == [hit.path for hit in found.hits]
    assert read["hits"][0]["by_stream"] == {"rgb": 0.5, "flow": 0.5} and read["hits"][0]["end"] == 2.0


@pytest.mark.parametrize(("start", "end", "text"), [
    (0, 9.96, "0:00.0-0:10.0"), (59.99, 61.25, "1:00.0-1:01.2"), (3599, 3725.5, "59:59.0-1:02:05.5")])
def test_times_are_clocks(start, end, text):
    assert times(start, end) == text


def test_film_strips_are_of_the_clips_own_frames(tmp_path):
    path = write_video(tmp_path / "x.avi", 30, 1)
    assert len(set(film_strip(str(path), 0.0, 2.0))) == 5
    assert film_strip(str(path), 1.0, 2.0) != film_strip(str(path), 0.0, 1.0)
    assert film_strip(str(tmp_path / "none.avi"), 0.0, 1.0) == []
    (tmp_path / "text.avi").write_text("no video")
    assert film_strip(str(tmp_path / "text.avi"), 0.0, 1.0) == []


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no chromium and chromedriver here: the gallery is not looked at in a browser")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.parametrize(("width", "scheme", "shown"), [(1200, "light", 15), (360, "dark", 9)])
def test_a_browser_shows_the_gallery(browser, tmp_path, width, scheme, shown):
    page = answer(tmp_path).gallery(tmp_path / "page.html")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": scheme}]})
    browser.get(page.as_uri())
    script = """const images = [...document.images];
        return {wide: document.documentElement.scrollWidth, scripts: document.scripts.length,
                loaded: images.every(image => image.complete && image.naturalWidth > 0),
                shown: images.filter(image => image.offsetWidth > 0).length,
                light: getComputedStyle(document.body).backgroundColor,
                names: [...document.querySelectorAll('li h2')].map(name => name.innerText)}"""
    seen = browser.execute_script(script)
    assert seen["wide"] <= width and seen["scripts"] == 0 and seen["loaded"] and seen["shown"] == shown
    red = int(seen["light"].removeprefix("rgb(").split(",")[0])
    assert red > 200 if scheme == "light" else red < 60
    assert len(seen["names"]) == 3 and EVIL in seen["names"][1]
    assert browser.get_log("browser") == []
