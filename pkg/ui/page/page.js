"use strict";
// What moves: asks weftd every two seconds, while somebody looks, and puts the
// answers where they belong. What did not change is not touched, so that focus
// and scrolling stay.

const $ = (id) => document.getElementById(id);
const view = { status: null, nodes: [], text: "", state: "", chosen: "", sort: "state", down: false, heard: 0, trouble: "", seq: 0, events: [] };
const PERIOD = 2000, KEPT = 200;

// fill replaces the children of an element when they differ from the last ones.
const drawn = new WeakMap();
function fill(parent, ...children) {
  const next = el("div", {}, ...children); // null is none
  if (drawn.get(parent) === next.innerHTML) return;
  drawn.set(parent, next.innerHTML);
  parent.replaceChildren(...next.childNodes);
}

const badge = (state, text) => [el("i", { "aria-hidden": "true" }, el("u", {}, STATES[state][0])), el("b", {}, text)];

function showHead() {
  const s = view.status, pill = $("pill");
  $("who").textContent = s ? (s.node.public || []).join(", ") : "";
  $("version").textContent = s ? s.version : "";
  const [text, kind] = view.trouble ? ["weftd doesn't answer", "bad"] : !s ? ["waiting", ""] : s.ready ? ["ready", "ok"] : ["not ready", "bad"];
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = "pill " + kind;
  $("age").textContent = view.heard ? "as of " + span((Date.now() - view.heard) / 1000) + " ago" : "";
  document.title = (text === "ready" ? "" : text + " – ") + "weft" + (s ? " " + ((s.node.public || [])[0] || "") : "");
  const notices = view.trouble ? [view.trouble] : s ? noticesOf(s) : [];
  $("notices").hidden = !notices.length;
  $("notices").className = view.trouble || (s && !s.ready) ? "bad" : "";
  fill($("notices").firstElementChild, ...notices.map((n) => el("li", {}, n)));
}

function showFacts() {
  const s = view.status;
  if (!s) return;
  const fact = (name, value, more) => el("div", {}, el("dt", {}, name), el("dd", {}, value || "–", more ? el("small", {}, more) : null));
  const kinds = Object.entries(s.repairedKinds || {}).map(([k, n]) => n + " " + k).join(", ");
  fill($("facts"),
    fact("Subnets", (s.node.subnets || []).join(", "), known(s.node.expires) ? "lease ends in " + span((Date.parse(s.node.expires) - Date.now()) / 1000) : ""),
    fact("Backend", s.node.backend, s.node.mtu ? "pods' MTU " + s.node.mtu : ""),
    fact("Uplink", s.node.uplink, (s.node.local || []).join(", ")),
    fact("Rules", s.rules.engine, s.rules.reason),
    fact("Peers", s.peers + " programmed", (s.skipped || []).length + " left out"),
    fact("Store", s.store.away ? "away" : s.store.leases + " leases", "revision " + s.store.revision),
    fact("Kernel", s.ops + " writes", s.rounds + " rounds, the last took " + s.lastTook),
    fact("Repaired", String(s.repaired), kinds || "nothing had to be"));
}

const nobody = () => (view.status ? "No other node has a lease." : "Nothing is known yet.");
const passing = () => view.nodes.filter((n) => wanted(n, view.text, view.state));

function showMesh() {
  const box = $("picture"), focused = box.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  if (!view.nodes.length) {
    fill(box, el("p", { class: "empty" }, nobody()));
  } else {
    fill(box, picture(view.nodes, view.chosen, new Set(passing().map((n) => n.id))));
    rove(focused ?? view.chosen, focused !== null);
  }
  $("mesh-note").textContent = !view.nodes.length ? "" : view.nodes.length > MANY ? "a cell for each peer; of those that are well, the stronger the colour, the longer the round trip" :
    view.nodes.some((n) => n.rtt) ? "the farther away, the longer the round trip" : "round trips are not known";
  const there = ORDER.filter((s) => view.nodes.some((n) => n.state === s)).reverse();
  fill($("legend"), ...there.map((s) => el("li", { class: s }, ...badge(s, s + ": " + STATES[s][1]))));
}

// rove makes one of the nodes the stop of the tab key.
function rove(id, focus) {
  const all = [...$("picture").querySelectorAll("[data-id]")];
  const one = all.find((e) => e.dataset.id === id) || all[0];
  for (const e of all) if (e !== one && e.tabIndex === 0) e.setAttribute("tabindex", "-1");
  if (one) one.setAttribute("tabindex", "0");
  if (focus && one && document.activeElement !== one) one.focus({ preventScroll: true });
}

function showNode() {
  const n = view.nodes.find((x) => x.id === view.chosen), s = view.status;
  const pairs = (...list) => el("dl", { class: "pairs" }, ...list.filter(([, v]) => v).flatMap(([k, v, c]) => [el("dt", {}, k), el("dd", { class: c || "" }, v)]));
  if (!n) {
    fill($("node"), el("h3", {}, "This node"), !s ? el("p", { class: "quiet" }, "Nothing is known yet.") : pairs(
      ["Lease", s.node.lease, "mono"], ["Public", (s.node.public || []).join(", "), "mono"], ["Uplink", s.node.uplink],
      ["Peers", view.nodes.filter((x) => x.state === "ok").length + " of " + view.nodes.length + " are well"]),
    view.nodes.length ? el("p", { class: "quiet empty" }, "Choose a peer in the picture or in the table.") : null);
    return;
  }
  fill($("node"), el("h3", {}, n.name),
    pairs(["State", n.state + ": " + STATES[n.state][1]], ["Reason", n.reason], ["Lease", n.id, "mono"], ["A peer for", since(n.since)]),
    ...n.paths.flatMap((x) => [el("h3", { class: "mono" }, x.subnet), pairs(
      ["Public", x.public, "mono"], ["Way", x.way + (x.dev ? ", " + x.dev : "")], ["VTEP", x.vtep, "mono"], ["MAC", x.mac, "mono"],
      ["Round trip", x.state === "none" ? "" : ms(x.rtt)], ["Lost", x.state === "none" ? "" : percent(x.loss) + " of the newest probes"],
      ["Probes", x.state + (x.state !== "ok" && known(x.probeSince) ? " for " + since(x.probeSince) : "")])]));
}

// The columns of the table: title, what to sort by, the cell, its class.
const COLUMNS = [
  ["State", "state", (n, x) => [el("span", { class: x.state }, ...badge(x.state, x.state))], ""],
  ["Peer", "name", (n) => [el("button", { type: "button", "data-id": n.id }, n.name)], ""],
  ["Subnet", "subnet", (n, x) => [x.subnet || "–"], "mono"],
  ["Public", "public", (n, x) => [x.public || "–"], "mono"],
  ["MAC", "mac", (n, x) => [x.mac || "–"], "mono"],
  ["Way", "way", (n, x) => [x.way || "–"], ""],
  ["RTT", "rtt", (n, x) => [ms(x.rtt)], "num"],
  ["Loss", "loss", (n, x) => [x.state === "none" || x.state === "left-out" ? "–" : percent(x.loss)], "num"],
  ["Since", "since", (n) => [since(n.since)], "num"],
];

function compare([a, x], [b, y]) {
  const by = view.sort, pair = by === "name" || by === "since" ? [a[by], b[by]] : [x[by], y[by]];
  let d = by === "state" ? rank(x.state) - rank(y.state) : typeof pair[0] === "number" ? pair[1] - pair[0] :
    String(pair[0] || "").localeCompare(String(pair[1] || ""), "en", { numeric: true });
  if (view.down) d = -d;
  return d || a.name.localeCompare(b.name, "en", { numeric: true });
}

function showTable() {
  const shown = passing();
  const rows = shown.flatMap((n) => (n.paths.length ? n.paths : [{ state: n.state, rtt: 0, loss: 0 }]).map((x) => [n, x])).sort(compare);
  fill($("columns"), ...COLUMNS.map(([title, key, , kind]) => el("th", { class: kind === "num" ? kind : "", scope: "col",
    "aria-sort": view.sort === key ? (view.down ? "descending" : "ascending") : null },
  el("button", { type: "button", "data-sort": key }, title + (view.sort === key ? (view.down ? " ↓" : " ↑") : "")))));
  const made = rows.map(([n, x]) => {
    const row = el("tr", { class: n.id === view.chosen ? "on" : "" }, ...COLUMNS.map(([, , cell, kind]) => el("td", { class: kind }, ...cell(n, x))));
    if (n.reason) row.title = n.reason;
    return row;
  });
  const body = $("rows"), hold = body.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  made.forEach((row, i) => { // what is the same stays
    const old = body.children[i];
    if (!old) body.append(row);
    else if (old.outerHTML !== row.outerHTML) old.replaceWith(row);
  });
  while (body.children.length > made.length) body.lastChild.remove();
  if (hold !== null && !body.contains(document.activeElement)) body.querySelector('[data-id="' + CSS.escape(hold) + '"]')?.focus({ preventScroll: true });
  $("count").textContent = !view.status ? "" : shown.length === view.nodes.length ? String(view.nodes.length) : shown.length + " of " + view.nodes.length;
  $("none").hidden = rows.length > 0;
  $("none").textContent = view.nodes.length ? "No peer fits the filter." : nobody();
  const there = ORDER.filter((s) => s === view.state || view.nodes.some((n) => n.state === s));
  fill($("states"), ...there.map((s) => el("button", { type: "button", class: s, "data-state": s, "aria-pressed": String(view.state === s) },
    ...badge(s, s + " " + view.nodes.filter((n) => n.state === s).length))));
}

function showEvents() {
  $("quiet").hidden = view.events.length > 0;
  fill($("events"), ...[...view.events].reverse().map((e) => el("tr", {},
    el("td", { class: "mono" }, new Date(e.time).toLocaleString("sv")), el("td", {}, e.kind + (e.count ? " " + e.count : "")),
    el("td", { class: "mono" }, e.subject || ""), el("td", { class: "wide" }, e.detail || ""))));
}

function show() { showHead(); showFacts(); showMesh(); showNode(); showTable(); showEvents(); }

function choose(id) {
  view.chosen = id === view.chosen ? "" : id;
  showMesh(); showNode(); showTable();
}

async function ask(path) {
  const reply = await fetch(path, { cache: "no-store" });
  const text = await reply.text();
  if (!reply.ok) throw new Error(text.trim());
  return text;
}

// refresh asks once; whoever wants it meanwhile waits for the same answers.
let running = null;
function refresh() {
  running ??= renew().finally(() => { running = null; });
  return running;
}

async function renew() {
  try {
    const [status, peers, events] = await Promise.all([ask("v1/status"), ask("v1/peers"), ask("v1/events?after=" + view.seq)]);
    view.status = JSON.parse(status);
    view.nodes = nodesOf(JSON.parse(peers) || []);
    const heard = events.split("\n").filter(Boolean).map((line) => JSON.parse(line));
    if (!view.seq || (heard.length && heard[0].seq <= view.seq)) view.events = []; // all, or another run of weftd
    view.events = [...view.events, ...heard].slice(-KEPT);
    if (heard.length) view.seq = heard.at(-1).seq;
    view.heard = Date.now();
    view.trouble = "";
  } catch (e) {
    view.seq = 0; // it may be another run that answers next
    view.trouble = e instanceof TypeError ? "weftctl ui has ended: start it again" : e.message;
  }
  show();
}

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, PERIOD);
}

function theme(next) {
  const name = ["auto", "light", "dark"].includes(next) ? next : "auto";
  if (name === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = name;
  $("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[name];
  $("theme").setAttribute("aria-label", "Colours: " + { auto: "automatic", light: "light", dark: "dark" }[name]);
  try { localStorage.setItem("weft-theme", name); } catch { /* then it is not remembered */ }
  return name;
}

function begin() {
  let colours = "auto";
  try { colours = localStorage.getItem("weft-theme"); } catch { /* not remembered */ }
  colours = theme(colours);
  $("theme").onclick = () => { colours = theme({ auto: "light", light: "dark", dark: "auto" }[colours]); };
  $("filter").oninput = () => { view.text = $("filter").value; showMesh(); showTable(); };
  $("states").onclick = (e) => {
    const b = e.target.closest("[data-state]");
    if (!b) return;
    view.state = view.state === b.dataset.state ? "" : b.dataset.state;
    showMesh(); showTable();
    $("states").querySelector('[data-state="' + b.dataset.state + '"]')?.focus();
  };
  $("columns").onclick = (e) => {
    const key = e.target.closest("[data-sort]")?.dataset.sort;
    if (!key) return;
    [view.sort, view.down] = [key, view.sort === key && !view.down];
    showTable();
    $("columns").querySelector('[data-sort="' + key + '"]').focus();
  };
  $("rows").onclick = (e) => { const b = e.target.closest("[data-id]"); if (b) choose(b.dataset.id); };
  $("picture").onclick = (e) => { const b = e.target.closest("[data-id]"); if (b) { rove(b.dataset.id, true); choose(b.dataset.id); } };
  $("picture").onkeydown = move;
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  setInterval(showHead, 1000);
  show();
  poll();
}

function move(e) {
  const all = [...$("picture").querySelectorAll("[data-id]")], at = all.indexOf(document.activeElement);
  if (at < 0) return;
  const first = all[0].getBoundingClientRect().top;
  const across = all[0].matches(".cell") ? all.filter((c) => Math.abs(c.getBoundingClientRect().top - first) < 2).length : 1;
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + across, ArrowUp: at - across, Home: 0, End: all.length - 1 }[e.key];
  if (to !== undefined) {
    const one = all[Math.min(Math.max(to, 0), all.length - 1)];
    rove(one.dataset.id, true);
    one.scrollIntoView({ block: "nearest" });
  } else if ((e.key === "Enter" || e.key === " ") && document.activeElement.matches("g")) choose(document.activeElement.dataset.id);
  else return;
  e.preventDefault();
}

begin();
