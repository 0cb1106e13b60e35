"use strict";
(() => {
  // Colours: as the system says, or as the reader chose; kept where the browser allows it.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const names = { auto: "as the system", light: "light", dark: "dark" };
  const order = ["auto", "light", "dark"];
  let theme = "auto";
  try { theme = localStorage.getItem("recbench-theme") || "auto"; } catch { /* not allowed for files here */ }
  const apply = () => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Colours: ${names[theme]}`;
  };
  if (!(theme in names)) theme = "auto";
  apply();
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    try { localStorage.setItem("recbench-theme", theme); } catch { /* not allowed for files here */ }
    apply();
  });

  // Sorting: numbers by their full value, texts by language; rows without a value stay at the end.
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const valueOf = (row, index, numeric) => {
    const text = row.cells[index].dataset.sort;
    if (text === undefined) return null;
    return numeric ? Number(text) : text;
  };
  for (const table of document.querySelectorAll("table")) {
    const body = table.tBodies[0];
    if (body.rows.length < 2) continue;
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, index) => {
      const numeric = header.classList.contains("number");
      const control = document.createElement("button");
      control.type = "button";
      control.append(...header.childNodes);
      header.append(control);
      header.setAttribute("aria-sort", "none");
      control.addEventListener("click", () => {
        // Numbers begin with the largest, texts with A.
        const first = numeric ? "descending" : "ascending";
        const second = numeric ? "ascending" : "descending";
        const direction = header.getAttribute("aria-sort") === first ? second : first;
        for (const other of headers) other.setAttribute("aria-sort", "none");
        header.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const keyed = [...body.rows].map((row) => [valueOf(row, index, numeric), row]);
        keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }

  // Filter: a row stays if it holds every word, in columns that are not shown, too.
  for (const label of document.querySelectorAll(".filter")) {
    const input = label.querySelector("input");
    const output = label.querySelector("output");
    const rows = [...document.getElementById(input.getAttribute("aria-controls")).tBodies[0].rows];
    label.hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      output.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
  }

  // On small screens the contents would push the tables out of sight.
  const contents = document.querySelector("nav details");
  if (contents && window.matchMedia("(max-width: 72rem)").matches) contents.open = false;
})();
