// Draws splats with WebGL 2. Every pixel walks through the splats that touch its tile, nearest first. Blending quads
// would be the usual way, but cannot end a pixel by the rules of gmae_tools/splatting, and rounds each step.

const TEXTURE_WIDTH = 1024;
const TEXELS = 3; // of a splat

const VERTEX_SHADER = `#version 300 es
void main() { // one triangle over the whole picture
  gl_Position = vec4(4.0 * float(gl_VertexID & 1) - 1.0, 2.0 * float(gl_VertexID & 2) - 1.0, 0.0, 1.0);
}`;

const FRAGMENT_SHADER = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp usampler2D;

uniform sampler2D splats; // three texels each: (x, y, a, b), (c, opacity, reach, depth), (red, green, blue, 0)
uniform usampler2D starts; // of the tiles in the list, one more than there are tiles
uniform usampler2D list; // of splats, tile by tile
uniform sampler2D scale; // colours of depth
uniform ivec2 range; // splats drawn
uniform ivec2 size; // of the picture drawn, in samples
uniform int stride; // px between samples
uniform int tiles; // in a row
uniform vec2 depths; // near and far end of the scale
uniform vec3 none; // colour of no depth
uniform bool showDepth;
out vec4 color;

ivec2 at(int index) { return ivec2(index % ${TEXTURE_WIDTH}, index / ${TEXTURE_WIDTH}); }

void main() {
  ivec2 sampled = ivec2(gl_FragCoord.x, size.y - 1 - int(gl_FragCoord.y));
  vec2 place = (vec2(sampled) + 0.5) * float(stride);
  ivec2 tile = ivec2(place) / ${TILE};
  int slot = tile.y * tiles + tile.x;
  int end = int(texelFetch(starts, at(slot + 1), 0).r);
  float light = 1.0;
  vec3 sum = vec3(0.0);
  for (int index = int(texelFetch(starts, at(slot), 0).r); index < end; index++) {
    int i = int(texelFetch(list, at(index), 0).r);
    if (i < range.x) continue;
    if (i >= range.y) break;
    vec4 head = texelFetch(splats, at(${TEXELS} * i), 0);
    vec4 tail = texelFetch(splats, at(${TEXELS} * i + 1), 0);
    vec2 d = place - head.xy;
    float sigma = 0.5 * (head.z * d.x * d.x + tail.x * d.y * d.y) + head.w * d.x * d.y;
    if (sigma < 0.0 || sigma > tail.z) continue;
    float weight = light * min(tail.y * exp(-sigma), ${ALPHA_MAX});
    if (light - weight <= ${LEAST_LIGHT}) break;
    light -= weight;
    sum += weight * (showDepth ? vec3(tail.w) : texelFetch(splats, at(${TEXELS} * i + 2), 0).rgb);
  }
  if (!showDepth) {
    color = vec4(sum + light, 1.0);
  } else if (1.0 - light < ${LEAST_COVER}) {
    color = vec4(none, 1.0);
  } else {
    float position = (sum.x / (1.0 - light) - depths.x) * 255.0 / (depths.y - depths.x);
    color = texelFetch(scale, ivec2(clamp(position, 0.0, 255.0), 0), 0);
  }
}`;

/** Draws as `JavaScriptDrawer` does. Throws an Error where there is no WebGL 2. */
class WebGLDrawer {
  name = "WebGL 2";

  constructor(splats, width, height, depthScale) {
    Object.assign(this, { width, height, count: splats.count });
    this.canvas = document.createElement("canvas");
    this.gl = this.canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
    if (!this.gl) throw new Error("no WebGL 2");
    const gl = this.gl;
    const program = this.link(VERTEX_SHADER, FRAGMENT_SHADER);
    gl.useProgram(program);
    this.place = (name) => gl.getUniformLocation(program, name);
    const bins = listTiles(splats, width, height);
    const textures = {
      splats: [packed(splats), gl.RGBA32F, gl.RGBA, gl.FLOAT],
      starts: [bins.starts, gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT],
      list: [bins.list, gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT],
      scale: [opaque(depthScale.colors), gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE],
    };
    Object.entries(textures).forEach(([name, texture], unit) => this.upload(name, unit, ...texture));
    gl.uniform1i(this.place("tiles"), Math.ceil(width / TILE));
    gl.uniform2f(this.place("depths"), depthScale.near, depthScale.far);
    gl.uniform3f(this.place("none"), ...depthScale.none.map((level) => level / 255));
  }

  draw({ from, to, stride, depth }) {
    const { gl, canvas } = this;
    if (gl.isContextLost()) throw new Error("the graphics card was lost");
    const [columns, rows] = [Math.ceil(this.width / stride), Math.ceil(this.height / stride)];
    if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
    gl.viewport(0, 0, columns, rows);
    gl.uniform2i(this.place("range"), from, to);
    gl.uniform2i(this.place("size"), columns, rows);
    gl.uniform1i(this.place("stride"), stride);
    gl.uniform1i(this.place("showDepth"), depth);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    return canvas;
  }

  /** Whether a picture takes less than about `limit` ms. WebGL without a graphics card takes ten times that. */
  isFast(limit) {
    const view = { from: 0, to: this.count, depth: false };
    const time = (stride) => {
      const begin = performance.now();
      this.draw({ ...view, stride });
      this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for the picture
      return performance.now() - begin;
    };
    time(16); // the shader is compiled
    return time(2) < limit / 2; // a quarter of the picture, and the time to read it
  }

  link(...sources) {
    const { gl } = this;
    const program = gl.createProgram();
    [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].forEach((kind, index) => {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, sources[index]);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    });
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) || "no shader");
    return program;
  }

  /** A texture of TEXTURE_WIDTH texels a row; the last row is filled up with zeros. */
  upload(name, unit, values, internal, format, type) {
    const { gl } = this;
    const perTexel = format === gl.RGBA ? 4 : 1;
    const rows = Math.max(1, Math.ceil(values.length / perTexel / TEXTURE_WIDTH));
    if (rows > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error("too many splats for this graphics card");
    const padded = new values.constructor(rows * TEXTURE_WIDTH * perTexel);
    padded.set(values);
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, TEXTURE_WIDTH, rows, 0, format, type, padded);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.uniform1i(this.place(name), unit);
  }
}

/** The splats' numbers in the order in which the shader reads them. */
function packed(splats) {
  const { x, y, a, b, c, opacity, reach, depth, red, green, blue } = splats;
  const columns = [x, y, a, b, c, opacity, reach, depth, red, green, blue];
  const values = new Float32Array(4 * TEXELS * splats.count);
  columns.forEach((column, place) => column.forEach((value, i) => (values[4 * TEXELS * i + place] = value)));
  return values;
}

/** RGB as RGBA. */
function opaque(colors) {
  return Uint8Array.from({ length: (colors.length / 3) * 4 }, (_, i) => (i % 4 === 3 ? 255 : colors[3 * (i >> 2) + (i % 4)]));
}

/** Which splats touch each tile, nearest first: those of tile t are list[starts[t]] to list[starts[t + 1] - 1]. */
function listTiles(splats, width, height) {
  const [across, down] = [Math.ceil(width / TILE), Math.ceil(height / TILE)];
  const tiles = Array.from({ length: across * down }, () => []);
  const clamp = (value, count) => Math.min(Math.max(Math.floor(value / TILE), 0), count - 1);
  for (let i = 0; i < splats.count; i++) {
    if (!(splats.reach[i] >= 0)) continue;
    const [halfWidth, halfHeight] = splats.halfSize(i, splats.reach[i]).map((half) => half + 0.01); // rounding
    const [x, y] = [splats.x[i], splats.y[i]];
    if (x + halfWidth < 0 || y + halfHeight < 0 || x - halfWidth > width || y - halfHeight > height) continue;
    for (let row = clamp(y - halfHeight, down); row <= clamp(y + halfHeight, down); row++) {
      for (let column = clamp(x - halfWidth, across); column <= clamp(x + halfWidth, across); column++) {
        tiles[row * across + column].push(i);
      }
    }
  }
  const starts = new Uint32Array(tiles.length + 1);
  tiles.forEach((tile, t) => (starts[t + 1] = starts[t] + tile.length));
  const list = new Uint32Array(starts[tiles.length]);
  tiles.forEach((tile, t) => list.set(tile, starts[t]));
  return { starts, list };
}
