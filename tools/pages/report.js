"use strict";
// Fills in film strips, filters the retrieval gallery, and draws the charts with plotly.
const [figures, strips] = ["figures", "strips"].map((id) => JSON.parse(document.getElementById(id).textContent));
const get = (id) => document.getElementById(id);
const STEP = 24; // cards that appear at a time
const SHAPES = ["circle", "square", "triangle-up", "diamond"];
const COLOURS = 7; // of the palette

const cards = [...document.querySelectorAll("#cards > li")];
let shown = STEP;
function filter() {
  const label = get("r-class").value, right = get("r-right").value;
  const found = cards.filter(({dataset}) => (!label || dataset.class === label) && (!right || dataset.right === right));
  for (const card of cards) card.hidden = true;
  for (const card of found.slice(0, shown)) card.hidden = false;
  get("r-status").textContent = found.length ? Math.min(shown, found.length) + " of " + found.length + " queries" : "No such query.";
  get("r-more").hidden = shown >= found.length;
}
if (cards.length) {
  for (const id of ["r-class", "r-right"]) get(id).addEventListener("change", () => { shown = STEP; filter(); });
  get("r-more").addEventListener("click", () => { shown += STEP; filter(); });
  filter();
}

// plotly takes names as HTML.
const plain = (text) => text.replace(/[&<>]/g, (sign) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;"})[sign]);
// Charts take their colours from the style sheet.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const narrow = () => innerWidth < 760;
const CONFIG = {displaylogo: false, displayModeBar: false, responsive: true};
const MAP_CONFIG = {...CONFIG, displayModeBar: true, modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]};

function layout(settings) {
  const font = getComputedStyle(document.body).fontFamily;
  const axis = {gridcolor: colour("rule"), zerolinecolor: colour("rule"), linecolor: colour("rule"), automargin: true};
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: colour("soft"), size: 11, family: font},
    margin: {l: 40, r: 8, t: 8, b: 34}, showlegend: false, dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    hoverlabel: {bgcolor: colour("card"), bordercolor: colour("soft"), font: {color: colour("text"), family: font}, align: "left"},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("c0")},
    ...settings, xaxis: {...axis, ...settings.xaxis}, yaxis: {...axis, ...settings.yaxis},
  };
}

function drawCurves(place) {
  const chart = figures.curves[place.dataset.number];
  const traces = chart.lines.map((line) => ({
    x: line.x, y: line.y, name: line.name,
    mode: line.x.length < 16 ? "lines+markers" : "lines", opacity: line.faint ? 0.3 : 1, marker: {size: 5},
    line: {color: colour("c" + line.colour % COLOURS), width: line.faint ? 1 : 2, dash: line.dashed ? "dash" : "solid"},
    hoverinfo: line.faint ? "skip" : undefined, hovertemplate: line.faint ? undefined : "%{y:.4~g}",
  }));
  Plotly.react(place, traces, layout({
    hovermode: "x unified", xaxis: {title: {text: "training steps"}, hoverformat: ".0f"},
    yaxis: {title: {text: chart.unit}, rangemode: chart.title === "Loss" ? "normal" : "tozero"},
  }), CONFIG);
}

function drawConfusion(place) {
  const {classes: names, cells} = figures.confusion[place.dataset.number];
  const classes = names.map(plain), totals = classes.map(() => 0);
  const side = Math.min(place.clientWidth, 560), cell = side / classes.length;
  const table = (value) => classes.map(() => classes.map(() => value));
  const [z, counts, text] = [table(null), table(""), table("")];
  for (const [actual, , count] of cells) totals[actual] += count;
  for (const [actual, said, count] of cells) {
    const share = count / totals[actual];
    z[actual][said] = (actual === said ? 1 : -1) * (0.15 + 0.85 * share);
    counts[actual][said] = String(count);
    text[actual][said] = classes[actual] + (actual === said ? " recognised" : " taken for " + classes[said]) + "<br>" + count + " of " + totals[actual] + " clips (" + (100 * share).toFixed(0) + " %)";
  }
  const axis = {showgrid: false, zeroline: false, ticks: "", tickvals: classes.map((_, i) => i), ticktext: classes, showticklabels: cell > 15};
  Plotly.react(place, [{
    type: "heatmap", z, text: counts, customdata: text, hovertemplate: "%{customdata}<extra></extra>", texttemplate: cell > 30 ? "%{text}" : "",
    zmin: -1, zmax: 1, showscale: false, xgap: 1, ygap: 1, colorscale: [[0, colour("wrong")], [0.5, colour("card")], [1, colour("right")]],
  }], layout({height: side, plot_bgcolor: colour("card"), xaxis: axis, yaxis: {...axis, autorange: "reversed"}}), CONFIG);
}

function drawMap(place) {
  const traces = figures.map.classes.map((name, i) => {
    const points = figures.map.points.filter((point) => point.class === i), shape = SHAPES[Math.floor(i / COLOURS) % SHAPES.length];
    return {
      x: points.map(({x}) => x), y: points.map(({y}) => y), customdata: points.map(({row}) => row), name: plain(name),
      text: points.map(({text}) => text.map(plain).join("<br>")), mode: "markers", hovertemplate: "%{text}<extra></extra>",
      marker: {color: colour("c" + i % COLOURS), size: 8, symbol: points.map(({right}) => right ? shape : shape + "-open")},
    };
  });
  const legend = narrow() ? {orientation: "h", y: -0.05} : {};
  const bare = {showticklabels: false};
  Plotly.react(place, traces, layout({
    height: narrow() ? 520 : 560, hovermode: "closest", showlegend: true, legend, xaxis: bare, yaxis: bare,
    plot_bgcolor: colour("card"), margin: {l: 8, r: 8, t: 30, b: 8},
  }), MAP_CONFIG);
}

function showCard({points: [point]}) {
  const card = document.querySelector(`#cards > li[data-row="${point.customdata}"]`), panel = get("map-card");
  if (card) {
    panel.replaceChildren(...card.cloneNode(true).childNodes);
    panel.querySelectorAll("img[data-strip]").forEach(reveal);
  } else {
    panel.replaceChildren("This clip is not in the retrieval gallery above: a larger --clips has more.");
  }
}

// Strips are decoded, and charts drawn, when they come near the screen. A strip is in the page once.
const DRAW = {curves: drawCurves, confusion: drawConfusion, map: drawMap};
const drawn = new Set();
function reveal(place) {
  if (place.dataset.strip) {
    place.src = strips[place.dataset.strip];
    return;
  }
  DRAW[place.dataset.figure](place);
  if (place.dataset.figure === "map") for (const event of ["plotly_hover", "plotly_click"]) place.on(event, showCard);
  drawn.add(place);
}
const observer = new IntersectionObserver((entries) => {
  for (const {target, isIntersecting} of entries) {
    if (isIntersecting) {
      reveal(target);
      observer.unobserve(target);
    }
  }
}, {rootMargin: "400px"});
for (const place of document.querySelectorAll("img[data-strip], [data-figure]")) observer.observe(place);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const place of drawn) DRAW[place.dataset.figure](place);
});
