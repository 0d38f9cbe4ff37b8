
"use strict";
// The picture: errors by code, one stacked bar for each few seconds.

const SVG = "http://www.w3.org/2000/svg";
const BIN_SECONDS = { 300: 3, 900: 10, 3600: 30 };
const TICK_SECONDS = { 300: 60, 900: 180, 3600: 600 };
const COLOURS = 7; // class c7 is for all codes that come later
const MARGIN = { left: 34, right: 4, top: 8, bottom: 20 };

const colours = new Map();
// A code keeps its colour as long as the page is open, whatever else overtakes it.
function colourOf(code) {
  if (!colours.has(code) && colours.size < COLOURS) colours.set(code, colours.size);
  return `c${colours.get(code) ?? COLOURS}`;
}

function clockText(seconds, withSeconds = true) {
  const style = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (withSeconds) style.second = "2-digit";
  return new Date(seconds * 1000).toLocaleTimeString([], style);
}

class Chart {
  constructor(svg, reading) {
    this.svg = svg;
    this.reading = reading;
    this.rates = new Map(); // second -> {code: errors}
    this.seconds = 300;
    this.now = 0;
    this.only = "";
    this.bins = [];
    this.picked = null;
    svg.addEventListener("pointermove", (event) => this.pick(this.binAt(event)));
    svg.addEventListener("pointerleave", () => this.pick(null));
    svg.addEventListener("blur", () => this.pick(null));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !this.bins.length) return;
      event.preventDefault();
      const from = this.picked ?? this.bins.length;
      this.pick(Math.min(this.bins.length - 1, Math.max(0, from + step)));
    });
    new ResizeObserver(() => this.draw()).observe(svg);
  }

  add(rates, now) {
    for (const [second, codes] of rates) this.rates.set(second, codes);
    for (const second of this.rates.keys()) if (second < now - 3700) this.rates.delete(second);
  }

  total(seconds) {
    let sum = 0;
    for (const [second, codes] of this.rates) {
      if (second > this.now - seconds) for (const count of Object.values(codes)) sum += count;
    }
    return sum;
  }

  draw() {
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    if (!width || !this.now) return;
    const size = BIN_SECONDS[this.seconds];
    // Bars begin at whole multiples of their width, so that they do not flicker as time goes.
    const end = Math.floor(this.now / size) * size + size;
    this.bins = this.gather(end - this.seconds, size);
    const inner = { width: width - MARGIN.left - MARGIN.right,
                    height: height - MARGIN.top - MARGIN.bottom };
    const most = Math.max(...this.bins.map((bin) => bin.sum));
    const ticks = ticksUpTo(most);
    const top = ticks[ticks.length - 1];
    const y = (count) => MARGIN.top + inner.height * (1 - count / top);
    const step = inner.width / this.bins.length;

    const parts = [];
    for (const tick of ticks) {
      const kind = tick ? "grid" : "base";
      parts.push(shape("line", { class: kind, x1: MARGIN.left, x2: width - MARGIN.right,
                                 y1: Math.round(y(tick)) + .5, y2: Math.round(y(tick)) + .5 }));
      parts.push(label(MARGIN.left - 6, y(tick) + 4, tick.toLocaleString(), "end"));
    }
    const every = TICK_SECONDS[this.seconds] * (width < 480 ? 2 : 1);
    for (let second = Math.ceil((end - this.seconds) / every) * every; second <= end; second += every) {
      const x = MARGIN.left + inner.width * (1 - (end - second) / this.seconds);
      if (x > MARGIN.left + 18 && x < width - 18) {
        parts.push(label(x, height - 4, clockText(second, false), "middle"));
      }
    }
    this.guide = shape("rect", { class: "guide", y: MARGIN.top, width: step,
                                 height: inner.height, visibility: "hidden" });
    parts.push(this.guide);
    const gap = step > 4 ? 1 : 0;
    this.bins.forEach((bin, index) => {
      bin.x = MARGIN.left + index * step;
      let below = 0;
      for (const [code, count] of bin.codes) {
        const faded = this.only && this.only !== code ? " faded" : "";
        parts.push(shape("rect", { class: colourOf(code) + faded, x: bin.x, y: y(below + count),
                                   width: step - gap, height: y(below) - y(below + count) }));
        below += count;
      }
    });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(...parts);
    this.svg.setAttribute("aria-label", `Errors by code, for each ${size} seconds of the last `
      + `${this.seconds / 60} minutes: ${this.total(this.seconds).toLocaleString()} in all, `
      + `at most ${most.toLocaleString()} at a time. Arrow keys read them.`);
    this.pick(this.picked);
  }

  gather(start, size) {
    const count = this.seconds / size;
    const bins = Array.from({ length: count }, (_, index) =>
      ({ start: start + index * size, sums: new Map(), sum: 0 }));
    for (const [second, codes] of this.rates) {
      const bin = bins[Math.floor((second - start) / size)];
      if (!bin) continue;
      for (const [code, errors] of Object.entries(codes)) {
        bin.sums.set(code, (bin.sums.get(code) ?? 0) + errors);
        bin.sum += errors;
      }
    }
    // The same order in each bar, or the eye finds no line.
    const order = [...colours.keys()];
    const rank = (code) => (order.indexOf(code) + 1) || Infinity;
    for (const bin of bins) bin.codes = [...bin.sums].sort(([a], [b]) => rank(a) - rank(b));
    return bins;
  }

  binAt(event) {
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    const index = this.bins.findLastIndex((bin) => bin.x <= x);
    return index < 0 ? null : index;
  }

  pick(index) {
    this.picked = index;
    const bin = this.bins[index ?? -1];
    this.guide?.setAttribute("visibility", bin ? "visible" : "hidden");
    const size = BIN_SECONDS[this.seconds];
    let text = `Each bar is ${size} seconds.`;
    if (bin) {
      this.guide.setAttribute("x", bin.x);
      const codes = [...bin.codes].sort(([, a], [, b]) => b - a);
      const said = codes.map(([code, count]) => `${code} ${count.toLocaleString()}`).join(", ");
      text = `${clockText(bin.start)} to ${clockText(bin.start + size)}: ${said || "none"}`;
    }
    if (this.reading.textContent !== text) this.reading.textContent = text;
  }
}

// Round numbers from 0 to something not below *most*.
function ticksUpTo(most) {
  const rough = Math.max(1, most / 4);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough);
  const ticks = [0];
  do ticks.push(ticks[ticks.length - 1] + step); while (ticks[ticks.length - 1] < most);
  return ticks;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function label(x, y, text, anchor) {
  const made = shape("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}
