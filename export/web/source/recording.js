// Recordings: read, enhanced faster than they last, played before and after at one place, written.
import { running } from "./index.js";

const PAUSE = 5; // seconds of a recording from one look to the next whether it is still wanted

/** Rate of a WAV or FLAC file, or what browsers decode to. */
function rateOf(bytes) {
  const view = new DataView(bytes);
  const name = (at) => (at + 4 <= view.byteLength ? String.fromCharCode(...new Uint8Array(bytes, at, 4)) : "");
  if (name(0) === "fLaC" && view.byteLength > 22) return view.getUint32(18) >>> 12;
  if (name(0) === "RIFF" && name(8) === "WAVE") {
    for (let at = 12; at + 16 <= view.byteLength; ) {
      if (name(at) === "fmt ") return view.getUint32(at + 12, true);
      const size = view.getUint32(at + 4, true);
      at += 8 + size + (size % 2); // a byte fills a chunk up to an even size
    }
  }
  return 48000;
}

/** @returns {Promise<AudioBuffer>} at the file's own rate where it tells it */
export async function decode(file) {
  const bytes = await file.arrayBuffer();
  let context;
  try {
    context = new OfflineAudioContext(1, 1, rateOf(bytes));
  } catch {
    context = new OfflineAudioContext(1, 1, 48000); // a rate that this browser does not have
  }
  let recording;
  try {
    recording = await context.decodeAudioData(bytes);
  } catch {
    throw new Error(`${file.name}: this browser cannot read it as audio`);
  }
  // Such files exist; and Firefox takes 64-bit floats for 32-bit ones.
  for (let k = 0; k < recording.numberOfChannels; k++) {
    if (!finite(recording.getChannelData(k))) throw new Error(`${file.name}: holds samples that are no numbers`);
  }
  return recording;
}

function finite(wave) {
  let none = 0; // a product with NaN or infinity is NaN
  for (let i = 0; i < wave.length; i++) none += 0 * wave[i];
  return none === 0;
}

/** Enhance a recording in the worklet, in the background; aligned with what came in.
 * `progress` hears the share that is done, and ends it by false. */
export async function clean(enhance, recording, progress) {
  const { sampleRate, length, numberOfChannels: channels } = recording;
  const late = enhance.latencySamples(sampleRate);
  const context = new OfflineAudioContext(channels, length + late, sampleRate);
  const node = await enhance.createNode(context, { channels });
  let fail;
  const failed = new Promise((_, reject) => {
    fail = reject;
    node.addEventListener("processorerror", (event) => reject(event.error ?? new Error("the worklet failed")));
  });
  node.addEventListener("report", () => progress(node.seconds / (length / sampleRate)));
  const source = new AudioBufferSourceNode(context, { buffer: recording });
  source.connect(node).connect(context.destination);
  source.start();
  // Chromium renders one recording after the other, and no message reaches the worklet meanwhile:
  // what is overtaken ends at a pause. Firefox has none.
  for (let at = PAUSE; context.suspend && at < length / sampleRate; at += PAUSE) {
    context.suspend(at).then(() => {
      if (progress((at * sampleRate) / length) === false) fail(new Error("another recording was begun"));
      else context.resume();
    }, fail);
  }
  const whole = await Promise.race([context.startRendering(), failed]);
  // Silence must not pass as a result: the worklet has to have begun, and, reporting four times a
  // second, to have told of the end.
  await node.ready;
  for (let tries = 0; node.seconds < length / sampleRate - 0.3; tries++) {
    if (tries === 100) throw new Error(`the audio thread stopped after ${node.seconds.toFixed(2)} s`);
    await Promise.race([new Promise((resolve) => setTimeout(resolve, 20)), failed]);
  }
  node.destroy();
  const waves = Array.from({ length: channels }, (_, k) => whole.getChannelData(k).subarray(late));
  return { waves, factor: node.realTimeFactor };
}

/** Share of the enhanced signal that is kept, the rest being the input. */
export function mixed(before, after, share) {
  if (share === 1) return after;
  return after.map((wet, k) => wet.map((y, i) => share * y + (1 - share) * before[k][i]));
}

/** A WAV file of 24 bits. */
export function wav(channels, rate) {
  const count = channels.length;
  const bytes = 3 * count * channels[0].length;
  const filled = bytes + (bytes % 2);
  const view = new DataView(new ArrayBuffer(44 + filled));
  const text = (at, letters) => [...letters].forEach((x, i) => view.setUint8(at + i, x.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + filled, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, count, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 3 * count * rate, true);
  view.setUint16(32, 3 * count, true);
  view.setUint16(34, 24, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  const last = 2 ** 23 - 1;
  for (let i = 0, at = 44; i < channels[0].length; i++) {
    for (let k = 0; k < count; k++, at += 3) {
      const whole = Math.max(-last - 1, Math.min(last, Math.round(channels[k][i] * 2 ** 23)));
      view.setUint16(at, whole & 0xffff, true);
      view.setInt8(at + 2, whole >> 16);
    }
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}

/** Plays a recording before and after at one place; the share may change while it sounds. */
export class Player extends EventTarget {
  constructor(recording, after) {
    super();
    const { sampleRate, length, numberOfChannels: count } = recording;
    this.duration = length / sampleRate;
    this.context = new AudioContext();
    const cleaned = new AudioBuffer({ sampleRate, length, numberOfChannels: count });
    after.forEach((wave, k) => cleaned.copyToChannel(wave, k));
    this.buffers = [recording, cleaned];
    this.gains = this.buffers.map(() => new GainNode(this.context));
    this.before = new AnalyserNode(this.context, { fftSize: 2048 });
    this.after = new AnalyserNode(this.context, { fftSize: 2048 });
    for (const gain of this.gains) gain.connect(this.after);
    this.after.connect(this.context.destination);
    this.sources = null;
    this.from = 0;
    this.share = 1;
  }

  set share(share) {
    const now = this.context.currentTime;
    this.gains[0].gain.setTargetAtTime(1 - share, now, 0.01);
    this.gains[1].gain.setTargetAtTime(share, now, 0.01);
  }

  get playing() {
    return this.sources !== null;
  }

  get place() {
    if (!this.playing) return this.from;
    const passed = Math.max(0, this.context.currentTime - this.began); // it begins in a moment
    return Math.min(this.duration, this.from + passed);
  }

  async play() {
    await running(this.context);
    if (this.playing) return;
    if (this.from >= this.duration) this.from = 0;
    this.sources = this.buffers.map((buffer, k) => {
      const source = new AudioBufferSourceNode(this.context, { buffer });
      source.connect(this.gains[k]);
      return source;
    });
    this.sources[0].connect(this.before);
    this.sources[0].onended = () => {
      this.pause();
      this.dispatchEvent(new Event("ended"));
    };
    this.began = this.context.currentTime + 0.02;
    for (const source of this.sources) source.start(this.began, this.from);
  }

  pause() {
    this.from = this.place;
    for (const source of this.sources ?? []) {
      source.onended = null;
      source.stop();
    }
    this.sources = null;
  }

  async seek(place) {
    const { playing } = this;
    if (playing) this.pause();
    this.from = place;
    if (playing) await this.play();
  }

  close() {
    this.pause();
    this.context.close();
  }
}
