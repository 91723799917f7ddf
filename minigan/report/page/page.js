"use strict";
// The script of all pages: charts with uPlot, the slider through the epochs, the steps of a batch, and refreshing.
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = (selector, inside = document) => inside.querySelector(selector);
  const value = (id) => { const found = document.getElementById(id); return found ? JSON.parse(found.textContent) : null; };
  const root = document.documentElement;
  // Storage is missing where a page may not have an origin of its own.
  const store = {
    get(key) { try { return JSON.parse(sessionStorage.getItem(location.pathname + key)); } catch { return null; } },
    set(key, what) { try { sessionStorage.setItem(location.pathname + key, JSON.stringify(what)); } catch { /* no storage */ } },
  };
  let touched = 0; // when the reader last did something, in milliseconds
  for (const kind of ["pointerdown", "keydown", "wheel", "touchmove"]) {
    addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  }

  // ---- charts

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const short = (number) => number == null ? "–" : Math.abs(number) >= 1000 ? Math.round(number).toLocaleString("en") : +number.toPrecision(4) + "";
  const plots = new Map(); // element -> uPlot

  function draw(element, chart) {
    if (plots.has(element)) plots.get(element).destroy();
    const quiet = colour("--quiet"), grid = { stroke: colour("--line"), width: 1 };
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: quiet, grid, ticks: { show: false }, font, labelFont: font, labelSize: 18, size: 46 };
    const series = [{ label: "epoch", value: (u, v) => short(v) }], columns = [chart.x], bands = [];
    chart.series.forEach((each, k) => {
      const stroke = colour(`--c${k % 5 + 1}`);
      series.push({
        label: each.label, stroke, width: 2, spanGaps: true, scale: each.label === chart.right ? "right" : "y",
        value: (u, v) => short(v), points: { show: Boolean(chart.dots) && chart.x.length < 60, size: 6, fill: stroke },
      });
      columns.push(each.y);
    });
    chart.series.forEach((each, k) => { // bands after the curves, so that the legend has the curves only
      if (!each.low) return;
      const at = columns.length;
      for (const edge of [each.high, each.low]) {
        series.push({ label: "", stroke: "transparent", width: 0, points: { show: false }, class: "u-hidden" });
        columns.push(edge);
      }
      bands.push({ series: [at, at + 1], fill: colour(`--c${k % 5 + 1}`) + "26" });
    });
    const levels = chart.series.map((each, k) => [each.level, colour(`--c${k % 5 + 1}`)]).filter(([level]) => level != null);
    const axes = [{ ...axis, label: "epoch", size: 34 }, { ...axis, label: chart.unit }];
    if (chart.right) axes.push({ ...axis, scale: "right", side: 1, label: chart.right, grid: { show: false } });
    const plot = new uPlot({
      width: Math.max(200, element.clientWidth), height: 240, series, bands, axes,
      scales: { x: { time: false }, y: { range: chart.limits || undefined } },
      cursor: { sync: { key: chart.group || "epochs" }, drag: { x: true, y: false } },
      legend: { markers: { width: 0, fill: (u, i) => i ? colour(`--c${(i - 1) % 5 + 1}`) : "transparent" } },
      hooks: { draw: [(u) => { // the levels of the equilibrium
        u.ctx.save();
        u.ctx.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
        for (const [level, stroke] of levels) {
          const y = u.valToPos(level, "y", true);
          if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) continue;
          u.ctx.strokeStyle = stroke;
          u.ctx.beginPath();
          u.ctx.moveTo(u.bbox.left, y);
          u.ctx.lineTo(u.bbox.left + u.bbox.width, y);
          u.ctx.stroke();
        }
        u.ctx.restore();
      }] },
    }, columns, element);
    all(".u-legend .u-series.u-hidden", element).forEach((row) => row.remove());
    plots.set(element, plot);
  }

  function read(element, chart, key) { // the arrow keys read the values of a chart
    const plot = plots.get(element), last = chart.x.length - 1;
    let at = plot.cursor.idx ?? last;
    at = key === "Home" ? 0 : key === "End" ? last : Math.min(last, Math.max(0, at + (key === "ArrowLeft" ? -1 : 1)));
    plot.setCursor({ left: plot.valToPos(chart.x[at], "x"), top: 20 });
    one(`[data-said="${CSS.escape(chart.name)}"]`).textContent =
      `epoch ${short(chart.x[at])}: ` + chart.series.map((each) => `${each.label} ${short(each.y[at])}`).join(", ");
  }

  function charts() {
    const found = new Map((value("charts") || []).map((chart) => [chart.name, chart]));
    const places = all(".plot").map((element) => [element, found.get(element.dataset.chart)]).filter(([, chart]) => chart);
    const again = () => places.forEach(([element, chart]) => draw(element, chart));
    again();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    let wait = 0;
    addEventListener("resize", () => {
      clearTimeout(wait);
      wait = setTimeout(() => places.forEach(([element]) => plots.get(element).setSize({ width: Math.max(200, element.clientWidth), height: 240 })), 80);
    });
    for (const [element, chart] of places) {
      element.addEventListener("keydown", (event) => {
        if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
        read(element, chart, event.key);
      });
    }
  }

  // ---- the slider through the epochs

  function slider() {
    const frames = value("frames"), range = document.getElementById("epoch"), image = document.getElementById("grid");
    if (!frames || !range || !image) return;
    const output = document.getElementById("when"), play = one("[data-play]");
    const newest = { text: output.textContent, src: image.src, alt: image.alt };
    const show = () => {
      const frame = +range.value < frames.length ? frames[+range.value] : newest;
      image.src = frame.src;
      image.alt = frame === newest ? newest.alt : `samples after ${frame.text}`;
      output.textContent = frame.text;
      range.setAttribute("aria-valuetext", frame.text);
      store.set("epoch", +range.value === +range.max ? null : +range.value);
    };
    let timer = 0;
    const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (range.value === range.max) range.value = 0;
      play.textContent = "Pause";
      show();
      timer = setInterval(() => {
        touched = Date.now();
        range.value = +range.value + 1;
        show();
        if (range.value === range.max) stop();
      }, Math.max(80, Math.min(400, 6000 / frames.length)));
    });
    range.addEventListener("input", () => { if (timer) stop(); show(); });
    const before = store.get("epoch");
    if (before != null && before < frames.length) { range.value = before; show(); }
  }

  // ---- one batch, step by step

  function journey() {
    const place = one(".journey");
    if (!place) return;
    const steps = all(".step", place), range = one("input[type=range]", place), bars = all(".bar-of-steps i", place);
    const back = one("[data-back]", place), next = one("[data-next]", place), lines = all("[data-line]", place);
    const chapter = document.getElementById("chapter"), starts = [...chapter.options].map((option) => +option.value);
    const go = (to, focus = false) => {
      const at = Math.max(0, Math.min(steps.length - 1, to));
      steps.forEach((step, k) => { step.hidden = k !== at; });
      bars.forEach((bar, k) => bar.classList.toggle("now", k === at));
      const [from, until] = (steps[at].dataset.lines || "0-0").split("-").map(Number);
      const named = steps[at].dataset.game;
      lines.forEach((line) => line.classList.toggle("now", line.dataset.game === named && +line.dataset.line >= from && +line.dataset.line <= until));
      all("[data-function]", place).forEach((part) => { part.hidden = part.dataset.function !== named; });
      const shown = lines.find((line) => line.classList.contains("now"));
      if (shown) { const box = shown.closest("pre"); box.scrollTop = shown.offsetTop - box.offsetTop - box.clientHeight / 3; }
      range.value = at;
      range.setAttribute("aria-valuetext", one("h3", steps[at]).textContent);
      chapter.value = String(starts.filter((start) => start <= at).pop());
      back.disabled = at === 0;
      next.disabled = at === steps.length - 1;
      document.getElementById("said-step").textContent = focus ? `${at + 1} of ${steps.length}: ${one("h3", steps[at]).textContent}` : "";
      store.set("step", at);
    };
    const now = () => +range.value;
    range.addEventListener("input", () => go(+range.value, true));
    chapter.addEventListener("change", () => go(+chapter.value, true));
    back.addEventListener("click", () => go(now() - 1, true));
    next.addEventListener("click", () => go(now() + 1, true));
    bars.forEach((bar, k) => bar.addEventListener("click", () => go(k, true)));
    addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      if (event.target.closest("input, select, textarea, .plot, .scroll, pre")) return; // these have a use for the keys
      event.preventDefault();
      go(now() + (event.key === "ArrowLeft" ? -1 : 1), true);
    });
    place.classList.add("ready");
    go(store.get("step") || 0);
  }

  // ---- small things

  function copies() {
    for (const button of all("[data-copy]")) {
      button.addEventListener("click", async () => {
        const text = document.getElementById(button.dataset.copy);
        try {
          await navigator.clipboard.writeText(text.textContent);
          button.textContent = "Copied";
        } catch { // select it instead
          getSelection().selectAllChildren(text);
        }
      });
    }
  }

  function opened() { // parts that were open before a refresh
    all("details").forEach((part, k) => {
      if (store.get(`open${k}`)) part.open = true;
      part.addEventListener("toggle", () => store.set(`open${k}`, part.open));
    });
  }

  // ---- refreshing. A page of file:// cannot read a file, but it can load itself again.

  const EVERY = 10, SILENT = 300; // seconds between two loads, and without news until the page stops to load itself

  function refresh() {
    if (root.dataset.state !== "running") return;
    const written = +root.dataset.written, stale = document.getElementById("stale");
    const look = () => {
      const silent = Date.now() / 1000 - written;
      if (silent > SILENT) {
        stale.textContent = `No news for ${Math.round(silent / 60)} minutes: the training may have been interrupted. Load this page again to see.`;
        return;
      }
      if (document.hidden || Date.now() - touched < 4000) { setTimeout(look, 1000); return; }
      location.reload();
    };
    setTimeout(look, 1000 * EVERY);
  }

  // ---- the list of runs: its server gives the same page again, with what is new

  function live() {
    const list = one("[data-live]");
    if (!list) return;
    setInterval(async () => {
      if (document.hidden || list.contains(document.activeElement)) return;
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        if (!answer.ok) return;
        const other = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-live]");
        if (other && other.innerHTML !== list.innerHTML) {
          const chosen = new Set(all("input:checked", list).map((box) => box.value));
          list.replaceChildren(...other.childNodes);
          all("input[type=checkbox]", list).forEach((box) => { box.checked = chosen.has(box.value); });
          pair();
        }
      } catch { /* the server has stopped */ }
    }, 5000);
  }

  function pair() { // two runs can be compared
    const compare = one("[data-compare]");
    if (!compare) return;
    const boxes = all("[data-live] input[type=checkbox]");
    const count = boxes.filter((box) => box.checked).length;
    compare.disabled = count !== 2;
    boxes.forEach((box) => { box.disabled = count >= 2 && !box.checked; });
  }

  opened();
  charts();
  slider();
  journey();
  copies();
  refresh();
  live();
  addEventListener("change", pair);
  pair();
})();
