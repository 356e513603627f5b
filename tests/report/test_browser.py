"""The page in a real Chromium: silent, self-contained, filtered by keyboard, and nowhere wider than the screen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import sql
from reported import CLASSES, Filled

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "disable-dev-shm-usage",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(chromium: Any, made: Path) -> Any:
    """The page, newly opened; its logs begin with it."""
    chromium.get("about:blank")
    for log in ("browser", "performance"):
        chromium.get_log(log)
    chromium.get((made / "report.html").as_uri())
    return chromium


def find(page: Any, css: str) -> list[Any]:
    return list(page.find_elements("css selector", css))


def texts(page: Any, css: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent.trim())"
    return list(page.execute_script(script, css))


def requests(page: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def test_the_console_is_silent_and_no_request_leaves_the_page(page: Any) -> None:
    page.execute_async_script("setTimeout(arguments[0], 200)")
    assert page.get_log("browser") == []
    sent = requests(page)
    assert any(url.endswith("/report.html") for url in sent)
    assert [url for url in sent if not url.startswith(("file:", "data:"))] == []


def test_the_pages_own_policy_refuses_what_would_leave_it_and_scripts_that_are_not_its(page: Any) -> None:
    script = """
        const image = Object.assign(new Image(), {alt: "x", src: "http://192.0.2.1/x.png"});
        const script = Object.assign(document.createElement("script"), {textContent: "window.ran = true"});
        document.body.append(image, script);
        return window.ran === undefined"""
    assert page.execute_script(script)
    refused = [entry["message"] for entry in page.get_log("browser")]
    assert len(refused) == 2
    assert all("Content Security Policy" in message for message in refused)


def test_every_image_is_there_and_has_words(page: Any) -> None:
    images = page.execute_script("return [...document.images].map(one => [one.alt, one.complete, one.naturalWidth])")
    assert len(images) >= 9
    assert all(alt and complete and width > 0 for alt, complete, width in images)


def test_numbers_on_the_page_are_those_of_sql(page: Any, filled: Filled) -> None:
    order = "list_position(['deepest', 'sub_deep', 'fusion'], experiment), settings = '' desc, runs desc"
    rows = sql(
        filled.api.store, f"select accuracy, accuracy_sd from table_2 order by dataset, protocol, training_set, {order}"
    )
    shown = [f"{mean:.1f}" + (f" ± {sd:.1f}" if sd is not None else "") for mean, sd in rows]
    assert sorted(texts(page, "#t2 td[data-sql=accuracy]")) == sorted(shown)
    counts = sql(
        filled.api.store,
        "select p.label, p.predicted, count(*) from predictions p join trainings t on t.run_id = p.run_id "
        "where t.training_set = 'folded' and p.part = 'test' group by all",
    )
    place = next(n for n, name in enumerate(texts(page, "h2[id^=detail-]"), 1) if name.startswith("folded"))
    cells = texts(page, f"#confusion-{place}-sub_deep tbody td")
    found = {(CLASSES[n // 3], CLASSES[n % 3], int(cell)) for n, cell in enumerate(cells) if int(cell)}
    assert found == set(counts)
    health = sql(filled.api.store, "select images, not_finite, dead_channels, norm_outliers from feature_health")
    assert [tuple(map(int, texts(page, "#healths tbody td.n")[:4]))] == health


def visible(page: Any, css: str) -> list[Any]:
    return [one for one in find(page, css) if one.is_displayed()]


def test_filters_work_by_keyboard_and_tell_what_is_left(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    body = find(page, "body")[0]
    body.send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the results"
    for _ in range(40):
        if page.switch_to.active_element.get_attribute("name") == "class":
            break
        page.switch_to.active_element.send_keys(Keys.TAB)
    every = len(find(page, "tr[data-class], tr[data-experiment]"))
    told = find(page, "#shown")[0]
    assert told.text == f"All {every} rows shown"
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert {row.get_attribute("data-class") for row in visible(page, "tr[data-class]")} == {CLASSES[1]}
    page.switch_to.active_element.send_keys(Keys.TAB)
    page.switch_to.active_element.send_keys("f")
    experiments = {one.get_attribute("data-experiment") for one in visible(page, "[data-experiment]")}
    assert experiments
    assert all("fusion" in str(names).split() for names in experiments)
    left = len(visible(page, "tr[data-class], tr[data-experiment]"))
    assert 0 < left < every
    assert told.text == f"{left} of {every} rows shown"
    assert told.get_attribute("aria-live") == "polite"
    page.switch_to.active_element.send_keys(Keys.TAB)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.execute_async_script("setTimeout(arguments[0], 50)") is None
    assert told.text == f"All {every} rows shown"


def test_screen_readers_find_names_for_all_that_can_be_reached(page: Any) -> None:
    script = """
        const named = one => one.getAttribute("aria-label") || one.textContent.trim() || (one.labels || []).length;
        const tables = [...document.querySelectorAll("table")];
        return [
          [...document.querySelectorAll("a, button, select, [tabindex='0'], nav, form, figure")].filter(o => !named(o)),
          tables.filter(o => !o.caption || !o.caption.textContent.trim()),
          tables.flatMap(o => [...o.querySelectorAll("th")]).filter(o => !o.scope),
          [...document.querySelectorAll("figure")].filter(o => !o.querySelector("figcaption")),
          document.querySelectorAll("h1").length, document.documentElement.lang,
        ].map(found => Array.isArray(found) ? found.map(o => o.outerHTML.slice(0, 120)) : found)"""
    assert page.execute_script(script) == [[], [], [], [], 1, "en"]


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(page: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        script = """
            const wide = one => {
              const box = one.getBoundingClientRect();
              return box.width && !one.closest(".wide, pre, .skip") && (box.right > innerWidth + 1 || box.left < -1);
            };
            const root = document.documentElement;
            const found = [...document.querySelectorAll("body *")].filter(wide).map(one => one.outerHTML.slice(0, 120));
            return [innerWidth, root.scrollWidth - root.clientWidth, found]"""
        assert page.execute_script(script) == [width, 0, []]
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
