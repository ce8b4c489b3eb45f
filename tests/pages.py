"""Reading an HTML page in tests."""

import json
from html.parser import HTMLParser


class Page(HTMLParser):
    """A page's tags with their attributes, its text, and the JSON that its script reads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.shown = text, ""
        self.tags: list[tuple[str, dict]] = []
        self.json: dict[str, dict] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self._open = attrs.get("id", "") if attrs.get("type") == "application/json" else ""

    def handle_data(self, data):
        if self._open:
            self.json[self._open] = json.loads(data)
            self._open = ""
        self.shown += data

    def all(self, tag: str, **wanted: str) -> list[dict]:
        """The attributes of all such tags."""
        return [attrs for name, attrs in self.tags if name == tag and wanted.items() <= attrs.items()]
