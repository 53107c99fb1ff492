"use strict";
// The picture: up to MANY peers around this node, as far from it as their round
// trip is long; more of them as a field of cells. Either is one stop of the tab
// key; the arrows go on from there.

const MANY = 60;
const LABELS = 26; // so many have their names beside them

function el(tag, attrs, ...children) {
  const svg = ["svg", "g", "circle", "line", "text", "title"].includes(tag);
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [k, v] of Object.entries(attrs || {})) if (v !== null) e.setAttribute(k, v);
  e.append(...children.filter((c) => c !== null));
  return e;
}

const spoken = (n) => n.name + ", " + n.state +
  (n.rtt ? ", round trip " + ms(n.rtt) : "") + (n.loss ? ", " + percent(n.loss) + " lost" : "");

function picture(nodes, chosen, seen) {
  return nodes.length > MANY ? cells(nodes, chosen, seen) : ring(nodes, chosen, seen);
}

// pick has what both kinds have in common.
const pick = (n, chosen, seen) => ({
  "data-id": n.id, "aria-label": spoken(n), "aria-pressed": String(n.id === chosen), tabindex: "-1",
  class: n.state + (seen.has(n.id) ? "" : " dim"),
});

function cells(nodes, chosen, seen) {
  const pace = nodes.map((n) => n.rtt).filter((r) => r > 0).sort((a, b) => a - b);
  const third = (i) => pace[Math.floor((pace.length * i) / 3)] || 0;
  return el("div", { class: "cells", role: "group", "aria-label": nodes.length + " peers; arrow keys move, Enter shows one" },
    ...nodes.map((n) => {
      const a = pick(n, chosen, seen);
      a.class += " cell" + (n.state !== "ok" ? "" : n.rtt < third(1) ? " fast" : n.rtt < third(2) ? " fair" : "");
      return el("button", { type: "button", title: spoken(n), ...a }, el("i", { "aria-hidden": "true" }, STATES[n.state][0]));
    }));
}

function ring(nodes, chosen, seen) {
  const [w, h, x, y, near, far, lost] = [860, 516, 430, 250, 66, 180, 212];
  const scale = scaleOf(nodes), size = nodes.length > LABELS ? 7.5 : 9;
  const svg = el("svg", { viewBox: "0 0 " + w + " " + h, role: "group",
    "aria-label": "this node and " + nodes.length + " peers; arrow keys move, Enter shows one" });
  const guides = el("g", { "aria-hidden": "true" }), words = el("g", { "aria-hidden": "true", class: "guides" });
  for (let d = scale.low; d <= scale.high && nodes.length; d++) {
    const r = near + scale.at(10 ** d) * (far - near);
    guides.append(el("circle", { class: "guide", cx: x, cy: y, r }));
    words.append(el("text", { class: "scale", x: x + 4, y: y - r - 4 }, Number((10 ** d).toPrecision(1)) + " ms"));
  }
  if (nodes.some((n) => !n.rtt)) guides.append(el("circle", { class: "guide far", cx: x, cy: y, r: lost }));
  const edges = el("g", { "aria-hidden": "true" }), dots = el("g", {});
  nodes.forEach((n, i) => {
    // From a little beside the top, so that no node stands on the scale's words.
    const angle = ((i + 0.5) / nodes.length) * 2 * Math.PI - Math.PI / 2;
    const r = n.rtt ? near + scale.at(n.rtt) * (far - near) : lost;
    const [px, py] = [x + r * Math.cos(angle), y + r * Math.sin(angle)];
    const gone = n.loss >= 1 || !n.rtt;
    edges.append(el("line", { class: "edge " + n.state + (seen.has(n.id) ? "" : " dim"), x1: x, y1: y, x2: px, y2: py,
      "stroke-dasharray": gone ? "2 6" : n.loss > 0 ? "8 " + Math.max(2, Math.round(16 * n.loss)) : null }));
    const a = pick(n, chosen, seen), mark = STATES[n.state][0];
    a.class += " peer";
    const g = el("g", { role: "button", ...a }, el("title", {}, spoken(n)),
      el("circle", { class: "halo", cx: px, cy: py, r: size + 5 }),
      el("circle", { class: "dot full", cx: px, cy: py, r: size }),
      mark ? el("text", { class: "mark", x: px, y: py + 4 }, mark) : null);
    if (nodes.length <= LABELS) label(g, n, px, py, angle);
    dots.append(g);
  });
  svg.append(guides, edges, words, el("g", { "data-id": "", role: "button", tabindex: "-1", class: "peer ok",
    "aria-label": "this node", "aria-pressed": String(!chosen) },
  el("circle", { class: "halo", cx: x, cy: y, r: 27 }), el("circle", { class: "dot", cx: x, cy: y, r: 21 }),
  el("text", { x, y: y + 4, "text-anchor": "middle" }, "this")), dots);
  return svg;
}

function label(g, n, px, py, angle) {
  const side = Math.cos(angle), upright = Math.abs(side) < 0.2;
  const anchor = upright ? "middle" : side > 0 ? "start" : "end";
  const lx = px + (upright ? 0 : Math.sign(side) * 18), ly = py + (upright ? (Math.sin(angle) > 0 ? 28 : -28) : -2);
  const fact = n.state === "ok" ? ms(n.rtt) : n.state + (n.loss ? ", " + percent(n.loss) + " lost" : "");
  g.append(el("text", { x: lx, y: ly, "text-anchor": anchor }, n.name),
    el("text", { class: "scale", x: lx, y: ly + 14, "text-anchor": anchor }, fact));
}
