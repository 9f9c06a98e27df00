"""Draw docs/picture.png: a half-hidden query, its three nearest crops, and what each strip counts.

    python docs/make_picture.py [--weights default] [--out docs/picture.png]

All people are rendered, so the picture can be made again by anybody.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import glimpse
from glimpse.files import atomic
from glimpse.model import Model
from glimpse.search import Hit
from glimpse.synthetic.cutouts import largest_box
from glimpse.synthetic.people import InFront, render_person

PEOPLE, CAMERAS = 20, 3
WANTED = 7  # who is looked for
HEIGHT, WIDTH = 256, 128

Colour = tuple[int, int, int]
Strips = list[tuple[float, float, float | None]]
"""`(y0, y1, weight)` of each strip, all in [0, 1]; no weight where it is not compared."""

INK, SOFT, LINE = (32, 36, 44), (110, 116, 128), (214, 218, 226)
BAR, EMPTY, RIGHT = (38, 104, 186), (234, 237, 243), (24, 128, 84)
SCALE = 2  # drawn at twice the size, so that it stays sharp on dense screens
GAP, BARS, TOP, BOTTOM = 34, 84, 44, 78


def gallery(folder: Path) -> None:
    """Render everybody a few times, by different cameras."""
    for person in range(1, PEOPLE + 1):
        for camera in range(1, CAMERAS + 1):
            crop = render_person(person, camera, camera=camera, size=(HEIGHT, WIDTH))
            crop.image.save(folder / f"person {person:02}, camera {camera}.png")


def half_hidden() -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Render the wanted person by another camera, behind a car; and the box of what can be seen."""
    car = InFront("car", "bottom", 0.5)
    crop = render_person(WANTED, 11, camera=CAMERAS + 1, size=(HEIGHT, WIDTH), heading=0.3, in_front=car)
    box = largest_box(crop.shown)
    assert box is not None
    return crop.image, box


def text(draw: ImageDraw.ImageDraw, at: tuple[float, float], words: str, colour: Colour, size: int) -> None:
    """Write `words` with their upper left corner at a point of the unscaled picture."""
    draw.text((at[0] * SCALE, at[1] * SCALE), words, fill=colour, font=ImageFont.load_default(size * SCALE))


def panel(page: Image.Image, left: int, title: str, crop: Image.Image, strips: Strips, note: str, hidden: str) -> None:
    """One crop with a bar per strip."""
    draw = ImageDraw.Draw(page)
    text(draw, (left, 14), title, INK, 15)
    page.paste(crop.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.LANCZOS), (left * SCALE, TOP * SCALE))
    x = left + WIDTH + 8
    for y0, y1, length in strips:
        a, b = TOP + y0 * HEIGHT + 3, TOP + y1 * HEIGHT - 3
        draw.rounded_rectangle((x * SCALE, a * SCALE, (x + BARS - 8) * SCALE, b * SCALE), 8, fill=EMPTY)
        if length is None:
            text(draw, (x + 8, (a + b) / 2 - 8), hidden, SOFT, 11)
            continue
        end = x + max(3.0, (BARS - 8) * length)
        draw.rounded_rectangle((x * SCALE, a * SCALE, end * SCALE, b * SCALE), 8, fill=BAR)
        inside = length > 0.5
        number = (x + 8, (a + b) / 2 - 8) if inside else (end + 6, (a + b) / 2 - 8)
        text(draw, number, f"{length:.2f}", (255, 255, 255) if inside else INK, 12)
    for row, line in enumerate(note.split("\n")):
        colour = RIGHT if row == 0 and line.startswith("same") else INK if row == 0 else SOFT
        text(draw, (left, TOP + HEIGHT + 10 + 19 * row), line, colour, 13)


def strips_of_hit(model: Model, hit: Hit) -> Strips:
    """The weight of each strip in a hit; `None` where query and hit do not both show it."""
    found = {part.name: part for part in hit.parts}
    return [
        (box[1], box[3], found[name].gallery_weight if found[name].compared else None)
        for name, box in model.regions
        if name in found
    ]


def main() -> None:
    """Search, and draw what was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--weights", default="default")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "picture.png")
    chosen = arguments.parse_args()

    model = glimpse.load(chosen.weights)
    query, box = half_hidden()
    with tempfile.TemporaryDirectory() as folder:
        gallery(Path(folder))
        result = glimpse.search(model, query, folder, top=3, visible=box)
        crops = [Image.open(hit.path).convert("RGB") for hit in result]

    step = WIDTH + BARS + GAP
    page = Image.new("RGB", ((4 * step - GAP + 40) * SCALE, (TOP + HEIGHT + BOTTOM) * SCALE), "white")
    weights = {part.name: part.query_weight for part in result[0].parts}
    own = [(b[1], b[3], weights[name] if weights[name] > 0 else None) for name, b in model.regions if name in weights]
    panel(page, 20, "query", query, own, f"person {WANTED:02}, camera {CAMERAS + 1}\nbehind a car", "hidden")
    ImageDraw.Draw(page).line(
        [((20 + step - GAP / 2 - 4) * SCALE, y * SCALE) for y in (TOP, TOP + HEIGHT)], fill=LINE, width=SCALE
    )
    for hit, crop in zip(result, crops, strict=True):
        name = Path(hit.path).stem
        same = name.startswith(f"person {WANTED:02}")
        note = f"{'same person' if same else 'another person'}\n{name}\ndistance {hit.distance:.3f}"
        panel(page, 20 + hit.rank * step, f"hit {hit.rank}", crop, strips_of_hit(model, hit), note, "no partner")
    with atomic(chosen.out) as draft:
        page.quantize(256, dither=Image.Dither.NONE).save(draft, "PNG", optimize=True)


if __name__ == "__main__":
    main()
