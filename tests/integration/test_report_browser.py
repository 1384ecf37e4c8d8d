"""Reports in a real browser: nothing is loaded, nothing complains, sorting and searching work by hand and by keyboard."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from browser import missing_programs, open_browser
from synthetic import normal, safetensors

from nwc_core.artifact.index import BlockRow, write_index
from nwc_core.artifact.manifest import Counts, Manifest, WeightFile
from nwc_core.artifact.objects import ObjectRef
from nwc_core.artifact.writer import commit, put_object
from nwc_core.codec import Codec
from nwc_core.store import open_store

COMMAND = [sys.executable, "-m", "nwc_workflows.cli"]
KINDS = ("attn.q", "attn.k", 'mlp.<script>window.harm = 1</script>"')
WIDTHS = (320, 360, 768, 1200)


@pytest.fixture(scope="module")
def browser():
    """The browser. Without its programs the tests are skipped, except where CI is to have installed them."""
    missing = missing_programs()
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}; .ci/install-chromium installs them")
    assert not missing, f"CI without {', '.join(missing)}: .ci/install-chromium did not do its work"
    with open_browser() as browser:
        yield browser


def nwc(*arguments, codes=(0,)):
    """In a process of its own: Ray of this one may belong to other tests."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stderr


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of an artifact, of a catalog with a model that failed, and of a benchmark, by kind."""
    folder = tmp_path_factory.mktemp("reports")
    tensors = {
        f"model.layers.{layer}.{kind}.weight": normal(64, 96 + 32 * layer, seed=10 * layer + n)
        for layer in range(4)
        for n, kind in enumerate(KINDS)
    }
    tensors |= {f"model.layers.{layer}.norm": normal(64, seed=100 + layer) for layer in range(4)}
    for name, data in (("good", safetensors(tensors)), ("bad", safetensors(tensors)[:-1])):
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "model.safetensors").write_bytes(data)
    (folder / "c.yaml").write_text(
        f"destination: {folder}/out/{{name}}\nmodels: [{{prefix: {folder}/models}}]\ndefaults: {{bits: 7, preset: fast}}\n"
    )
    nwc("catalog", "run", folder / "c.yaml", codes=(3,))
    bench = ("--source", "gaussian", "--size", "64x64", "--preset", "fast", "--bits", 3, "--bits", 4)
    nwc(
        "bench",
        "codec",
        folder / "models/good",
        *bench,
        "--codec",
        "default",
        "--codec",
        "ideal-scalar",
        "--out",
        folder / "bench",
    )
    found = {kind: folder / f"{kind}.html" for kind in ("artifact", "catalog", "benchmark")}
    nwc("report", folder / "out/good", "--out", found["artifact"], "--original", folder / "models/good")
    nwc("report", folder / "out", "--out", found["catalog"])
    nwc("report", folder / "bench", "--out", found["benchmark"])
    return found


@pytest.fixture(params=("artifact", "catalog", "benchmark"))
def page(request, pages):
    return pages[request.param]


def rows(browser, table="tensors", shown=False):
    """Names of a table's rows, or of those that are shown."""
    script = "return [...document.getElementById(arguments[0]).tBodies[0].rows].filter((row) => !arguments[1] || !row.hidden)"
    return browser.run(f"{script}.map((row) => row.cells[0].textContent)", table, shown)


def column(browser, at, table="tensors"):
    script = "return [...document.getElementById(arguments[0]).tBodies[0].rows].map((row) => row.cells[arguments[1]].dataset.v)"
    return [None if value is None else float(value) for value in browser.run(script, table, at)]


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_loaded_and_nothing_complains(browser, page, dark):
    browser.open(page, dark=dark)
    assert browser.requests() == [page.as_uri()]
    assert browser.said() == []
    assert browser.run("return window.harm") is None
    loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded == []


def test_the_policy_is_in_force(browser, pages):
    """Or the test above would say nothing."""
    browser.open(pages["artifact"])
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.harm = 1'; document.body.append(s)"
    )
    browser.run("const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i)")
    said = browser.later("setTimeout(() => done(window.harm === undefined), 200)")
    assert said
    assert len([line for line in browser.said() if "Content Security Policy" in line]) == 2


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(browser, page, width):
    browser.open(page, width=width)
    scrolled, shown, window = browser.run(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth, innerWidth]"
    )
    assert window == width
    assert scrolled == shown <= width  # less where there is a scroll bar
    wide = browser.run(
        "return [...document.querySelectorAll('main *, header *')].filter((e) => !e.closest('.box, svg, .sr') && "
        "e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map((e) => e.outerHTML.slice(0, 200))"
    )
    assert wide == []


def test_text_of_plots_can_be_read_on_a_telephone(browser, pages):
    for kind in ("artifact", "benchmark"):
        browser.open(pages[kind], width=360)
        sizes = browser.run(
            "return [...document.querySelectorAll('svg.plot text')].map((t) => parseFloat(getComputedStyle(t).fontSize) * "
            "t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width)"
        )
        assert sizes
        assert min(sizes) >= 9


def test_sorting_by_click(browser, pages):
    browser.open(pages["artifact"])
    stored = rows(browser)
    weights = column(browser, 4)
    assert len(set(weights)) > 2
    click = "document.querySelectorAll('#tensors thead th')[arguments[0]].querySelector('button').click()"
    states = "return [...document.querySelectorAll('#tensors thead th')].map((th) => th.getAttribute('aria-sort'))"
    browser.run(click, 4)
    assert column(browser, 4) == sorted(weights, reverse=True)
    assert browser.run(states) == [*["none"] * 4, "descending", *["none"] * 4]
    browser.run(click, 4)
    assert column(browser, 4) == sorted(weights)
    browser.run(click, 0)
    assert rows(browser) == sorted(stored)
    assert browser.run(states) == ["ascending", *["none"] * 8]
    for _ in range(2):
        browser.run(click, 0)
    assert rows(browser) == stored
    assert browser.run(states) == ["none"] * 9


def test_sorting_by_keyboard(browser, pages):
    from selenium.webdriver import ActionChains, Keys

    browser.open(pages["artifact"])
    weights = column(browser, 4)
    browser.run("document.querySelector('#find-tensors').focus()")
    focused = "return document.activeElement.closest('th')?.textContent ?? document.activeElement.className"
    keys = ActionChains(browser.driver)
    for _ in range(6):  # the box that scrolls, and the buttons before
        keys.send_keys(Keys.TAB)
    keys.perform()
    assert browser.run(focused) == "Weights"
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert column(browser, 4) == sorted(weights, reverse=True)
    ActionChains(browser.driver).send_keys(Keys.SPACE).perform()
    assert column(browser, 4) == sorted(weights)
    assert browser.run(focused) == "Weights"


def test_what_has_no_number_comes_last_either_way(browser, pages):
    browser.open(pages["catalog"])
    click = "document.querySelectorAll('#models thead th')[arguments[0]].querySelector('button').click()"
    for _ in range(2):
        browser.run(click, 3)
        assert column(browser, 3, "models")[-1] is None
        assert rows(browser, "models") == ["good", "bad"]


def test_searching(browser, pages):
    from selenium.webdriver.common.by import By

    browser.open(pages["artifact"])
    everything = rows(browser)
    field = browser.driver.find_element(By.ID, "find-tensors")
    count = "requestAnimationFrame(() => done(document.querySelector('.find output').value))"
    assert browser.later(count) == f"{len(everything)} of {len(everything)}"
    field.send_keys("LAYERS.2 attn")
    assert browser.later(count) == f"2 of {len(everything)}"
    assert rows(browser, shown=True) == [f"model.layers.2.{kind}.weight" for kind in ("attn.q", "attn.k")]
    browser.run("document.querySelectorAll('#tensors thead th')[0].querySelector('button').click()")
    assert rows(browser, shown=True) == [f"model.layers.2.{kind}.weight" for kind in ("attn.k", "attn.q")]
    field.clear()
    field.send_keys("<script>")
    assert browser.later(count) == f"4 of {len(everything)}"
    field.clear()
    field.send_keys("nothing of this")
    assert browser.later(count) == f"0 of {len(everything)}"
    field.clear()
    assert browser.later(count) == f"{len(everything)} of {len(everything)}"


def test_the_map_by_keyboard(browser, pages):
    from selenium.webdriver import ActionChains, Keys

    browser.open(pages["artifact"])
    assert browser.run("return document.querySelectorAll('#map-1-bits td[tabindex=\"0\"]').length") == 1
    browser.run("document.querySelector('#map-1-bits td[tabindex=\"0\"]').focus()")
    ActionChains(browser.driver).send_keys(
        Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT
    ).perform()
    title = browser.run("return document.activeElement.title")
    assert title.startswith(f"model.layers.1.{KINDS[2]}.weight: ")
    assert " bits per weight, 8,192 weights, " in title
    assert browser.run("return document.activeElement.closest('figure').querySelector('.readout').textContent") == title
    assert browser.run("return document.querySelectorAll('#map-1-bits td[tabindex=\"0\"]').length") == 1
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    text = browser.run("return document.activeElement.textContent")
    assert title in text  # for screen readers


def test_pointing_at_a_mark_says_which_it_is(browser, pages):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    browser.open(pages["artifact"])
    marks = browser.driver.find_elements(
        By.CSS_SELECTOR, "#rate ~ figure svg.plot use:has(title), section svg.plot use:has(title)"
    )
    assert len(marks) == 12
    ActionChains(browser.driver).scroll_to_element(marks[-1]).move_to_element(marks[-1]).perform()
    said = browser.run("return document.querySelector('figure:has(svg.plot) .readout').textContent")
    assert said in browser.run(
        "return [...document.querySelectorAll('svg.plot use > title')].map((t) => t.textContent)"
    )


_COLOURS = """
function luminance(colour) {
  const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function parts(text) { return text.match(/[\\d.]+/g).map(Number); }
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const found = parts(getComputedStyle(e).backgroundColor);
    if (found.length < 4 || found[3] === 1) return found.slice(0, 3);
  }
}
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.closest("script, style, title, [hidden], .sr") || !element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const colour = parts(element.namespaceURI.endsWith("svg") ? style.fill : style.color).slice(0, 3);
  const [a, b] = [luminance(colour), luminance(behind(element))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 120)]);
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_of_all_text(browser, page, dark):
    browser.open(page, dark=dark)
    found = browser.run(_COLOURS)
    assert len(found) > 50
    assert [entry for entry in found if entry[0] < 4.5] == []  # AA of WCAG 2


def test_dark_is_dark_in_plots_too(browser, pages):
    script = """
        const of = (where, key) => getComputedStyle(document.querySelector(where))[key];
        return [of("body", "backgroundColor"), of("body", "color"), of("svg.plot text", "fill"),
                of("svg.plot use:has(title)", "fill"), of("td[class^=q]", "backgroundColor")];
    """
    browser.open(pages["artifact"])
    light = browser.run(script)
    browser.open(pages["artifact"], dark=True)
    dark = browser.run(script)
    assert light[0] == "rgb(255, 255, 255)"
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert sum(map(int, dark[0][4:-1].split(","))) < 120
    assert sum(map(int, dark[1][4:-1].split(","))) > 600


def test_on_paper_everything_is_shown(browser, pages):
    browser.open(pages["artifact"], print_=True)
    hidden = browser.run(
        "return ['nav', '.find', '.readout'].map((s) => getComputedStyle(document.querySelector(s)).display)"
    )
    assert hidden == ["none"] * 3
    cut = browser.run("return [...document.querySelectorAll('.box')].map((box) => getComputedStyle(box).overflowX)")
    assert set(cut) == {"visible"}


def test_paper_is_white_for_those_who_prefer_the_dark(browser, page):
    browser.open(page, dark=True, print_=True)
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [entry for entry in browser.run(_COLOURS) if entry[0] < 4.5] == []


def test_without_javascript_it_is_a_plain_page(browser, pages):
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(pages["artifact"])
        shown = browser.run(
            "return [document.querySelectorAll('button').length, document.querySelector('.find').hidden, "
            "document.querySelector('.readout').hidden, document.querySelectorAll('#tensors tbody tr').length]"
        )
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert shown == [0, True, True, 16]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A report of an artifact of 5,000 tensors, of which there is an index and no payload: none is read."""
    folder = tmp_path_factory.mktemp("many")
    store, size = open_store(folder / "many.nwc"), 1 << 20
    payload = ObjectRef(object=f"payload-{'ab' * 16}.safetensors", size=5000 * size, sha256="ab" * 32)
    rows = [
        BlockRow(
            *(f"model.layers.{n // 50}.mlp.experts.{n % 50}.w{n % 3}.weight", "BF16", (1024, 2048), "m.safetensors"),
            *(0, 1 << 21, "nwc", payload.object, n * size, size - n, bytes(32), bytes(32), 100, 1e-6 * (1 + n % 7)),
        )
        for n in range(5000)
    ]
    manifest = Manifest(
        codec=put_object(store, "codec", Codec.load("default").to_bytes()),
        index=put_object(store, "index", write_index(rows)),
        payloads=[payload],
        files=[],
        derived=[],
        weight_files=[WeightFile(path="m.safetensors", size=5000 << 22, metadata={})],
        skipped=[],
        counts=Counts(tensors=5000, weights=5000 << 21, blocks=5000, payload_bytes=payload.size),
        job={"bits": 4.0},
        fingerprint="ab" * 32,
    )
    commit(store, manifest)
    nwc("report", folder / "many.nwc", "--out", folder / "many.html")
    return folder / "many.html"


def test_five_thousand_tensors_are_quick(browser, many, report):
    browser.open(many)
    loaded = browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    sort = (
        "const button = document.querySelectorAll('#tensors thead button')[arguments[0]]; const start = performance.now(); "
        "button.click(); document.body.offsetHeight; return performance.now() - start"
    )
    times = [browser.run(sort, at) for at in (0, 6, 8)]
    assert browser.later("setTimeout(() => done(document.querySelectorAll('#tensors tbody tr').length), 3000)") == 5000
    nbytes = column(browser, 6)
    browser.run(sort, 6)
    browser.later("setTimeout(done, 3000)")
    assert column(browser, 6) == sorted(nbytes, reverse=True)
    search = (
        "const input = document.querySelector('#find-tensors'); const start = performance.now(); input.value = 'layers.77.'; "
        "input.dispatchEvent(new Event('input')); requestAnimationFrame(() => requestAnimationFrame(() => done("
        "[performance.now() - start, document.querySelector('.find output').value])))"
    )
    searched, said = browser.later(search)
    assert said == "50 of 5,000"
    report(
        "report of 5,000 tensors",
        ("load, ms", "sort, ms", "search, ms"),
        (round(loaded), round(max(times)), round(searched)),
    )
    assert loaded < 10_000
    assert max(times) < 2_000
    assert searched < 3_000
