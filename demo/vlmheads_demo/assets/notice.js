// What went wrong is brought to where it can be seen.
watch("value", () => {
  element.querySelector("[role=alert]")?.scrollIntoView({ block: "nearest" });
});
