// Every element with data-select can be selected: with a click, and in a grid also with the arrow
// keys and Enter or Space. The value of data-select is sent to the server. Hovering over a word shows
// its overlay without a request.
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
  trigger("select", data);
}

element.addEventListener("click", (event) => {
  const target = chosen(event.target);
  if (target) send(target);
});

element.addEventListener("keydown", (event) => {
  const cell = event.target.closest?.("[role=gridcell]");
  if (!cell) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    send(cell);
    return;
  }
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
    ArrowRight: [0, 1] }[event.key] ?? [0, 0];
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

// An uploaded picture clears the selected scene.
watch("value", () => {
  if (props.value) return;
  for (const scene of element.querySelectorAll("[data-group=scene]")) {
    scene.setAttribute("aria-pressed", "false");
  }
});

element.addEventListener("change", (event) => {
  if (!event.target.matches?.("[data-shows]")) return;
  const target = document.querySelector(event.target.dataset.shows);
  if (target) target.hidden = !event.target.checked;
});
