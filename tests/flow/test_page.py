"""The admin endpoint's page in a real browser, during the demonstration's traffic, by keyboard."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import trio

from tests.flow.browser import CHROMIUM, open_page

pytest.importorskip("rich")
screenshots = pytest.importorskip("docs.screenshots")

PNG = b"\x89PNG\r\n\x1a\n"
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)")


@pytest.fixture(scope="module")
def address():
    with screenshots.demo() as running:
        yield running


@browser
def test_the_page_is_live_and_all_of_it_can_be_used_by_keyboard(address):
    with open_page(f"http://{address}/") as page:
        page.wait("document.querySelectorAll('#rows tbody tr').length >= 3")
        page.wait("document.getElementById('state').textContent === 'live'")
        assert page.value("document.title").startswith("both sidecars")
        page.wait("document.querySelector('#endpoints').textContent.includes('ready')")
        page.wait("document.querySelector('#edges').textContent.includes('mutual TLS')")
        page.wait("document.querySelectorAll('#map circle').length >= 2")
        page.wait("document.querySelectorAll('#rows svg.spark path').length >= 9")
        rows = page.value("document.querySelector('#rows').textContent")
        assert "http" in rows
        assert "tcp" in rows

        # From one stop to the next: the link past the head, the button, the filter, the four tables.
        stops = []
        for _ in range(7):
            page.press("Tab")
            stops.append(page.value("document.activeElement.id || document.activeElement.className"))
            focus = "getComputedStyle(document.activeElement)"
            assert page.value(f"{focus}.outlineStyle !== 'none' || document.activeElement.className === 'skip'")
        assert stops == ["skip", "pause", "filter", "wide", "wide", "wide", "wide"]

        page.value("document.getElementById('pause').focus()")
        page.press("Enter")
        assert page.value("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        assert page.value("document.getElementById('pause').textContent") == "Go on"
        frozen = page.value("document.getElementById('rows').textContent")
        page.value("new Promise(resolve => { source.addEventListener('message', resolve, {once: true}); })")
        assert page.value("document.getElementById('rows').textContent") == frozen
        page.press(" ")
        assert page.value("document.getElementById('pause').getAttribute('aria-pressed')") == "false"
        page.wait(f"document.getElementById('rows').textContent !== {frozen!r}")

        page.press("Tab")
        page.type("tcp")
        assert page.value("document.getElementById('filter').value") == "tcp"
        page.wait("[...document.querySelectorAll('#rows tbody tr')].every(row => row.textContent.includes('tcp'))")
        assert page.screenshot().startswith(PNG)
        assert page.problems == []


@browser
def test_it_fits_on_a_small_screen_in_the_dark(address):
    with open_page(f"http://{address}/", width=360, height=640) as page:
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        page.wait("document.querySelectorAll('#rows tbody tr').length >= 3")
        assert page.value("document.documentElement.scrollWidth <= 360")
        assert page.value("getComputedStyle(document.documentElement).colorScheme") == "light dark"
        assert page.problems == []


@browser
def test_it_asks_no_other_host(address):
    with open_page(f"http://{address}/") as page:
        page.wait("document.querySelectorAll('#rows tbody tr').length >= 3")
        asked = page.value("performance.getEntriesByType('resource').map(one => new URL(one.name).host)")
        assert set(asked) <= {address}


async def test_the_picture_of_top_is_made_of_real_frames(address):
    frames = await trio.to_thread.run_sync(screenshots.frames, address, 2)
    picture = screenshots.top_picture(frames)
    assert ET.fromstring(picture).tag.endswith("svg")
    for word in ("TRAFFIC", "web.mesh.local", "ready"):
        assert word in picture


def test_the_pictures_in_the_guide_are_pictures():
    assert screenshots.PAGE.read_bytes().startswith(PNG)
    assert ET.fromstring(screenshots.TOP.read_text()).tag.endswith("svg")
    guide = (Path(screenshots.HERE) / "look-inside.rst").read_text()
    assert "page.png" in guide
    assert "top.svg" in guide
