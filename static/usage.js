// Draws the charts of the usage pages from the JSON in them. The tables have the same data.
"use strict";

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en");
const TIMES = {
  minute: { hour: "2-digit", minute: "2-digit", hour12: false },
  hour: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false },
  day: { month: "short", day: "numeric", timeZone: "UTC" },
};

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;

function milliseconds(value) {
  return value < 1000 ? `${Math.round(value)} ms` : `${whole.format(Math.round(value / 100) / 10)} s`;
}

// Colours are defined in the style sheet for both themes; read the computed values.

function colour(className) {
  const probe = document.body.appendChild(document.createElement("span"));
  probe.className = className;
  const { backgroundColor } = getComputedStyle(probe);
  probe.remove();
  return backgroundColor;
}

function seriesColours(data) {
  const swatches = [...document.querySelectorAll(".legend .swatch")];
  return data.series.map((_, number) => getComputedStyle(swatches[number]).backgroundColor);
}

function stacked(data, name) {
  const colours = seriesColours(data);
  return data.series.map((series, number) => ({
    label: series.label,
    data: series[name],
    backgroundColor: colours[number],
    stack: "all",
    maxBarThickness: 40,
  }));
}

function lines(data) {
  const names = { median: "Median", p95: "95th percentile" };
  return Object.entries(names).map(([name, label], number) => {
    const of = colour(`swatch series-${number}`);
    return {
      label, data: data.latency[name], borderColor: of, backgroundColor: of,
      borderWidth: 2, pointRadius: 2, tension: 0.25,
    };
  });
}

function draw(canvas, data) {
  const isLatency = canvas.dataset.chart === "latency";
  const shown = isLatency ? milliseconds : (value) => whole.format(value);
  const moment = new Intl.DateTimeFormat("en-GB", TIMES[data.step]);
  const [faint, line, surface, text] = ["faint", "line", "surface", "text"].map((name) => colour(`ink ${name}-ink`));
  const axis = { ticks: { color: faint }, border: { display: false } };
  Chart.getChart(canvas)?.destroy();
  new Chart(canvas, {
    type: isLatency ? "line" : "bar",
    data: {
      labels: data.moments.map((at) => moment.format(new Date(at))),
      datasets: isLatency ? lines(data) : stacked(data, canvas.dataset.chart),
    },
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: {
        x: { ...axis, stacked: !isLatency, grid: { display: false }, ticks: { color: faint, maxRotation: 0, autoSkipPadding: 16 } },
        y: {
          ...axis, stacked: !isLatency, beginAtZero: true, grid: { color: line },
          ticks: { color: faint, precision: 0, maxTicksLimit: 6, callback: isLatency ? milliseconds : (value) => compact.format(value) },
        },
      },
      plugins: {
        legend: { display: isLatency, align: "end", labels: { color: faint, boxWidth: 10, boxHeight: 10 } },
        tooltip: {
          backgroundColor: surface, titleColor: text, bodyColor: text, footerColor: text,
          borderColor: line, borderWidth: 1, padding: 10, boxPadding: 4,
          filter: (item) => item.parsed.y > 0,
          callbacks: {
            label: (item) => `${item.dataset.label}: ${shown(item.parsed.y)}`,
            footer: (items) => isLatency || items.length < 2 ? "" : `Total: ${shown(items.reduce((sum, item) => sum + item.parsed.y, 0))}`,
          },
        },
      },
    },
  });
}

function drawAll() {
  const source = document.getElementById("usage-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  for (const canvas of document.querySelectorAll("canvas[data-chart]")) draw(canvas, data);
}

drawAll();
// HTMX replaces the canvases; destroy the old charts, which listen for size changes.
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  if (!detail.shouldSwap) return;
  for (const chart of Object.values(Chart.instances)) {
    if (detail.target.contains(chart.canvas)) chart.destroy();
  }
});
document.addEventListener("htmx:afterSettle", drawAll);
new MutationObserver(drawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
