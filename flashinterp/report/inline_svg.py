"""Check an SVG drawing, and make it fit to stand inside an HTML page: inert, its ids its own."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from flashinterp._util.text import clip, safe_text
from flashinterp.errors import RunError
from flashinterp.report.figure import Figure
from flashinterp.report.palette import BLUE, INK, MUTED, ORANGE, PAPER, SHADE, SKY, VERMILION

# What a drawing of ours is made of. Everything else is refused: an allowed list needs no knowledge
# of every way in (script, foreignObject, animate, a, image, style, handler ...).
_ELEMENTS = frozenset({"svg", "g", "defs", "clipPath", "path", "use", "rect", "circle", "line", "text"})
_DROPPED = frozenset({"title", "desc"})  # the page says both already, and a browser shows a tooltip
_ATTRIBUTE = re.compile(r"(?!on)[a-z][A-Za-z0-9-]*", re.IGNORECASE)
_INSIDE_URL = re.compile(r"url\(\s*['\"]?#([A-Za-z0-9_.-]+)['\"]?\s*\)")
_THEME = {
    PAPER: "--fig-paper",
    INK: "--fig-ink",
    MUTED: "--fig-muted",
    SHADE: "--fig-shade",
    BLUE: "--fig-blue",
    SKY: "--fig-sky",
    VERMILION: "--fig-vermilion",
    ORANGE: "--fig-orange",
}


def inline_svg(figure: Figure) -> str:
    """The figure's drawing as an ``<svg>`` element for HTML, in the page's own colours.

    Raises:
        RunError: it is not well-formed, or holds anything but plain shapes and text: an element,
            attribute, address or document type that could act or load.
    """
    if "<!" in re.sub(r"<!--.*?-->", "", figure.svg, flags=re.DOTALL):
        raise _refusal(figure, "a document type or entity")
    try:
        root = ElementTree.fromstring(figure.svg)
    except ElementTree.ParseError as error:
        raise _refusal(figure, f"XML that cannot be read ({error})") from error
    if _local(root.tag) != "svg":
        raise _refusal(figure, f"<{_local(root.tag)}> as its outermost element")
    for element in list(root.iter()):
        for child in [child for child in element if _local(child.tag) in _DROPPED]:
            element.remove(child)
    for element in list(root.iter()):
        _clean(figure, element)
    # The page gives the size; what is left of it in the drawing is its proportions (viewBox).
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"aria-hidden": "true", "focusable": "false"}
    try:
        return ElementTree.tostring(root, encoding="unicode")
    except RecursionError as error:
        raise _refusal(figure, "elements nested too deep") from error


def _clean(figure: Figure, element: ElementTree.Element) -> None:
    """Check one element, and rewrite its names, ids and colours in place."""
    element.tag = _local(element.tag)
    if element.tag not in _ELEMENTS:
        raise _refusal(figure, f"<{element.tag}>")
    element.text = safe_text(element.text or "") if element.tag == "text" else None
    element.tail = None
    for qualified, value in list(element.attrib.items()):
        del element.attrib[qualified]
        name = _local(qualified)
        if _ATTRIBUTE.fullmatch(name) is None:
            raise _refusal(figure, f"the attribute {name}")
        if name == "href" and not value.startswith("#"):
            raise _refusal(figure, f"the address {value}")
        # A backslash can spell url( in CSS; no drawing of ours needs one outside its text.
        if "\\" in value or "url" in _INSIDE_URL.sub("", value).lower() or "@" in value:
            raise _refusal(figure, f"{name}={value}, which could load something")
        element.attrib[name] = _own(figure.name, name, value)


def _own(prefix: str, name: str, value: str) -> str:
    """An attribute's value with ids made the figure's own, and colours the page's."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return f"#{prefix}-{value[1:]}"
    if name == "style":
        for colour, variable in _THEME.items():
            value = re.sub(colour, f"var({variable})", value, flags=re.IGNORECASE)
    return _INSIDE_URL.sub(rf"url(#{prefix}-\1)", value)


def _local(tag: object) -> str:
    return str(tag).rpartition("}")[2]


def _refusal(figure: Figure, what: str) -> RunError:
    return RunError(
        f"figure {figure.name} holds {clip(safe_text(what), 120)}: a report takes plain shapes and "
        "text only; draw the figure with flashinterp.report.charts.neurons"
    )
