
"use strict";
// Sorting and filtering. The HTML has all text and tables. The address is the only state.
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const views = all(".view");
  const selects = all("#filters select");
  const names = selects.map((select) => select.name);
  const rankings = all(".ranking");

  const nearest = (asked) => {  // an earlier filter outweighs all later ones
    const score = (view) => names.reduce((sum, name) => 2 * sum + (view.dataset[name] === asked.get(name)), 0);
    return views.reduce((best, view) => (score(view) > score(best) ? view : best), views[0]);
  };

  const read = () => {
    const asked = new Map();
    for (const part of location.hash.slice(1).split("&")) {
      const at = part.indexOf("=");
      try { if (at > 0) asked.set(part.slice(0, at), decodeURIComponent(part.slice(at + 1))); } catch { /* not one of our addresses */ }
    }
    const sort = asked.get("sort") || "method";
    return {
      view: nearest(asked), metric: asked.get("metric") === "clean" ? "clean" : "robust", dataset: asked.get("dataset") || null,
      sort, dir: asked.get("dir") || (sort === "method" ? "asc" : "desc"),
      ranking: rankings[asked.get("ranking")] ? asked.get("ranking") : "0", kind: asked.get("kind") || "", find: asked.get("find") || "",
    };
  };

  const address = (state) => {
    const parts = {};
    if (state.view) {
      for (const name of names) parts[name] = state.view.dataset[name];
      const first = nearest(new Map(Object.entries({ ...parts, images: null, seed: null })));
      for (const name of ["images", "seed"]) if (first.dataset[name] === parts[name]) delete parts[name];
      parts.metric = state.metric;
    }
    if (state.dataset) parts.dataset = state.dataset;
    if (state.sort !== "method" || state.dir !== "asc") Object.assign(parts, { sort: state.sort, dir: state.dir });
    if (state.ranking !== "0") parts.ranking = state.ranking;
    for (const name of ["kind", "find"]) if (state[name]) parts[name] = state[name];
    const escape = (text) => encodeURIComponent(text).replace(/%(2F|3A|2C|40)/g, decodeURIComponent);
    return "#" + Object.entries(parts).map(([name, value]) => `${name}=${escape(value)}`).join("&");
  };

  const go = (changes) => {
    location.hash = address({ ...read(), ...changes });
    show();
  };

  const show = () => {
    const state = read();
    if (rankings.length) choose(state);
    if (!state.view) return;
    for (const view of views) view.hidden = view !== state.view;
    for (const board of all(".board", state.view)) {
      board.hidden = board.dataset.metric !== state.metric;
      if (!board.hidden) sortRows(board.querySelector("table"), state.sort, state.dir);
    }
    filters(state);
    const chosen = all(".dataset", state.view).find((each) => each.dataset.dataset === state.dataset);
    if (chosen && !chosen.open) {
      chosen.open = true;
      chosen.scrollIntoView();
      chosen.querySelector("summary").focus({ preventScroll: true });
    }
  };

  // Filters: each offers the values that exist under the filters before it.

  const filters = ({ view, metric }) => {
    selects.forEach((select, place) => {
      const under = views.filter((each) => names.slice(0, place).every((name) => each.dataset[name] === view.dataset[name]));
      let offered = 0;
      for (const option of select.options) {
        const first = under.find((each) => each.dataset[select.name] === option.value);
        option.hidden = option.disabled = !first;
        if (first) offered += 1;
        if (first && select.name === "images") option.textContent = first.dataset.label;
      }
      select.value = view.dataset[select.name];
      const usual = view.dataset[select.name] === views[0].dataset[select.name];
      select.parentElement.hidden = ["images", "seed"].includes(select.name) && offered < 2 && usual;
    });
    byId(`metric-${metric}`).checked = true;
    byId("filters").hidden = false;
  };

  byId("filters")?.addEventListener("change", ({ target }) => {
    if (target.name === "metric") return go({ metric: target.value });
    go({ view: nearest(new Map(selects.map((select) => [select.name, select.value]))) });
  });

  // The leaderboard: its choice of rows, and the rows shown as text.

  const choose = ({ ranking, kind, find }) => {
    rankings.forEach((each, place) => { each.hidden = String(place) !== ranking; });
    for (const row of rankings[ranking]?.querySelectorAll("tbody tr") ?? []) {
      const kinds = [row.dataset.kind, ...(row.dataset.has ?? "").split(" ")];
      row.hidden = (kind && !kinds.includes(kind)) || !row.cells[1].textContent.toLowerCase().includes(find.toLowerCase());
    }
    byId("choice-ranking").value = ranking;
    byId("choice-kind").value = kind;
    if (byId("choice-find").value !== find) byId("choice-find").value = find;
    byId("choice").hidden = false;
  };

  byId("choice")?.addEventListener("submit", (event) => event.preventDefault());
  byId("choice")?.addEventListener("input", ({ target }) => go({ [target.name]: target.value }));

  const shownRows = () => {
    const table = rankings.find((each) => !each.hidden).querySelector("table");
    const texts = (cell) => {
      const ends = cell.querySelector(".ends")?.textContent ?? "";
      return [(cell.querySelector(".value, .open") ?? cell).firstChild.textContent.trim(), ends.trim()];
    };
    const heads = [...table.tHead.rows[0].cells].map((each) => each.textContent.trim());
    return [heads, [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => [...row.cells].map(texts))];
  };
  const asCsv = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const asTex = (text) => text.replace(/[\\{}&%$#_~^]/g, (sign) => ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" })[sign] ?? `\\${sign}`).replaceAll("–", "--").replaceAll("—", "---");
  const written = {
    csv: (heads, rows) => {
      const wide = heads.map((_, at) => rows.some((row) => row[at][1]));
      const line = (cells) => cells.map(asCsv).join(",");
      const names = heads.flatMap((head, at) => (wide[at] ? [head, `${head}: 95% interval`] : [head]));
      return [line(names), ...rows.map((row) => line(row.flatMap(([text, ends], at) => (wide[at] ? [text, ends] : [text]))))].join("\n") + "\n";
    },
    tex: (heads, rows) => {
      const line = (cells) => `${cells.map(asTex).join(" & ")} \\\\`;
      const body = rows.map((row) => line(row.map(([text, ends]) => (ends ? `${text} (${ends})` : text))));
      return [`\\begin{tabular}{rll${"r".repeat(heads.length - 3)}}`, "\\hline", line(heads), "\\hline", ...body, "\\hline", "\\end{tabular}"].join("\n") + "\n";
    },
  };
  for (const button of all("[data-copy]")) {
    button.addEventListener("click", () => {
      const text = written[button.dataset.copy](...shownRows());
      byId("copy-text").value = text;
      byId("copy-save").href = `data:text/plain;charset=utf-8,${encodeURIComponent(text)}`;
      byId("copy-save").download = `leaderboard.${button.dataset.copy}`;
    });
  }

  // Sorting: missing numbers stay last, and equal ones stay in the order of the page.

  const original = new WeakMap();
  const sortRows = (table, id, dir) => {
    const body = table.tBodies[0];
    if (!original.has(table)) original.set(table, [...body.rows]);
    const rows = [...original.get(table)];
    const heads = all("[data-sort]", table);
    const chosen = heads.find((head) => head.dataset.sort === id) ?? heads[0];
    const [at, up] = [heads.indexOf(chosen), chosen.dataset.sort !== id || dir === "asc"];
    for (const head of heads) head.removeAttribute("aria-sort");
    chosen.setAttribute("aria-sort", up ? "ascending" : "descending");
    const number = (row) => Number.parseFloat(row.cells[at].textContent);
    const words = chosen.dataset.sort === "defense" || chosen.dataset.sort === "kind";
    const order = words ? [...rows].sort((a, b) => a.cells[at].textContent.localeCompare(b.cells[at].textContent)) : original.get(table);
    const value = (row) => (at && !words ? number(row) : order.indexOf(row));
    rows.sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
      return up ? left - right : right - left;
    });
    body.append(...rows);
    byId("status").textContent = `Sorted by ${chosen.textContent}, ${up ? "ascending" : "descending"}; ${rows.length} row${rows.length === 1 ? "" : "s"}.`;
  };

  const sortBy = (head) => {
    const [id, sorted] = [head.dataset.sort, head.getAttribute("aria-sort")];
    const first = ["method", "class", "rank", "defense", "kind"].includes(id) ? "asc" : "desc";
    const dir = sorted ? (sorted === "ascending" ? "desc" : "asc") : first;
    if (head.closest(".board")) go({ sort: id, dir });
    else sortRows(head.closest("table"), id, dir);
  };

  // Colors, and links to sections, which must keep the address.

  const themes = ["auto", "light", "dark"];
  const theme = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    byId("theme").firstElementChild.textContent = name;
    try { localStorage.setItem("zsrobust-theme", name); } catch { /* a page opened from a file may lack storage */ }
  };
  let kept = null;
  try { kept = localStorage.getItem("zsrobust-theme"); } catch { /* the same */ }
  if (themes.includes(kept) && kept !== "auto") theme(kept);
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => theme(themes[(themes.indexOf(byId("theme").firstElementChild.textContent) + 1) % themes.length]));

  document.addEventListener("click", (event) => {
    const head = event.target.closest("[data-sort]");
    if (head && event.target.closest("button")) return sortBy(head);
    const address = event.target.closest("nav a, .skip")?.getAttribute("href") ?? "";
    if (!address.startsWith("#")) return;
    const target = address.slice(1);
    event.preventDefault();
    byId(target).scrollIntoView();
    byId(target).focus({ preventScroll: true });
  });
  document.addEventListener("toggle", ({ target }) => {
    const name = target.dataset.dataset;
    if (!name || target.open === (read().dataset === name)) return;
    if (target.open || read().dataset === name) go({ dataset: target.open ? name : null });
  }, true);
  addEventListener("hashchange", show);
  show();
})();
