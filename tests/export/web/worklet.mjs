// node worklet.mjs SOURCE WASM WEIGHTS IN OUT RATE CHANNELS STEPS: the worklet as a browser would run
// it, quantum by quantum; IN and OUT are float32, a quantum of each channel after the other. STEPS is
// a list of [quantum, message or {"break": true}]. Prints what the worklet posted.
import { readFileSync, writeFileSync } from "node:fs";

const [source, wasm, weights, input, output, rate, channels, steps] = process.argv.slice(2);
const bytes = (path) => new Uint8Array(readFileSync(path)).buffer; // without what lies around it
let made;
globalThis.sampleRate = Number(rate);
globalThis.AudioWorkletProcessor = class {
  constructor() {
    this.port = { postMessage: (message) => posted.push(structuredClone(message)) };
  }
};
globalThis.registerProcessor = (name, kind) => (made = kind);
const posted = [];
await import(source);

const count = Number(channels);
const settings = { strength: 1, attenLimit: -1 };
const options = { wasm: bytes(wasm), weights: bytes(weights), channels: count, fullBand: true, offline: true, settings };
const processor = new made({ processorOptions: options });
const x = new Float32Array(bytes(input));
const todo = JSON.parse(steps);
let alive = true;
for (let at = 0, quantum = 0; at < x.length; at += 128 * count, quantum++) {
  for (const [, message] of todo.filter(([when]) => when === quantum)) {
    if (message.break) processor.streams[0] = -64; // an address that cannot be
    else processor.port.onmessage({ data: message });
  }
  globalThis.currentTime = (128 * quantum) / sampleRate;
  const parts = Array.from({ length: count }, (_, k) => x.subarray(at + 128 * k, at + 128 * (k + 1)));
  const made = parts.map((part) => new Float32Array(part.length));
  alive = processor.process([parts], [made]);
  made.forEach((part, k) => parts[k].set(part));
}
writeFileSync(output, new Uint8Array(x.buffer));
console.log(JSON.stringify({ posted, alive }));
