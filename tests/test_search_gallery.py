"""The answer of a search: file names are only text on its page, nothing is loaded, and a narrow screen shows it."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from searching import write_video

from tools.search.answer import Answer, Hit, strip_frames, time_span

EVIL = "<script>alert('x')<.avi"
BREAK = "a\nb\x1b[2J \"'&\udc80.avi"
SCRIPT = "<img src=x onerror=alert(1)>"
TAGS = {"html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "b", "a", "p", "ol", "li", "dl", "div",
        "dt", "dd", "img"}


def answer(folder: Path, streams: tuple[str, ...] = ("rgb",), clips: int = 1) -> Answer:
    """An answer of three hits: the query itself, one with an evil name, and one that is gone."""
    query = write_video(folder / "query.avi", 30, 1, (48, 64))
    paths = [query, write_video(folder / EVIL, 30, 2, (48, 64)), folder / BREAK]
    hits = [Hit(rank, 0.9 / rank, dict.fromkeys(streams, 0.5), str(path), f"{SCRIPT}/{path.name}" if rank == 2 else
                path.name, 0.0, 2.0, 0.0, 2.0, path == query) for rank, path in enumerate(paths, start=1)]
    return Answer(str(query), clips, hits, f"3 clips {SCRIPT}")


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [attributes[attribute] for name, attributes in self.elements if name == tag]


def test_names_are_text_and_nothing_is_loaded(tmp_path):
    html = answer(tmp_path).html()
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= TAGS
    pictures, links = page.values("img", "src"), page.values("a", "href")
    assert len(pictures) == 15 and all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert len(links) == 4 and all(link.startswith("file:///") and "<" not in link for link in links)
    assert EVIL in page.text and SCRIPT in page.text and 'a\\nb\\x1b[2J "\'&\\udc80.avi' in page.text
    assert page.text.count("cannot be read any more") == 1 and page.text.count("(the query)") == 1
    assert html.encode()  # no lone surrogate is left


def test_the_table_and_the_json_say_the_same(tmp_path):
    found = answer(tmp_path, ("rgb", "flow"), clips=2)
    lines = found.table().splitlines()
    assert lines[0].split() == ["video", "similarity", "rgb", "flow", "time", "time", "in", "query"]
    assert len(lines) == 5 and "\x1b" not in found.table() and "(the query)" in lines[2]
    read = json.loads(json.dumps(found.as_json()))
    assert [hit["path"] for hit in read["hits"]] == [hit.path for hit in found.hits]
    assert read["hits"][0]["by_stream"] == {"rgb": 0.5, "flow": 0.5} and read["hits"][0]["end"] == 2.0


@pytest.mark.parametrize(("start", "end", "text"), [
    (0, 9.96, "0:00.0-0:10.0"), (59.99, 61.25, "1:00.0-1:01.2"), (3599, 3725.5, "59:59.0-62:05.5")])
def test_times_are_clocks(start, end, text):
    assert time_span(start, end) == text


def test_film_strips_are_of_the_clips_own_frames(tmp_path):
    path = write_video(tmp_path / "x.avi", 30, 1)
    assert len(set(strip_frames(str(path), 0.0, 2.0))) == 5
    assert strip_frames(str(path), 1.0, 2.0) != strip_frames(str(path), 0.0, 1.0)
    (tmp_path / "text.avi").write_text("no video")
    assert not any(strip_frames(str(tmp_path / name), 0.0, 1.0) for name in ("none.avi", "text.avi"))


def test_a_browser_shows_the_page(tmp_path):
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no chromium and chromedriver here: the page is not looked at in a browser")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = answer(tmp_path).gallery(tmp_path / "page.html")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        for width, scheme, shown in ((1200, "light", 15), (360, "dark", 9)):
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
                {"name": "prefers-color-scheme", "value": scheme}]})
            browser.get(page.as_uri())
            wide, pictures, red = browser.execute_script("""return [document.documentElement.scrollWidth,
                [...document.images].filter(image => image.naturalWidth > 0 && image.offsetWidth > 0).length,
                parseInt(getComputedStyle(document.body).backgroundColor.slice(4))]""")
            assert wide <= width and pictures == shown and (red > 200 if scheme == "light" else red < 60)
        assert browser.get_log("browser") == []
