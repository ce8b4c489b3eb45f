"use strict";
// The page's galleries, hover values and keys. Texts come from files that others made: they go into text nodes alone.
const data = JSON.parse(document.getElementById("data").textContent);
const strips = JSON.parse(document.getElementById("strips").textContent);
const get = (id) => document.getElementById(id);
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
const PAGE = 24; // cards shown at a time
const SHAPES = ["M0-4.2A4.2 4.2 0 1 0 .01-4.2Z", "M-3.8-3.8H3.8V3.8H-3.8Z", "M0-4.8L4.6 3.6H-4.6Z"];
const COLOURS = 7;

function make(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (name === "class") element.className = value; else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, settings, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(settings)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => (100 * share).toFixed(share && share < 0.1 ? 1 : 0) + " %";

// A picture is decoded once it comes near the screen.
const watch = "IntersectionObserver" in window ? new IntersectionObserver((entries) => {
  for (const {target, isIntersecting} of entries) if (isIntersecting) reveal(target);
}, {rootMargin: "400px"}) : null;

function reveal(image) {
  image.src = "data:image/jpeg;base64," + strips[image.dataset.strip];
  if (watch) watch.unobserve(image);
}

function strip(id, alt, now = false) {
  if (!(id in strips)) return make("div", {class: "none"}, "no film strip");
  const image = make("img", {class: "strip", alt, "data-strip": id});
  if (now || !watch) reveal(image); else watch.observe(image);
  return image;
}

function mark(hit) {
  return make("span", {class: "mark"}, hit === null ? "○ own source" : hit ? "✓ right" : "✗ wrong");
}

const side = (hit) => hit === null ? "is-own" : hit ? "is-right" : "is-wrong";

// Colours: as the system has them, light or dark.
(function () {
  const root = document.documentElement, button = get("theme"), order = ["system", "light", "dark"];
  let now = "system";
  try { now = localStorage.getItem("report-colours") || now; } catch (error) { /* a page from disk may keep nothing */ }
  function apply(name) {
    now = order.includes(name) ? name : "system";
    if (now === "system") root.removeAttribute("data-theme"); else root.setAttribute("data-theme", now);
    button.lastChild.textContent = " " + now;
    button.setAttribute("aria-label", "Colours: " + (now === "system" ? "as the system has them" : now));
  }
  button.addEventListener("click", () => {
    apply(order[(order.indexOf(now) + 1) % order.length]);
    try { localStorage.setItem("report-colours", now); } catch (error) { /* as above */ }
  });
  apply(now);
})();

// What is shown beside the pointer, or beside what the keys are at.
const tip = get("tip");
function tell(x, y, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect(), right = x + 14 + width < innerWidth ? x + 14 : x - 14 - width;
  tip.style.left = Math.max(4, Math.min(right, innerWidth - width - 4)) + "px";
  tip.style.top = (y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18) + "px";
}
const hush = () => { tip.hidden = true; };
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });
document.addEventListener("scroll", () => {
  if (!document.activeElement || !document.activeElement.matches(".plot, [data-roam]")) hush();
}, {passive: true});

// Line charts: the values at the pointer, or step by step with the arrow keys.
for (const plot of document.querySelectorAll(".plot")) {
  const chart = data.charts[Number(plot.dataset.chart)], cross = plot.querySelector(".cross"), margin = [52, 10], width = 360;
  const xs = [...new Set(chart.lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  const place = (x) => margin[0] + (x - chart.range[0]) / (chart.range[1] - chart.range[0]) * (width - margin[0] - margin[1]);
  let at = xs.length - 1;
  function show(number) {
    at = Math.max(0, Math.min(xs.length - 1, number));
    const x = xs[at], box = plot.getBoundingClientRect();
    const rows = chart.lines.flatMap((line) => {
      const near = line.points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
      if (near[0] !== x) return [];
      return [make("p", {}, make("i", {class: "c" + line.colour % COLOURS + (line.dashed ? " hollow" : "")}), line.name + ": " + Number(near[1].toPrecision(4)))];
    });
    cross.setAttribute("x1", place(x));
    cross.setAttribute("x2", place(x));
    cross.setAttribute("visibility", "visible");
    tell(box.left + place(x) / width * box.width, box.top,
      make("p", {}, make("b", {}, chart.x + " " + Math.round(x))), ...rows);
  }
  function leave() { cross.setAttribute("visibility", "hidden"); hush(); }
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * width;
    show(xs.reduce((best, value, i) => Math.abs(place(value) - x) < Math.abs(place(xs[best]) - x) ? i : best, 0));
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      show(cross.getAttribute("visibility") === "visible" ? at + ARROWS[event.key][0] : at);
    }
  });
}

// Things in a drawing that the arrow keys go to, each to the nearest one in its direction.
function toward(items, here, [dx, dy]) {
  const [x, y] = [Number(here.dataset.x), Number(here.dataset.y)];
  let best = null, least = Infinity;
  for (const item of items) {
    const along = (item.dataset.x - x) * dx + (item.dataset.y - y) * dy;
    const across = Math.abs((item.dataset.x - x) * dy) + Math.abs((item.dataset.y - y) * dx);
    if (along > 0 && along >= across * 0.7 && along + 2 * across < least) [best, least] = [item, along + 2 * across];
  }
  return best;
}

function pointAt(item) {
  const box = item.getBoundingClientRect();
  for (const other of item.parentNode.querySelectorAll(".here")) other.classList.remove("here");
  item.classList.add("here");
  tell(box.right, box.bottom, ...("clip" in item.dataset ? aboutClip(Number(item.dataset.clip)) : [item.dataset.tip]));
}

function aboutClip(number) {
  const {clip, near} = data.retrieval.queries[number], names = data.retrieval.classes;
  return [strip(clip[2], "", true), make("p", {}, make("b", {}, names[clip[1]]), " " + clip[0]),
    make("p", {class: side(near[0][2])}, mark(near[0][2]), " nearest: " + names[data.retrieval.clips[near[0][0]][1]] + " " + near[0][1].toFixed(3))];
}

// The cells of a confusion matrix, once it is seen.
function fill(plot) {
  const {classes, cells} = data.confusion[Number(plot.dataset.confusion)], group = plot.querySelector(".cells");
  const left = Number(plot.dataset.left), size = Number(plot.dataset.size), totals = {};
  if (group.firstChild) return;
  for (const [actual, , count] of cells) totals[actual] = (totals[actual] || 0) + count;
  for (const [actual, said, count] of cells) {
    const share = count / totals[actual], x = left + said * size, y = left + actual * size, right = actual === said;
    const what = classes[actual] + (right ? " recognised" : " taken for " + classes[said]);
    group.append(draw("rect", {class: "cell " + (right ? "right" : "wrong"), x, y, width: size, height: size,
      "fill-opacity": 0.12 + 0.88 * share, "data-x": said, "data-y": actual,
      "data-tip": what + ": " + count + " of " + totals[actual] + " clips (" + percent(share) + ")"}));
    if (size > 13) group.append(draw("text", {class: "count" + (share > 0.55 ? " strong" : ""), x: x + size / 2, y: y + size / 2 + 3, "text-anchor": "middle"}, count));
  }
}
if (document.querySelector("[data-confusion]")) fill(document.querySelector("[data-confusion]"));

for (const plot of document.querySelectorAll("[data-roam]")) {
  const leave = () => { for (const item of plot.querySelectorAll(".here")) item.classList.remove("here"); hush(); };
  const over = (event) => { if (event.target.dataset && "x" in event.target.dataset) pointAt(event.target); };
  plot.addEventListener("pointerover", over);
  plot.addEventListener("click", over);
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    const here = plot.querySelector(".here"), seen = [...plot.querySelectorAll("[data-x]:not(.dim)")];
    const next = here ? toward(seen, here, ARROWS[event.key]) : seen[0];
    if (next) pointAt(next);
  });
}
for (const bar of document.querySelectorAll(".bar svg")) {
  bar.addEventListener("pointermove", (event) => tell(event.clientX, event.clientY, bar.dataset.tip));
  bar.addEventListener("pointerleave", hush);
}

// One stop of Tab for a list of cards; the arrow keys, Home and End go on from there.
function walk(list, more = () => false) {
  list.addEventListener("focusin", (event) => {
    const card = event.target.closest("[data-card]");
    if (card) for (const other of list.querySelectorAll("[data-card]")) other.tabIndex = other === card ? 0 : -1;
  });
  list.addEventListener("keydown", (event) => {
    const cards = [...list.querySelectorAll("[data-card]")], at = cards.indexOf(event.target);
    if (at < 0) return;
    let next = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: cards.length - 1}[event.key];
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const columns = Math.max(1, cards.filter((card) => card.offsetTop === cards[0].offsetTop).length);
      next = at + ARROWS[event.key][1] * columns;
    }
    if (next === undefined) return;
    event.preventDefault();
    if (next >= cards.length && more()) cards.push(...[...list.querySelectorAll("[data-card]")].slice(cards.length));
    if (cards[next]) cards[next].focus();
  });
}

function options(select, names, counts) {
  names.forEach((name, number) => {
    if (counts[number]) select.append(make("option", {value: number}, name + " (" + counts[number] + ")"));
  });
}

function countBy(items, key) {
  const counts = {};
  for (const item of items) counts[key(item)] = (counts[key(item)] || 0) + 1;
  return counts;
}

// The retrieval gallery.
if (data.retrieval) {
  const {classes, clips, queries} = data.retrieval, list = get("r-cards"), more = get("r-more");
  const controls = ["r-class", "r-right", "r-order"].map(get);
  for (const query of queries) {
    query.hits = query.near.filter((each) => each[2]).length;
    // The surer of a wrong nearest clip, the worse; the surer of a right one, the better.
    query.score = 10 * query.hits + (query.near[0][2] ? 5 + query.near[0][1] : -query.near[0][1]);
  }
  const wanted = {"": () => true, right: (query) => query.near[0][2], wrong: (query) => !query.near[0][2],
    late: (query) => !query.near[0][2] && query.hits};
  let found = [], shown = 0;

  function card(query) {
    const [name, label, id] = query.clip, right = query.near[0][2], of = query.hits + " of " + query.near.length + " right";
    const near = query.near.map(([number, similarity, hit]) => {
      const [other, its, picture] = clips[number];
      return make("li", {class: side(hit)}, strip(picture, "film strip of " + other),
        make("span", {class: "what"}, mark(hit), " " + similarity.toFixed(3), make("small", {}, classes[its]), make("small", {}, other)));
    });
    return make("li", {class: "card", tabindex: -1, "data-card": "", "data-class": classes[label], "data-right": right,
      "aria-label": "Query " + name + ", class " + classes[label] + ", nearest clip " + (right ? "right, " : "wrong, ") + of},
    make("h3", {class: side(right)}, mark(right), make("span", {}, classes[label]), make("small", {}, name + ", " + of)),
    strip(id, "film strip of the query " + name), make("ol", {"aria-label": "Nearest training clips"}, ...near));
  }
  function grow() {
    if (shown >= found.length) return false;
    list.append(...found.slice(shown, shown + PAGE).map(card));
    shown = Math.min(found.length, shown + PAGE);
    if (!list.querySelector('[tabindex="0"]') && list.firstChild) list.firstChild.tabIndex = 0;
    more.hidden = shown === found.length;
    more.textContent = "Show more (" + (found.length - shown) + " left)";
    get("r-status").textContent = found.length ? shown + " of " + found.length + " queries shown" : "No query is like this.";
    return true;
  }
  function refresh() {
    const [label, right, order] = controls.map((control) => control.value);
    found = queries.filter((query) => (label === "" || query.clip[1] === Number(label)) && wanted[right](query));
    if (order !== "list") found.sort((a, b) => (order === "worst" ? 1 : -1) * (a.score - b.score));
    list.replaceChildren();
    shown = 0;
    if (!grow()) {
      more.hidden = true;
      get("r-status").textContent = "No query is like this.";
    }
  }
  options(controls[0], classes, countBy(queries, (query) => query.clip[1]));
  for (const control of controls) control.addEventListener("change", refresh);
  more.addEventListener("click", () => {
    const first = shown;
    grow();
    list.children[first].focus();
  });
  walk(list, grow);
  refresh();
  for (const button of document.querySelectorAll("button[data-class]")) {
    button.addEventListener("click", () => {
      controls[0].value = String(classes.indexOf(button.dataset.class));
      controls[1].value = "wrong";
      refresh();
      get("retrieval").scrollIntoView();
      controls[0].focus({preventScroll: true});
    });
  }
}

// The mining gallery.
if (data.mining) {
  const {classes, clips, queries, views, streams, names, entries} = data.mining, list = get("m-queries"), panel = get("m-cascade");
  const controls = ["m-class", "m-right"].map(get);
  const both = (clip) => make("div", {class: "both"}, ...streams.map((stream, i) => strip(clip[2 + i], stream + " of " + clip[0])));
  const isGood = (query) => query.recall >= 0.5;

  function stage(query, {hits, shown}, number) {
    const [view, size] = views[number], before = number ? views[number - 1][1] : entries, share = hits / size;
    const rights = number ? query.stages[number - 1].hits : query.right;
    const bar = draw("svg", {class: "share", viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": percent(share) + " right, " + percent(query.chance) + " by chance"},
      draw("rect", {class: "track", width: 100, height: 12}), draw("rect", {class: "fill c0", width: 100 * share, height: 12}),
      draw("line", {class: "chance", x1: 100 * query.chance, x2: 100 * query.chance, y1: 0, y2: 12}));
    const items = shown.map(([clip, own, other, hit, mined]) => make("li", {class: side(hit)}, both(clips[clip]),
      mark(hit), " " + classes[clips[clip][1]] + (mined && number < views.length - 1 ? " ★" : ""),
      make("small", {}, " " + names[0] + " " + own.toFixed(3) + ", " + names[1] + " " + other.toFixed(3))));
    return make("div", {class: "stage"}, make("h3", {}, "Stage " + (number + 1) + ": " + view + ", keeps " + size + " of " + before),
      make("p", {class: "about"}, hits + " of " + size + " right (" + percent(share) + "; by chance " + percent(query.chance) + "), " + rights + " before the stage"
        + (size > shown.length ? "; the first " + shown.length + ":" : ":")), bar, make("ol", {class: "entries"}, ...items));
  }
  function open(query, button) {
    for (const other of list.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button);
    const clip = clips[query.clip];
    panel.replaceChildren(make("div", {class: "first"}, make("h3", {}, "Query: " + classes[clip[1]] + ", " + clip[0]), both(clip)),
      ...query.stages.map((each, number) => stage(query, each, number)),
      make("p", {class: "about"}, "★ will be mined at the end. Similarities are cosines of the " + names.join(" and ") + " embeddings. The line in a bar is chance."));
  }
  function refresh() {
    const [label, kind] = controls.map((control) => control.value);
    const found = queries.filter((query) => (label === "" || clips[query.clip][1] === Number(label)) && (kind === "" || isGood(query) === (kind === "good")));
    list.replaceChildren(...found.map((query) => {
      const clip = clips[query.clip];
      const button = make("button", {class: "query " + side(isGood(query)), type: "button", "data-card": "", tabindex: -1, "aria-pressed": "false"},
        strip(clip[2], ""), make("b", {}, classes[clip[1]]), " " + percent(query.recall) + " right");
      button.addEventListener("click", () => {
        open(query, button);
        panel.scrollIntoView({block: "nearest"});
      });
      return make("li", {}, button);
    }));
    get("m-status").textContent = found.length ? found.length + " queries, the best first" : "No query is like this.";
    const first = list.querySelector("button");
    if (first) { first.tabIndex = 0; open(found[0], first); } else panel.replaceChildren();
  }
  options(controls[0], classes, countBy(queries, (query) => clips[query.clip][1]));
  for (const control of controls) control.addEventListener("change", refresh);
  walk(list);
  refresh();
}

// Which confusion matrix is shown.
if (get("c-which")) get("c-which").addEventListener("change", (event) => {
  for (const each of document.querySelectorAll("[data-matrix]")) each.hidden = each.dataset.matrix !== event.target.value;
  fill(document.querySelector('[data-confusion="' + event.target.value + '"]'));
});

// The map.
if (get("map-plot")) {
  const {classes, queries} = data.retrieval, colour = get("p-colour"), only = get("p-class"), legend = get("p-legend");
  const points = [...get("map-plot").querySelectorAll(".point")];
  const shape = (label) => SHAPES[Math.floor(label / COLOURS) % SHAPES.length];
  const entry = (style, path, text) => [draw("svg", {class: "swatch marker", viewBox: "-6 -6 12 12", "aria-hidden": "true"}, draw("path", {class: "point " + style, d: path})), text];
  function paint() {
    const byClass = colour.value === "class";
    points.forEach((point, i) => {
      const [, label] = queries[i].clip, style = byClass ? "c" + label % COLOURS : queries[i].near[0][2] ? "right" : "wrong";
      point.setAttribute("class", "point " + (only.value === "" || Number(only.value) === label ? style : "dim"));
      point.setAttribute("d", byClass ? shape(label) : SHAPES[queries[i].near[0][2] ? 0 : 2]);
    });
    legend.replaceChildren(...(byClass ? present.map((label) => {
      const button = make("button", {type: "button", "aria-pressed": only.value === String(label)}, ...entry("c" + label % COLOURS, shape(label), classes[label]));
      button.addEventListener("click", () => {
        only.value = only.value === String(label) ? "" : String(label);
        paint();
        legend.querySelectorAll("button")[present.indexOf(label)].focus();
      });
      return make("li", {}, button);
    }) : [make("li", {}, ...entry("right", SHAPES[0], "nearest clip right")), make("li", {}, ...entry("wrong", SHAPES[2], "nearest clip wrong"))]));
  }
  const present = classes.map((_, label) => label).filter((label) => queries.some((query) => query.clip[1] === label));
  options(only, classes, countBy(queries, (query) => query.clip[1]));
  if (present.length > COLOURS * SHAPES.length) colour.value = "right";
  colour.addEventListener("change", paint);
  only.addEventListener("change", paint);
  paint();
}
