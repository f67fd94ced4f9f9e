// Speech enhancement in the browser: the model as WebAssembly inside an AudioWorklet.
import { Model } from "./worklet.js";

const registered = new WeakMap(); // contexts, and when the worklet is there
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

/** Whether this browser has what it takes: AudioWorklet, and WebAssembly with SIMD. */
export function isSupported() {
  return (
    typeof AudioWorkletNode === "function" &&
    typeof WebAssembly === "object" &&
    WebAssembly.validate(new Uint8Array(SIMD))
  );
}

async function fetched(url) {
  let answer;
  try {
    answer = await fetch(url);
  } catch (error) {
    throw new Error(`enhance: ${url} cannot be loaded (${error.message})`);
  }
  if (!answer.ok) throw new Error(`enhance: ${url} cannot be loaded (HTTP ${answer.status})`);
  return answer.arrayBuffer();
}

/** A model that was loaded; any number of nodes and contexts may share it. */
class Enhance {
  constructor(model, wasm, weights, worklet) {
    Object.assign(this, { model, wasm, weights, worklet, delays: new Map() });
    /** Text entries that the exporter wrote. */
    this.metadata = readMetadata(weights);
    /** Samples per second of the model. */
    this.sampleRate = new DataView(weights).getInt32(20, true);
  }

  /** Samples by which the output is late in a context of this rate. */
  latencySamples(rate) {
    if (!this.delays.has(rate)) {
      const { top } = this.model; // the stream is opened to look at it, then its place is free again
      try {
        this.delays.set(rate, this.model.c.enhance_stream_latency(this.model.open(rate)));
      } finally {
        this.model.top = top;
      }
    }
    return this.delays.get(rate);
  }

  /** Load the worklet into a context, once. */
  async register(context) {
    if (!context.audioWorklet) {
      throw new Error("enhance: AudioWorklet is missing; the page must come from https, localhost or a file");
    }
    if (!registered.has(context)) registered.set(context, context.audioWorklet.addModule(this.worklet));
    try {
      await registered.get(context);
    } catch (error) {
      registered.delete(context);
      throw new Error(`enhance: the worklet cannot be loaded (${error.message})`);
    }
  }

  /** A node in a context. */
  async createNode(context, options) {
    await this.register(context);
    return new EnhanceNode(context, this, options);
  }
}

function readMetadata(weights) {
  const bytes = new Uint8Array(weights);
  let end = bytes.length;
  while (end && !bytes[end - 1]) end--;
  const size = new DataView(weights).getUint32(16, true);
  return JSON.parse(new TextDecoder().decode(bytes.subarray(end - size, end)));
}

/** Load a model. */
export async function loadEnhance({
  url = new URL("./default.int8.bin", import.meta.url),
  wasm = new URL("./enhance.wasm", import.meta.url),
  worklet = new URL("./worklet.js", import.meta.url),
} = {}) {
  if (!isSupported()) throw new Error("enhance: this browser has no AudioWorklet or no WebAssembly SIMD");
  const bytes = (from) => (from instanceof ArrayBuffer ? from : fetched(from));
  const [code, weights] = await Promise.all([bytes(wasm), bytes(url)]);
  const { instance } = await WebAssembly.instantiate(code);
  return new Enhance(new Model(instance.exports, weights), code, weights, worklet);
}

const Base = globalThis.AudioWorkletNode ?? class {}; // a server may import this

/** Enhances what passes through it. */
export class EnhanceNode extends Base {
  #settings;
  #enabled = true;
  #context;
  #restarted = () => this.port.postMessage({ restarted: true });

  constructor(context, enhance, { channels = 1, fullBand = true, strength = 1, attenLimit = null } = {}) {
    const offline = typeof OfflineAudioContext === "function" && context instanceof OfflineAudioContext;
    const settings = { strength: share(strength), attenLimit: limit(attenLimit) };
    super(context, "enhance", {
      numberOfInputs: 1,
      numberOfOutputs: 1,
      channelCount: channels,
      channelCountMode: "explicit",
      outputChannelCount: [channels],
      processorOptions: {
        wasm: enhance.wasm,
        weights: enhance.weights,
        channels,
        fullBand,
        offline,
        settings: { ...settings, attenLimit: settings.attenLimit ?? -1 },
      },
    });
    this.#settings = settings;
    this.#context = context;
    this.latencySamples = enhance.latencySamples(context.sampleRate);
    this.underruns = 0;
    this.seconds = 0;
    /** Seconds of computing for a second of audio, since the beginning; null before it is known. */
    this.realTimeFactor = null;
    /** Kept when the audio thread can enhance, broken when it cannot. */
    this.ready = new Promise((resolve, reject) => {
      this.port.onmessage = ({ data }) => {
        if (data.ready) resolve();
        if (data.stats) this.#report(data.stats);
        if ("failure" in data) {
          const error = new Error(data.failure);
          reject(error);
          this.dispatchEvent(new ErrorEvent("processorerror", { message: data.failure, error }));
        }
      };
    });
    this.ready.catch(() => {}); // the event tells it as well
    context.addEventListener("statechange", this.#restarted);
  }

  #report({ samples, busy, underruns }) {
    this.seconds = samples / this.#context.sampleRate;
    this.realTimeFactor = busy / 1000 / this.seconds;
    this.underruns = underruns;
    this.dispatchEvent(new Event("report"));
  }

  #set(changed) {
    Object.assign(this.#settings, changed);
    const { strength, attenLimit } = this.#settings;
    const settings = { strength: this.#enabled ? strength : 0, attenLimit: attenLimit ?? -1 };
    this.port.postMessage({ settings });
  }

  /** Off, the input comes out, as late as it is otherwise, so that nothing jumps. */
  get enabled() {
    return this.#enabled;
  }
  set enabled(on) {
    this.#enabled = Boolean(on);
    this.#set({});
  }

  /** Share of the model's work that is kept, 0 to 1. */
  get strength() {
    return this.#settings.strength;
  }
  set strength(value) {
    this.#set({ strength: share(value) });
  }

  /** Most decibels by which anything is suppressed; null for no limit. */
  get attenLimit() {
    return this.#settings.attenLimit;
  }
  set attenLimit(value) {
    this.#set({ attenLimit: limit(value) });
  }

  /** Stop for good and free the memory. */
  destroy() {
    this.#context.removeEventListener("statechange", this.#restarted);
    this.port.postMessage({ destroy: true });
    this.disconnect();
  }
}

function share(value) {
  if (!(value >= 0 && value <= 1)) throw new RangeError(`enhance: strength ${value} is not from 0 to 1`);
  return value;
}

function limit(value) {
  if (value === null || value === Infinity) return null;
  if (!(value >= 0)) throw new RangeError(`enhance: attenLimit ${value} is no number of dB, or null`);
  return value;
}

/** A context that no click has allowed, or that has no device, stays silent without a word. */
export async function running(context) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new Error("enhance: sound does not start; begin from a click, and with an audio device");
    timer = setTimeout(reject, 5000, error);
  });
  await Promise.race([context.resume(), late]).finally(() => clearTimeout(timer));
}

/** A track of a microphone, enhanced. */
export async function enhanceTrack(track, { enhance, context, ...options } = {}) {
  const model = enhance ?? (await loadEnhance());
  const own = context ?? new AudioContext({ latencyHint: "interactive" });
  let node, source, destination;
  const stop = () => {
    track.removeEventListener("ended", stop);
    source?.disconnect();
    node?.destroy();
    for (const made of destination?.stream.getTracks() ?? []) made.stop();
    if (!context && own.state !== "closed") own.close();
  };
  try {
    node = await model.createNode(own, options);
    source = own.createMediaStreamSource(new MediaStream([track]));
    destination = new MediaStreamAudioDestinationNode(own, { channelCount: options.channels ?? 1 });
    source.connect(node).connect(destination);
    await running(own);
    await node.ready;
    // Its event is past, or never comes: none is sent where the page itself ends a track.
    if (track.readyState === "ended") throw new Error("enhance: the track has ended");
  } catch (error) {
    stop();
    throw error;
  }
  track.addEventListener("ended", stop);
  return { track: destination.stream.getAudioTracks()[0], node, stop };
}

/** LiveKit's `TrackProcessor` for audio: `track.setProcessor(new EnhanceProcessor())`. */
export class EnhanceProcessor {
  #options;
  #running;

  constructor(options = {}) {
    this.name = "enhance";
    this.processedTrack = undefined;
    this.#options = options;
  }

  /** The node while it runs: enabled, strength, attenLimit, underruns. */
  get node() {
    return this.#running?.node;
  }

  async init({ track, audioContext }) {
    this.#options.enhance ??= await loadEnhance();
    this.#running = await enhanceTrack(track, { ...this.#options, context: audioContext });
    this.processedTrack = this.#running.track;
  }

  async restart(options) {
    await this.destroy();
    await this.init(options);
  }

  async destroy() {
    this.#running?.stop();
    this.#running = this.processedTrack = undefined;
  }
}
