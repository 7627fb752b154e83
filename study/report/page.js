"use strict";
/* Folding, sorting, filtering and copying. Without it the page is whole: every section unfolds, every table is there. */
(function () {
  const folded = Array.from(document.querySelectorAll("details.fold"));

  /* A link to a folded section, or to something within one, unfolds it. */
  function reveal(hash) {
    const target = hash.length > 1 && document.getElementById(decodeURIComponent(hash.slice(1)));
    if (!target) return;
    const own = target.querySelector(":scope > details.fold");
    if (own) own.open = true;
    for (let outer = target.closest("details"); outer; outer = outer.parentElement.closest("details")) {
      outer.open = true;
    }
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", () => reveal(location.hash));
  document.querySelectorAll('a[href^="#"]').forEach((link) => {
    link.addEventListener("click", () => reveal(link.hash));
  });
  reveal(location.hash);

  const all = document.querySelector("button.all");
  if (all && folded.length) {
    const told = () => {
      const some = folded.some((fold) => !fold.open);
      all.textContent = some ? "Unfold all" : "Fold all";
    };
    all.hidden = false;
    all.addEventListener("click", () => {
      const open = folded.some((fold) => !fold.open);
      folded.forEach((fold) => (fold.open = open));
    });
    folded.forEach((fold) => fold.addEventListener("toggle", told));
    told();
  }

  let before = [];
  window.addEventListener("beforeprint", () => {
    before = folded.filter((fold) => !fold.open);
    before.forEach((fold) => (fold.open = true));
  });
  window.addEventListener("afterprint", () => before.forEach((fold) => (fold.open = false)));

  document.querySelectorAll("button.copy").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch (error) {
        window.getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  });

  /* What a cell is sorted by: its number, also in brackets and of "2 of 21", else its text. */
  const value = (cell) => {
    const text = cell.textContent.trim();
    const bare = text.replace(/^\((.+)\)$/, "$1").replace(/^(\d+) of \d+$/, "$1").replace(/^[<>]/, "");
    const number = Number(cell.dataset.v || bare);
    return text === "" || text === "-" ? null : Number.isNaN(number) ? text : number;
  };

  /* Undefined values stay at the end, whichever way a column is sorted. */
  function compare(a, b, down) {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return down ? -order : order;
  }

  function sortable(box) {
    const table = box.querySelector("table");
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = Array.from(table.tBodies[0].rows, (row) => [value(row.cells[column]), row]);
        rows.sort((first, second) => compare(first[0], second[0], down));
        table.tBodies[0].append(...rows.map((pair) => pair[1]));
      });
    });
  }

  /* The column of a name; of several that begin or end with it, the one that is it or has it as its last word. */
  function columnOf(wanted, names) {
    const rules = [
      (name) => name === wanted,
      (name) => name.endsWith(" " + wanted),
      (name) => name.startsWith(wanted),
      (name) => name.endsWith(wanted),
    ];
    const hits = rules.map((rule) => names.findIndex(rule));
    return hits.find((column) => column >= 0) ?? -1;
  }

  /* A word must stand somewhere in a row; ASR<0.1 compares a column whose name is, begins or ends like that. */
  function condition(word, names) {
    const parts = /^([^<>=]+)(<=|>=|<|>|=)([^<>=]+)$/.exec(word);
    const column = parts ? columnOf(parts[1], names) : -1;
    if (column < 0) return (row) => row.textContent.toLowerCase().includes(word);
    const wanted = Number.isNaN(Number(parts[3])) ? parts[3] : Number(parts[3]);
    return (row) => {
      let own = value(row.cells[column]);
      if (own === null) return false;
      if (typeof own === "string") own = own.toLowerCase();
      if (parts[2] === "=") return own === wanted;
      if (parts[2] === "<") return own < wanted;
      if (parts[2] === ">") return own > wanted;
      return parts[2] === "<=" ? own <= wanted : own >= wanted;
    };
  }

  function filtered(box) {
    const field = box.querySelector("input");
    const count = box.querySelector("output");
    const rows = Array.from(box.querySelectorAll("tbody tr"));
    const names = Array.from(box.querySelectorAll("th"), (head) => head.textContent.trim().toLowerCase());
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      const conditions = words.map((word) => condition(word, names));
      let shown = 0;
      rows.forEach((row) => {
        row.hidden = !conditions.every((holds) => holds(row));
        shown += !row.hidden;
      });
      count.textContent = words.length ? shown + " of " + rows.length : "";
    });
    box.querySelector(".filter").hidden = false;
  }

  document.querySelectorAll(".sortable").forEach((box) => {
    filtered(box);
    sortable(box);
  });

  const links = new Map(
    Array.from(document.querySelectorAll("nav a")).map((link) => [link.getAttribute("href").slice(1), link])
  );
  if ("IntersectionObserver" in window) {
    const here = new IntersectionObserver(
      (entries) =>
        entries.forEach((entry) => {
          const link = links.get(entry.target.id);
          if (link) link.classList.toggle("here", entry.isIntersecting);
        }),
      { rootMargin: "-10% 0px -85% 0px" }
    );
    document.querySelectorAll("section[id]").forEach((section) => here.observe(section));
  }
})();
