
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const stored = (name) => JSON.parse(byId(`data-${name}`).textContent);
  const { views, cells, pool } = stored("page");
  const lazily = (read) => { let value; return () => (value ??= read()); };
  const classes = lazily(() => stored("classes"));
  const gallery = lazily(() => stored("gallery"));

  /** Make an element. Children that are text become text, whatever stands in them. */
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
    return element;
  };
  const hidden = (text) => make("span", { class: "hidden" }, text);
  const say = (text) => { byId("status").textContent = text; };
  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  /** Percent with two decimals, rounded half to even once, as zsrobust.tables.percent does. */
  const percent = (count, images) => {
    const low = Math.floor((10000 * count) / images), twice = 2 * (10000 * count - low * images);
    const hundredths = low + (twice > images || (twice === images && low % 2 === 1) ? 1 : 0);
    return `${Math.floor(hundredths / 100)}.${String(hundredths % 100).padStart(2, "0")}`;
  };

  // What is shown is what the address says: its fragment is the only state.

  const FILTERS = { suite: "Suite", protocol: "Protocol", attack: "Attack", eps: "eps", images: "Images", seed: "Seed" };
  const names = Object.keys(FILTERS);
  const escape = (text) => encodeURIComponent(text).replace(/%(2F|3A|2C|40)/g, decodeURIComponent);

  const read = () => {
    const asked = new Map();
    for (const part of location.hash.slice(1).split("&")) {
      const at = part.indexOf("=");
      try { if (at > 0) asked.set(part.slice(0, at), decodeURIComponent(part.slice(at + 1))); } catch { /* not an address of ours */ }
    }
    const view = nearest(asked);
    const columns = view.columns.map(([name]) => name);
    const metric = asked.get("metric") === "clean" ? "clean" : "robust";
    const dataset = columns.includes(asked.get("dataset")) ? asked.get("dataset") : null;
    const sort = asked.get("sort") || "method";
    return { view, metric, dataset, sort, dir: asked.get("dir") || (sort === "method" || sort === "class" ? "asc" : "desc") };
  };

  /** The view that has most of what is asked for; the earlier filters weigh more than all later ones together. */
  const nearest = (asked) => {
    const score = (view) => names.reduce((sum, name) => 2 * sum + (view.key[name] === asked.get(name) ? 1 : 0), 0);
    return views.reduce((best, view) => (score(view) > score(best) ? view : best), views[0]);
  };

  const address = (state) => {
    const first = nearest(new Map(Object.entries(state.view.key).filter(([name]) => !["images", "seed"].includes(name))));
    const parts = { ...state.view.key, metric: state.metric };
    for (const name of ["images", "seed"]) if (first.key[name] === parts[name]) delete parts[name];
    if (state.dataset) parts.dataset = state.dataset;
    if (state.sort !== "method" || state.dir !== "asc") Object.assign(parts, { sort: state.sort, dir: state.dir });
    return "#" + Object.entries(parts).map(([name, value]) => `${name}=${escape(value)}`).join("&");
  };

  const go = (changes) => {
    location.hash = address({ ...read(), ...changes });
    show();
  };

  let shown = null;
  const show = () => {
    const state = read();
    const key = JSON.stringify([state.view.key, state.metric, state.dataset, state.sort, state.dir]);
    if (key === shown?.key) return;
    const before = shown;
    shown = { key, ...state };
    if (byId("details").open) byId("details").close();
    const page = before?.view !== state.view || before.dataset !== state.dataset;
    if (page || before.metric !== state.metric) filters(state);
    for (const id of ["leaderboard", "figures", "flags", "reading"]) if (byId(id)) byId(id).hidden = Boolean(state.dataset);
    byId("dataset").hidden = !state.dataset;
    if (state.dataset) {
      if (page) dataset(state);
      else if (before.metric === state.metric) sortRows(byId("classes"), state);
    } else {
      if (page || before.metric !== state.metric) leaderboard(state);
      sortRows(byId("board"), state);
    }
    if (before && before.dataset !== state.dataset) {
      const section = byId(state.dataset ? "dataset" : "leaderboard");
      section.focus({ preventScroll: true });
      scrollTo({ top: 0, behavior: "instant" });
    }
  };

  // Filters: each offers what there is under those before it.

  const filters = (state) => {
    const { key } = state.view;
    const focused = document.activeElement?.id;
    const fields = names.map((name, place) => {
      const under = views.filter((view) => names.slice(0, place).every((each) => view.key[each] === key[each]));
      const options = new Map(under.map((view) => [view.key[name], name === "images" ? view.label : view.key[name]]));
      const only = name === "seed" || name === "images" ? options.size < 2 && key[name] === views[0].key[name] : false;
      if (only) return null;
      const choose = (event) => {
        const asked = new Map(Object.entries({ ...key, [name]: event.target.value }));
        const better = names.slice(0, place + 1).reduce(
          (left, each) => left.filter((view) => view.key[each] === asked.get(each)), views);
        const score = (view) => names.filter((each) => view.key[each] === asked.get(each)).length;
        go({ view: better.reduce((best, view) => (score(view) > score(best) ? view : best)), dataset: read().dataset });
      };
      return make("label", {}, FILTERS[name], make("select", { id: `filter-${name}`, name, change: choose },
        [...options].map(([value, label]) => make("option", { value, selected: value === key[name] }, label))));
    });
    const metrics = make("fieldset", {}, make("legend", { class: "hidden" }, "Accuracy"), ["robust", "clean"].map((metric) =>
      make("label", {}, make("input", {
        type: "radio", name: "metric", value: metric, id: `metric-${metric}`, checked: metric === state.metric, change: () => go({ metric }),
      }), make("span", {}, metric === "robust" ? "Robust" : "Clean"))));
    byId("filters").replaceChildren(...fields.filter(Boolean), ...(state.dataset ? [] : [metrics]));
    byId("filters").hidden = false;
    if (focused) byId(focused)?.focus();
  };

  /** A method's title, with its spec where the title does not say it all. */
  const plain = (row) => row.defense === row.title || /^[a-z_]+$/.test(row.defense);
  const method = (row) => (plain(row) ? row.title : `${row.title} (${row.defense})`);
  const label = (row) => [row.title, !plain(row) && make("small", {}, row.defense)];

  // The leaderboard.

  const share = (cell, metric) => (cell?.[metric] ? cell[metric][0] / cell.images : null);
  const describe = ({ key, label }) =>
    `suite ${key.suite}, protocol ${key.protocol}, attack ${key.attack}, eps ${key.eps}, images: ${label}`
    + (key.seed === "0" ? "" : `, seed ${key.seed}`);

  const header = (id, title, more = {}) => make("th", { scope: "col", "data-sort": id, ...more },
    make("button", { type: "button", click: () => sortBy(id) }, title));

  const columnId = (name) => (["method", "average", "zero-shot", "time"].includes(name) ? `dataset:${name}` : name);

  const leaderboard = ({ view, metric }) => {
    const { key, rows, columns } = view;
    const means = ["average", ...(view.trained === null ? [] : ["zero-shot"])];
    byId("caption").textContent = `${metric === "robust" ? "Robust" : "Clean"} accuracy (%), zero-shot: ${describe(view)}.`;
    const head = make("tr", {}, header("method", "Method"),
      means.map((id, place) => header(id, place ? "Zero-shot" : "Average", { class: place === means.length - 1 && "last-mean" })),
      columns.map(([name, title]) => header(columnId(name), title)),
      header("time", "Time (s)", { title: "Seconds of one training epoch" }));
    const body = rows.map((row, place) => {
      const line = make("tr", { "data-row": place }, make("th", { scope: "row" }, label(row)));
      const values = { method: place, time: Number(row.time) };
      means.forEach((id, at) => {
        const mean = row.means[metric][at];
        values[id] = mean?.share ?? null;
        line.append(make("td", { class: at === means.length - 1 ? "mean last-mean" : "mean" }, meanButton(view, row, metric, at)));
      });
      columns.forEach(([name], at) => {
        values[columnId(name)] = share(cells[row.cells[at]], metric);
        line.append(make("td", {}, cellButton(row.cells[at], metric, method(row), columns[at][1], best(view, row, metric, means.length + at))));
      });
      line.append(make("td", {}, make("span", { class: "value" }, row.time)));
      return Object.assign(line, { values });
    });
    byId("board").tHead.replaceChildren(head);
    byId("board").tBodies[0].replaceChildren(...body);
    byId("notes").replaceChildren([
      view.title !== key.suite && `${key.suite}: ${view.title}.`,
      view.trained !== null && `Zero-shot: the average without ${view.trained}, which was trained on.`,
      view.more && `In no mean: ${columns.slice(-view.more).map(([, title]) => title).join(", ")}.`,
    ].filter(Boolean).join(" "), make("span", { class: "screen" }, " Each number is a button that tells where it comes from."));
    byId("datasets").hidden = false;
    byId("datasets").replaceChildren(make("h3", {}, "Datasets: class by class, and the gallery"), links(view, null));
  };

  const links = (view, current) => make("ul", {}, view.columns.map(([name, title]) => make("li", {}, make("a", {
    href: address({ ...read(), dataset: name, sort: "method", dir: "asc" }), "aria-current": name === current && "page",
  }, title))));

  // A number that an oblivious attack left is no rival of the others.
  const best = (view, row, metric, at) => (row.oblivious ? null : view.best[metric][at]);

  const cellButton = (number, metric, method, dataset, highest) => {
    const cell = cells[number];
    if (!cell) return [make("span", { class: "none value", "aria-hidden": "true" }, "—"), hidden("not measured")];
    const counted = cell[metric];
    const text = counted ? counted[1] : "—";
    const top = highest != null && share(cell, metric) === highest;
    const title = counted
      ? `${counted[0]} of ${cell.images} images; 95% interval ${counted[2]}–${counted[3]}` : "The cell failed: see why";
    const button = make("button", { type: "button", class: top ? "number best" : "number", title, "data-cell": number, click: () => details(cell, method, dataset) },
      make("span", { class: "value" }, text), top && hidden(" best"),
      cell.flags && make("span", { class: "flag", "aria-hidden": "true" }, "⚑"), cell.flags && hidden(" red flag"));
    if (counted) button.style.setProperty("--share", share(cell, metric));
    return [button];
  };

  const meanButton = (view, row, metric, at) => {
    const mean = row.means[metric][at];
    const why = row.mixed ? "The cells of this row are of different checkpoints or attacks: they have no mean" : "Not complete: a number is missing";
    if (!mean) return [make("span", { class: "none value", title: why, "aria-hidden": "true" }, "—"), hidden(why)];
    const top = best(view, row, metric, at) === mean.share;
    const button = make("button", {
      type: "button", class: top ? "number best" : "number", title: `95% interval ${mean.low}–${mean.high}`, click: () => meanDetails(view, row, metric, at),
    }, make("span", { class: "value" }, mean.text), top && hidden(" best"));
    button.style.setProperty("--share", mean.share);
    return [button];
  };

  // Sorting: what is missing stays last, and equals stay in the paper's order.

  const sortBy = (id) => {
    const first = id === "method" || id === "class" ? "asc" : "desc";
    const { sort, dir } = read();
    go({ sort: id, dir: sort !== id ? first : dir === "asc" ? "desc" : "asc" });
  };

  const sortRows = (table, { sort, dir }) => {
    if (!table) return;
    const known = [...table.tHead.querySelectorAll("[data-sort]")];
    const chosen = known.find((cell) => cell.dataset.sort === sort) ?? known[0];
    const id = chosen.dataset.sort;
    known.forEach((cell) => cell.removeAttribute("aria-sort"));
    const up = chosen === known[0] && id !== sort ? true : dir === "asc";
    chosen.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [left, right] = [a.values[id], b.values[id]];
      if (left === null || right === null) return (left === null) - (right === null) || a.dataset.row - b.dataset.row;
      return (up ? left - right : right - left) || a.dataset.row - b.dataset.row;
    });
    table.tBodies[0].append(...rows);
    say(`Sorted by ${chosen.textContent}, ${up ? "ascending" : "descending"}; ${plural(rows.length, "row")}.`);
  };

  // Where a number comes from.

  const open = (title, subtitle, ...content) => {
    const opener = document.activeElement;
    const dialog = byId("details");
    dialog.replaceChildren(make("div", {},
      make("header", {}, make("div", {}, make("h2", { id: "details-title" }, title), make("p", { class: "muted" }, subtitle)),
        make("button", { type: "button", class: "close", click: () => dialog.close() }, "Close")), content));
    dialog.addEventListener("close", () => { if (opener?.isConnected) opener.focus(); }, { once: true });
    dialog.showModal();
  };
  const terms = (pairs) => make("dl", {}, pairs.filter(([, text]) => text).map(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  const counted = (cell, metric) => cell[metric]
    && `${cell[metric][1]}% (${cell[metric][0].toLocaleString("en")} of ${plural(cell.images, "image")}; 95% interval ${cell[metric][2]}–${cell[metric][3]})`;

  const details = (cell, method, dataset) => {
    const identity = Object.fromEntries(Object.entries(cell.identity).map(([name, number]) => [name, pool[number]]));
    const [forward, backward] = cell.passes.map((passes) => passes.toLocaleString("en"));
    const training = cell.training == null ? null : pool[cell.training];
    const known = shown.view.columns.some(([name]) => name === identity.dataset.name);
    open(`${method} on ${dataset}`, `${identity.attack.spec}, eps ${identity.attack.eps}; ${identity.suite}, ${identity.protocol}`,
      cell.error && make("pre", {}, cell.error),
      terms([
        ["Robust", counted(cell, "robust")], ["Clean", counted(cell, "clean")],
        ["Red flags", cell.flags?.map((number) => pool[number]).join(" ")], ["Messages", cell.messages?.join(" ")],
        ["Time", `${cell.seconds.toLocaleString("en")} s on ${pool[cell.device] || "an unknown device"}`],
        ["Passes", `${forward} images forward, ${backward} backward`],
        ["Training", training?.epoch_seconds != null && `${training.epoch_seconds} s an epoch`],
        ["Versions", Object.entries(pool[cell.versions]).map((pair) => pair.join(" ")).join(", ")],
        ["File", make("code", {}, cell.path)], ["Outcomes", cell.sha256 && make("code", {}, `sha256 ${cell.sha256}`)],
      ]),
      !shown.dataset && known && make("p", {}, make("a", { href: address({ ...read(), dataset: identity.dataset.name, sort: "method", dir: "asc" }) }, `${dataset} class by class, and the gallery`)),
      make("h3", {}, "Identity: all that the number depends on"), make("pre", { tabindex: "0" }, JSON.stringify(identity, null, 2)));
  };

  const meanDetails = (view, row, metric, at) => {
    const mean = row.means[metric][at];
    const of = view.columns.slice(0, view.columns.length - view.more).map(([, title], place) => [title, cells[row.cells[place]]])
      .filter(([title]) => !at || title !== view.trained);
    open(`${method(row)}, ${at ? "zero-shot average" : "average"}`, describe(view),
      terms([
        [metric === "robust" ? "Robust" : "Clean", `${mean.text}% (95% interval ${mean.low}–${mean.high}, a bootstrap’s over the images of each dataset)`],
        ["Mean of", `${of.length} datasets, each weighing the same`],
        ...of.map(([title, cell]) => [title, `${cell[metric][1]} (${cell[metric][0]} of ${cell.images})`]),
      ]));
  };

  // A dataset's page.

  const dataset = (state) => {
    const { view } = state;
    const at = view.columns.findIndex(([name]) => name === state.dataset);
    const title = view.columns[at][1];
    const lines = view.rows.map((row) => ({ row, number: row.cells[at], cell: cells[row.cells[at]] })).filter(({ cell }) => cell);
    const about = lines.length ? pool[lines[0].cell.identity.dataset] : null;
    byId("dataset").replaceChildren(
      make("p", { class: "back" }, make("a", { href: address({ ...state, dataset: null, sort: "method", dir: "asc" }) }, "← Leaderboard")),
      make("h2", { id: "dataset-title" }, title),
      make("p", { class: "muted" }, `${describe(view)}.`),
      about ? make("p", {}, `${plural(lines[0].cell.images, "image")} of ${plural(about.classes ?? 0, "class").replace(/classs$/, "classes")}. `
        + `Prompts: ${(about.templates ?? []).slice(0, 3).map((each) => `“${each}”`).join(", ")}${about.templates?.length > 3 ? `, and ${about.templates.length - 3} more` : ""}.`)
        : make("p", {}, "No cell of this view is on this dataset."),
      ...(lines.length ? [...methods(lines, title), ...perClass(lines), ...pictures(lines)] : []),
      make("div", { class: "others" }, make("h3", {}, "Other datasets"), links(view, state.dataset)),
    );
    if (byId("classes")) sortRows(byId("classes"), state);
    say(`${title}: ${plural(lines.length, "method")}.`);
  };

  const methods = (lines, title) => [make("h3", {}, "Methods"), make("div", { class: "scroll", role: "region", "aria-label": "Methods", tabindex: "0" },
    make("table", { id: "methods" }, make("thead", {}, make("tr", {}, ["Method", "Robust", "Clean"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, lines.map(({ row, number, cell }) => make("tr", {}, make("th", { scope: "row" }, label(row)),
        ["robust", "clean"].map((metric) => make("td", {}, make("div", { class: "measure" }, make("span", {}, cellButton(number, metric, method(row), title)), bar(cell, metric)))))))))];

  const bar = (cell, metric) => {
    const track = make("div", { class: `track ${metric}`, "aria-hidden": "true" });
    if (!cell[metric]) return track;
    const [fill, whisker] = [make("i"), make("b")];
    const [, , low, high] = cell[metric];
    fill.style.width = `${100 * share(cell, metric)}%`;
    whisker.style.left = `${low}%`;
    whisker.style.width = `${high - low}%`;
    track.append(fill, whisker);
    return track;
  };

  const perClass = (lines) => {
    const known = lines.map((line) => ({ ...line, counts: classes().cells[line.number] }));
    const good = known.filter(({ counts }) => Array.isArray(counts));
    const lacking = known.filter(({ counts }) => typeof counts === "string");
    const merged = new Map();  // by class name: the images, and the counts of each method
    good.forEach(({ counts: [number, clean, robust] }, method) => classes().sets[number].forEach(([name, images], place) => {
      const entry = merged.get(name) ?? { name, images, by: [] };
      entry.by[method] = [images, clean[place], robust[place]];
      merged.set(name, entry);
    }));
    const body = [...merged.values()].map((entry, place) => {
      const row = make("tr", { "data-row": place }, make("th", { scope: "row" }, entry.name), make("td", {}, String(entry.images)));
      const values = { class: place, images: entry.images };
      good.forEach((_, method) => ["clean", "robust"].forEach((metric, which) => {
        const [images, count] = entry.by[method] ? [entry.by[method][0], entry.by[method][1 + which]] : [0, 0];
        values[`${metric}-${method}`] = images ? count / images : null;
        row.append(make("td", { title: images && `${count} of ${images}`, "data-count": images ? count : null }, images ? percent(count, images) : "—"));
      }));
      return Object.assign(row, { values });
    });
    return [
      make("h3", {}, "Class by class"),
      good.length && make("div", { class: "scroll", role: "region", "aria-label": "Class by class", tabindex: "0" }, make("table", { id: "classes" },
        make("thead", {},
          make("tr", {}, header("class", "Class", { rowspan: 2 }), header("images", "Images", { rowspan: 2 }),
            good.map(({ row }) => make("th", { colspan: 2, scope: "colgroup", class: "group" }, label(row)))),
          make("tr", {}, good.map((_, method) => ["clean", "robust"].map((metric) => header(`${metric}-${method}`, metric))))),
        make("tbody", {}, body))),
      ...lacking.map(({ row, counts }) => make("p", { class: "muted" }, `${method(row)}: ${counts}`)),
    ].filter(Boolean);
  };

  const pictures = (lines) => {
    const { images, cells: found } = gallery();
    const { key } = shown.view;
    const cards = lines.filter(({ number }) => Array.isArray(found[number])).map(({ row, number }) => make("li", { class: "card" },
      make("h4", {}, label(row)), make("div", { class: "pair" }, found[number].map((sample) => looks(sample, images)))));
    const notes = lines.filter(({ number }) => typeof found[number] === "string");
    if (!cards.length && !notes.length) return [];
    return [make("h3", {}, "Gallery"),
      make("p", { class: "muted" }, `Of each method the first image that ${key.attack} at eps ${key.eps} broke, and the first that survived: clean, the change magnified around gray, and adversarial; and what the model said before and after.`),
      make("ul", { class: "gallery" }, cards),
      ...notes.map(({ row, number }) => make("p", { class: "muted" }, `${method(row)}: ${found[number]}`))];
  };

  const looks = (sample, images) => {
    const known = sample.true != null;
    const label = known ? sample.true : "unknown";
    const reduced = sample.reduced > 1 ? `, shown at 1/${sample.reduced} of its size` : "";
    const shots = [["clean", `Clean image ${sample.position}: ${label}${reduced}`],
      [`change × ${sample.magnified}`, `What the attack changed, magnified ${sample.magnified} times`],
      ["adversarial", `Adversarial image: ${label}${known ? `, taken for ${sample.after}` : ""}`]];
    return make("div", {},
      make("p", { class: "muted" }, !known ? "Attacked" : sample.after === sample.true ? "Survived" : "Broken"),
      make("div", { class: "triple" }, shots.map(([caption, alt], place) => make("figure", {},
        make("img", { src: `data:image/png;base64,${images[sample.images[place]]}`, alt, decoding: "async" }), make("figcaption", {}, caption)))),
      !known ? make("p", { class: "said" }, "What the model said is not stored.") : make("dl", { class: "said" },
        [["true", sample.true], ["before", sample.before], ["after", sample.after]].map(([name, text]) =>
          [make("dt", {}, name), make("dd", { class: text !== sample.true && "wrong" }, text)])));
  };

  // Colors, and links to sections, which must not lose the address.

  const themes = ["auto", "light", "dark"];
  const theme = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    byId("theme").firstElementChild.textContent = name;
    try { localStorage.setItem("zsrobust-theme", name); } catch { /* a page from a file may have no storage */ }
  };
  let kept = null;
  try { kept = localStorage.getItem("zsrobust-theme"); } catch { /* the same */ }
  if (themes.includes(kept) && kept !== "auto") theme(kept);
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => theme(themes[(themes.indexOf(byId("theme").firstElementChild.textContent) + 1) % themes.length]));

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("nav a, .skip")?.getAttribute("href").slice(1);
    if (!target) return;
    event.preventDefault();
    if (target !== "main" && shown.dataset) go({ dataset: null, sort: "method", dir: "asc" });
    byId(target).scrollIntoView();
    byId(target).focus({ preventScroll: true });
  });
  addEventListener("hashchange", show);
  show();
})();
