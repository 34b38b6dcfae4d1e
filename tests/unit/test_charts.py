"""What figures become: a PNG on white, or a specification whose colours the page decides."""

import json
import re

import altair as alt
from PIL import Image

from derta.charts import COLOURS, Figure, colour, compared, filtered, library, specification, table, write_png


def bars() -> Figure:
    rows = [{"checkpoint": "base", "x": 1}, {"checkpoint": "derta", "x": 3}]
    drawn = table("rows").mark_bar().encode(x="x:Q", y="checkpoint:N", color=alt.value(colour("complied")))
    return Figure(filtered(drawn, checkpoints=["base", "derta"]), "Bars", {"rows": rows}, count=1, width=100)


def test_a_png_has_the_light_colours_on_white(tmp_path):
    write_png(bars(), tmp_path / "bars.png")
    image = Image.open(tmp_path / "bars.png").convert("RGB")
    shares = {found: count for count, found in image.getcolors(1 << 20)}
    orange = tuple(bytes.fromhex(COLOURS["complied"][0][1:]))
    assert image.getpixel((0, 0)) == (255, 255, 255) and shares[orange] > 1000


def test_a_specification_names_its_colours_and_can_be_filtered():
    spec = specification(bars())
    assert not re.search("#[0-9a-f]{6}", json.dumps(spec)) and spec["width"] == 100
    assert spec["params"] == [{"name": "checkpoints", "value": ["base", "derta"]}]


def test_what_is_compared_looks_different_even_where_colours_come_back():
    assert len({compared(i) for i in range(49)}) == 49
    assert compared(0) == ("c0", "●") and compared(7)[0] == "c0" and compared(7)[1] != "●"


def test_the_library_can_stand_in_a_script_element_and_loads_nothing():
    text = library()
    assert "</script" not in text.lower() and "<!--" not in text and "\r" not in text
    assert "cdn.jsdelivr" not in text and "import(" not in text and len(text) < 1_000_000
