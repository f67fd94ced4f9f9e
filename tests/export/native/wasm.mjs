// node wasm.mjs MODULE WEIGHTS IN OUT: the driver for WebAssembly; prints the instruction set.
import { readFileSync, writeFileSync } from "node:fs";

const [module, weights, input, output] = process.argv.slice(2).map((p, i) => (i < 3 ? readFileSync(p) : p));
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
const size = c.enhance_size(at, weights.length);
const stream = c.enhance_open(room(size), size, at, weights.length);
if (!size || !stream) process.exit(3);
const hop = 4 * c.enhance_hop(stream);
const buffer = room(hop);
for (let i = 0; i + hop <= input.length; i += hop) {
  new Uint8Array(c.memory.buffer).set(input.subarray(i, i + hop), buffer);
  c.enhance_process(stream, buffer, buffer);
  input.set(new Uint8Array(c.memory.buffer, buffer, hop), i);
}
writeFileSync(output, input);
const said = new Uint8Array(c.memory.buffer, c.enhance_instructions());
console.log(Buffer.from(said.subarray(0, said.indexOf(0))).toString());
