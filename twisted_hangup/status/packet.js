
// One error in full.  Whatever a peer sent is text here, and never becomes markup.

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children); // strings become text nodes
  return made;
}

function answerText(error) {
  if (error.answered !== null) return String(error.answered);
  return error.settled ? "none" : "…";
}

function detailOf(error) {
  const told = element("div", "told");
  if (error.rule) {
    told.append(element("p", "rule", `${error.rule[0].toUpperCase()}${error.rule.slice(1)}.`));
    if (error.source) told.append(element("p", "source", error.source));
  }
  for (const [title, text] of [["Usual cause", error.cause], ["What to do", error.cure]]) {
    if (text) told.append(element("p", "remedy", element("b", "", title), " ", text));
  }
  const facts = element("dl", "facts");
  const answered = error.settled
    ? (error.answered === null ? "nothing was sent" : `${error.answered}`)
    : "no answer yet";
  const code = linkTo(error.entry, error.code);
  const looksLike = error.looks_like && linkTo(error.looks_like, error.looks_like);
  for (const [name, value] of [
    ["Code", code], ["Looks like", looksLike], ["Request", error.line], ["Field", error.field], ["Peer", error.peer], ["Worker", error.worker],
    ["Upstream", error.upstream], ["Phase", error.phase], ["Answer", answered],
    ["Byte", error.offset === null ? null : `${error.offset.toLocaleString()} of the message`],
    ["Time", new Date(error.time).toLocaleString()],
  ]) {
    if (value) facts.append(element("dt", "", name), element("dd", "", value));
  }

  const shown = element("div", "shown");
  if (error.raw_packet) shown.append(packetOf(error));
  shown.append(facts);
  const report = element("pre", "report", error.report);
  report.tabIndex = 0;
  const text = element("details", "", element("summary", "", "Report as text"), report);
  text.open = !error.raw_packet;
  shown.append(text);
  return element("div", "detail", told, shown);
}

// The name of an entry as a link to it; as text where there is no entry.
function linkTo(anchor, name) {
  const link = element("a", "", name);
  if (anchor) link.href = `codes#${anchor}`;
  return link;
}

function packetOf(error) {
  const bytes = Uint8Array.from(atob(error.raw_packet), (char) => char.charCodeAt(0));
  const first = error.raw_packet_offset, culprit = error.culprit;
  const length = error.raw_packet_length;
  let caption = bytes.length === length
    ? `What arrived: ${length.toLocaleString()} bytes`
    : `${bytes.length.toLocaleString()} of the ${length.toLocaleString()} bytes that arrived`;
  if (culprit !== null) caption += `; byte ${(first + culprit).toLocaleString()} is ${error.culprit_name}`;

  const columns = window.matchMedia("(max-width: 40rem)").matches ? 8 : 16;
  const dump = element("pre");
  dump.tabIndex = 0;
  dump.setAttribute("role", "img");
  dump.setAttribute("aria-label", `${caption}, in hexadecimal and as text`);
  for (let start = 0; start < bytes.length; start += columns) {
    dump.append(...dumpLine(bytes.subarray(start, start + columns), columns, first + start, culprit - start));
    if (culprit !== null && start <= culprit && culprit < start + columns) {
      dump.append(caretLine(culprit - start, columns));
    }
  }
  return element("figure", "packet", element("figcaption", "", caption), dump);
}

function dumpLine(bytes, columns, offset, culprit) {
  const parts = [element("span", "at", offset.toString(16).padStart(5, "0")), "  "];
  bytes.forEach((byte, index) => {
    const hex = byte.toString(16).padStart(2, "0");
    parts.push(index === culprit ? element("mark", "", hex) : hex, spaceAfter(index, columns));
  });
  for (let index = bytes.length; index < columns; index++) parts.push("  ", spaceAfter(index, columns));
  parts.push(" ");
  bytes.forEach((byte, index) => {
    const printable = byte >= 0x20 && byte <= 0x7e;
    const char = printable ? String.fromCharCode(byte) : "·";
    if (index === culprit) parts.push(element("mark", "", char));
    else parts.push(printable ? char : element("span", "dot", char));
  });
  parts.push("\n");
  return parts;
}

function caretLine(culprit, columns) {
  let before = 7;
  for (let index = 0; index < culprit; index++) before += 2 + spaceAfter(index, columns).length;
  let text = 8;
  for (let index = 0; index < columns; index++) text += 2 + spaceAfter(index, columns).length;
  const line = `${" ".repeat(before)}^^`.padEnd(text + culprit) + "^\n";
  return element("span", "caret", line);
}

function spaceAfter(index, columns) {
  return columns === 16 && index === 7 ? "  " : " ";
}
