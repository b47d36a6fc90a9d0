// What the agent says is text, whoever chose it: nothing here makes HTML of it.
"use strict";

const AGAIN_MS = 2000;
const VIEW = "view";
const find = (id) => document.getElementById(id);

function make(kind, text, look) {
  const one = document.createElement(kind);
  if (text !== undefined) one.textContent = text;
  if (look) one.className = look;
  if (text === "0") one.classList.add("zero");
  return one;
}

function exact(text) {
  return BigInt(text).toLocaleString("en");
}

function short(number) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= size) return (number / size).toPrecision(3) + letter;
  }
  return String(Math.round(number));
}

function drawn(width, height, rects) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const [x, y, w, h] of rects) {
    const rect = document.createElementNS(space, "rect");
    Object.entries({ x, y, width: w, height: h }).forEach(([k, v]) => rect.setAttribute(k, v));
    svg.append(rect);
  }
  return svg;
}

function spark(values) {
  const most = Math.max(...values, 0), first = 12 - values.length;
  return drawn(120, 20, values.map((value, n) => {
    const high = value ? Math.max(20 * value / most, 1) : 0;
    return [10 * (first + n) + 1, 20 - high, 8, high];
  }));
}

function fill(table, headings, rows) {
  const head = make("tr");
  for (const [text, look] of headings) head.append(make("th", text, look));
  find(table).tHead.replaceChildren(head);
  find(table).tBodies[0].replaceChildren(...rows);
}

function line(cells, look) {
  const row = make("tr", undefined, look);
  row.append(...cells);
  return row;
}

function showTiles(data) {
  const { view, ledger } = data;
  const [octets, packets, flows] = view.totals.map(Number);
  const seconds = view.seconds || 1;
  const waiting = Object.values(ledger.sinks)
    .reduce((sum, sink) => sum + BigInt(sink.pending.flows) + BigInt(sink.spooled.flows), 0n);
  const lost = Object.values(ledger.kernel.lost)
    .reduce((sum, tally) => sum + BigInt(tally.packets), 0n);
  const tiles = [
    [short(8 * octets / seconds) + "bit/s", "in the last drain"],
    [short(packets / seconds), "packets/s"],
    [short(flows), "flows in the last drain"],
    [exact(ledger.kernel.seen.packets), "packets seen"],
    [exact(waiting), "flows wait for sinks"],
    [exact(lost), "packets lost", lost > 0n],
  ];
  find("tiles").replaceChildren(...tiles.map(([number, what, bad]) => {
    const tile = make("div", undefined, bad ? "tile bad" : "tile");
    tile.append(make("b", number), make("span", what));
    return tile;
  }));
}

function showTalkers(view) {
  const seconds = view.seconds || 1;
  const containing = find("filter").value;
  const rows = view.rows.filter((row) => row.name.includes(containing));
  const rate = (row) => row.now.reduce((sum, now) => sum + Number(now[0]), 0);
  const most = Math.max(...view.rows.map(rate), 1);
  const rates = view.ends ? [["sent bit/s"], ["received bit/s"]] : [["bit/s"]];
  fill("talkers", [
    [view.title], ...rates, ["packets/s", "wide"], ["bytes in all"], ["history", "wide"],
  ], rows.map((row) => {
    const name = make("td", row.name, "name");
    name.append(drawn(100, 2, [[0, 0, 100 * rate(row) / most, 2]]));
    const bits = row.now.map((now) => make("td", short(8 * Number(now[0]) / seconds)));
    const packets = row.now.reduce((sum, now) => sum + Number(now[1]), 0);
    const all = row.all.reduce((sum, sums) => sum + BigInt(sums[0]), 0n);
    const history = make("td", undefined, "spark wide");
    history.append(spark(row.history));
    return line([name, ...bits, make("td", short(packets / seconds), "wide"),
      make("td", exact(all)), history]);
  }));
  const missed = view.missed === "0" ? "" : ` ${view.missed} flows were not seen: too slow.`;
  find("note").textContent = view.drains === "0"
    ? "Sums begin with the next drain." + missed
    : `Rates are of the last drain, ${seconds.toFixed(1)} s; bytes since somebody looks, ` +
      `${view.drains} drains.` + missed;
}

function ledgerRows(ledger) {
  const { seen, lost, ...outcomes } = ledger.kernel;
  const named = (some, prefix) => Object.entries(some)
    .map(([name, tally]) => [prefix + name.replaceAll("_", " "), tally, "in"]);
  const rows = [["seen", seen], ...named(outcomes, "")];
  rows.push(...named(lost, "lost, ").map((row) => [...row, BigInt(row[1].packets) > 0n]));
  const earlier = ledger.earlier_agents;
  if (earlier.settled.packets !== "0" || earlier.lost.packets !== "0") {
    rows.push(["drained by earlier agents", earlier.settled]);
    rows.push(["lost with earlier agents", earlier.lost, "", earlier.lost.packets !== "0"]);
  }
  rows.push(["still in the kernel", ledger.held_in_kernel], ["drained", ledger.drained]);
  rows.push(["deduplicated", ledger.deduplicated, "in"], ...named(ledger.excluded, "excluded, "));
  rows.push(["published", ledger.published, "in"]);
  return rows;
}

function showLedger(ledger) {
  const badge = find("closes");
  badge.textContent = ledger.closes ? "closes" : "does not close";
  badge.className = ledger.closes ? "badge good" : "badge bad";
  find("problems").replaceChildren(...ledger.problems.map((text) => make("li", text)));
  fill("ledger", [[""], ["packets"], ["octets"]], ledgerRows(ledger).map(
    ([name, tally, look, bad]) => line(
      [make("td", name, look), make("td", exact(tally.packets)), make("td", exact(tally.octets))],
      bad ? "lost" : "")));
}

function showSinks(data) {
  const rows = [];
  for (const [name, sink] of Object.entries(data.ledger.sinks)) {
    rows.push(line([make("td", name, "name"), make("td"), make("td")]));
    const states = ["queued", "recovered", "delivered", "pending", "spooled"]
      .filter((state) => !["recovered", "spooled"].includes(state) || sink[state].flows !== "0")
      .map((state) => [state, sink[state], false]);
    states.push(...Object.entries(sink.dropped).map(([why, sum]) => [`dropped, ${why}`, sum, true]));
    for (const [state, sums, bad] of states) {
      rows.push(line([make("td", state, "in"), make("td", exact(sums.flows)),
        make("td", exact(sums.packets))], bad ? "lost" : ""));
    }
  }
  fill("sinks", [[""], ["flows"], ["packets"]], rows);
  find("ready").replaceChildren(...data.ready.slice(1).map((text) => make("li", text)));
}

function showViews(views, chosen) {
  if (find(VIEW).options.length === views.length) return;
  find(VIEW).replaceChildren(...views.map((name) => {
    const option = make("option", name);
    option.selected = name === chosen;
    return option;
  }));
}

function chosenView() {
  return find(VIEW).value || location.hash.slice(1) || "talkers";
}

let last;

function show(data) {
  last = data;
  showViews(data.views, chosenView());
  find("host").textContent = data.about.host;
  find("about").textContent = `${data.about.version} · Linux ${data.about.kernel}`;
  showTiles(data);
  showTalkers(data.view);
  showLedger(data.ledger);
  showSinks(data);
}

function state(text, bad) {
  find("state").textContent = text;
  find("state").className = bad ? "bad" : "";
}

async function refresh() {
  const view = chosenView();
  try {
    const answer = await fetch(`/page/${encodeURIComponent(view)}`);
    if (answer.ok) {
      const data = await answer.json();
      // Another one may have been chosen meanwhile.
      if (view === chosenView()) show(data);
      state(`updated ${new Date().toLocaleTimeString("en-GB")}`);
    } else {
      state(await answer.text(), true);
    }
  } catch {
    state("the agent does not answer: these numbers are old", true);
  }
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, AGAIN_MS);
}

find(VIEW).addEventListener("change", () => {
  history.replaceState(null, "", `#${chosenView()}`);
  refresh();
});
find("filter").addEventListener("input", () => last && showTalkers(last.view));
follow();
