
// What comes from the server, and where it goes.

const SILENCE_SECONDS = 15; // the server says something every 5
const RETRY_SECONDS = 3;
const TALLY_LENGTH = { codes: 8, phases: 5, answers: 5, peers: 5 };

const find = (id) => document.getElementById(id);
const chart = new Chart(find("chart"), find("reading"));
const errors = new Errors(find("errors"));
let latest = null; // the last message
let clockSkew = 0; // the server's clock less ours, in seconds
let source = null;
let paused = false;
let silence = 0;
let retry = 0;

const now = () => Date.now() / 1000 + clockSkew;
const sumOf = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

function setState(state, text) {
  const shown = find("state");
  shown.dataset.state = state;
  if (shown.textContent !== text) shown.textContent = text;
}

function connect() {
  clearTimeout(retry);
  source?.close();
  source = new EventSource("events");
  source.addEventListener("snapshot", (event) => receive(JSON.parse(event.data)));
  source.addEventListener("update", (event) => receive(JSON.parse(event.data)));
  source.onerror = () => {
    setState("lost", "Reconnecting");
    if (source.readyState === EventSource.CLOSED) refused();
  };
  listen();
}

// The browser gives up on an answer that is no stream: the cookie has expired, or all is full.
async function refused() {
  clearTimeout(silence);
  retry = setTimeout(connect, RETRY_SECONDS * 1000);
  try {
    const answer = await fetch("snapshot", { method: "HEAD" });
    if (answer.status === 401) location.reload();
  } catch {
    // Not there either; the timer tries again.
  }
}

function listen() {
  clearTimeout(silence);
  silence = setTimeout(() => {
    setState("lost", "Reconnecting");
    connect();
  }, SILENCE_SECONDS * 1000);
}

function receive(message) {
  listen();
  setState("live", "Live");
  latest = message;
  clockSkew = Date.parse(message.now) / 1000 - Date.now() / 1000;
  for (const [code] of message.top_codes) colourOf(code);
  if (message.complete) {
    chart.rates.clear();
    errors.replace(message.entries);
  } else {
    errors.add(message.entries);
  }
  chart.add(message.rates, now());
  showTallies();
  tick();
  showFilters();
}

function tick() {
  if (!latest || paused) return;
  chart.now = now();
  chart.draw();
  find("minute").textContent = chart.total(60).toLocaleString();
  find("hour").textContent = chart.total(3600).toLocaleString();
}

function showTallies() {
  const total = sumOf(latest.by_code).toLocaleString();
  find("total").textContent = total;
  document.title = `(${total}) Client errors`;
  find("since").textContent = `since ${new Date(latest.since).toLocaleString([], {
    month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
  })}`;
  find("connections").textContent = latest.connections.toLocaleString();
  const all = sumOf(latest.by_code);
  const sorted = (counts) => Object.entries(counts).sort(([, a], [, b]) => b - a);
  tally(find("codes"), sorted(latest.by_code), all, "code");
  tally(find("phases"), sorted(latest.by_phase), all, "phase");
  tally(find("answers"), sorted(latest.by_status), all, null);
  tally(find("peers"), latest.top_peers, all, "peer");
  showWorkers(latest.workers ?? []);
}

// All other figures are of all workers together.
function showWorkers(workers) {
  find("workers-section").hidden = !workers.length;
  find("workers").replaceChildren(...workers.map((worker) => {
    const connections = `${worker.connections.toLocaleString()} open`;
    const lost = worker.lost_records ? `, ${worker.lost_records.toLocaleString()} records lost` : "";
    const text = worker.up ? `pid ${worker.pid}, ${connections}${lost}` : `does not serve${lost}`;
    return element("li", "", `worker ${worker.number}: ${text}`);
  }));
}

function tally(list, counts, all, filter) {
  // A list that is being used is not pulled away from under the finger.
  if (list.contains(document.activeElement) && sameNames(list, counts)) {
    refill(list, counts, all);
    return;
  }
  const items = counts.slice(0, TALLY_LENGTH[list.id]).map(([name, count]) => {
    const item = element(filter ? "button" : "span", "item");
    if (filter) {
      item.type = "button";
      item.setAttribute("aria-pressed", String(find(filter).value === name));
      item.addEventListener("click", () => choose(filter, name));
    }
    const bar = element("span", "bar");
    if (filter === "code") item.append(element("span", `swatch ${colourOf(name)}`));
    item.append(bar, element("span", "name", name), element("span", "count"), element("span", "share"));
    item.title = name;
    item.dataset.name = name;
    return element("li", "", item);
  });
  const rest = counts.slice(TALLY_LENGTH[list.id]);
  if (rest.length) {
    const sum = rest.reduce((total, [, count]) => total + count, 0);
    items.push(element("li", "none", `${rest.length} more: ${sum.toLocaleString()}`));
  }
  if (!items.length) items.push(element("li", "none", "none"));
  list.replaceChildren(...items);
  refill(list, counts, all);
}

function sameNames(list, counts) {
  const names = [...list.querySelectorAll(".item")].map((item) => item.dataset.name);
  return names.join("\n") === counts.slice(0, TALLY_LENGTH[list.id]).map(([name]) => name).join("\n");
}

function refill(list, counts, all) {
  list.querySelectorAll(".item").forEach((item, index) => {
    const count = counts[index][1], share = all ? count / all : 0;
    item.querySelector(".count").textContent = count.toLocaleString();
    item.querySelector(".share").textContent = share && share < .01 ? "<1%" : `${Math.round(share * 100)}%`;
    item.querySelector(".bar").style.width = `${Math.min(100, share * 100)}%`;
  });
}

// A second click takes the choice back.
function choose(filter, value) {
  const field = find(filter);
  if (field.tagName === "SELECT") offer(field, [value]);
  field.value = field.value === value ? "" : value;
  showFilters();
}

function offer(select, values) {
  const known = new Set([...select.options].map((option) => option.value));
  for (const value of values) {
    if (!known.has(value)) select.append(new Option(value, value));
  }
}

function showFilters() {
  if (!latest) return;
  offer(find("code"), Object.keys(latest.by_code));
  offer(find("phase"), Object.keys(latest.by_phase));
  const filter = { code: find("code").value, phase: find("phase").value, peer: find("peer").value.trim() };
  filter.wholePeer = latest.top_peers.some(([name]) => name === filter.peer);
  errors.show(filter);
  for (const [list, value] of [["codes", filter.code], ["phases", filter.phase], ["peers", filter.peer]]) {
    for (const item of find(list).querySelectorAll("button")) {
      item.setAttribute("aria-pressed", String(item.dataset.name === value));
    }
  }
  const filtered = Boolean(filter.code || filter.phase || filter.peer);
  const kept = errors.rows.size, shown = errors.shown;
  find("clear").hidden = !filtered;
  find("shown").textContent = filtered ? `${shown} of the last ${kept}` : kept ? `the last ${kept}` : "";
  find("empty").hidden = shown > 0;
  find("empty").textContent = filtered
    ? "No recent error matches the filter."
    : "No errors so far.";
  if (chart.only !== filter.code) {
    chart.only = filter.code;
    chart.draw();
  }
}

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  find("pause").textContent = paused ? "Resume" : "Pause";
  if (paused) {
    source.close();
    clearTimeout(silence);
    clearTimeout(retry);
    setState("paused", `Paused at ${clockText(now())}`);
  } else {
    setState("connecting", "Connecting");
    connect();
  }
});
for (const radio of document.querySelectorAll('input[name="range"]')) {
  radio.addEventListener("change", () => {
    chart.seconds = Number(radio.value);
    chart.picked = null;
    chart.draw();
  });
}
find("filters").addEventListener("input", showFilters);
find("filters").addEventListener("change", showFilters); // what helpers send alone
find("filters").addEventListener("reset", () => setTimeout(showFilters));
find("filters").addEventListener("submit", (event) => event.preventDefault());
find("origin").textContent = location.host;
setInterval(tick, 1000);
connect();
