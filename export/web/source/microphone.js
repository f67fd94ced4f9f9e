// The microphone through the worklet, live; what it hears is kept to be played afterwards.
import { running } from "./index.js";

const KEPT = 300; // seconds

export class Microphone extends EventTarget {
  static async open(enhance) {
    const own = new Microphone();
    try {
      await own.#begin(enhance);
    } catch (error) {
      own.stop();
      throw error;
    }
    return own;
  }

  async #begin(enhance) {
    if (!navigator.mediaDevices) throw new Error("this browser gives no microphone to this page");
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Error(`the microphone cannot be used (${error.message}); allow it for this page`);
    }
    this.context = new AudioContext({ latencyHint: "interactive" });
    const { context } = this;
    await running(context);
    this.node = await enhance.createNode(context);
    const failed = (detail) => this.dispatchEvent(new CustomEvent("failed", { detail }));
    this.node.addEventListener("processorerror", (event) => failed(event.error ?? "the worklet failed"));
    const [track] = this.stream.getTracks();
    track.addEventListener("ended", () => failed("the microphone was taken away"));
    const source = context.createMediaStreamSource(this.stream);
    this.before = new AnalyserNode(context, { fftSize: 2048 });
    this.after = new AnalyserNode(context, { fftSize: 2048 });
    this.output = new GainNode(context, { gain: 0 });
    source.connect(this.before);
    source.connect(this.node).connect(this.after).connect(this.output).connect(context.destination);
    await this.node.ready;
    this.rate = context.sampleRate;
    /** Seconds, of the model alone. */
    this.delay = this.node.latencySamples / this.rate;
    this.pieces = [];
    this.recorder = new MediaRecorder(this.stream);
    this.recorder.addEventListener("dataavailable", ({ data }) => this.pieces.push(data));
    this.over = new Promise((resolve) => this.recorder.addEventListener("stop", resolve, { once: true }));
    this.recorder.start();
    this.timer = setTimeout(() => this.recorder.stop(), 1000 * KEPT);
  }

  /** Share of the model's work that is kept. */
  set share(share) {
    this.node.strength = share;
  }

  /** Whether it is heard. */
  set monitor(on) {
    this.output.gain.setTargetAtTime(on ? 1 : 0, this.context.currentTime, 0.02);
  }

  /** Stop; resolves to what was heard, as a file. */
  async finish() {
    const { recorder } = this;
    if (recorder.state !== "inactive") recorder.stop();
    await this.over; // what it still holds comes before
    this.stop();
    return new File(this.pieces, "recording", { type: recorder.mimeType });
  }

  stop() {
    clearTimeout(this.timer);
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.node?.destroy();
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}
