"use strict";
// What the documents of weftd say, as one list of nodes. Nothing here touches
// the page.

// The states, worst first, with the mark and the words of each.
const STATES = {
  "underlay-down": ["×", "the node does not answer at its public address"],
  "overlay-down": ["!", "answers beside the overlay, not through it"],
  "down": ["×", "never answered"],
  "mtu": ["M", "full-sized packets don't arrive"],
  "lossy": ["~", "some probes were lost"],
  "left-out": ["–", "its lease does not count"],
  "unknown": ["?", "not probed yet"],
  "none": ["", "not probed"],
  "ok": ["", "all is well"],
};
const ORDER = Object.keys(STATES);
const stateOf = (name) => (name in STATES ? name : "none");
const rank = (state) => ORDER.indexOf(state);

// nodesOf merges the paths of each peer: its state is the worst of them, its RTT
// the longest.
function nodesOf(peers) {
  return peers.map((p) => {
    const paths = (p.paths || []).map((x) => ({
      ...x, state: p.reason ? "left-out" : stateOf(x.probe || "none"), rtt: x.rttMs || 0, loss: x.loss || 0,
    }));
    const states = p.reason ? ["left-out"] : paths.map((x) => x.state);
    return {
      id: p.lease, name: p.node || p.lease, reason: p.reason || "", since: p.since, paths,
      state: states.sort((a, b) => rank(a) - rank(b))[0] || "none",
      rtt: Math.max(0, ...paths.map((x) => x.rtt)), loss: Math.max(0, ...paths.map((x) => x.loss)),
    };
  });
}

// wanted tells whether a node is to be seen with this filter.
function wanted(node, text, state) {
  if (state && node.state !== state) return false;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const hay = [node.id, node.name, node.state, node.reason,
    ...node.paths.flatMap((x) => [x.subnet, x.public, x.vtep || "", x.mac || "", x.way, x.state])].join(" ").toLowerCase();
  return words.every((w) => hay.includes(w));
}

// scaleOf puts round trips on a logarithmic scale of whole decades, at least one.
function scaleOf(nodes) {
  const rtts = nodes.map((n) => n.rtt).filter((r) => r > 0);
  const low = rtts.length ? Math.floor(Math.log10(Math.min(...rtts))) : -1;
  const high = Math.max(low + 1, rtts.length ? Math.ceil(Math.log10(Math.max(...rtts))) : 0);
  return { low, high, at: (rtt) => (Math.log10(rtt) - low) / (high - low) };
}

const ms = (rtt) => (rtt > 0 ? (rtt < 10 ? rtt.toFixed(2) : rtt.toFixed(0)) + " ms" : "–");
const percent = (part) => Math.round(100 * part) + "%";

// span is a time as weftctl prints it: 3s, 12m, 5h10m, 12d.
function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return s + "s";
  if (s < 3600) return Math.floor(s / 60) + "m";
  if (s < 48 * 3600) return Math.floor(s / 3600) + "h" + Math.floor((s % 3600) / 60) + "m";
  return Math.floor(s / 86400) + "d";
}
const known = (time) => Boolean(time) && !time.startsWith("0001-");
const since = (time) => (known(time) ? span((Date.now() - Date.parse(time)) / 1000) : "–");

// noticesOf is what somebody should look at.
function noticesOf(s) {
  const out = [...(s.reasons || []).map((r) => "Not ready: " + r)];
  if (s.store.away) out.push("The store is away since " + since(s.store.awaySince) + ": " + s.store.away);
  if (s.store.inDoubt) out.push("The store looks emptied or restored; peers are kept until that is confirmed");
  if (s.store.refused) out.push("The network configuration is not followed: " + s.store.refused);
  for (const [entry, why] of Object.entries(s.conflicts || {})) out.push("Conflict: " + entry + ": " + why);
  for (const entry of s.fights || []) {
    const who = (s.fighters || {})[entry];
    out.push("Somebody keeps changing " + entry + (who ? ": " + who : ""));
  }
  for (const m of s.store.malformed || []) out.push("Can't be read in the store: " + m.id + " " + m.field + " " + m.reason);
  if (s.rules.warning) out.push("Rules: " + s.rules.warning);
  if (s.probes) out.push("Peers are not probed: " + s.probes);
  return out;
}
