// A method and its options; the component's value is what is set here, as JSON.
const select = element.querySelector("select");
const panels = [...element.querySelectorAll("[data-method]")];
const blank = element.querySelector("[data-blank]");

function read(input) {
  const kind = input.dataset.kind;
  if (kind === "switch") return input.checked;
  if (kind === "choice") return JSON.parse(input.value);
  if (kind === "list") return input.value;
  return input.value === "" ? null : Number(input.value);
}

function update() {
  const options = {};
  for (const panel of panels) {
    panel.hidden = panel.dataset.method !== select.value;
    if (panel.hidden) continue;
    for (const input of panel.querySelectorAll("[data-option]")) {
      const shown = panel.querySelector(`output[for="${input.id}"]`);
      if (shown) shown.textContent = input.value;
      const value = read(input);
      if (JSON.stringify(value) !== input.dataset.default) options[input.dataset.option] = value;
    }
    panel.querySelector("[data-reset]").disabled = !Object.keys(options).length;
  }
  if (blank) blank.hidden = Boolean(select.value);
  props.value = JSON.stringify(select.value ? { name: select.value, options } : null);
}

element.addEventListener("input", update);
element.addEventListener("change", update);
element.addEventListener("click", (event) => {
  const reset = event.target.closest("[data-reset]");
  if (!reset) return;
  for (const input of reset.closest("[data-method]").querySelectorAll("[data-option]")) {
    const value = JSON.parse(input.dataset.default);
    if (input.dataset.kind === "switch") input.checked = value;
    else if (input.dataset.kind === "choice") input.value = input.dataset.default;
    else input.value = value ?? "";
  }
  update();
});
update();
