"use strict";
// Fills in film strips, plays videos, filters the retrieval galleries, and draws the charts with plotly.
const [figures, strips, links] = ["figures", "strips", "links"].map((id) => JSON.parse(document.getElementById(id).textContent));
const get = (id) => document.getElementById(id);
const STEP = 24; // cards that appear at a time
const SHAPES = ["circle", "square", "triangle-up", "diamond"];
const COLOURS = 7; // of the palette
const DASHES = ["solid", "dash", "dot"];

for (const gallery of document.querySelectorAll("section:has(> .cards)")) {
  const part = (name) => gallery.querySelector(".r-" + name), value = (name) => part(name)?.value ?? "";
  const cards = [...gallery.querySelectorAll(".cards > li")];
  let shown = STEP;
  const filter = () => {
    const [label, right, name] = ["class", "right", "name"].map(value);
    const found = cards.filter(({dataset}) => (!label || dataset.class === label) && (!right || dataset.right === right)
      && dataset.name.toLowerCase().includes(name.toLowerCase()));
    for (const card of cards) card.hidden = true;
    for (const card of found.slice(0, shown)) card.hidden = false;
    part("status").textContent = found.length ? Math.min(shown, found.length) + " of " + found.length + " queries" : "No such query.";
    part("more").hidden = shown >= found.length;
  };
  for (const type of ["input", "change"]) gallery.addEventListener(type, () => { shown = STEP; filter(); });
  part("more").addEventListener("click", () => { shown += STEP; filter(); });
  filter();
}

// A click on a strip plays its video; where there is none, or the browser cannot play it, the strip is enlarged.
const viewer = get("viewer");
function view(name, strip, link) {
  const place = viewer.querySelector("div"), image = new Image();
  image.alt = name;
  if (strip) image.src = strip;
  place.replaceChildren(image);
  if (link) {
    const video = document.createElement("video");
    Object.assign(video, {controls: true, autoplay: true, loop: true, muted: true, src: link});
    video.addEventListener("error", () => place.replaceChildren(image));
    place.replaceChildren(video);
  }
  viewer.querySelector("span").textContent = name;
  viewer.showModal();
}
viewer.addEventListener("close", () => viewer.querySelector("div").replaceChildren());
viewer.addEventListener("click", ({target}) => { if (target === viewer) viewer.close(); });
document.addEventListener("click", (event) => {
  const image = event.target.closest(".film")?.querySelector("img");
  if (!image) return;
  event.preventDefault(); // in a summary, which it would open
  view(image.alt.replace("film strip of ", ""), image.src, links[image.dataset.strip]);
});

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
  const chart = figures[place.dataset.of][place.dataset.number], percent = chart.unit === "%" ? " %" : "";
  const marks = chart.marks.length > 1 ? chart.marks : [];
  const traces = chart.lines.map((line) => ({
    x: line.x, y: line.y, name: plain(line.name),
    mode: line.x.length < 16 ? "lines+markers" : "lines", marker: {size: 5},
    line: {color: colour("c" + line.colour % COLOURS), width: 2, dash: DASHES[line.dash % DASHES.length]},
    hovertemplate: "%{y:.4~g}" + percent,
  }));
  Plotly.react(place, traces, layout({
    hovermode: "x unified", xaxis: {title: {text: "training steps"}, hoverformat: ".0f"},
    shapes: marks.map(([x]) => ({type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: {dash: "dot", width: 1, color: colour("soft")}})),
    annotations: marks.map(([x, text]) => ({x, y: 1, yref: "paper", xanchor: "left", yanchor: "top", showarrow: false, text: plain(text), font: {size: 9}})),
    yaxis: {title: {text: chart.unit}, rangemode: chart.title === "Loss" ? "normal" : "tozero"},
  }), CONFIG);
}

function drawMap(place) {
  const {groups, points: all} = figures[place.dataset.of];
  const traces = groups.map((name, i) => {
    const points = all.filter(({group}) => group === name), shape = SHAPES[Math.floor(i / COLOURS) % SHAPES.length];
    return {
      x: points.map(({x}) => x), y: points.map(({y}) => y), customdata: points, name: plain(name),
      text: points.map(({text}) => text.map(plain).join("<br>")), mode: "markers", hovertemplate: "%{text}<extra></extra>",
      marker: {color: colour("c" + i % COLOURS), size: points.map(({row}) => row === null ? 5 : 9), opacity: points.map(({row}) => row === null ? 0.6 : 1), symbol: points.map(({right}) => right ? shape : shape + "-open")},
    };
  });
  const legend = narrow() ? {orientation: "h", y: -0.05} : {};
  const bare = {showticklabels: false};
  Plotly.react(place, traces, layout({
    height: narrow() ? 520 : 560, hovermode: "closest", showlegend: true, legend, xaxis: bare, yaxis: bare,
    plot_bgcolor: colour("card"), margin: {l: 8, r: 8, t: 30, b: 8},
  }), MAP_CONFIG);
}

function showCard(place, point) {
  if (point.row === null) return;
  const stream = place.dataset.of.replace("map", "retrieval"), panel = place.parentElement.querySelector(".map-card");
  const card = document.querySelector(`#${stream} .cards > li[data-row="${point.row}"]`);
  if (card) {
    panel.replaceChildren(...card.cloneNode(true).childNodes);
    panel.querySelectorAll("img[data-strip]").forEach(reveal);
  } else {
    panel.replaceChildren("This clip is not in the retrieval gallery above: a larger --clips has more.");
  }
}

// Strips are decoded, and charts drawn, when they come near the screen. A strip is in the page once.
const DRAW = {curves: drawCurves, map: drawMap};
const drawn = new Set();
function reveal(place) {
  if (place.dataset.strip) {
    place.src = strips[place.dataset.strip];
    return;
  }
  DRAW[place.dataset.figure](place);
  if (place.dataset.figure === "map") {
    place.on("plotly_hover", ({points: [{customdata}]}) => showCard(place, customdata));
    place.on("plotly_click", ({points: [{customdata: point}]}) => {
      showCard(place, point);
      if (point.link) view(point.text[0], "", point.link);
    });
  }
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
