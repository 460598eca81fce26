"""The book as readers get it: built once, walked through link by link, and opened in a headless Chromium."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pytest
import soundfile
import torch
from bs4 import BeautifulSoup
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from synthetic_records import synthetic_record

from docs import laboratory
from fmuc import paths
from fmuc.experiments import FM, FMUC
from fmuc.figures import manifest
from fmuc.paths import ROOT
from fmuc.standins.render import ensure
from fmuc.teaching import replay

PHONE, DESKTOP, HEIGHT = 390, 1280, 720  # widths of screens and the height of both, in pixels
READABLE = 640  # pixels of width below which nobody reads a figure of double width


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book as ``make book`` builds it, in a folder of its own; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "2", "-c", "docs",
                           "-d", folder / "doctrees", ".", folder / "book"],
                          cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
                          env={**os.environ, "FMUC_DATA": str(folder / "no data")})
    assert done.returncode == 0, done.stderr
    return folder / "book"


@pytest.fixture(scope="module")
def pages(book: Path) -> dict[str, BeautifulSoup]:
    """Every page, parsed, by its path."""
    return {file.relative_to(book).as_posix(): BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
            for file in sorted(book.rglob("*.html"))}


# --- files ---


def test_every_module_has_its_page_with_all_that_is_documented(pages):
    missing = []
    for file in (ROOT / "fmuc").rglob("[a-z]*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        found = anchors(pages[f"docs/api/{module}.html"])
        missing += [f"{module}.{node.name}" for node in ast.parse(file.read_text(encoding="utf-8")).body
                    if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                    and ast.get_docstring(node) and f"{module}.{node.name}" not in found]
    assert not missing


def test_every_link_and_anchor_resolves_and_every_page_is_reached(book, pages):
    known, dead, targets = {page: anchors(soup) for page, soup in pages.items()}, [], {"index.html"}
    for page in pages:
        for target, anchor in links(pages, page):
            targets.add(target)
            if not (book / target).is_file() or (anchor and anchor not in known.get(target, ())):
                dead.append(f"{page}: {target}#{anchor}")
    assert not dead
    assert pages.keys() - targets <= {"_modules/index.html"}  # whose pages are linked one by one


def test_formulas_and_tables_are_understood(book, pages):
    formulas = [(page, formula) for page, soup in pages.items() for formula in soup.find_all("math")]
    assert any(page == "notebooks/04_uncertainty.html" for page, _ in formulas)
    assert [f"{page}: {formula}" for page, formula in formulas if "\\" in formula.get_text()] == []
    assert [page for page in pages if "<p>|" in (book / page).read_text(encoding="utf-8")] == []


def test_every_image_has_an_alt_text_and_saved_figures_their_own(pages):
    bare = [f"{page}: {image['src']}" for page, soup in pages.items() for image in soup.find_all("img")
            if not image.get("alt", "").strip() or re.search(r"\.(png|svg)$", image["alt"])]
    assert not bare
    rows = manifest(paths.FIGURES / "mini")
    assert rows
    shown = {image["alt"] for image in pages["docs/gallery.html"].find_all("img")}
    for row in rows:
        if row["kind"] == "figure":
            assert row["alt"] in shown and row["name"] in pages["docs/gallery.html"].get_text()
            assert all(digest in pages["docs/gallery.html"].get_text() for digest in row["runs"].values())


def test_the_laboratory_stands_in_for_sliders(pages):
    shown = {page: soup for page, soup in pages.items() if page.startswith("notebooks/")}
    assert not [page for page, soup in shown.items() if "Run this cell" in soup.get_text()]
    for page in ("notebooks/04_uncertainty.html", "notebooks/10_replay_laboratory.html"):
        assert shown[page].select(".cell_output a[href='../docs/laboratory.html']")


def links(pages: dict[str, BeautifulSoup], page: str) -> set[tuple[str, str]]:
    """Path and anchor of each link of a page into the book."""
    found = set()
    for element in pages[page].find_all(["a", "form"]):
        target = element.get("href") or element.get("action")
        if target and not urlsplit(target).scheme:
            split = urlsplit(urljoin(page, target))
            found.add((unquote(split.path) or page, unquote(split.fragment)))
    return found


def anchors(soup: BeautifulSoup) -> set[str]:
    return {element["id"] for element in soup.find_all(id=True)}


# --- in the browser ---


@pytest.fixture(scope="module")
def site(book: Path) -> Iterator[str]:
    """Address of the book on a server of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=book)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """A headless Chromium that reaches nothing but this machine."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with chromedriver here (Debian and Ubuntu: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server",
                     "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        running = webdriver.Chrome(options, webdriver.ChromeService(driver))
        yield running
        running.quit()


def resize(browser: webdriver.Chrome, width: int) -> None:
    """Give the browser a screen of that width; one of a mobile device would only zoom out of a wide page."""
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_page_on_this_screen(browser, site, pages, width):
    """No console error, nothing from elsewhere, no broken image or player, nothing cut off, no page that scrolls
    sideways."""
    resize(browser, width)
    faults = {}
    for page in pages.keys() - {"index.html"}:  # which goes on to the start page
        browser.get(site + page)
        wide, loaded, broken, hidden, cut, small = browser.execute_script(
            "const all = selector => [...document.querySelectorAll(selector)];"
            "return [document.documentElement.scrollWidth,"
            " performance.getEntriesByType('resource').map(r => r.name),"
            " [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),"
            " all('audio').filter(a => !a.offsetHeight).length,"
            " all('pre').filter(p => p.scrollWidth > p.clientWidth && getComputedStyle(p).overflowX != 'auto').length,"
            f" all('img.wide').filter(i => i.offsetParent && i.offsetWidth < {READABLE}).length]")
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        found = [*errors, *broken, *(name for name in loaded if not name.startswith((site, "data:")))]
        if found or wide > width or hidden or cut or small:
            faults[page] = [*found, f"{wide} px wide, {hidden} hidden players, {cut} cut blocks of code, "
                            f"{small} small figures"]
    assert not faults


def test_the_story_is_a_set_of_slides_that_fit_the_screen(browser, site):
    resize(browser, DESKTOP)
    browser.get(f"{site}notebooks/story.html?slides")
    number, body = (browser.find_element(By.CSS_SELECTOR, found) for found in (".slide-number", "body"))
    read_heights = "return [...document.querySelectorAll('article section section')].map(slide => slide.offsetHeight)"
    WebDriverWait(browser, 20).until(lambda _: number.text and set(browser.execute_script(read_heights)) == {HEIGHT},
                                     "a slide is not as high as the screen")  # once its pictures are laid out
    slides = len(browser.execute_script(read_heights))
    assert number.text == f"1 / {slides}"
    body.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert number.text == f"2 / {slides}"
    body.send_keys(Keys.ESCAPE)
    assert not number.is_displayed()


def test_the_laboratory_keeps_what_replay_keeps(browser, site):
    resize(browser, PHONE)
    browser.get(f"{site}docs/laboratory.html")
    shipped = laboratory.shipped()
    assert shipped
    for dataset, nets in shipped.items():
        for net, rule in (("FM", FM), ("FM", FMUC), ("FMUC", replace(FMUC, passes=10, temperature=0.5)),
                          ("FMUC", replace(FM, threshold=0.999, passes=3, temperature=1.5))):
            browser.execute_script(
                "const [dataset, net, rule] = arguments, control = document.forms.laboratory.elements;"
                "control.set.value = dataset; control.set.dispatchEvent(new Event('change')); control.net.value = net;"
                "rules.test = rule; follow('test')", dataset, net,
                {"threshold": rule.threshold, "temperature": rule.temperature, "passes": rule.passes,
                 "spread": rule.rule == "mean_minus_std"})
            summary = browser.find_element(By.ID, "summary").text
            kept, wrong = map(int, re.match(r"Keeps (\d+) of .*?: (\d+) wrong", summary).groups())
            scores = replay.at_epoch(nets[net])
            expected = replay.summary(scores, rule)
            assert [kept, wrong] == [expected[["kept, right", "kept, wrong"]].sum(), expected["kept, wrong"]]
            assert len(browser.find_elements(By.CSS_SELECTOR, "#mistakes li")) == min(24, wrong)
    assert f"python -m fmuc data {dataset}" in browser.find_element(By.ID, "about_sounds").text


def test_the_laboratory_has_a_sound_for_each_mistake(tmp_path):
    data = ensure("nsynth-gm-smoke", progress=False)
    record = synthetic_record("FM", [0.9], [0.9], dataset=data.name)
    record = replace(record, provenance={"dataset_digest": data.digest})
    passes = torch.eye(3)[torch.tensor([[0, 1, 1], [0, 1, 2]])]  # (N, P, C): the last patch is mistaken once
    ids = np.array([data.clips[place].id.encode() for place in range(3)])
    scores = replay.Scores(1, passes[0], passes, np.array([0, 1, 1]), *[None] * 3, ids, np.zeros(3, dtype=int))
    assert laboratory.sounds(record, [scores], tmp_path / "notes") == {2: "../sounds/notes/2.mp3"}
    samples, rate = soundfile.read(tmp_path / "notes" / "2.mp3")
    assert len(samples) / rate > 0.9 and np.abs(samples).max() > 0.01
    other = replace(record, provenance={"dataset_digest": "of other sounds"})
    assert laboratory.sounds(other, [scores], tmp_path / "others") == {}


def test_from_the_disk_the_first_page_leads_to_the_start_and_search_finds_temperature(browser, book):
    base = f"{book.as_uri()}/"
    browser.get(f"{base}index.html")
    WebDriverWait(browser, 20).until(lambda b: b.current_url == f"{base}docs/index.html" and b.title)
    browser.get(f"{base}search.html?q=temperature")
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#search-results li a"))
