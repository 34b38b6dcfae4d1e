"""report.html in a real browser: Debian's chromium, headless, driven by selenium. Skipped where there is none.

The file is long because all of it shares one browser and one page, which take seconds to start."""

import base64
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from report_cases import PROMPT, N, write_direction, write_run

from derta.direction.collect import load_reports
from derta.report.directions import with_scores
from derta.report.report import write_page
from derta.report.runs import load_runs
from derta.statistics.rates import rate

WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui", reason="selenium is not installed").WebDriverWait
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
def open_page(browser: Any) -> Iterator[Callable[..., None]]:
    """open_page(file, width, scheme): the page in a window of that width, on which nothing logs an error."""

    def go(file: Path, width: int = 1200, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_feature]})
        for log in ("browser", "performance"):
            browser.get_log(log)  # what earlier pages left
        browser.get(file.as_uri())
        wait_until_drawn(browser)

    yield go
    assert browser.get_log("browser") == []


def wait_until_drawn(browser: Any) -> None:
    WebDriverWait(browser, 20).until(lambda _: browser.execute_script("return document.body.dataset.drawn"))


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
    """Name of each visible row -> the texts of its visible cells, n last."""
    return browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#rates tr[data-name]:not([hidden])')].map(row =>"
        " [row.dataset.name, [...row.querySelectorAll('td.rate:not([hidden]) .text, td.counts')].map(cell =>"
        " cell.matches('.text') ? cell.textContent"
        " : [...cell.querySelectorAll('span:not([hidden])')].map(each => each.textContent).join(' / '))]))"
    )


def heads(browser: Any) -> list[str]:
    """Checkpoints in the head of the table, without their glyphs."""
    return [text.split()[-1] for text in texts(browser, "#rates thead th[data-checkpoint]:not([hidden])")]


def figure(browser: Any, name: str, role: str = "") -> list[str]:
    """The texts of a figure, or what its marks of a role ("bar", "point") say to a screen reader."""
    inside = f"[data-figure={name}] svg "
    if not role:
        return texts(browser, f"{inside} text")
    marks = f"document.querySelectorAll(`{inside} [aria-roledescription='{role}']`)"
    return browser.execute_script(f"return [...{marks}].map(mark => mark.ariaLabel)")


def eventually(browser: Any, found: Callable[[], Any], expected: Any) -> None:
    """Figures follow a filter a moment later."""
    from selenium.common.exceptions import TimeoutException

    try:
        WebDriverWait(browser, 10, poll_frequency=0.1).until(lambda _: found() == expected)
    except TimeoutException:
        assert found() == expected


def press(browser: Any, kind: str, value: str) -> None:
    browser.find_element("css selector", f'#filters input[name="{kind}"][value="{value}"]').click()


def texts(browser: Any, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(node => node.textContent.trim())", selector
    )


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
    assert texts(browser, "#direction, #responses") == []  # no section without diagnostics, or that nobody asked for
    assert any("The responses themselves are not in this file" in text for text in texts(browser, "#provenance .note"))


def test_page_needs_no_network_and_fits_every_screen(browser, open_page, page):
    assert page.stat().st_size < 2_000_000
    for width, scheme in ((1200, "light"), (390, "dark")):
        open_page(page, width, scheme)
        assert browser.get_log("browser") == []
        assert requests(browser) == [page.as_uri()]
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        panels = browser.execute_script("return document.querySelectorAll('[data-figure=position] svg text').length")
        assert panels > 20 and "vanilla (17 refusals)" in figure(browser, "position")
    cells = browser.find_elements(
        "css selector", "#rates tr[data-name='over-refusal, benign'] .rate"
    )  # on the narrow one
    names = [cell.find_element("css selector", ".who").text.split()[-1] for cell in cells]
    assert names == ["base", "vanilla", "derta"]
    assert all(cell.rect["x"] >= 0 and cell.rect["x"] + cell.rect["width"] <= 390 for cell in cells)


def test_figures_show_the_numbers_of_the_summaries(browser, open_page, page):
    open_page(page)
    points = figure(browser, "trade-off", "point")
    assert len(points) == 3 and "over-refusal: 0.0 [0.0, 16.1] %; attack success: 100.0 [83.9, 100.0] %" in points[0]
    assert "helpfulness: 85.000000%" in points[2]
    bars = figure(browser, "attacks", "bar")
    # 2 attacks x 3 checkpoints x 4 outcomes: unscored responses stand outside.
    assert len(bars) == 24 and bars[0] == (
        "share: 100.000000%; checkpoint: base; outcome: complied; order: 0; attack: direct; "
        "rate: 100.0 [83.9, 100.0] %; n: 20"
    )
    whole = [label for label in figure(browser, "position", "text mark") if "refusals: " in label]
    # derta: 15 well-formed refusals at token 0 and 4 two tokens later; behind the prefill 14 and 4.
    for token, count in (("0", 15), ("1-5", 4), ("6-30", 18), (">30", 0)):
        expected = shown(asdict(rate(count, 37))).replace(" [", "% [").replace(", ", "%, ").replace("]", "%]")
        assert any(f"token: {token}; refusals: {count}; text: {expected}" in label for label in whole), token
    curves = [label for label in figure(browser, "cumulative", "rule mark") if label.startswith("token: 1;")]
    assert curves == ["token: 1; text: by token 1\nderta: 40.5%\nvanilla: 76.5%"]


def test_filters_change_what_is_shown(browser, open_page, page):
    open_page(page)
    assert heads(browser) == ["base", "vanilla", "derta"]
    press(browser, "checkpoints", "base")
    assert heads(browser) == ["vanilla", "derta"]
    assert table(browser)["refusals at token 0"][-1] == "17 / 37"
    eventually(browser, lambda: figure(browser, "trade-off").count("base"), 1)  # in the legend
    eventually(browser, lambda: len(figure(browser, "attacks", "bar")), 16)
    counts = lambda: [text for text in figure(browser, "position") if "refusals)" in text]  # noqa: E731
    eventually(browser, counts, ["vanilla (17 refusals)", "derta (37 refusals)"])
    press(browser, "attacks", "direct")
    assert "attack success, direct" not in table(browser)
    shares = lambda: [text for text in figure(browser, "attacks") if re.fullmatch(r"\d+\.\d%", text)]  # noqa: E731
    eventually(browser, shares, ["95.0%", "10.0%"])
    eventually(browser, counts, ["vanilla (1 refusals)", "derta (18 refusals)"])
    for outcome in ("complied", "garbled", "refused"):
        press(browser, "outcomes", outcome)
    eventually(browser, shares, ["5.0%", "20.0%"])  # malformed refusals: 1 and 4 of 20
    assert any(shown(asdict(rate(4, N))) in label for label in figure(browser, "attacks", "bar"))
    eventually(browser, counts, ["vanilla (1 refusals)", "derta (4 refusals)"])
    assert not browser.find_element("css selector", "#nothing").is_displayed()
    browser.find_element("css selector", "#filters button[name=attacks][value=none]").click()
    assert texts(browser, "#nothing:not([hidden])") == ["nothing is chosen in the filters"]
    eventually(browser, lambda: figure(browser, "attacks", "bar"), [])


def test_prompt_set_and_curve_can_be_chosen(browser, open_page, page):
    open_page(page)
    for name, option in (("attacks", "benign"), ("cumulative", "all scored responses")):
        select = browser.find_element("css selector", f"[data-figure={name}] select")
        next(each for each in select.find_elements("css selector", "option") if each.text == option).click()
    first = lambda: [bar.split(";")[0] for bar in figure(browser, "attacks", "bar") if "complied" in bar]  # noqa: E731
    eventually(browser, first, ["share: 100.000000%", "share: 95.000000%", "share: 85.000000%"])
    # All but the malformed ones behind the prefill: 16 of 40, 33 of 40.
    last = lambda: [mark for mark in figure(browser, "cumulative", "rule mark") if mark.startswith("token: 20;")]  # noqa: E731
    eventually(browser, last, ["token: 20; text: by token 20\nderta: 82.5%\nvanilla: 40.0%"])
    # A choice outlives a new width.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 500, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_script("delete document.body.dataset.drawn; window.dispatchEvent(new Event('resize'))")
    wait_until_drawn(browser)
    eventually(browser, first, ["share: 100.000000%", "share: 95.000000%", "share: 85.000000%"])


def test_keyboard_and_pointer_reach_filters_and_numbers(browser, open_page, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(page)
    browser.find_element("css selector", '#filters input[value="base"]').send_keys(Keys.SPACE)
    assert heads(browser) == ["vanilla", "derta"]
    browser.find_element("css selector", "#attacks .numbers summary").send_keys(Keys.ENTER)
    rows = [row for row in browser.find_elements("css selector", "#attacks .numbers tbody tr") if row.is_displayed()]
    assert rows[0].text.startswith("vanilla harmful direct 20.0 [8.1, 41.6] %")
    open_page(page)  # and a pointer the numbers of a mark
    bar = browser.find_element("css selector", "[data-figure=attacks] svg [aria-roledescription=bar]")
    ActionChains(browser).move_to_element(bar).perform()
    tooltip = browser.find_element("css selector", "#tooltip")
    assert tooltip.is_displayed() and "attack: direct\noutcome: complied\nrate: 100.0 [83.9, 100.0] %" in tooltip.text


def test_nothing_that_comes_from_results_acts_as_markup(browser, open_page, tmp_path):
    folder = write_run(tmp_path / "run", HOSTILE, text=HOSTILE, command=HOSTILE, malformed=1)
    page = write_page(load_runs([folder]), str(tmp_path / "page"), responses=True)
    open_page(page)
    assert texts(browser, "#rates thead th")[1].endswith(HOSTILE)
    assert f"checkpoint: {HOSTILE}" in figure(browser, "attacks", "bar")[0]
    opened = browser.find_element("css selector", "#responses pre")
    assert not opened.is_displayed()
    for summary in ("#responses .warning > summary", "#responses .response > summary"):
        browser.find_element("css selector", summary).click()
    assert opened.text == HOSTILE
    assert browser.execute_script("return [document.images.length, typeof window.harmed]") == [0, "undefined"]
    assert browser.get_log("browser") == [] and requests(browser) == [page.as_uri()]
    # And should markup get in one day, the page's policy does not run it.
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed = 1\">')")
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'harmed = 1'; document.body.append(s)"
    )
    assert browser.execute_script("return typeof window.harmed") == "undefined"
    assert requests(browser) == []
    assert "Content Security Policy" in str(browser.get_log("browser"))


def test_responses_are_read_side_by_side_with_prompt_prefill_and_phrase(browser, open_page, tmp_path):
    said = "Of course: the first step. I cannot help with that"
    folders = [write_run(tmp_path / label, label, text=said) for label in ("vanilla", "derta")]
    for folder in folders:
        file = Path(folder) / "results.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if line["attack"] == "prefill_20":
                line |= {"prefill_characters": 10, "refusal_word": 5, "refusal_token": 25, "outcome": "refused"}
        file.write_text("\n".join(map(json.dumps, lines)))
    open_page(write_page(load_runs(folders), str(tmp_path / "page"), responses=True))
    press(browser, "attacks", "direct")
    browser.find_element("css selector", "#responses .warning > summary").click()
    [prompt, *_] = browser.find_elements("css selector", ".response:not([hidden])")
    prompt.find_element("css selector", "summary").click()
    assert prompt.find_element("css selector", ".prompt").text == PROMPT
    left, right = prompt.find_elements("css selector", "article")
    assert left.rect["y"] == right.rect["y"] and left.rect["x"] < right.rect["x"]
    assert left.find_element("css selector", ".prefill").text == "Of course:"
    assert left.find_element("css selector", "mark").text == "I cannot help"
    assert right.find_element("css selector", "pre").text == said
    press(browser, "outcomes", "refused")
    assert not prompt.is_displayed()  # the responses of neither are of another outcome


def test_several_runs_of_a_label_and_missing_files_are_shown_as_such(browser, open_page, tmp_path):
    for seed, count in enumerate((2, 4, 9)):
        write_run(tmp_path / f"seed{seed}", "derta", (count, 20), probability=False)
    (tmp_path / "seed2" / "results.jsonl").unlink()
    folders = [str(tmp_path / f"seed{seed}") for seed in range(3)]
    open_page(write_page(load_runs(folders), str(tmp_path / "page")))
    assert table(browser)["attack success, direct"][0] == "25.0 ± 18.0"
    assert "25.0%" in figure(browser, "attacks")
    assert "derta (45 refusals)" in figure(browser, "position")  # 18, 16 and, of the summary alone, 11
    assert "Without results.jsonl" in texts(browser, "#position .note")[0]
    assert browser.find_elements("css selector", "#probability") == []
    assert len(texts(browser, "#provenance .made")) == 3


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
    assert browser.find_elements("css selector", "#trade-off") == []
    assert {"loss (log scale)", "probe/auroc"} <= set(figure(browser, "training"))
    browser.find_element("css selector", "#training details summary").click()
    eventually(browser, lambda: "probe/auroc@0" in figure(browser, "training-depth"), True)
    open_page(write_page(load_runs(folders[1:]), str(tmp_path / "no helpfulness")))
    assert "no helpfulness is shown" in texts(browser, "#trade-off .note")[0]
    assert "right or wrong" in texts(browser, "#attacks .note")[0]
    assert browser.find_elements("css selector", "#training") == []


def test_print_leaves_out_what_paper_cannot_do(browser, open_page, page):
    open_page(page)
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    visible = {
        selector: browser.find_element("css selector", selector).is_displayed()
        for selector in ("#filters", "#attacks .vega-bindings", "#rates", "#provenance dl")
    }
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert visible == {"#filters": False, "#attacks .vega-bindings": False, "#rates": True, "#provenance dl": True}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_refusal_directions(browser, open_page, folders, tmp_path, scheme):
    made = [write_direction(tmp_path / f"d{i}", "derta", kept=kept) for i, kept in enumerate((3, 1))]
    made += [write_direction(tmp_path / f"v{i}", "vanilla", kept=2, sha256=f"v{i}") for i in range(2)]
    made.append(write_direction(tmp_path / "base", "base", kept=0, chosen=False, sha256="other"))
    found = load_reports(made)
    runs = with_scores(load_runs([str(folders[2])]), found)
    open_page(write_page(runs, str(tmp_path / "page"), directions=found), scheme=scheme)
    assert table(browser)["ablation robustness"][0].startswith("25.0 [")  # of the same weights, the last of the two
    rows = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#direction tbody tr')].map(row =>"
        " [row.children[0].textContent, [...row.children].slice(1).map(cell => cell.textContent)]))"
    )
    assert rows["runs with a valid direction"] == ["0 of 1", "2 of 2", "2 of 2"]
    assert rows["ablation robustness"][0] == "-" and rows["ablation robustness"][2].startswith("50.0 ± 35.4 [")
    assert rows["derta - vanilla"][0].startswith("+0.0 [")
    assert "Time taken by the 5 diagnostics together: 5 s." in texts(browser, "#direction .note")
    assert "derta - base" not in rows  # base has no valid direction to ablate
    assert texts(browser, "#direction .score")[0] == "Ablation robustness: no score: none found."
    assert "no valid direction" in str(figure(browser, "ablation", "point"))
    closed = browser.find_elements("css selector", "#direction .diagnostic")[3]
    assert figure(browser, "direction-3-candidates") == []
    closed.find_element("css selector", "summary").click()
    assert "75.0%" in closed.find_element("css selector", ".score").text
    marks = lambda: [text for text in figure(browser, "direction-3-candidates") if text in "×○"]  # noqa: E731
    eventually(browser, marks, ["×", "×", "×", "○"] * 6)  # and their halos, in three maps
    eventually(browser, lambda: "cosine with the chosen direction" in figure(browser, "direction-3-layers"), True)
    eventually(browser, lambda: "added" in figure(browser, "direction-3-outcomes"), True)
    eventually(browser, lambda: "adversarial" in figure(browser, "direction-3-suffix"), True)
