"""report.html in a real browser: Debian's chromium, headless, driven by selenium. Skipped where there is none."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from report_cases import N, write_direction, write_run

from derta.report.directions import load_directions, with_scores
from derta.report.report import write_page
from derta.report.runs import load_runs
from derta.statistics.rates import rate

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER),
    reason="no chromium with chromedriver on this machine (Debian: apt-get install chromium chromium-driver)",
)
HOSTILE = "</script><img src='http://nowhere.invalid/x' onerror='window.harmed=1'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    if os.geteuid() == 0:  # chromium's sandbox does not start for root
        flags.append("--no-sandbox")
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    from selenium.common.exceptions import WebDriverException

    try:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    except WebDriverException as error:  # a sandbox that is not allowed, no shared memory: not the page's fault
        pytest.skip(f"chromium does not start on this machine: {(error.msg or '').splitlines()[0]}")
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser: Any) -> Callable[..., None]:
    """open_page(file, width, scheme): the page in a window of that width."""

    def go(file: Path, width: int = 1200, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_feature]})
        for log in ("browser", "performance"):
            browser.get_log(log)  # what earlier pages left
        browser.get(file.as_uri())

    return go


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("runs")
    runs = {"base": ((20, 20), 0, 0), "vanilla": ((4, 19), 1, 3), "derta": ((1, 2), 3, 4)}
    for label, (successes, over_refusals, malformed) in runs.items():
        write_run(place / label, label, successes, over_refusals, malformed=malformed)
    return [place / label for label in runs]


@pytest.fixture(scope="module")
def page(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(load_runs([str(folder) for folder in folders]), str(tmp_path_factory.mktemp("page")))


def requests(browser: Any) -> list[str]:
    """Addresses that were asked for since the last call, without those that the page's own policy stopped."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    events = {
        kind: [message["params"] for message in messages if message["method"] == f"Network.{kind}"]
        for kind in ("requestWillBeSent", "loadingFailed")
    }
    stopped = {event["requestId"] for event in events["loadingFailed"] if event.get("blockedReason") == "csp"}
    sent = [event for event in events["requestWillBeSent"] if event["requestId"] not in stopped]
    return [event["request"]["url"] for event in sent]


def table(browser: Any) -> dict[str, list[str]]:
    """Name of each row -> the texts of its cells, n last."""
    return browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#rates tr[data-name]')].map(row =>"
        " [row.dataset.name, [...row.querySelectorAll('td')].map(cell => cell.textContent.trim())]))"
    )


def press(browser: Any, kind: str, value: str) -> None:
    browser.find_element("css selector", f'#filters input[name="{kind}"][value="{value}"]').click()


def texts(browser: Any, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(node => node.textContent.trim())", selector
    )


def appears(browser: Any, selector: str) -> Any:
    """What a details element fills itself with once it is open: browsers tell it so a moment later."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 10).until(lambda _: browser.find_elements("css selector", selector))[0]


def shown(found: dict) -> str:
    return f"{100 * found['rate']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def test_table_shows_what_the_summaries_hold(browser, open_page, page, folders):
    open_page(page)
    found = table(browser)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    for attack in ("direct", "prefill_20"):
        expected = [shown(summary["sets"]["harmful"]["attacks"][attack]["complied"]) for summary in summaries]
        assert found[f"attack success, {attack.replace('_', ' ')}"] == [*expected, str(N)]
    overall = [summary["sets"]["harmful"]["overall"] for summary in summaries]
    assert found["attack success, mean of 2"] == [*(shown(each["complied"]) for each in overall), str(2 * N)]
    assert found["refusals well-formed"][1:3] == [shown(each["well_formed"]) for each in overall[1:]]
    benign = [summary["sets"]["benign"]["overall"] for summary in summaries]
    assert found["over-refusal, benign"][:3] == [shown(each["refused"]) for each in benign]
    assert found["helpfulness, benign"][:3] == [shown(each["complied"]) for each in benign]
    area = summaries[0]["separation"]["all"]
    assert found["AUROC of P(refusal)"][0] == shown(area | {"rate": area["auroc"]})


def test_page_needs_no_network_and_reports_no_error(browser, open_page, page):
    for width, scheme in ((1200, "light"), (390, "dark")):
        open_page(page, width, scheme)
        assert browser.get_log("browser") == []
        assert requests(browser) == [page.as_uri()]
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert texts(browser, "#position h3")[1] == "vanilla (17 refusals)"


def test_filters_change_what_is_shown(browser, open_page, page):
    open_page(page)
    assert texts(browser, "#rates thead th") == ["%", "base", "vanilla", "derta", "n"]
    press(browser, "checkpoints", "base")
    assert texts(browser, "#rates thead th") == ["%", "vanilla", "derta", "n"]
    assert texts(browser, "#trade-off .mark text") == ["vanilla", "derta"]
    assert texts(browser, "#attacks h3") == ["direct", "prefill 20"]
    assert texts(browser, "#position .panels h3") == ["vanilla (17 refusals)", "derta (37 refusals)"]
    press(browser, "attacks", "direct")
    assert "attack success, direct" not in table(browser)
    assert texts(browser, "#attacks h3") == ["prefill 20"]
    assert texts(browser, "#attacks .share") == ["95.0", "10.0"]
    assert texts(browser, "#position .panels h3") == ["vanilla (1 refusals)", "derta (18 refusals)"]
    for outcome in ("complied", "garbled", "refused"):
        press(browser, "outcomes", outcome)
    assert texts(browser, "#attacks .share") == ["5.0", "20.0"]  # malformed refusals: 1 and 4 of 20
    mark = browser.execute_script(
        "return document.querySelector('#attacks .panel:last-child .mark:last-of-type').dataset.text"
    )
    assert shown(asdict(rate(4, N))).replace(" [", "% [") in mark
    assert texts(browser, "#position .panels h3") == ["vanilla (1 refusals)", "derta (4 refusals)"]
    press(browser, "attacks", "prefill_20")
    assert texts(browser, "#attacks .empty") == ["nothing is chosen in the filters"]
    assert browser.get_log("browser") == []


def test_prompt_set_and_curve_can_be_chosen(browser, open_page, page):
    open_page(page)
    browser.find_element("css selector", "#attacks select option[value=benign]").click()
    assert texts(browser, "#attacks .share") == ["100.0", "95.0", "85.0"]
    browser.find_element("css selector", "#position select option[value=responses]").click()
    (last,) = [row for row in texts(browser, "#position .numbers tr") if row.startswith("20")]
    assert last == "2040.0%82.5%"  # all but the malformed ones behind the prefill: 16 of 40, 33 of 40
    assert browser.get_log("browser") == []


def test_keyboard_reaches_filters_and_marks(browser, open_page, page):
    from selenium.webdriver.common.keys import Keys

    open_page(page)
    box = browser.find_element("css selector", '#filters input[value="base"]')
    box.send_keys(Keys.SPACE)
    assert texts(browser, "#rates thead th") == ["%", "vanilla", "derta", "n"]
    first = browser.find_element("css selector", '#attacks .mark[tabindex="0"]')
    first.send_keys(Keys.ARROW_DOWN)
    assert "derta, direct" in texts(browser, "#tooltip")[0]
    curve = browser.find_element("css selector", "#probability [role=slider]")
    curve.send_keys(Keys.ARROW_RIGHT)
    assert "after 1 tokens" in curve.get_attribute("aria-valuetext")
    assert browser.switch_to.active_element.get_attribute("role") == "slider"


def test_nothing_that_comes_from_results_acts_as_markup(browser, open_page, tmp_path):
    folder = write_run(tmp_path / "run", HOSTILE, text=HOSTILE, command=HOSTILE, malformed=1)
    page = write_page(load_runs([folder]), str(tmp_path / "page"), responses=True)
    open_page(page)
    assert texts(browser, "#rates thead th")[1] == HOSTILE
    assert browser.find_elements("css selector", "#responses pre") == []  # closed, and not even in the page yet
    browser.find_element("css selector", "#responses > div > details > summary").click()
    appears(browser, "#responses .response summary").click()
    assert appears(browser, "#responses pre").text == HOSTILE
    assert browser.execute_script("return [document.images.length, typeof window.harmed]") == [0, "undefined"]
    assert browser.get_log("browser") == [] and requests(browser) == [page.as_uri()]
    # And should markup get in one day, the page's policy does not run it.
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed = 1\">')")
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'harmed = 1'; document.body.append(s)"
    )
    assert browser.execute_script("return typeof window.harmed") == "undefined"
    assert requests(browser) == []


def test_responses_are_not_there_by_default(browser, open_page, page):
    open_page(page)
    assert "The responses are not in this file" in texts(browser, "#responses")[0]
    assert browser.find_elements("css selector", "#responses details") == []


def test_several_runs_of_a_label_and_missing_files_are_shown_as_such(browser, open_page, tmp_path):
    for seed, count in enumerate((2, 4, 9)):
        write_run(tmp_path / f"seed{seed}", "derta", (count, 20), probability=False)
    (tmp_path / "seed2" / "results.jsonl").unlink()
    folders = [str(tmp_path / f"seed{seed}") for seed in range(3)]
    open_page(write_page(load_runs(folders), str(tmp_path / "page")))
    assert table(browser)["attack success, direct"][0] == "25.0 ± 18.0"
    assert texts(browser, "#attacks .share")[0] == "25.0"
    assert "derta (34 refusals)" in texts(browser, "#position h3")  # of the two runs whose results are there
    assert "Without results.jsonl" in texts(browser, "#position")[0]
    assert not browser.find_element("css selector", "#probability").is_displayed()
    assert len(texts(browser, "#provenance .made")) == 3
    assert browser.get_log("browser") == []


def test_what_an_evaluation_lacks_is_left_out(browser, open_page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [write_run(tmp_path / judge, judge, judge=judge) for judge in ("miniature", "refusal_phrases")]
    summary = json.loads((tmp_path / "miniature" / "summary.json").read_text())
    del summary["sets"]["benign"]
    summary["separation"] = None
    (tmp_path / "miniature" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "runs" / "miniature").mkdir(parents=True)
    curve = [{"step": i, "loss": 10 ** (1 - i), "probe/auroc": 0.5, "probe/auroc@0": 0.6} for i in range(3)]
    ends = [line | {"probe/auroc_low": 0.4, "probe/auroc_high": "nan" if line["step"] else 0.7} for line in curve]
    (tmp_path / "runs" / "miniature" / "metrics.jsonl").write_text("\n".join(map(json.dumps, ends)))
    open_page(write_page(load_runs(folders[:1]), str(tmp_path / "harmful only")))
    assert [name for name in table(browser) if name.startswith(("over", "help", "AUROC"))] == []
    assert not browser.find_element("css selector", "#trade-off").is_displayed()
    assert texts(browser, "#training > div > .panels h3") == ["loss (log scale)", "probe/auroc"]
    browser.find_element("css selector", "#training details summary").click()
    assert appears(browser, "#training details h3").text == "probe/auroc@0"
    open_page(write_page(load_runs(folders[1:]), str(tmp_path / "no helpfulness")))
    assert "no helpfulness measured" in texts(browser, "#trade-off .legend")[0]
    assert not browser.find_element("css selector", "#training").is_displayed()
    assert browser.get_log("browser") == []


def test_print_leaves_out_what_paper_cannot_do(browser, open_page, page):
    open_page(page)
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    visible = {
        selector: browser.find_element("css selector", selector).is_displayed()
        for selector in ("#filters", "#attacks .controls", "#rates", "#provenance dl")
    }
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert visible == {"#filters": False, "#attacks .controls": False, "#rates": True, "#provenance dl": True}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_refusal_directions(browser, open_page, folders, tmp_path, scheme):
    made = [write_direction(tmp_path / f"d{i}", "derta", kept=kept) for i, kept in enumerate((3, 1))]
    made += [write_direction(tmp_path / f"v{i}", "vanilla", kept=2, sha256=f"v{i}") for i in range(2)]
    made.append(write_direction(tmp_path / "base", "base", kept=0, chosen=False, sha256="other"))
    found = load_directions(made)
    runs = with_scores(load_runs([str(folders[2])]), found)
    open_page(write_page(runs, str(tmp_path / "page"), directions=found), scheme=scheme)
    assert table(browser)["ablation robustness"][0].startswith("25.0 [")  # of the same weights, the last of the two
    rows = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#direction tbody tr')].map(row =>"
        " [row.children[0].textContent, [...row.children].slice(1).map(cell => cell.textContent)]))"
    )
    assert rows["valid direction found"] == ["0 of 1", "2 of 2", "2 of 2"]
    assert rows["ablation robustness"][0] == "-" and rows["ablation robustness"][2].startswith("50.0 ± 35.4 [")
    assert rows["derta - vanilla"][0].startswith("+0.0 [")
    assert "Time taken by the 5 diagnostics together: 5 s." in texts(browser, "#direction .note")
    assert "derta - base" not in rows  # base has no valid direction to ablate
    assert texts(browser, "#direction .score") == ["Ablation robustness: no score: none found."]
    choice = browser.find_element("css selector", "#direction select")
    choice.find_elements("css selector", "option")[3].click()
    assert "75.0%" in texts(browser, "#direction .score")[0]
    heat = "#diagnostic svg[aria-label^=bypass]"
    assert len(browser.find_elements("css selector", f"{heat} .mark")) == 4
    assert len(browser.find_elements("css selector", f"{heat} .cross")) == 3
    assert len(browser.find_elements("css selector", f"{heat} .chosen")) == 1
    titles = texts(browser, "#diagnostic h3")
    assert [title for title in titles if title.startswith(("Under", "Length", "Cosine"))] == [
        "Under interventions, %",
        "Length of harmful mean − harmless mean",
        "Cosine with the chosen direction",
        "Cosine of the last token with the direction, by suffix (2 prompts)",
    ]
    assert browser.get_log("browser") == []


def test_no_section_without_diagnostics(browser, open_page, page):
    open_page(page)
    assert not browser.find_element("css selector", "#direction").is_displayed()
