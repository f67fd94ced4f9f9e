// node wasm.mjs MODULE WEIGHTS IN OUT [RATE PIECE]: the driver for WebAssembly; prints the instruction set.
import { readFileSync, writeFileSync } from "node:fs";

const [module, weights, input, output, rate, piece] = process.argv.slice(2).map((p, i) => (i < 3 ? readFileSync(p) : p));
const { instance } = await WebAssembly.instantiate(module, {});
const c = instance.exports;
let top = c.__heap_base.value;

function room(bytes) {
  const at = (top + 63) & ~63;
  top = at + bytes;
  const missing = top - c.memory.buffer.byteLength;
  if (missing > 0) c.memory.grow(Math.ceil(missing / 65536));
  return at;
}

const at = room(weights.length);
new Uint8Array(c.memory.buffer).set(weights, at);
const size = rate ? c.enhance_stream_size(at, weights.length, rate) : c.enhance_size(at, weights.length);
const memory = [room(size), size, at, weights.length];
const stream = rate ? c.enhance_stream_open(...memory, rate) : c.enhance_open(...memory);
if (!size || !stream) process.exit(3);
const step = 4 * (rate ? piece : c.enhance_hop(stream));
const buffer = room(step);
for (let i = 0; i < input.length; i += step) {
  const bytes = Math.min(step, input.length - i);
  new Uint8Array(c.memory.buffer).set(input.subarray(i, i + bytes), buffer);
  if (rate) c.enhance_stream_process(stream, buffer, buffer, bytes / 4);
  else c.enhance_process(stream, buffer, buffer);
  input.set(new Uint8Array(c.memory.buffer, buffer, bytes), i);
}
writeFileSync(output, input);
const said = new Uint8Array(c.memory.buffer, c.enhance_instructions());
console.log(Buffer.from(said.subarray(0, said.indexOf(0))).toString());
