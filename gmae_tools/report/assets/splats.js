// Splats, the rules by which they become a picture, and a drawer without a graphics card.

const data = JSON.parse(document.getElementById("data").textContent); // written by report/page.py
// The limits of gmae_tools/splatting/rules.py: the cap of alpha; -log of the least alpha that is drawn; the light below
// which a splat ends a pixel, undrawn.
const { alphaMax: ALPHA_MAX, cutoff: CUTOFF, transmittanceMin: LEAST_LIGHT, tile: TILE } = data.rules;
const LEAST_COVER = data.depthScale.covered; // below this coverage no depth is shown

/** A base64 text as bytes. */
function decode(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** Splats on the picture plane, nearest first; a Float32Array for each name of `fields`, see report/page.py. */
class Splats {
  constructor({ k, fields, table }) {
    this.count = k;
    const values = new Float32Array(decode(table).buffer);
    fields.forEach((field, index) => {
      this[field] = values.subarray(index * k, (index + 1) * k);
    });
    // How far a splat reaches: it is drawn where sigma = (a dx² + c dy²) / 2 + b dx dy is no more than this.
    this.reach = this.opacity.map((opacity, i) =>
      this.a[i] > 0 && this.determinant(i) > 0 ? CUTOFF + Math.log(opacity) : -1,
    );
  }

  /** Of the conic (a, b, c), in double precision. */
  determinant(i) {
    return this.a[i] * this.c[i] - this.b[i] * this.b[i];
  }

  /** Half the width and height in px of the ellipse on which sigma is `level`. */
  halfSize(i, level) {
    const scale = (2 * level) / this.determinant(i);
    return [Math.sqrt(scale * this.c[i]), Math.sqrt(scale * this.a[i])];
  }

  /** Standard deviations in px along the axes of the footprint, the longer one first, and its angle to the x axis. */
  axes(i) {
    const [a, b, c] = [this.a[i], this.b[i], this.c[i]];
    const middle = (a + c) / 2;
    const spread = Math.hypot((a - c) / 2, b);
    const short = 1 / Math.sqrt(middle + spread);
    return [1 / (Math.sqrt(this.determinant(i)) * short), short, Math.atan2(-2 * b, c - a) / 2];
  }

  /** Which of the splats [from, to) is seen most at (x, y) px, and its share of the pixel; index -1 where none is. */
  owner(x, y, from, to) {
    let [light, index, share] = [1, -1, 0];
    for (let i = from; i < to; i++) {
      const [dx, dy] = [x - this.x[i], y - this.y[i]];
      const sigma = 0.5 * (this.a[i] * dx * dx + this.c[i] * dy * dy) + this.b[i] * dx * dy;
      if (sigma < 0 || sigma > this.reach[i]) continue;
      const alpha = Math.min(this.opacity[i] * Math.exp(-sigma), ALPHA_MAX);
      const after = light - light * alpha;
      if (after <= LEAST_LIGHT) break;
      if (light * alpha > share) [index, share] = [i, light * alpha];
      light = after;
    }
    return { index, share };
  }
}

/**
 * Composite splats [from, to) front to back at every `stride`-th pixel centre.
 *
 * @param channels three arrays with a number for each splat: its colour, say.
 * @param sums filled with three numbers a pixel, without background.
 * @param light filled with what light is left; negative where a pixel was ended.
 */
function composite(splats, channels, { from, to, stride }, columns, rows, sums, light) {
  const [red, green, blue] = channels;
  sums.fill(0);
  light.fill(1);
  for (let i = from; i < to; i++) {
    const reach = splats.reach[i];
    if (!(reach >= 0)) continue;
    const [x, y, a, b, c] = [splats.x[i], splats.y[i], splats.a[i], splats.b[i], splats.c[i]];
    const opacity = splats.opacity[i];
    const [r, g, bl] = [red[i], green[i], blue[i]];
    const determinant = a * c - b * b;
    const shrink = Math.exp(-a * stride * stride);
    const halfHeight = Math.sqrt((2 * reach * a) / determinant);
    const top = Math.max(0, Math.ceil((y - halfHeight) / stride - 0.5));
    const bottom = Math.min(rows - 1, Math.floor((y + halfHeight) / stride - 0.5));
    for (let row = top; row <= bottom; row++) {
      const dy = (row + 0.5) * stride - y;
      const halfChord = Math.sqrt(Math.max(0, 2 * a * reach - determinant * dy * dy)) / a;
      const middle = x - (b / a) * dy;
      const first = Math.max(0, Math.ceil((middle - halfChord) / stride - 0.5));
      const last = Math.min(columns - 1, Math.floor((middle + halfChord) / stride - 0.5));
      if (first > last) continue;
      // Along a row, alpha changes by a ratio from pixel to pixel, and that ratio by `shrink`.
      const dx = (first + 0.5) * stride - x;
      let peak = opacity * Math.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy);
      let ratio = Math.exp(-stride * (a * (dx + 0.5 * stride) + b * dy));
      const end = row * columns + last;
      for (let pixel = row * columns + first; pixel <= end; pixel++) {
        const here = light[pixel];
        if (here > 0) {
          const weight = here * (peak < ALPHA_MAX ? peak : ALPHA_MAX);
          if (here - weight > LEAST_LIGHT) {
            sums[3 * pixel] += weight * r;
            sums[3 * pixel + 1] += weight * g;
            sums[3 * pixel + 2] += weight * bl;
            light[pixel] = here - weight;
          } else {
            light[pixel] = -here;
          }
        }
        peak *= ratio;
        ratio *= shrink;
      }
    }
  }
}

/** Draws with typed arrays alone. `depthScale` has the fields `near`, `far`, `colors` (RGB of 256 steps) and `none`. */
class JavaScriptDrawer {
  name = "JavaScript";

  constructor(splats, width, height, depthScale) {
    Object.assign(this, { splats, width, height, depthScale });
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
  }

  /**
   * A canvas with the picture of splats [from, to) on white, or with their expected depth, at every `stride`-th pixel.
   *
   * @param view `{from, to, stride, depth}`, the last a Boolean.
   */
  draw(view) {
    const columns = Math.ceil(this.width / view.stride);
    const rows = Math.ceil(this.height / view.stride);
    this.resize(columns, rows);
    const { red, green, blue, depth } = this.splats;
    const channels = view.depth ? [depth, depth, depth] : [red, green, blue];
    composite(this.splats, channels, view, columns, rows, this.sums, this.light);
    (view.depth ? this.shadeDepth : this.shadeColor).call(this, this.image.data);
    this.context.putImageData(this.image, 0, 0);
    return this.canvas;
  }

  resize(columns, rows) {
    if (this.image?.width === columns && this.image.height === rows) return;
    [this.canvas.width, this.canvas.height] = [columns, rows];
    this.image = new ImageData(columns, rows);
    this.sums = new Float32Array(3 * columns * rows);
    this.light = new Float32Array(columns * rows);
  }

  shadeColor(data) {
    for (let pixel = 0; pixel < this.light.length; pixel++) {
      const white = Math.abs(this.light[pixel]);
      data[4 * pixel] = 255 * (this.sums[3 * pixel] + white);
      data[4 * pixel + 1] = 255 * (this.sums[3 * pixel + 1] + white);
      data[4 * pixel + 2] = 255 * (this.sums[3 * pixel + 2] + white);
      data[4 * pixel + 3] = 255;
    }
  }

  shadeDepth(data) {
    const { near, far, colors, none } = this.depthScale;
    for (let pixel = 0; pixel < this.light.length; pixel++) {
      const cover = 1 - Math.abs(this.light[pixel]);
      const place = ((this.sums[3 * pixel] / cover - near) * 255) / (far - near);
      const [source, step] = cover < LEAST_COVER ? [none, 0] : [colors, 3 * Math.floor(Math.min(Math.max(place, 0), 255))];
      data[4 * pixel] = source[step];
      data[4 * pixel + 1] = source[step + 1];
      data[4 * pixel + 2] = source[step + 2];
      data[4 * pixel + 3] = 255;
    }
  }
}
