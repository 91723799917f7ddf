// ---------------------------------------------------------------- how samples of each kind are shown
//
// A view is made from the facts of the page. It has
//   paint(canvas, x)      draws the sample x, a Float32Array, small
//   show(x)               shows it large, in the element `main`
//   describe(x)           says in words what a screen reader should know of it, or ""
// and perhaps
//   rows(x)               the cells of a table row, if samples are shown as rows and not as pictures; `heads` are its columns
//   refresh(draw)         is called when the network or the label changes; draw() gives another random sample and its noise
// Another kind of data is one more entry of VIEWS.

const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const CATEGORIES = ["#3f6bd0", "#b85c12", "#1f7f56", "#b23a72", "#7d55c7", "#86720c", "#1f7f90", "#bf3547", "#5d7030", "#8a5a3e"];

// A colour for a number from -1 (dark blue) to 1 (light yellow), through green.
function scale(v) {
  const stops = [[46, 33, 92], [38, 94, 138], [27, 138, 125], [118, 190, 92], [240, 226, 84]];
  const at = Math.min(0.9999, Math.max(0, (v + 1) / 2)) * (stops.length - 1), i = Math.floor(at);
  return `rgb(${stops[i].map((a, k) => Math.round(a + (at - i) * (stops[i + 1][k] - a))).join(" ")})`;
}

const VIEWS = {
  // Images (H, W, C) in [-1, 1].
  grid(facts) {
    const [H, W, C] = facts.shape;
    const main = make("canvas", undefined, { role: "img" });
    const pixels = (x) => Uint8ClampedArray.from(x, (v) => Math.round((Math.min(1, Math.max(-1, v)) + 1) * 127.5));
    const rgba = (x) => {
      const image = new ImageData(W, H), from = pixels(x), to = image.data;
      for (let i = 0; i < H * W; i++) {
        for (let c = 0; c < 3; c++) to[4 * i + c] = from[C * i + (C === 3 ? c : 0)];
        to[4 * i + 3] = 255;
      }
      return image;
    };
    const paint = (canvas, x) => {
      if (canvas.width !== W || canvas.height !== H) [canvas.width, canvas.height] = [W, H];
      canvas.getContext("2d").putImageData(rgba(x), 0, 0);
    };
    return { main, pixels, paint, show: (x) => paint(main, x), describe: () => "", size: [W, H], noun: "image" };
  },

  // Points (2,) in the plane: the sample in a cloud of others.
  scatter(facts) {
    const REACH = 3, main = make("canvas", undefined, { role: "img", class: "smooth" });
    let cloud = [];
    const draw = (canvas, x, side, radius, count) => {
      if (canvas.width !== side) [canvas.width, canvas.height] = [side, side];
      canvas.className = "smooth";
      const pen = canvas.getContext("2d"), at = (v) => ((v + REACH) / (2 * REACH)) * side;
      pen.clearRect(0, 0, side, side);
      pen.fillStyle = colour("accent");
      pen.globalAlpha = 0.55;
      for (const point of cloud.slice(0, count)) {
        pen.beginPath();
        pen.arc(at(point[0]), side - at(point[1]), radius, 0, 7);
        pen.fill();
      }
      pen.globalAlpha = 1;
      if (!x) return;
      pen.beginPath();
      pen.arc(at(x[0]), side - at(x[1]), 4 * radius, 0, 7);
      pen.fillStyle = colour("mark");
      pen.fill();
      pen.lineWidth = 1.5 * radius;
      pen.strokeStyle = colour("card");
      pen.stroke();
    };
    return {
      main,
      paint: (canvas, x) => draw(canvas, x, 120, 1.4, 250),
      show: (x) => draw(main, x, 800, 3, 2000),
      whole(canvas) {
        // The noise on the left and what becomes of it on the right, in the colour of its direction.
        [canvas.width, canvas.height] = [1640, 850];
        const pen = canvas.getContext("2d"), at = (v, left) => left + ((v + REACH) / (2 * REACH)) * 800;
        pen.font = "26px system-ui, sans-serif";
        pen.fillStyle = colour("quiet");
        pen.fillText("noise", 24, 40);
        pen.fillText("what the generator makes of it", 864, 40);
        for (const [x, y, z] of cloud) {
          pen.fillStyle = z.length === 2 ? `hsl(${(Math.atan2(z[1], z[0]) * 180) / Math.PI} 75% ${colour("middle")} / 0.75)` : colour("accent");
          for (const [a, b, left] of [[z[0], z[1], 0], [x, y, 840]]) {
            pen.beginPath();
            const reached = Math.max(Math.abs(a), Math.abs(b)) < REACH;
            if (reached) pen.arc(at(a, left), 850 - at(b, 0), 3.2, 0, 7);
            pen.fill();
          }
        }
      },
      cells: 7,
      describe: (x) => `At ${x[0].toFixed(2)}, ${x[1].toFixed(2)}.`,
      refresh: (draw) => (cloud = Array.from({ length: 2000 }, () => {
        const [x, z] = draw();
        return [x[0], x[1], z];
      })),
      size: [120, 120],
      noun: "point",
    };
  },

  // Rows of a table: features that are decoded to values.
  table(facts) {
    const main = make("div", undefined, { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of the sample" });
    const cell = (tag, text) => {
      const element = make(tag);
      element.append(text === "" ? make("span", "missing", { class: "missing" }) : make("bdi", text));
      return element;
    };
    // The value of a number: see number_of in export/columns.py.
    const numberOf = (x, { values, low, high, most, decimals }) => {
      const rank = (x + 1) * (most / 2);
      let i = 0, end = low.length;
      while (i + 1 < end) {
        const middle = (i + end) >> 1;
        if (low[middle] <= rank) i = middle;
        else end = middle;
      }
      const j = Math.min(i + 1, values.length - 1);
      if (rank <= high[i] || i === j) return values[i];
      const share = Math.min((rank - high[i]) / (low[j] - high[i]), 1);
      const y = (1 - share) * values[i] + share * values[j];
      return decimals === null ? y : Math.round(y * 10 ** decimals) / 10 ** decimals;
    };
    const SECONDS = { D: 86400, h: 3600, m: 60, s: 1, ms: 1e-3, us: 1e-6, ns: 1e-9 };
    const written = (value, { unit, decimals }) => {
      if (unit === "Y") return String(1970 + value);
      if (unit === "M") return `${1970 + Math.floor(value / 12)}-${String((((value % 12) + 12) % 12) + 1).padStart(2, "0")}`;
      if (unit) return new Date(value * SECONDS[unit] * 1000).toISOString().slice(0, unit === "D" ? 10 : 19).replace("T", " ");
      return decimals === null ? String(Number(value.toPrecision(6))) : value.toFixed(Math.min(decimals, 20));
    };
    const chosen = (x, [start, stop]) => {
      let best = start;
      for (let i = start; i < stop; i++) if (x[i] > x[best]) best = i;
      return best - start;
    };
    const valueOf = (x, column) => {
      if (column.group) {
        const at = chosen(x, column.group), choice = column.choices[at];
        if (choice !== null) return choice ?? `value ${at + 1}`; // of many texts, the page has the first ones
      }
      return column.number === null ? column.constant : written(numberOf(x[column.number], column), column);
    };
    const rows = (x) => facts.columns.map((column) => valueOf(x, column));
    const table = main.appendChild(make("table")).appendChild(make("tbody"));
    const values = facts.columns.map((column) => {
      const line = table.appendChild(make("tr")), name = line.appendChild(make("th", undefined, { scope: "row" }));
      name.append(make("bdi", column.name));
      return line.appendChild(make("td"));
    });
    const painted = facts.columns.filter((column) => column.group || column.number !== null);
    let by = painted.find((column) => column.number !== null) ?? painted.at(-1);
    const ordinary = (x) => by.number !== null && (!by.group || by.choices[chosen(x, by.group)] === null);
    const shade = (x) => (ordinary(x) ? scale(x[by.number]) : CATEGORIES[chosen(x, by.group) % CATEGORIES.length]);
    return {
      main,
      rows,
      heads: facts.columns.map((column) => column.name),
      cell,
      paint(canvas, x) {
        if (canvas.width !== 120) [canvas.width, canvas.height] = [120, 120];
        canvas.className = "smooth";
        const pen = canvas.getContext("2d"), text = valueOf(x, by) || "missing";
        pen.fillStyle = shade(x);
        pen.fillRect(0, 0, 120, 120);
        pen.fillStyle = ordinary(x) && x[by.number] > 0.2 ? "#16181d" : "#ffffff";
        pen.font = "600 24px system-ui, sans-serif";
        pen.textAlign = "center";
        pen.fillText(text.length > 9 ? `${text.slice(0, 8)}\u2026` : text, 60, 68);
      },
      cells: 7,
      planeAbout: "Drag, or use the arrow keys. Each field shows one column of the row that the generator makes there.",
      show: (x) => rows(x).forEach((text, i) => values[i].replaceWith((values[i] = cell("td", text)))),
      describe: (x) => facts.columns.map((column, i) => `${column.name}: ${rows(x)[i] || "missing"}`).slice(0, 12).join(", "),
      colours: painted.map((column) => column.name),
      colourStart: by.name,
      colourBy: (i) => (by = painted[i]),
      legend() {
        if (by.number !== null) return [[scale(-1), `low ${by.name}`], [scale(1), `high ${by.name}`]];
        return by.choices.slice(0, 10).map((text, i) => [CATEGORIES[i], text === "" ? "missing" : text]);
      },
      size: [120, 120],
      noun: "row",
    };
  },

  // Series (T, C): a curve for each feature of the data. See values_of in export/series.py.
  series(facts) {
    const { features, end, shortest, times } = facts.series, [T, C] = facts.shape;
    const main = make("canvas", undefined, { role: "img", class: "smooth" });
    const varied = features.filter((feature) => feature.value !== null), one = varied.length === 1;
    const steps = (x) => {
      let t = end === null ? T : 0;
      while (t < T && !(x[t * C + end] < 0)) t++;
      return Math.max(t, shortest);
    };
    // The values of a feature in all steps: null where one is missing, and after the end.
    const valuesOf = (x, { value, gap, low, high, centre, half, decimals }) => {
      const length = steps(x), grid = 10 ** decimals; // decimals may be null, and then grid is not used
      return Array.from({ length: T }, (_, t) => {
        if (t >= length || (gap !== null && x[t * C + gap] < 0)) return null;
        if (value === null) return low;
        const y = Math.min(high, Math.max(low, x[t * C + value] * half + centre));
        return decimals === null ? y : Math.round(y * grid) / grid;
      });
    };
    const text = (v) => String(Number(v.toPrecision(4)));
    const curves = (pen, x, [left, top, width, height], thick) => {
      const across = (t) => left + (T > 1 ? t / (T - 1) : 0.5) * width;
      varied.forEach((feature, i) => {
        pen.strokeStyle = pen.fillStyle = CATEGORIES[i % CATEGORIES.length];
        pen.lineWidth = thick;
        const up = (v) => top + height * (1 - (v - feature.low) / (feature.high - feature.low));
        const there = valuesOf(x, feature);
        pen.beginPath();
        there.forEach((v, t) => {
          if (v === null) return;
          if (t > 0 && there[t - 1] !== null) pen.lineTo(across(t), up(v));
          else pen.moveTo(across(t), up(v));
        });
        pen.stroke();
        there.forEach((v, t) => { // a value between two gaps is a dot
          if (v === null || (there[t - 1] ?? null) !== null || (there[t + 1] ?? null) !== null) return;
          pen.beginPath();
          pen.arc(across(t), up(v), thick, 0, 7);
          pen.fill();
        });
      });
    };
    const cleared = (canvas, W, H) => {
      [canvas.width, canvas.height] = [W, H];
      canvas.className = "smooth";
      return canvas.getContext("2d");
    };
    return {
      main,
      values: (x) => features.map((feature) => valuesOf(x, feature)),
      paint: (canvas, x) => curves(cleared(canvas, 120, 120), x, [6, 8, 108, 104], 2),
      show(x) {
        const [W, H, line] = [800, 560, 34], rows = one ? 0 : Math.ceil(Math.min(varied.length, 12) / 3);
        const pen = cleared(main, W, H + rows * line), box = [90, 24, W - 110, H - 84];
        pen.font = "22px system-ui, sans-serif";
        pen.strokeStyle = colour("line");
        pen.lineWidth = 1;
        pen.strokeRect(...box);
        pen.fillStyle = colour("quiet");
        pen.textAlign = "right";
        const scale = one ? [text(varied[0].high), text(varied[0].low)] : ["highest", "lowest"];
        scale.forEach((word, i) => pen.fillText(word, box[0] - 8, box[1] + (i ? box[3] : 16)));
        pen.fillText(times[T - 1], box[0] + box[2], H - 32, 250);
        pen.textAlign = "left";
        pen.fillText(times[0], box[0], H - 32, 250);
        pen.textAlign = "center";
        pen.fillText(one ? varied[0].name : "time", box[0] + box[2] / 2, H - 32, 250);
        curves(pen, x, box, 3);
        pen.textAlign = "left";
        if (one) return;
        varied.slice(0, 12).forEach((feature, i) => {
          const [a, b] = [30 + (i % 3) * 258, H + Math.floor(i / 3) * line];
          pen.fillStyle = CATEGORIES[i % CATEGORIES.length];
          pen.fillRect(a, b - 12, 24, 8);
          pen.fillStyle = colour("ink");
          pen.fillText(feature.name, a + 34, b, 210);
        });
      },
      describe(x) {
        const said = varied.slice(0, 6).map((feature) => {
          const values = valuesOf(x, feature).filter((v) => v !== null);
          if (!values.length) return `${feature.name}: missing`;
          return `${feature.name}: ${text(values[0])} first, ${text(values.at(-1))} last, between ${text(Math.min(...values))} and ${text(Math.max(...values))}`;
        });
        return `${steps(x)} steps. ${said.join("; ")}.`;
      },
      cells: 7,
      size: [120, 120],
      noun: "series",
    };
  },
};
