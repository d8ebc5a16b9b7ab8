// Search, order and pages of a long table; runs once, as the last child of the element that has the bar and the table.
(() => {
  const root = document.currentScript?.parentElement;
  const bar = root?.querySelector("[data-klab-bar]");
  const body = root?.querySelector("tbody");
  if (!bar || !body) return;
  const size = Number(bar.dataset.klabBar);
  const all = [...body.rows];
  const find = bar.querySelector("input");
  const said = bar.querySelector("span");
  const [before, after] = bar.querySelectorAll("button");
  const heads = [...root.querySelectorAll("th")];
  let shown = all;
  let page = 0;
  let by = -1;
  let down = false;
  const of = (row) => row.cells[by].textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [of(a), of(b)];
    const [n, m] = [Number(x), Number(y)];
    const numbers = x !== "" && y !== "" && !Number.isNaN(n) && !Number.isNaN(m);
    const order = numbers && n !== m ? n - m : x.localeCompare(y, "en", { numeric: true });
    return down ? -order : order;
  };
  const draw = () => {
    const first = page * size;
    const rows = shown.slice(first, first + size);
    for (const row of rows) row.hidden = false;
    body.replaceChildren(...rows);
    const found = shown.length === all.length ? "" : ` found, of ${all.length}`;
    said.textContent = `rows ${rows.length ? first + 1 : 0} to ${first + rows.length} of ${shown.length}${found}`;
    before.disabled = page === 0;
    after.disabled = first + size >= shown.length;
  };
  const choose = () => {
    const words = find.value.toLowerCase().split(/\s+/);
    const has = (row) => {
      const text = row.textContent.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    shown = all.filter(has);
    if (by >= 0) shown.sort(compare);
    page = 0;
    draw();
  };
  find.addEventListener("input", choose);
  before.addEventListener("click", () => { page -= 1; draw(); });
  after.addEventListener("click", () => { page += 1; draw(); });
  heads.forEach((head, index) => {
    head.style.cursor = "pointer";
    head.title = "sort";
    head.addEventListener("click", () => {
      down = by === index && !down;
      by = index;
      choose();
    });
  });
  for (const part of [find, before, after]) part.hidden = false;
  draw();
})();
