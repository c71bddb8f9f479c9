// Hides the rows and sections of a page whose words are not those in the box.
"use strict";
for (const box of document.querySelectorAll("input[type=search]")) {
  box.closest(".filter").hidden = false;
  const count = box.closest(".filter").querySelector("output");
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (el) => words.every((w) => el.textContent.toLowerCase().includes(w));
    let shown = 0;
    for (const section of document.querySelectorAll("section.part")) {
      const heading = section.querySelector("h2");
      const whole = heading && fits(heading);
      let any = whole || fits(section);
      for (const row of section.querySelectorAll("tbody tr")) row.hidden = any && !whole && !fits(row) && words.length > 0;
      const rows = [...section.querySelectorAll("tbody tr")];
      // Words of the text alone show the whole section.
      if (any && rows.length && rows.every((row) => row.hidden)) rows.forEach((row) => (row.hidden = false));
      section.hidden = !any;
      shown += any;
      const link = [...document.querySelectorAll("nav a")].find((a) => a.hash === `#${section.id}`);
      if (link) link.closest("tr").hidden = !any;
    }
    count.textContent = words.length ? `${shown} shown` : "";
  });
}
