// Every element with data-select can be selected: with a click, and in a grid, a caption, a strip of
// tokens or on the picture also with the arrow keys and Enter or Space. The value of data-select is
// sent to the server. Hovering over a word shows its overlay without a request.
const chosen = (start) => start.closest?.("[data-select]");
const overlay = () => document.querySelector(".vh-overlay");

function send(target) {
  const group = target.dataset.group;
  if (group) {
    for (const other of document.querySelectorAll(`[data-group="${group}"]`)) {
      other.setAttribute("aria-pressed", String(other === target));
    }
  }
  const data = JSON.parse(target.dataset.select);
  if (data.scene === "random") {
    data.scene = `counterfactual:${Math.floor(Math.random() * 1000)}`;
  }
  if (data.scene) props.value = data.scene;
  // The place of the picture that is read stays while words and tokens are selected.
  const here = document.querySelector(".vh-cursor.vh-here");
  if (here && data.caption !== undefined && data.patch === undefined) {
    const { result, patch } = JSON.parse(here.dataset.select);
    if (result === data.result) data.patch = patch;
  }
  trigger("select", data);
}

// Put the button over the picture on another place.
function place(cursor, row, column) {
  const [rows, columns] = JSON.parse(cursor.dataset.grid);
  const at = [Math.min(Math.max(row, 0), rows - 1), Math.min(Math.max(column, 0), columns - 1)];
  cursor.style.setProperty("--row", at[0]);
  cursor.style.setProperty("--column", at[1]);
  const data = { ...JSON.parse(cursor.dataset.select), patch: at[0] * columns + at[1] };
  cursor.dataset.select = JSON.stringify(data);
  cursor.setAttribute("aria-label", `Row ${at[0]}, column ${at[1]} of the picture: what does the `
    + "model read here? Arrow keys move, Enter reads");
}

element.addEventListener("click", (event) => {
  const target = chosen(event.target);
  const stage = event.target.closest?.(".vh-stage");
  const cursor = stage?.querySelector(".vh-cursor");
  if (cursor && event.detail) { // a click of the mouse, not of the keyboard
    const [rows, columns] = JSON.parse(cursor.dataset.grid);
    const box = stage.getBoundingClientRect();
    place(cursor, Math.floor((event.clientY - box.top) / box.height * rows),
      Math.floor((event.clientX - box.left) / box.width * columns));
    send(cursor);
  } else if (target) send(target);
});

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

element.addEventListener("keydown", (event) => {
  const [down, right] = ARROWS[event.key] ?? [0, 0];
  const cursor = event.target.closest?.(".vh-cursor");
  if (cursor && (down || right)) {
    event.preventDefault();
    const columns = JSON.parse(cursor.dataset.grid)[1];
    const { patch } = JSON.parse(cursor.dataset.select);
    place(cursor, Math.floor(patch / columns) + down, patch % columns + right);
    return;
  }
  const row = event.target.closest?.(".vh-text, .vh-strip");
  if (!row || !(down || right)) return;
  const buttons = [...row.querySelectorAll("[data-select]")];
  const next = buttons[buttons.indexOf(event.target) + (down + right)];
  if (!next) return;
  event.preventDefault();
  next.focus();
});

element.addEventListener("keydown", (event) => {
  const cell = event.target.closest?.("[role=gridcell]");
  if (!cell) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    send(cell);
    return;
  }
  const [down, right] = ARROWS[event.key] ?? [0, 0];
  if (!down && !right) return;
  event.preventDefault();
  const row = cell.parentElement;
  const rows = [...row.parentElement.children];
  const next = rows[rows.indexOf(row) + down]?.querySelectorAll("[role=gridcell]");
  const column = [...row.querySelectorAll("[role=gridcell]")].indexOf(cell) + right;
  if (!next?.[column]) return;
  cell.tabIndex = -1;
  next[column].tabIndex = 0;
  next[column].focus();
});

// The preview of a hovered word is drawn over the selected overlay, which stays as it is.
const unhover = () => document.querySelector(".vh-preview")?.remove();

element.addEventListener("mouseover", (event) => {
  const word = event.target.closest?.("[data-overlay]");
  const image = overlay();
  if (!word || !image) return;
  unhover();
  const preview = image.cloneNode();
  preview.className = "vh-preview";
  preview.src = word.dataset.overlay;
  image.after(preview);
});

element.addEventListener("mouseout", (event) => {
  if (event.target.closest?.("[data-overlay]")) unhover();
});

watch("value", () => {
  // An uploaded picture clears the selected scene, and a shared result brings its own.
  for (const scene of element.querySelectorAll("[data-group=scene]")) {
    const { scene: name } = JSON.parse(scene.dataset.select);
    scene.setAttribute("aria-pressed", String(name === props.value));
  }
  const link = element.querySelector("[data-link]");
  if (link) {
    link.value = new URL(link.dataset.link, location.origin + location.pathname).href;
    link.focus();
    link.select();
  }
  // What is drawn anew keeps what was switched on.
  for (const box of element.querySelectorAll("[data-shows], [data-toggles]")) {
    box.checked = switched.has(name(box));
    apply(box);
  }
});

// What visitors switched on, for as long as the page is open.
const switched = new Set();
const name = (box) => box.dataset.shows ?? box.dataset.toggles;

function apply(box) {
  const { shows, toggles, of } = box.dataset;
  for (const target of document.querySelectorAll(shows ?? of)) {
    if (toggles) target.classList.toggle(toggles, box.checked);
    else target.hidden = !box.checked;
  }
}

element.addEventListener("change", (event) => {
  const box = event.target;
  if (!box.matches?.("[data-shows], [data-toggles]")) return;
  if (box.checked) switched.add(name(box));
  else switched.delete(name(box));
  apply(box);
});
