"use strict";
// Lists the rows of a plan. Values are set as text, never as markup.
(() => {
  const PAGE = 50;
  const TITLES = {create: "created", update: "updated", send: "created or updated", kept: "kept",
    unchanged: "unchanged", rejected: "rejected", failed: "not sent"};
  const at = (id) => document.getElementById(id);
  const rows = JSON.parse(at("rows").textContent);
  const textOf = (value) => value && typeof value === "object"
    ? Object.values(value).map(textOf).join("\n") : String(value);
  const texts = rows.map((row) => textOf(row).toLowerCase());
  let wanted = "", words = [], page = 0;

  const kindsOf = (row) => row.kept ? [row.outcome, "kept"] : [row.outcome];
  const make = (tag, name, ...inside) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...inside);
    return made;
  };
  const value = (tag, text) => make(tag, "", text == null ? "(empty)" : make("bdi", "", text));

  function changed(each) {
    const line = make("dd", "");
    if ("old" in each) line.append(value("del", each.old), " → ");
    else if (each.waits_for_look_up) line.append(make("i", "", "looked up first"), " → ");
    line.append(value("ins", each.new));
    if (each.replaces_edit) line.append(make("i", "", " (replaces an edit in HiringCenter)"));
    return line;
  }

  function stays(each) {
    const line = make("dd", "");
    if ("hiringcenter" in each) line.append("stays ", value("ins", each.hiringcenter), "; ");
    line.append("the file says ", value("span", each.input), make("i", "", ` (${each.why})`));
    return line;
  }

  function drawn(row) {
    const number = `row ${row.row}`, name = row.name || row.contact;
    const head = make("header", "", make("b", "", make("bdi", "", name || `Row ${row.row}`)),
      make("span", `badge ${row.outcome}`, TITLES[row.outcome] || row.outcome));
    if (row.kept) head.append(make("span", "badge kept", "kept"));
    const about = [row.name && row.contact, name && number, row.prospect_id && `prospect ${row.prospect_id}`];
    head.append(make("span", "small soft", make("bdi", "", about.filter(Boolean).join(" · "))));
    const card = make("div", "card row", head), list = make("dl", "");
    for (const each of row.changes || []) list.append(make("dt", "", each.field), changed(each));
    for (const each of row.activities || [])
      list.append(make("dt", "", `+ ${each.kind.replace(/s$/, "")}`), make("dd", "", value("ins", each.says)));
    for (const each of [...row.kept || [], ...row.left_out || []])
      list.append(make("dt", "", each.field), stays(each));
    if (row.labels_removed)
      list.append(make("dt", "", "labels removed"), make("dd", "", row.labels_removed.join(", ")));
    if (list.childElementCount) card.append(list);
    for (const text of [row.reason, row.note])
      if (text) card.append(make("p", row.outcome === "rejected" ? "small failed" : "small", text));
    return card;
  }

  function show() {
    const found = [];
    rows.forEach((row, index) => {
      if ((!wanted || kindsOf(row).includes(wanted)) && words.every((word) => texts[index].includes(word)))
        found.push(row);
    });
    page = Math.max(0, Math.min(page, Math.ceil(found.length / PAGE) - 1));
    const start = page * PAGE, end = Math.min(found.length, start + PAGE);
    at("list").replaceChildren(...found.slice(start, end).map(drawn));
    at("where").textContent = found.length ? `${start + 1}–${end} of ${found.length.toLocaleString("en")}` : "no row";
    at("before").disabled = page === 0;
    at("after").disabled = end >= found.length;
  }

  function turn(by) {
    page += by;
    show();
    at("search").scrollIntoView();
  }

  const counts = new Map([["", rows.length]]);
  for (const row of rows) for (const kind of kindsOf(row)) counts.set(kind, (counts.get(kind) || 0) + 1);
  for (const [kind, count] of counts) {
    const chip = make("button", "", `${kind ? TITLES[kind] || kind : "all"} ${count.toLocaleString("en")}`);
    chip.setAttribute("aria-pressed", String(kind === wanted));
    chip.addEventListener("click", () => {
      wanted = kind;
      page = 0;
      for (const each of at("chips").children) each.setAttribute("aria-pressed", String(each === chip));
      show();
    });
    at("chips").append(chip);
  }
  at("search").addEventListener("input", () => {
    words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    page = 0;
    show();
  });
  at("before").addEventListener("click", () => turn(-1));
  at("after").addEventListener("click", () => turn(1));
  show();
})();
