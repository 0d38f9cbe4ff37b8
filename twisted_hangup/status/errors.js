
// The recent errors: newest first, filtered, each opened by its button.

const MOST_ERRORS = 200;

class Errors {
  constructor(body) {
    this.body = body;
    this.rows = new Map(); // number -> {error, row, button, detail}
    this.filter = { code: "", phase: "", peer: "", wholePeer: false };
  }

  add(errors) {
    for (const error of errors) {
      const known = this.rows.get(error.number);
      if (known) this.update(known, error);
      else this.insert(error);
    }
    for (const number of this.rows.keys()) {
      if (this.rows.size <= MOST_ERRORS) break;
      const { row, detail } = this.rows.get(number);
      row.remove();
      detail?.remove();
      this.rows.delete(number);
    }
  }

  // A full snapshot: what it does not have has gone from the server, and stays only if open.
  replace(errors) {
    const kept = new Set(errors.map((error) => error.number));
    for (const [number, { row, detail }] of this.rows) {
      if (kept.has(number) || detail) continue;
      row.remove();
      this.rows.delete(number);
    }
    this.add(errors);
  }

  insert(error) {
    const button = element("button", "", error.code);
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    const what = element("span", "what", error.reason);
    if (error.line) what.append(element("span", "line", error.line));
    const cells = [
      element("span", "time", timeText(new Date(error.time))),
      element("span", "code", button), what,
      element("span", "phase", error.phase),
      element("span", "peer", error.peer ?? "unknown"),
      element("span", "answer"),
    ];
    for (const cell of cells) cell.setAttribute("role", "cell");
    const row = element("div", "error", ...cells);
    row.setAttribute("role", "row");
    const entry = { error, row, button, detail: null };
    // Selecting text in a row is no click on it.
    row.addEventListener("click", () => {
      if (window.getSelection().isCollapsed) this.toggle(entry);
    });
    this.rows.set(error.number, entry);
    this.update(entry, error);
    this.body.prepend(row);
  }

  update(entry, error) {
    entry.error = error;
    const cell = entry.row.querySelector(".answer");
    cell.textContent = answerText(error);
    cell.classList.toggle("none", error.answered === null);
    if (entry.detail) {
      const detail = this.shell(error);
      entry.detail.replaceWith(detail);
      entry.detail = detail;
    }
  }

  toggle(entry) {
    const opening = entry.detail === null;
    entry.button.setAttribute("aria-expanded", String(opening));
    entry.row.classList.toggle("open", opening);
    if (opening) {
      entry.detail = this.shell(entry.error);
      entry.button.setAttribute("aria-controls", entry.detail.id);
      entry.row.after(entry.detail);
      const mark = entry.detail.querySelector("mark");
      const dump = mark?.closest("pre");
      if (dump) dump.scrollTop = mark.offsetTop - dump.offsetTop - dump.clientHeight / 2;
    } else {
      entry.button.removeAttribute("aria-controls");
      entry.detail.remove();
      entry.detail = null;
    }
  }

  shell(error) {
    const cell = element("div", "", detailOf(error));
    cell.setAttribute("role", "cell");
    const row = element("div", "", cell);
    row.setAttribute("role", "row");
    row.id = `error-${error.number}`;
    return row;
  }

  matches(error) {
    const { code, phase, peer, wholePeer } = this.filter;
    const host = hostOf(error.peer ?? "unknown");
    return (!code || error.code === code) && (!phase || error.phase === phase)
      && (!peer || (wholePeer ? host === peer : (error.peer ?? host).includes(peer)));
  }

  show(filter) {
    this.filter = filter;
    for (const { error, row, detail } of this.rows.values()) {
      row.hidden = !this.matches(error);
      if (detail) detail.hidden = row.hidden;
    }
  }

  get shown() {
    let count = 0;
    for (const { row } of this.rows.values()) if (!row.hidden) count++;
    return count;
  }
}

// "[::1]:80" and "127.0.0.1:80" without their ports, as they are counted.
function hostOf(peer) {
  return peer.replace(/^\[(.*)\]:\d+$|^([^:]*):\d+$/, "$1$2");
}

function timeText(date) {
  if (Date.now() - date < 20 * 3600 * 1000) return clockText(date / 1000);
  return date.toLocaleDateString([], { month: "short", day: "numeric" })
    + ` ${clockText(date / 1000, false)}`;
}
