"""A report in a real browser: light and dark, narrow, by keyboard; nothing is loaded and nothing is complained about."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from synthetic import normal, safetensors

pytestmark = pytest.mark.integration

_SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars"),
)
# Parts of the contrast of two colours, by WCAG 2.2: of every text that is seen, and what is behind it.
_CONTRAST = """
const channels = (text) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const found = getComputedStyle(at).backgroundColor;
    if (channels(found)[3] === 255) return found;
  }
  return "white";
};
let least = [99, ""];
const seen = new Set();
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.closest("svg, script, style, .skip") || !element.offsetParent) continue;
  const style = getComputedStyle(element);
  const key = style.color + behind(element);
  if (seen.has(key)) continue;
  seen.add(key);
  const pair = [luminance(channels(style.color)), luminance(channels(behind(element)))].sort((a, b) => b - a);
  const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (contrast < least[0]) least = [contrast, element.outerHTML.slice(0, 200)];
}
return least;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report on the artifact of a network with layers, and of a tensor whose name would like to be code."""
    from nwc_workflows import cli

    folder = tmp_path_factory.mktemp("report")
    layers = {
        f"layers.{i}.{kind}.weight": normal(128, 160, seed=i) for i in range(6) for kind in ("up", "down", "gate")
    }
    others = {f"other.{i}.bias": normal(8, 8, seed=i) for i in range(40)}
    tensors = {**layers, **others, "</td><script>document.title='taken'</script>": normal(64, 64, seed=9)}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    for command in (
        ["compress", folder / "model.safetensors", folder / "model.nwc", "--bits", "9"],
        ["report", folder / "model.nwc", "--out", folder / "report.html"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in command])
        assert not ended.value.code
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        if os.environ.get("CI"):
            pytest.fail("chromium and chromedriver: found not both; wanted both (.ci/install-chromium)")
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for switch in (*_SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, page):
    """The page, anew, in a window of 1,100 x 900, light."""

    def show(width=1100, scheme="light"):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(page.as_uri())
        return browser

    return show


def column(browser, number):
    rows = "document.querySelectorAll('.sortable')[0].tBodies[0].rows"
    return browser.execute_script(f"return [...{rows}].filter(r => !r.hidden).map(r => r.cells[{number}].textContent)")


def test_it_loads_nothing_and_complains_of_nothing(shown, page):
    import json

    browser = shown()
    for log in ("browser", "performance"):  # what there was before
        browser.get_log(log)
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {Path(url).name for url in asked} <= {"report.html"}
    assert browser.title == "model.nwc"  # and not what the name of a tensor says


def test_tables_are_sorted_by_click_and_by_key_and_searched(shown):
    from selenium.webdriver.common.keys import Keys

    browser = shown()
    head = browser.find_elements("css selector", ".sortable thead button")[4]  # bytes, the largest first
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", head)
    head.click()
    assert head.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    sizes = browser.execute_script(
        "return [...document.querySelector('.sortable').tBodies[0].rows].map(r => Number(r.cells[4].dataset.sort))"
    )
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 3
    names = browser.find_elements("css selector", ".sortable thead button")[0]
    browser.execute_script("arguments[0].focus()", names)
    names.send_keys(Keys.ENTER)
    found = column(browser, 0)
    assert found.index("layers.2.up.weight") < found.index("layers.5.up.weight") < found.index("other.2.bias")
    assert found.index("other.2.bias") < found.index("other.10.bias")  # as people count
    browser.find_element("css selector", "input[type=search]").send_keys("up layers")
    assert len(column(browser, 0)) == 6
    assert browser.find_element("css selector", ".search output").text == f"6 of {len(found)}"


def test_a_heat_map_is_walked_through_by_arrow_keys(shown):
    from selenium.webdriver.common.keys import Keys

    browser = shown()
    cells = browser.find_elements("css selector", ".heat td[title]")
    assert [cell.get_attribute("tabindex") for cell in cells[:3]] == ["0", "-1", "-1"]  # one stop for the whole map
    browser.execute_script("arguments[0].focus()", cells[0])
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    focused = browser.switch_to.active_element.get_attribute("title")
    assert focused.startswith("layers.1.")
    assert browser.find_element("css selector", ".readout").text == focused


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_text_can_be_read(shown, scheme):
    browser = shown(scheme=scheme)
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert dark == (scheme == "dark")
    contrast, where = browser.execute_script(_CONTRAST)
    assert contrast >= 4.5, where
    # Drawings take the colours of the page.
    ink = browser.execute_script("return getComputedStyle(document.querySelector('figure text')).fill")
    assert (max(map(int, ink.strip("rgb()").split(","))) > 128) == dark


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_wider_than_the_window(shown, width):
    browser = shown(width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_without_its_script_it_says_the_same(shown, page, tmp_path):
    import re

    browser = shown()
    words = browser.find_element("css selector", "main").text
    plain = tmp_path / "plain.html"
    plain.write_text(re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.S))
    browser.get(plain.as_uri())
    without = browser.find_element("css selector", "main").text
    assert "layers.5.up.weight" in without
    assert set(without.split()) >= set(words.replace("Search", "").split()) - {"↕"}
