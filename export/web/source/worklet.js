// The stream in WebAssembly, and the audio thread's processor around it. One file without imports:
// a worklet is loaded by its address, and the page's side needs the class `Model` too.

/** Most samples of a render quantum; today's have 128. */
const MOST_QUANTUM = 4096;

/** A model in WebAssembly's memory. What it needs is laid out before the first sample. */
export class Model {
  /**
   * @param {WebAssembly.Exports} c the compiled step
   * @param {ArrayBuffer} weights a .bin file of `enhance export`
   */
  constructor(c, weights) {
    this.c = c;
    this.top = c.__heap_base.value;
    this.bytes = weights.byteLength;
    this.weights = this.room(this.bytes);
    new Uint8Array(c.memory.buffer).set(new Uint8Array(weights), this.weights);
    const refusal = c.enhance_refusal(this.weights, this.bytes);
    if (refusal) throw new Error(`enhance: these weights cannot be used (${this.text(refusal)})`);
  }

  /** Address of so many bytes, at a multiple of 64. */
  room(bytes) {
    const at = (this.top + 63) & ~63;
    this.top = at + bytes;
    const missing = this.top - this.c.memory.buffer.byteLength;
    if (missing > 0) this.c.memory.grow(Math.ceil(missing / 65536));
    return at;
  }

  text(at) {
    const bytes = new Uint8Array(this.c.memory.buffer, at);
    return String.fromCharCode(...bytes.subarray(0, bytes.indexOf(0)));
  }

  /** Address of a new stream of one channel. */
  open(rate) {
    const size = this.c.enhance_stream_size(this.weights, this.bytes, rate);
    const stream = size && this.c.enhance_stream_open(this.room(size), size, this.weights, this.bytes, rate);
    if (!stream) throw new Error(`enhance: a stream of ${rate} Hz cannot be opened`);
    return stream;
  }
}

/** Whether the audio clock falls behind: what is not rendered in time is lost for good. */
class Underruns {
  constructor() {
    this.count = 0;
    this.restart();
  }

  /** After a pause, in which the audio clock stands still. */
  restart() {
    this.settled = false;
    this.base = Infinity;
    this.open();
  }

  open() {
    this.until = 0;
    this.least = Infinity;
  }

  /**
   * Quanta come in bursts, so that the wall clock is now more, now less ahead. The least of a second
   * is steady, but for the drift of two clocks; where it jumps, audio was lost.
   * @param {number} wall milliseconds
   * @param {number} audio milliseconds
   */
  hear(wall, audio) {
    if (!this.until) this.until = audio + 1000;
    if (wall - audio < this.least) this.least = wall - audio;
    if (audio < this.until) return;
    if (this.settled && this.least - this.base > 5) this.count++;
    this.settled = this.base !== Infinity; // the first second fills buffers
    this.base = this.least;
    this.open();
  }
}

if (typeof registerProcessor === "function") {
  registerProcessor(
    "enhance",
    class extends AudioWorkletProcessor {
      constructor({ processorOptions }) {
        super();
        this.port.onmessage = ({ data }) => this.hear(data);
        this.alive = true;
        this.model = null;
        this.underruns = new Underruns();
        try {
          this.begin(processorOptions);
        } catch (error) {
          this.fail(error);
        }
      }

      begin({ wasm, weights, channels, fullBand, offline, settings }) {
        const { exports } = new WebAssembly.Instance(new WebAssembly.Module(wasm));
        const model = new Model(exports, weights);
        this.streams = Array.from({ length: channels }, () => model.open(sampleRate));
        this.buffer = model.room(4 * MOST_QUANTUM);
        for (const s of this.streams) exports.enhance_stream_set_full_band(s, fullBand ? 1 : 0);
        this.model = model;
        this.view = new Float32Array(exports.memory.buffer, this.buffer, 128);
        this.offline = offline;
        this.stats = { samples: 0, busy: 0, underruns: 0 };
        this.due = this.every = Math.round(sampleRate / 4); // samples from report to report
        this.hear({ settings });
        this.port.postMessage({ ready: true });
      }

      /** What the page asks for. */
      hear({ settings, restarted, destroy }) {
        if (destroy) this.alive = false;
        if (restarted) this.underruns.restart();
        if (!settings || !this.model) return;
        const { c } = this.model;
        for (const s of this.streams) {
          c.enhance_stream_set_limit(s, settings.attenLimit);
          c.enhance_stream_set_strength(s, settings.strength);
        }
      }

      /** From here on silence: what is not enhanced must not pass as if it were. */
      fail(error) {
        this.model = null;
        this.port.postMessage({ failure: String(error?.message ?? error) });
      }

      process([input], [output]) {
        if (!this.alive) return false;
        if (!this.model) return true;
        const began = Date.now();
        try {
          this.run(input, output);
        } catch (error) {
          for (const channel of output) channel.fill(0);
          this.fail(error);
          return true;
        }
        const ended = Date.now();
        this.stats.busy += ended - began; // whole milliseconds, right in the mean
        if (!this.offline) this.underruns.hear(ended, 1000 * currentTime);
        this.report(output[0].length);
        return true;
      }

      run(input, output) {
        const { c } = this.model;
        const count = output[0].length;
        if (count !== this.view.length) {
          if (count > MOST_QUANTUM) throw new Error(`enhance: ${count} samples at a time are too many`);
          this.view = new Float32Array(c.memory.buffer, this.buffer, count);
        }
        for (let k = 0; k < output.length; k++) {
          if (k < input.length) this.view.set(input[k]);
          else this.view.fill(0); // nothing is connected
          c.enhance_stream_process(this.streams[k], this.buffer, this.buffer, count);
          output[k].set(this.view);
        }
      }

      report(count) {
        const { stats } = this;
        stats.samples += count;
        this.due -= count;
        if (this.due > 0) return;
        stats.underruns = this.underruns.count;
        this.due += this.every;
        this.port.postMessage({ stats });
      }
    },
  );
}
