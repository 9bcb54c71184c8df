"""The site and the page to send, in a browser: nothing is missing, comes from elsewhere or runs out of the screen."""

import json
import re
import shutil
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from selenium import webdriver

from derta.commands import report
from derta.commands.notebooks import sources
from derta.files import read_csv
from derta.runs import CHECKOUT

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# What no page may show as markup, whoever wrote it.
HOSTILE = "<script>document.title='taken'</script> \x1b[31m=1+1 | verdict: safe | <img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of the published study."""
    folder = tmp_path_factory.mktemp("report") / "site"
    assert report.build("study", folder) == []
    return folder


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium, and its width."""
    if not BROWSER or not DRIVER:
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        yield driver


def pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if path.name not in ("genindex.html", "search.html")]


def test_the_site_has_a_page_for_each_notebook_and_document(site):
    names = {path.relative_to(site).as_posix() for path in pages(site)}
    assert {f"notebooks/{path.stem}.html" for path in sources()} <= names
    assert {"index.html", "summary.html", "README.html", "docs/results.html", "docs/usage.html"} <= names
    assert "The notebooks show the outputs of small." in (site / "index.html").read_text(encoding="utf-8")
    verdicts = [claim["verdict"] for claim in read_csv(CHECKOUT / "figures" / "study" / "claims.csv", ("verdict",))]
    shown = (site / "index.html").read_text(encoding="utf-8")
    for verdict in set(verdicts):
        assert shown.count(f"<td><p>{verdict}</p></td>") == verdicts.count(verdict)


def test_no_page_loads_anything_from_elsewhere(site):
    for path in pages(site):
        loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]*)"', path.read_text(encoding="utf-8"))
        assert not [address for address in loaded if urlparse(address).scheme in ("http", "https")], path.name


def test_every_link_within_the_site_leads_somewhere(site):
    for path in pages(site):
        for link in re.findall(r'<a [^>]*href="([^"]+)', path.read_text(encoding="utf-8")):
            of = urlparse(unescape(link))
            if of.scheme:
                continue
            target = path.parent / unquote(of.path) if of.path else path
            assert target.exists(), f"{path.name}: {link}"
            if of.fragment and target.suffix == ".html":
                assert f'id="{unquote(of.fragment)}"' in target.read_text(encoding="utf-8"), f"{path.name}: {link}"


def test_the_page_to_send_stands_alone(site):
    text = (site / "summary.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 3
    assert text.count("<details>") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "What this is not" in text


@pytest.mark.parametrize("width", [375, 1440])
def test_pages_load_without_errors_and_fit_the_screen(site, browser, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for path in pages(site):
        browser.get(path.as_uri())
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"], path.name
        missing = "return [...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
        assert browser.execute_script(missing) == 0, path.name
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path.name


def test_formulas_are_set_in_both_colour_schemes(site, browser):
    browser.get((site / "notebooks" / "02_dataset.html").as_uri())
    set_ = "document.querySelectorAll('mjx-container').length"
    assert browser.execute_async_script(f"MathJax.startup.promise.then(() => arguments[0]({set_}))") > 4
    shades = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        shades[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(set(shades.values())) == 2


def test_a_hostile_text_is_shown_as_text(tmp_path, monkeypatch, browser):
    figures = tmp_path / "figures"
    shutil.copytree(CHECKOUT / "figures" / "study", figures)
    claims = (figures / "claims.csv").read_text(encoding="utf-8").splitlines()
    told = f'x,"{HOSTILE}","{HOSTILE}",reproduced,"{HOSTILE}"'
    (figures / "claims.csv").write_text("\n".join([claims[0], told]) + "\n", encoding="utf-8")
    facts = json.loads((figures / "attacks.json").read_text(encoding="utf-8")) | {"caption": HOSTILE}
    (figures / "attacks.json").write_text(json.dumps(facts), encoding="utf-8")
    notebook = nbformat.read(sources()[0], 4)
    output = nbformat.v4.new_output("stream", text=HOSTILE)
    notebook.cells.append(nbformat.v4.new_code_cell("print(text)", outputs=[output]))
    runs = tmp_path / "run" / "notebooks"
    runs.mkdir(parents=True)
    nbformat.write(notebook, runs / sources()[0].name)
    monkeypatch.setattr(report, "figure_dir", lambda profile: figures)
    monkeypatch.setattr(report, "run_dir", lambda profile: tmp_path / "run")
    report.build("study", tmp_path / "site")
    for name in ("index.html", "summary.html", f"notebooks/{sources()[0].stem}.html"):
        browser.get((tmp_path / "site" / name).as_uri())
        assert "taken" not in browser.title
        assert "onerror=alert(1)" in browser.execute_script("return document.body.innerText"), name
        assert browser.execute_script("return document.querySelectorAll('img[onerror]').length") == 0, name


def test_what_cannot_be_built_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "figure_dir", lambda profile: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no results of the profile small; run it first: ./run_all.sh small"):
        report.build("small", tmp_path / "site")
    monkeypatch.undo()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; name an empty folder"):
        report.build("study", tmp_path / "site")
    assert (tmp_path / "site" / "thesis.tex").read_text() == "mine"
