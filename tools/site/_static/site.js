// What scrolls can also be scrolled by keyboard.
const reach = () => {
  for (const box of document.querySelectorAll("pre, .table-wrapper, .math-wrapper")) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
  }
};
window.addEventListener("load", reach);
window.addEventListener("resize", reach);
