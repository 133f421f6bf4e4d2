"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    const label = document.createElement("span");
    label.append(...head.childNodes);
    button.append(label);
    head.append(button);
    button.addEventListener("click", () => {
      const isNumber = head.classList.contains("num");
      const before = head.getAttribute("aria-sort");
      const isDown = before ? before === "ascending" : isNumber;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.sort || "";
      const compare = (a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNumber ? x - y : x.localeCompare(y, undefined, {numeric: true});
        return isDown ? -order : order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}

const choices = [...document.querySelectorAll(".choice select")];
for (const chosen of choices) {
  chosen.closest(".choice").hidden = false;
  chosen.addEventListener("change", () => {
    const before = chosen.getBoundingClientRect().top;
    for (const other of choices) other.value = chosen.value;
    for (const panel of document.querySelectorAll("[data-arm]")) {
      panel.hidden = panel.dataset.arm !== chosen.value;
    }
    scrollBy({top: chosen.getBoundingClientRect().top - before, behavior: "instant"});
  });
}
