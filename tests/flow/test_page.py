"""The admin endpoint's page in a real browser, during the demonstration's traffic, by keyboard."""

import itertools
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import trio

from linkerd_proxy import Client, Connect, Http, Metrics, Rescue, Response, handler, open_listeners, serve
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.registry import current_registry
from tests.flow.browser import CHROMIUM, open_page
from tests.patience import PATIENCE

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
        # The map's letters are as large as all others, and none of its names leaves the screen or covers another one.
        page.wait("document.querySelectorAll('#map text').length >= 2")
        boxes = page.value(
            "[...document.querySelectorAll('#map text')].map(one => one.getBoundingClientRect())"
            ".map(box => [box.left, box.top, box.right, box.bottom])"
        )
        for left, top, right, bottom in boxes:
            assert left >= 0
            assert right <= 360
            assert bottom - top >= 10
        for one, other in itertools.combinations(boxes, 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], (one, other)
        assert page.problems == []


@browser
def test_the_filter_looks_at_what_is_shown_and_not_at_its_names(address):
    with open_page(f"http://{address}/") as page:
        page.wait("document.querySelectorAll('#rows tbody tr').length >= 3")
        for _ in range(3):
            page.press("Tab")
        page.type("rate")  # what a figure is called in the stream of frames, and not on the page
        assert page.value("document.getElementById('filter').value") == "rate"
        page.wait("document.getElementById('rows').textContent.includes('nothing matches the filter')")
        page.value("document.getElementById('filter').value = 'tcp inbound'")
        page.value("document.getElementById('filter').dispatchEvent(new Event('input'))")
        assert page.value("document.querySelectorAll('#rows tbody tr').length") >= 1
        assert page.value("document.getElementById('rows').textContent.includes('tcp inbound')")


@browser
def test_who_listens_to_a_screen_reader_hears_a_name_of_everything(address):
    with open_page(f"http://{address}/") as page:
        page.wait("document.querySelectorAll('#rows tbody tr').length >= 3")
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    heard = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    for wanted in ("RootWebArea", "link", "button", "searchbox", "region", "image", "heading", "columnheader"):
        names = [name for role, name in heard if role == wanted]
        assert names, wanted
        assert all(names), wanted
    assert ("button", "Pause") in heard
    assert ("searchbox", "Filter") in heard
    assert {name for role, name in heard if role == "region"} == {
        "Traffic", "Endpoints", "Who talks to whom", "Last failures",
    }  # fmt: skip


@browser
async def test_its_figures_are_those_of_the_metrics():
    @handler
    async def application(request):
        return Response(500 if request.path == "/broken" else 200, body=b"hello")

    async with trio.open_nursery() as nursery:
        listeners = [(await open_listeners("127.0.0.1:0"))[0] for _ in range(3)]
        app, proxy, looking = (str(one.address) for one in listeners)
        stack = Http() | Metrics({"direction": "in"}) | Rescue() | Client() | Connect(app)
        for one, listener in zip((Http() | application, stack, admin(Drain())), listeners, strict=True):
            await nursery.start(serve, one, [listener])

        def ask(path):
            try:
                answer = urllib.request.urlopen(f"http://{proxy}{path}", timeout=PATIENCE)
            except urllib.error.HTTPError as error:  # an answer, too, which holds its socket until it is closed
                answer = error
            with answer:
                answer.read()

        def look():
            with open_page(f"http://{looking}/") as page:
                page.wait("typeof last !== 'undefined' && last !== null")
                for path in (*["/"] * 12, *["/broken"] * 4):
                    ask(path)
                page.wait("last.rows.some(one => one.total === 16 && one.open === 0)")
                heads = page.value("[...document.querySelectorAll('#rows th')].map(one => one.textContent)")
                cells = page.value(
                    "[...document.querySelectorAll('#rows tbody tr')[0].cells].map(one => one.textContent)"
                )
                return dict(zip(heads, cells, strict=True)), page.problems

        shown, problems = await trio.to_thread.run_sync(look)
        nursery.cancel_scope.cancel()
    totals = {family.name: family for family in current_registry()}
    [requests] = totals["request_total"].series.values()
    failed = sum(
        one.value for labels, one in totals["response_total"].items() if ("classification", "failure") in labels
    )
    assert problems == []
    assert (shown["total"], int(requests.value), failed) == ("16", 16, 4)
    assert (shown["open"], shown["meshed"]) == ("0", "0.00%")


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
