"use strict";
// Texts come from outside: they are put in as text, never as markup.
const rates = new Map(); // "service" or "service real": the last connections per second
const length = 60;

function element(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) e.setAttribute(name, value);
  for (const c of children) e.append(c);
  return e;
}

function age(now, then) {
  if (!then || then.startsWith("0001")) return "";
  let s = Math.max(0, Math.round((Date.parse(now) - Date.parse(then)) / 1000));
  if (s >= 172800) return Math.floor(s / 86400) + " days";
  if (s >= 3600) return Math.floor(s / 3600) + "h" + Math.floor(s % 3600 / 60) + "m";
  if (s >= 60) return Math.floor(s / 60) + "m" + s % 60 + "s";
  return s + "s";
}

function table(head, rows) {
  const t = element("table", {});
  t.append(element("tr", {}, ...head.map(h => element("th", {}, h))));
  for (const r of rows) t.append(element("tr", {}, ...r));
  return element("div", { class: "card" }, t);
}

const cell = (text, kind) => element("td", { class: kind || "" }, String(text ?? ""));

function remember(key, value) {
  const list = rates.get(key) || [];
  list.push(value);
  if (list.length > length) list.shift();
  rates.set(key, list);
}

function graph(key) {
  const list = rates.get(key) || [];
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", "0 0 " + (length - 1) + " 20");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "connections per second of the last two minutes");
  const top = Math.max(1, ...list);
  const line = document.createElementNS(ns, "polyline");
  line.setAttribute("points", list.map((v, i) => (length - list.length + i) + "," + (19 - 18 * v / top)).join(" "));
  svg.append(line);
  return svg;
}

const realName = r => r.port ? (r.address.includes(":") ? "[" + r.address + "]" : r.address) + ":" + r.port : r.address;

function service(s, now, perReal, perService) {
  const title = element("div", { class: "head" }, element("span", { class: "name" }, s.name), element("span", { class: s.state }, s.state),
    element("span", { class: "dim" }, s.scheduler + "  " + s.listeners.join(" ")), graph(s.name),
    element("span", { class: "dim" }, (perService.get(s.name) ?? 0) + " conn/s"));
  if (s.reason) title.append(element("span", { class: "warn" }, s.reason));
  const rows = (s.reals || []).map(r => {
    const name = realName(r), key = s.name + " " + name;
    const picture = element("td", {});
    picture.append(graph(key));
    return [cell(name), cell(r.state, r.state), cell(r.weight), cell(r.active_connections), cell(r.inactive_connections), picture,
      cell((perReal.get(key) ?? 0) + "/s"), cell(age(now, r.since)), cell(r.reason, "text dim")];
  });
  const card = rows.length ? table(["real", "state", "weight", "active", "inactive", "connections", "", "since", ""], rows) : element("div", { class: "card" });
  card.prepend(title);
  if (s.sorry_server) card.append(element("div", { class: "dim" }, "sorry server " + s.sorry_server));
  return card;
}

function count(all) {
  const perService = new Map(), perReal = new Map();
  for (const s of all || []) {
    perService.set(s.Name, s.CPS);
    remember(s.Name, s.CPS);
    for (const r of s.Reals || []) {
      const key = s.Name + " " + realName({ address: r.Addr, port: r.Port });
      perReal.set(key, r.CPS);
      remember(key, r.CPS);
    }
  }
  return [perService, perReal];
}

function show(model) {
  const st = model.status, now = st.now, parts = [];
  const section = (title, ...nodes) => parts.push(element("h2", {}, title), ...nodes);
  document.getElementById("title").textContent = "lvx " + st.version;
  document.getElementById("path").textContent = [st.backend, st.mode, "up " + age(now, st.started), st.detail].filter(Boolean).join(", ");
  if (st.warnings?.length) section("Warnings", table(["about", "what", "what to do", "since"],
    st.warnings.map(w => [cell(w.subject), cell(w.text, w.note ? "text" : "text warn"), cell(w.cure, "text"), cell(age(now, w.since))])));
  if (st.vrrp?.length) section("Virtual routers", table(["instance", "role", "since", "priority", "why"],
    st.vrrp.map(v => [cell(v.instance), cell(v.role, v.role), cell(age(now, v.since)), cell(v.priority), cell(v.why, "text dim")])));
  if (st.vips?.length) section("VIPs", table(["address", "", "by"],
    st.vips.map(v => [cell(v.address), cell(v.held ? "held" : "not held", v.held ? "up" : ""), cell(v.vrrp || "")])));
  const [perService, perReal] = count(model.rates);
  section("Services", ...(st.services || []).map(s => service(s, now, perReal, perService)));
  if (model.more) parts.push(element("p", { class: "dim" }, model.more + " more services: see lvx status"));
  if (st.tables?.length) section("Tables", table(["table", "used", "of", "given up"],
    st.tables.map(t => [cell(t.name), cell(t.used), cell(t.capacity), cell(Object.entries(t.evicted || {}).map(e => e[0] + " " + e[1]).join(", "))])));
  if (st.verdicts?.length) section("Packets", table(["verdict", "packets", ""], st.verdicts.map(v => [cell(v.name), cell(v.count), cell(v.meaning, "text dim")])));
  if (model.history?.length) section("History", table(["when", "what", "about", ""],
    model.history.slice().reverse().map(e => [cell(new Date(e.time).toLocaleString()), cell(e.kind), cell(e.subject), cell(e.text, "text")])));
  document.getElementById("main").replaceChildren(...parts);
}

const first = document.getElementById("model").textContent;
if (first) show(JSON.parse(first));
const events = new EventSource("/events");
events.onmessage = e => { document.body.classList.remove("stale"); show(JSON.parse(e.data)); };
events.onerror = () => document.body.classList.add("stale");
