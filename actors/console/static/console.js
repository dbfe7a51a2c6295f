// What the admin port tells, shown. State comes in one snapshot and then in changes; a missing one
// means that this page was too slow, and it asks for everything again.

import { bars, lines, stacks } from "/charts.js";

const SPAN = 120; // seconds that the charts are wide, and points that are kept
const RETRY_MS = 3000;
const PHASES = [["queue", "queue_us"], ["input", "compute_input_us"], ["infer", "compute_infer_us"], ["output", "compute_output_us"], ["rest", "rest_us"]];

const models = new Map(); // "name/version" → its last row, with `points`
let latest = null; // what the last event said of everything else
let selected = ""; // a key of `models`, or "" for all of them
let source = null;

const by = (id) => document.getElementById(id);
const keyOf = (row) => `${row.name}/${row.version}`;

// --- numbers as people read them -----------------------------------------------------------------

function count(value) {
  if (value === undefined || value === null) return "";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

function micros(value) {
  if (value === undefined || value === null) return "";
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} s`;
  if (value >= 1e3) return `${(value / 1e3).toFixed(value >= 1e5 ? 0 : 1)} ms`;
  return `${Math.round(value)} µs`;
}

function span(seconds) {
  if (!seconds) return "";
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function bytes(value) {
  return value === undefined ? "" : `${(value / 2 ** 30).toFixed(1)} GiB`;
}

// --- what comes in -------------------------------------------------------------------------------

function connect() {
  source = new EventSource("/api/events");
  source.addEventListener("snapshot", (event) => take(JSON.parse(event.data), true));
  source.addEventListener("tick", (event) => take(JSON.parse(event.data), false));
  source.addEventListener("error", () => {
    say("connection lost, trying again…", true);
    // The browser tries again by itself, unless it was told something else than events.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
  });
}

function say(text, isLost) {
  by("link").textContent = text;
  by("link").classList.toggle("lost", isLost);
}

function take(told, isWhole) {
  if (!isWhole && (latest === null || told.tick !== latest.tick + 1)) {
    source.close();
    latest = null;
    connect();
    return;
  }
  if (isWhole) models.clear();
  for (const [name, version] of told.gone) models.delete(`${name}/${version}`);
  for (const row of told.models) {
    const points = row.points ?? models.get(keyOf(row))?.points ?? [];
    if (row.point) points.push(row.point);
    for (const point of points)
      point.rest_us = Math.max(0, point.request_us - point.queue_us - point.compute_input_us - point.compute_infer_us - point.compute_output_us);
    models.set(keyOf(row), { ...row, points });
  }
  for (const { points } of models.values())
    while (points.length && points[0].tick <= told.tick - SPAN) points.shift();
  latest = told;
  if (selected && !models.has(selected)) selected = "";
  say("live", false);
  show();
}

// --- tables --------------------------------------------------------------------------------------

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Make the rows of a table fit `rows`: [key, fill(tr)], in this order; rows are made once. */
function fit(table, rows, columns) {
  const body = table.tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  let place = body.firstElementChild;
  for (const [key, fill] of rows) {
    let row = known.get(key);
    known.delete(key);
    if (row === undefined) {
      row = document.createElement("tr");
      row.dataset.key = key;
      for (const kind of columns) {
        const cell = row.insertCell();
        if (kind) cell.className = kind;
      }
    }
    if (row !== place) body.insertBefore(row, place);
    else place = place.nextElementSibling;
    fill(row);
  }
  for (const row of known.values()) row.remove();
}

function fillModel(tr, key, row) {
  const [name, state, scheduler, ...numbers] = tr.cells;
  tr.dataset.model = row.name;
  tr.dataset.version = String(row.version);
  tr.classList.toggle("selected", key === selected);
  let button = name.firstElementChild;
  if (button === null) {
    button = document.createElement("button");
    button.type = "button";
    button.addEventListener("click", () => select(key));
    name.append(button);
    state.append(document.createElement("span"), document.createElement("span"));
  }
  button.setAttribute("aria-pressed", String(key === selected));
  setText(button, row.version ? `${row.name} / ${row.version}` : row.name);
  const [word, reason] = state.children;
  word.className = `state ${["READY", "UNAVAILABLE", "LOADING", "UNLOADING"].includes(row.state) ? row.state : "UNKNOWN"}`;
  setText(word, row.state);
  reason.className = "reason";
  setText(reason, row.reason);
  setText(scheduler, row.scheduler ? `${row.scheduler}, ${row.backend || "–"}` : "");
  const last = row.points.at(-1);
  const point = last !== undefined && last.tick === latest.tick ? last : null;
  const failed = row.counts ? Object.values(row.counts.failures).reduce((sum, each) => sum + each, 0) : null;
  const texts = [
    row.counts ? count(point ? point.requests / point.seconds : 0) : "",
    micros(row.p50_us),
    micros(row.p99_us),
    point && point.executions ? count(point.inferences / point.executions) : "",
    count(row.pending),
    row.pending ? span(row.oldest_seconds) : "",
    count(row.executing),
    count(row.counts?.success),
    count(failed),
  ];
  texts.forEach((text, index) => setText(numbers[index], text));
}

function showModels() {
  const wanted = by("filter").value.toLowerCase();
  const rows = [...models].filter(([key]) => key.toLowerCase().includes(wanted));
  rows.sort(([one], [other]) => (one < other ? -1 : 1));
  const columns = ["", "", "", ...Array(9).fill("n")];
  fit(by("models"), rows.map(([key, row]) => [key, (tr) => fillModel(tr, key, row)]), columns);
}

function fillSlow(tr, row) {
  const [model, id, ago, whole, queue, infer, batch, why] = tr.cells;
  tr.dataset.model = row.model;
  setText(model, `${row.model} / ${row.version}`);
  setText(id, row.id || "–");
  setText(ago, span(row.ago_seconds) || "now");
  setText(whole, micros(row.total_us));
  setText(queue, micros(row.queue_us));
  setText(infer, micros(row.infer_us));
  setText(batch, String(row.batch_size));
  if (why.firstElementChild === null)
    why.append(document.createElement("span"), document.createElement("span"));
  const [reason, error] = why.children;
  setText(reason, row.why);
  error.className = "error";
  setText(error, row.error);
}

function showSlow() {
  const rows = latest.slow.filter((row) => !selected || selected === `${row.model}/${row.version}`);
  fit(
    by("slow"),
    rows.map((row, index) => [String(index), (tr) => fillSlow(tr, row)]),
    ["", "", "n", "n", "n", "n", "n", "why"],
  );
}

function showActors() {
  const rows = [...latest.actors].sort((one, other) => other.depth - one.depth || (one.actor < other.actor ? -1 : 1));
  fit(
    by("actors"),
    rows.map((row, index) => [`${row.actor} ${index}`, (tr) => {
      tr.dataset.actor = row.actor;
      const texts = [row.actor, String(row.depth), span(row.oldest_seconds), count(row.executing)];
      texts.forEach((text, place) => setText(tr.cells[place], text));
    }]),
    ["", "n", "n", "n"],
  );
}

function showGpus() {
  by("gpus-section").hidden = latest.gpus.length === 0;
  fit(
    by("gpus"),
    latest.gpus.map((gpu) => [gpu.uuid, (tr) => {
      const busy = gpu.nv_gpu_utilization, power = gpu.nv_gpu_power_usage;
      const texts = [
        gpu.uuid,
        busy === undefined ? "" : `${Math.round(busy * 100)} %`,
        `${bytes(gpu.nv_gpu_memory_used_bytes)} of ${bytes(gpu.nv_gpu_memory_total_bytes)}`,
        power === undefined ? "" : `${Math.round(power)} W`,
      ];
      texts.forEach((text, place) => setText(tr.cells[place], text));
    }]),
    ["", "n", "n", "n"],
  );
}

// --- charts --------------------------------------------------------------------------------------

/** One entry for each of the last SPAN seconds: the points of the chosen models at that tick. */
function bySecond(rows) {
  const seconds = Array.from({ length: SPAN }, () => []);
  for (const { points } of rows)
    for (const point of points) seconds[SPAN - 1 - (latest.tick - point.tick)]?.push(point);
  return seconds;
}

const sum = (points, value) => points.reduce((total, each) => total + value(each), 0);

function showCharts() {
  const rows = selected ? [models.get(selected)] : [...models.values()];
  setText(by("charts-title"), selected ? selected.replace("/", " / ") : "All models");
  by("all").setAttribute("aria-pressed", String(!selected));
  const seconds = bySecond(rows);
  const rates = seconds.map((points) => sum(points, (each) => each.requests / each.seconds));
  const failures = seconds.map((points) => sum(points, (each) => each.failures / each.seconds));
  const series = [{ kind: "line", values: rates }];
  if (failures.some((each) => each > 0)) series.push({ kind: "failed", values: failures });
  lines(by("throughput"), series, { format: count, span: SPAN });
  label("throughput", `${count(rates.at(-1))} requests/s`, "Throughput");

  const columns = seconds.map((points) => {
    const requests = sum(points, (each) => each.requests);
    return PHASES.map(([kind, name]) => ({ kind, value: requests ? sum(points, (each) => each[name] * each.requests) / requests : 0 }));
  });
  stacks(by("latency"), columns, { format: micros, span: SPAN });
  const last = columns.findLast((stack) => stack.some((each) => each.value > 0));
  label("latency", last ? `${micros(sum(last, (each) => each.value))} on average` : "", "Latency");

  const sizes = new Map();
  for (const row of rows)
    for (const [size, times] of row.batches ?? []) sizes.set(size, (sizes.get(size) ?? 0) + times);
  const ordered = [...sizes].sort(([one], [other]) => one - other);
  bars(by("batches"), ordered, { format: count });
  const executions = sum(ordered, ([, times]) => times);
  const mean = executions ? sum(ordered, ([size, times]) => size * times) / executions : 0;
  label("batches", executions ? `${count(mean)} on average in the last minute` : "", "Batch sizes");
}

function label(id, text, title) {
  setText(by(`${id}-now`), text);
  by(id).setAttribute("aria-label", `${title}: ${text || "nothing happened"}`);
}

// --- the whole -----------------------------------------------------------------------------------

function select(key) {
  selected = key === selected ? "" : key;
  show();
}

function show() {
  if (latest === null) return;
  const { id, version, ready, exiting, connections, uptime_seconds: uptime } = latest.server;
  const state = exiting ? "exiting" : ready ? "ready" : "starting";
  const open = Object.entries(connections).map(([protocol, number]) => `${number} ${protocol}`);
  const words = [`${id} ${version}: ${state}`, `up ${span(uptime) || "0 s"}`];
  if (open.length) words.push(`connections: ${open.join(", ")}`);
  setText(by("server"), words.join(" · "));
  showModels();
  showSlow();
  showActors();
  showGpus();
  showCharts();
}

by("filter").addEventListener("input", show);
by("all").addEventListener("click", () => select(""));
connect();
