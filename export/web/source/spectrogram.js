// A spectrogram on a canvas, of a whole recording or of what comes in.

const FLOOR = -95; // dB of full scale that is drawn darkest
const RANGE = 80;
const STOPS = [[9, 10, 24], [44, 19, 96], [124, 38, 124], [214, 70, 102], [252, 152, 96], [252, 246, 190]];
const COLOURS = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1);
  const k = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[k].map((from, c) => Math.round(from + (at - k) * (STOPS[k + 1][c] - from)));
});

/** Energies of n / 2 bins; n is a power of two. */
class Transform {
  constructor(n) {
    this.n = n;
    this.re = new Float32Array(n);
    this.im = new Float32Array(n);
    this.window = Float32Array.from({ length: n }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n));
    this.cos = Float32Array.from({ length: n / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / n));
    this.sin = Float32Array.from({ length: n / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / n));
    const bits = Math.log2(n);
    this.order = Uint32Array.from({ length: n }, (_, i) => {
      let turned = 0;
      for (let b = 0; b < bits; b++) turned |= ((i >> b) & 1) << (bits - 1 - b);
      return turned;
    });
  }

  /** The energy of each bin; `x` gives n samples from `start` on, zeros where it has none. */
  energies(x, start) {
    const { n, re, im, cos, sin } = this;
    for (let i = 0; i < n; i++) {
      const from = this.order[i];
      re[i] = (x[start + from] ?? 0) * this.window[from];
      im[i] = 0;
    }
    for (let half = 1; half < n; half *= 2) {
      for (let first = 0; first < n; first += 2 * half) {
        for (let k = 0, turn = 0; k < half; k++, turn += n / (2 * half)) {
          const a = first + k;
          const b = a + half;
          const r = re[b] * cos[turn] + im[b] * sin[turn];
          const i = im[b] * cos[turn] - re[b] * sin[turn];
          re[b] = re[a] - r;
          im[b] = im[a] - i;
          re[a] += r;
          im[a] += i;
        }
      }
    }
    for (let k = 0; k < n / 2; k++) re[k] = re[k] * re[k] + im[k] * im[k];
    return re;
  }
}

export class Spectrogram {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.clear();
  }

  clear() {
    this.context.fillStyle = `rgb(${COLOURS[0]})`;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** @param {number} top highest frequency that is drawn, Hz */
  open(rate, top) {
    this.transform = new Transform(2 ** Math.round(Math.log2(0.03 * rate)));
    this.image = this.context.createImageData(1, this.canvas.height);
    this.bins = Math.min(top / rate, 0.5) * this.transform.n;
    this.clear();
  }

  get samples() {
    return this.transform.n;
  }

  #column(x, start, place) {
    const { height } = this.canvas;
    const energies = this.transform.energies(x, start);
    const full = 20 * Math.log10(this.transform.n / 4); // a sine of full scale
    for (let row = 0; row < height; row++) {
      const from = Math.floor(((height - 1 - row) / height) * this.bins);
      const to = Math.max(from + 1, Math.floor(((height - row) / height) * this.bins));
      let most = 0;
      for (let k = from; k < to; k++) most = Math.max(most, energies[k]);
      const share = (10 * Math.log10(most + 1e-20) - full - FLOOR) / RANGE;
      const colour = COLOURS[Math.max(0, Math.min(255, Math.round(255 * share)))];
      this.image.data.set(colour, 4 * row);
      this.image.data[4 * row + 3] = 255;
    }
    this.context.putImageData(this.image, place, 0);
  }

  /** A whole recording of one channel across the canvas. */
  draw(x) {
    const { width } = this.canvas;
    for (let place = 0; place < width; place++) {
      const middle = Math.round(((place + 0.5) / width) * x.length);
      this.#column(x, middle - this.transform.n / 2, place);
    }
  }

  /** One more column at the right. */
  push(x) {
    const { width, height } = this.canvas;
    this.context.drawImage(this.canvas, 1, 0, width - 1, height, 0, 0, width - 1, height);
    this.#column(x, 0, width - 1);
  }
}
