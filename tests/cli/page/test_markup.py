"""Text becomes markup only escaped."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from robustq.cli.page.markup import Markup, tag
from robustq.cli.text import visible


class Reader(HTMLParser):
    """What a browser makes of a piece of markup."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text())
def test_any_text_comes_back_as_text(given: str) -> None:
    reader = Reader()
    reader.feed(tag("p", given, title=given))
    reader.close()
    assert reader.tags == [("p", {"title": visible(given)})]
    assert reader.text == visible(given)


def test_markup_is_kept_and_nothing_is_left_out_by_accident() -> None:
    inner = tag("b", "a<b")
    assert tag("p", inner, None, ["x", 0], class_="k", hidden=None) == '<p class="k"><b>a&lt;b</b>x0</p>'
    assert tag("img", alt="", open=True, x=1.0, y=2.504) == '<img alt="" open x="1" y="2.5">'
    assert tag("i", aria_hidden="true", http_equiv="x") == '<i aria-hidden="true" http-equiv="x"></i>'
    assert isinstance(inner, Markup)
