// The page: a microphone or a recording, heard and seen before and after.
import { loadEnhance } from "./index.js";
import { Microphone } from "./microphone.js";
import { Player, clean, decode, mixed, wav } from "./recording.js";
import { Spectrogram } from "./spectrogram.js";

const TOP = 8000; // Hz, of the pictures
const $ = (id) => document.getElementById(id);
const pictures = { before: new Spectrogram($("before")), after: new Spectrogram($("after")) };
const samples = new Float32Array(2048);
let enhance; // the model
let live = null; // a microphone that runs
let recording = null; // { name, rate, before, after, player }
let turn = 0; // counts what was begun: what is overtaken gives up

function say(text) {
  $("status").textContent = text;
}

function fail(error) {
  $("error").textContent = `Error: ${String(error?.message ?? error).replace(/^enhance: /, "")}`;
  say("");
}

const kept = () => ($("enabled").checked ? $("strength").value / 100 : 0);
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const seconds = (s) => `${s.toFixed(1)} s`;

function facts({ factor, underruns, delay, rate }) {
  $("factor").textContent = factor === null ? "–" : factor.toFixed(factor < 0.1 ? 3 : 2);
  $("underruns").textContent = underruns ?? "–";
  $("delay").textContent = delay === null ? "–" : `${Math.round(1000 * delay)} ms`;
  $("rate").textContent = rate ? `${rate / 1000} kHz` : "–";
}

function open(rate) {
  const top = Math.min(TOP, rate / 2);
  for (const picture of Object.values(pictures)) picture.open(rate, top);
  for (const label of document.querySelectorAll(".top")) label.textContent = `${top / 1000} kHz`;
  for (const label of document.querySelectorAll(".bottom")) label.textContent = "0";
}

function describe(which, text) {
  $(which).setAttribute("aria-label", `Spectrogram ${which}: ${text}`);
}

/** Root mean square of what an analyser hears, on its meter. */
function meter(which, analyser) {
  let level = -Infinity;
  if (analyser) {
    analyser.getFloatTimeDomainData(samples);
    level = 10 * Math.log10(samples.reduce((sum, x) => sum + x * x, 1e-12) / samples.length);
  }
  const shown = Math.max(-60, Math.min(0, Math.round(level)));
  const text = shown === -60 ? "silence" : `${shown} dB`;
  const bar = $(`meter-${which}`);
  bar.firstElementChild.style.width = `${((shown + 60) / 60) * 100}%`;
  bar.setAttribute("aria-valuenow", shown);
  bar.setAttribute("aria-valuetext", text);
  $(`level-${which}`).textContent = analyser ? text : "–";
}

/** As often as the screen is drawn. */
function frame() {
  requestAnimationFrame(frame);
  const heard = live ?? (recording?.player.playing ? recording.player : null);
  for (const which of ["before", "after"]) {
    meter(which, heard?.[which]);
    if (live) {
      live[which].getFloatTimeDomainData(samples);
      pictures[which].push(samples.subarray(0, pictures[which].samples));
    }
  }
  if (recording) place();
}

function place() {
  const { player } = recording;
  const at = player.place;
  if (document.activeElement !== $("place") || player.playing) $("place").value = at;
  $("place").setAttribute("aria-valuetext", `${clock(at)} of ${clock(player.duration)}`);
  $("time").textContent = `${clock(at)} / ${clock(player.duration)}`;
  for (const head of document.querySelectorAll(".head")) {
    head.style.left = `${(at / player.duration) * 100}%`;
  }
}

/** What fails when another turn has begun says nothing, and ends nothing. */
const unheard = (mine) => (error) => {
  if (mine === turn) throw error;
};

/** Whatever runs or plays ends. */
function close() {
  turn++;
  $("error").textContent = "";
  recording?.player.close();
  recording = null;
  live?.stop();
  live = null;
  $("microphone").textContent = "Use the microphone";
  $("transport").hidden = $("progress").hidden = true;
  document.body.classList.remove("playable");
  $("monitor-row").hidden = false;
}

async function load(file) {
  close();
  const mine = turn;
  say(`Reading ${file.name}`);
  const before = await decode(file).catch(unheard(mine));
  if (mine !== turn) return;
  open(before.sampleRate);
  pictures.before.draw(before.getChannelData(0));
  describe("before", file.name);
  describe("after", "being made");
  say(`Enhancing ${file.name}`);
  $("progress").value = 0;
  $("progress").hidden = false;
  const began = performance.now();
  const progress = (done) => mine === turn && ($("progress").value = done);
  const made = await clean(enhance, before, progress).catch(unheard(mine));
  if (mine !== turn) return;
  const { waves: after, factor } = made;
  const took = (performance.now() - began) / 1000;
  $("progress").hidden = true;
  const player = new Player(before, after);
  const waves = after.map((_, k) => before.getChannelData(k));
  recording = { name: file.name, rate: before.sampleRate, before: waves, after, player };
  player.addEventListener("ended", () => ($("play").textContent = "Play"));
  $("place").max = player.duration;
  $("play").textContent = "Play";
  $("transport").hidden = false;
  $("monitor-row").hidden = true;
  document.body.classList.add("playable");
  facts({ factor, underruns: null, delay: null, rate: before.sampleRate });
  change();
  say(`${file.name}: ${seconds(before.duration)} enhanced in ${seconds(took)}. Switch Enhance off and on while it plays.`);
}

let redraw;
function change() {
  $("strength-value").textContent = `${$("strength").value} %`;
  if (live) live.share = kept();
  if (!recording) return;
  recording.player.share = kept();
  clearTimeout(redraw);
  redraw = setTimeout(() => {
    if (!recording) return;
    const { name, before, after } = recording;
    pictures.after.draw(mixed(before.slice(0, 1), after.slice(0, 1), kept())[0]);
    describe("after", kept() ? `${name}, enhanced at ${Math.round(100 * kept())} %` : `${name}, not enhanced`);
  }, 60);
}

async function listen() {
  if (live) return finish();
  close();
  const mine = turn;
  say("Waiting for the microphone");
  const begun = await Microphone.open(enhance).catch(unheard(mine));
  if (mine !== turn) return begun?.stop();
  live = begun;
  live.share = kept();
  live.monitor = $("monitor").checked;
  open(live.rate);
  for (const which of ["before", "after"]) describe(which, "the microphone, live");
  $("microphone").textContent = "Stop";
  const { node } = live;
  const show = () => {
    facts({ factor: node.realTimeFactor, underruns: node.underruns, delay: live.delay, rate: live.rate });
    if (node.underruns) say("Listening. This device did not keep pace: see underruns.");
  };
  node.addEventListener("report", () => live && show());
  live.addEventListener("failed", ({ detail }) => {
    if (live !== begun) return;
    close();
    fail(detail);
  });
  show();
  say("Listening. Stop, and what was said can be played before and after.");
}

/** The microphone stops; what it heard is a recording from now on. */
async function finish() {
  const mine = turn;
  const heard = await live.finish();
  if (mine !== turn) return;
  close();
  say("");
  if (heard.size) await load(heard);
}

function guarded(work) {
  return (...args) => {
    work(...args)?.catch((error) => {
      close();
      fail(error);
    });
  };
}

$("microphone").addEventListener("click", guarded(listen));
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", guarded(async () => {
  const [file] = $("file").files;
  $("file").value = ""; // the same one may be chosen again, whatever comes of it
  if (file) await load(file);
}));
for (const id of ["enabled", "strength"]) $(id).addEventListener("input", change);
$("monitor").addEventListener("change", () => live && (live.monitor = $("monitor").checked));
async function play() {
  const { player } = recording;
  if (player.playing) player.pause();
  else await player.play();
  $("play").textContent = player.playing ? "Pause" : "Play";
}
$("play").addEventListener("click", () => play().catch(fail)); // what was made stays
$("place").addEventListener("input", () => recording.player.seek(Number($("place").value)));
$("save").addEventListener("click", () => {
  const link = document.createElement("a");
  const { name, rate, before, after } = recording;
  link.href = URL.createObjectURL(wav(mixed(before, after, kept()), rate));
  link.download = `${name.replace(/\.[^.]*$/, "")}_enhanced.wav`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", guarded(async (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const [file] = event.dataTransfer.files;
  if (file && enhance) await load(file);
}));
addEventListener("error", (event) => fail(event.error ?? event.message));
addEventListener("unhandledrejection", (event) => fail(event.reason));

const binary = (id) => Uint8Array.from(atob($(id).textContent), (x) => x.charCodeAt(0)).buffer;

async function begin() {
  // Not a blob: from file:// browsers load no worklet from there.
  const worklet = `data:text/javascript,${encodeURIComponent($("worklet").textContent)}`;
  enhance = await loadEnhance({ url: binary("weights"), wasm: binary("wasm"), worklet });
  $("microphone").disabled = $("choose").disabled = false;
  say("Ready.");
  frame();
}
guarded(begin)();
