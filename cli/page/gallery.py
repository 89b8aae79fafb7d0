"""Images beside what models say of them: one card an image, so that models are compared on the same one."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..phrases import NORMS
from ..tables import radius
from .markup import Markup, join, tag

Entry = Mapping[str, Any]


def gallery(examples: Entry, entries: Sequence[Entry]) -> Markup:
    """The clean image, then for each model the attacked one, the change stretched to full contrast, the answer."""
    shown = [entry for entry in entries if entry.get("examples")]
    cards = [_card(examples, image, place, shown) for place, image in enumerate(examples["images"])]
    return join([tag("p", _caption(examples), class_="note"), tag("div", *cards, class_="gallery")])


def _caption(examples: Entry) -> str:
    reduced = f" Sides are shown at 1/{examples['reduced']} of their length." if examples["reduced"] > 1 else ""
    bound = f"{NORMS.get(examples['norm'], examples['norm'])} radius {radius(examples['radius'])}"
    return (
        f"The first image of each class, chosen before any attack; attacked with {examples['attack']}, {bound}. "
        f"Beside each attacked image stands the change, stretched: mid-grey is none.{reduced}"
    )


def _card(examples: Entry, image: Entry, place: int, entries: Sequence[Entry]) -> Markup:
    truth = _class(examples, image["label"])
    head = tag(
        "div",
        _image(image["png"], f"image {image['index']}: {truth}", "large"),
        tag("div", tag("strong", truth), tag("span", f"image {image['index']}, clean")),
        class_="head",
    )
    rows = [_row(examples, image, entry["name"], entry["examples"][place]) for entry in entries
            if place < len(entry["examples"])]  # fmt: skip
    return tag("article", head, tag("ul", *rows), class_="card")


def _row(examples: Entry, image: Entry, name: str, answer: Entry) -> Markup:
    said = _class(examples, answer["prediction"])
    if answer["fooled"]:
        kind, verdict = "bad", f"fooled: {said}"
    elif answer["clean_prediction"] != image["label"]:
        kind, verdict = "warn", f"wrong unattacked: {_class(examples, answer['clean_prediction'])}"
    else:
        kind, verdict = "good", "withstands"
    pictures = (
        _image(answer["adversarial"], f"attacked for {name}: {said}"),
        _image(answer["perturbation"], f"the change for {name}, stretched"),
    )
    words = tag("div", tag("span", name, class_="name"), tag("span", verdict, class_=f"verdict {kind}"))
    return tag("li", *pictures, words)


def _class(examples: Entry, label: int) -> str:
    names = examples["class_names"] or ()
    return names[label] if label < len(names) else f"class {label}"


def _image(png: str, alt: str, kind: str = "small") -> Markup:
    return tag("img", src=f"data:image/png;base64,{png}", alt=alt, class_=kind)
