"""The HTML report: one sound file that fetches nothing and runs no name. `browser.py` tries it in a real browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fp8load.rules.samples import LLAMA
from fp8load_cli.render.html.charts import heatmap, histogram
from fp8load_cli.render.html.markup import Markup, element, sort_key
from rules.examples import checkpoint_of, written

from .conftest import BROKEN, CLEAN

VOID = {"meta", "br", "wbr", "input"}
FAULTY = "fixtures/checkpoints/hf-llamaodd-fp8-block-16x8"
EVIL = r"""
config {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}}
x"onmouseover="alert(1).<script>alert(2)</script>.weight            F8_E4M3  [128, 128]
</style><img\u0020src=x\u0020onerror=alert(3)>.\u001b[31m&amp;\u202e.weight  F8_E4M3  [128, 128]
"""


class Page(HTMLParser):
    """A page whose elements are balanced, whose attributes stand once, and whose text is kept by element."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return "".join(data for tag, data in self.texts if tag not in ("style", "script"))


def page(run, *words: object) -> Page:
    return Page(run(*words, "-f", "html").out)


@pytest.mark.parametrize("words", [("verify", CLEAN), ("verify", BROKEN), ("verify", FAULTY), ("inspect", FAULTY),
                                   ("inspect", FAULTY, "--plot", "scales")])  # fmt: skip
def test_a_page_is_one_sound_file_that_fetches_nothing(run, words):
    text = run(*words, "-f", "html").out
    parsed = Page(text)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")

    assert text.startswith("<!doctype html>")
    assert policy.startswith("default-src 'none'")
    assert not {tag for tag, _ in parsed.elements} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [name for _, attributes in parsed.elements for name in attributes if name in ("src", "srcset", "action")]
    assert {a["href"].lstrip("#") for a in parsed.all("a")} <= set(ids)
    assert len(ids) == len(set(ids))
    assert len(parsed.all("script")) == len(parsed.all("style")) == len(parsed.all("h1")) == 1
    assert not re.search(r"url\(|@import|https?:", text)


def test_no_name_becomes_markup(run, skeleton):
    parsed = page(run, "verify", skeleton(EVIL))
    clean = page(run, "verify", skeleton(EVIL.replace("<script>", "script").replace("<img", "img")))

    assert len(parsed.all("script")) == len(parsed.all("style")) == 1
    assert not [attributes for _, attributes in parsed.elements if any(name.startswith("on") for name in attributes)]
    assert "<script>alert(2)</script>" in parsed.text()
    assert "</style><img src=x onerror=alert(3)>" in parsed.text()
    tags, others = ([tag for tag, _ in page.elements if tag != "wbr"] for page in (parsed, clean))
    assert tags == others
    assert not [char for char in parsed.text() if not char.isprintable() and char != "\n"]


def test_a_broken_checkpoint_has_its_findings_and_no_more(run, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    result = run("verify", tmp_path, "-f", "html")

    assert result.code == 1
    assert "F8L002" in Page(result.out).text()
    assert "Modules" not in Page(result.out).text()


def test_findings_have_the_text_of_their_rule_and_what_to_do(run):
    text = page(run, "verify", FAULTY).text()

    assert "Every scale stands beside a quantized weight." in text
    assert "`--fix` drops the scale" in text
    assert "1 error, 0 warnings" in text


def test_level_headers_has_no_values(run):
    parsed = page(run, "verify", FAULTY, "--level", "headers")

    assert not parsed.all("svg")
    assert "Modules" in parsed.text()


def test_an_outlier_stands_with_its_exact_block(run, tmp_path):
    scale = "model.layers.0.mlp.down_proj.weight_scale_inv"
    two = LLAMA.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2').replace("layers.0", "layers.{0..1}")
    meta, files = checkpoint_of(two).index.tensors[scale], written(two, {})
    data = bytearray(files["model.safetensors"])
    data[meta.begin + 24 : meta.begin + 28] = np.float32(4096).tobytes()
    for name, content in {**files, "model.safetensors": bytes(data)}.items():
        (tmp_path / name).write_bytes(content)
    text = page(run, "verify", tmp_path).text()

    assert f"{scale}[1, 2]409612.00.0" in text


def test_a_histogram_has_a_bar_for_each_power_and_a_title_with_its_count():
    parsed = Page(histogram({-3: 5, 0: 1000}, "weight_scale"))
    heights = [float(bar["height"]) for bar in parsed.all("rect")]

    assert "2^-3 to 2^-2: 5" in parsed.text()
    assert "2^0 to 2^1: 1,000" in parsed.text()
    assert len(heights) == 2
    assert min(heights) == 2.0  # a few are still seen beside many


def test_a_heatmap_says_each_number_and_leaves_gaps():
    parsed = Page(heatmap({(0, "a"): -3.0, (2, "a"): -1.0, (2, "b"): -2.0}, ["a", "b"]))
    cells = [data for tag, data in parsed.texts if tag in ("td", "th")]

    assert cells == ["layer", "a", "b", "0", "-3.0", "–", "2", "-1.0", "-2.0"]
    assert [cell.get("style") for cell in parsed.all("td")] == ["--share:0%", None, "--share:100%", "--share:50%"]


@pytest.mark.parametrize(
    ("shown", "key"),
    [("1,024", 1024), ("64.0 KiB", 65536), ("-3.5", -3.5), ("684.5 B", 684.5), ("98.8 %", 98.8), ("1.2e-05", 1.2e-05)],
)
def test_cells_that_are_numbers_sort_as_such(shown, key):
    assert float(sort_key(shown)) == key
    assert sort_key(f"{shown} or so") == ""


def test_an_element_escapes_what_is_no_markup():
    assert element("p", "<b>", Markup("<b></b>"), title='"') == '<p title="&quot;">&lt;b&gt;<b></b></p>'


def test_a_page_that_would_be_narrowed_is_refused(run):
    assert run("inspect", CLEAN, "--tree", "-f", "html").code == 2
