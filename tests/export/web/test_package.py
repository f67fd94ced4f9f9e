"""The npm package in a page of one's own, served over HTTP: tracks, nodes, LiveKit's interface."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import browsers
import pytest
from browsers import Chromium

from export.web.page import package

LOADED = """
import("/dist/index.js").then(async (found) => {
  Object.assign(globalThis, found);
  const audio = { noiseSuppression: false, echoCancellation: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  globalThis.microphone = stream.getAudioTracks()[0];
  globalThis.level = async (track, context) => {  // the loudest of half a second
    const heard = new AnalyserNode(context, { fftSize: 2048 });
    context.createMediaStreamSource(new MediaStream([track])).connect(heard);
    const x = new Float32Array(2048);
    let most = 0;
    for (let i = 0; i < 25; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      heard.getFloatTimeDomainData(x);
      most = Math.max(most, ...x);
    }
    return most;
  };
})
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A page that has loaded the package; Chromium's fake microphone beeps."""
    folder = tmp_path_factory.mktemp("package")
    package(folder / "dist")
    (folder / "index.html").write_text("<!doctype html><title>a page</title>")
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
        with browsers.chromium(tmp_path_factory.mktemp("chromium"), *flags) as found:
            found.open(f"http://127.0.0.1:{server.server_port}/index.html")
            found.evaluate(LOADED)
            yield found
        server.shutdown()


def test_a_track_is_enhanced(page: Chromium) -> None:
    assert page.evaluate("isSupported()") is True
    page.evaluate(
        "enhanceTrack(microphone, { strength: 0.5 }).then((made) => { globalThis.made = made })"
    )
    page.wait("made.node.seconds > 1")
    facts = page.evaluate(
        "({ kind: made.track.kind, live: made.track.readyState, late: made.node.latencySamples,"
        " rate: made.node.context.sampleRate, factor: made.node.realTimeFactor,"
        " strength: made.node.strength, limit: made.node.attenLimit, on: made.node.enabled })"
    )
    assert (facts["kind"], facts["live"]) == ("audio", "live")
    assert 0.032 < facts["late"] / facts["rate"] < 0.04
    assert 0 < facts["factor"] < 1
    assert (facts["strength"], facts["limit"], facts["on"]) == (0.5, None, True)
    assert page.evaluate("made.node.enabled = false, level(made.track, made.node.context)") > 0.01
    assert page.evaluate("made.stop(), made.track.readyState") == "ended"
    assert page.evaluate("made.node.context.state") == "closed"
    assert page.evaluate("microphone.readyState") == "live"


def test_livekit_finds_what_it_wants_of_a_processor(page: Chromium) -> None:
    page.evaluate(
        "(globalThis.context = new AudioContext({ sampleRate: 44100 }),"
        " globalThis.processor = new EnhanceProcessor(),"
        " processor.init({ track: microphone, audioContext: context, kind: 'audio' }))"
    )
    assert page.evaluate("processor.name") == "enhance"
    page.wait("processor.node.seconds > 0.5")
    first = page.evaluate("processor.processedTrack.id")
    page.evaluate("processor.restart({ track: microphone, audioContext: context })")
    page.wait("processor.node.seconds > 0.5")
    assert page.evaluate("processor.processedTrack.id") != first
    page.evaluate("processor.destroy()")
    assert page.evaluate("processor.processedTrack === undefined && context.state") == "running"
    assert page.evaluate("microphone.readyState") == "live"


FAILURES = {
    "loadEnhance({ url: '/nothing.bin' })": "/nothing.bin cannot be loaded (HTTP 404)",
    "loadEnhance({ url: '/index.html' })": "these weights cannot be used",
    "loadEnhance({ url: 'http://127.0.0.1:1/a.bin' })": "a.bin cannot be loaded",
    "loadEnhance({ worklet: '/nothing.js' }).then((e) => e.register(new AudioContext()))":
        "the worklet cannot be loaded",
    "enhanceTrack(microphone, { strength: 2 })": "strength 2 is not from 0 to 1",
    "enhanceTrack(microphone, { attenLimit: 'a' })": "attenLimit a is no number of dB",
    "((own, made = enhanceTrack(own)) => (own.stop(), made))(microphone.clone())":
        "the track has ended",
}  # fmt: skip


@pytest.mark.parametrize("call", FAILURES)
def test_what_fails_says_why_in_one_line(call: str, page: Chromium) -> None:
    said = page.evaluate(f"{call}.then(() => 'nothing', (error) => error.message)")
    assert FAILURES[call] in said and "\n" not in said


def test_a_worklet_that_cannot_go_on_is_an_event_and_silence(page: Chromium) -> None:
    page.evaluate(
        "loadEnhance().then(async (enhance) => {"
        "  const context = (globalThis.context = new AudioContext());"
        "  await enhance.register(context);"
        "  const weights = enhance.weights.slice(0, 1000);"
        "  const broken = Object.assign(Object.create(enhance), { weights });"
        "  const node = new EnhanceNode(context, broken);"
        "  node.addEventListener('processorerror', (event) => (globalThis.said = event.message));"
        "  const tone = new OscillatorNode(context), out = context.createMediaStreamDestination();"
        "  tone.connect(node).connect(out);"
        "  tone.start();"
        "  globalThis.broken = out.stream.getAudioTracks()[0];"
        "  globalThis.ready = await node.ready.then(() => 'kept', () => 'broken');"
        "})"
    )
    page.wait("globalThis.said && globalThis.ready")
    assert "these weights cannot be used" in page.evaluate("said")
    assert page.evaluate("ready") == "broken"
    assert page.evaluate("level(broken, context)") == 0
