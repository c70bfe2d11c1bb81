"""Script and style that make explorers usable with a screen reader, by keyboard and on a narrow screen."""

import anywidget

# ipywidgets does not connect a slider's label with its handle: a screen reader would say only "slider".
_SCRIPT = """
export default {
  render({ el }) {
    el.style.display = "none";
    let root = null;
    const name = () => {
      for (const control of root.querySelectorAll("select, button, input, textarea, summary, [tabindex]")) {
        control.dataset.lmSuppressShortcuts = "true"; // else JupyterLab handles its arrow and Enter keys
      }
      for (const slider of root.querySelectorAll(".jupyter-widgets")) {
        const label = slider.querySelector(":scope > .widget-label");
        for (const handle of slider.querySelectorAll(":scope > .slider-container .noUi-handle")) {
          if (label && handle.getAttribute("aria-label") !== label.textContent) {
            handle.setAttribute("aria-label", label.textContent);
          }
        }
      }
    };
    const copy = (event) => {
      if (event.target.closest(".labkit-copy")) {
        const text = root.querySelector(".labkit-transcript textarea");
        const selected = [text.selectionStart, text.selectionEnd];
        text.select();
        document.execCommand("copy");
        text.setSelectionRange(...selected);
        event.target.closest("button").focus();
      }
    };
    const observer = new MutationObserver(name);
    const start = (tries) => {
      root = el.closest(".labkit-explorer");
      if (root) {
        name();
        root.addEventListener("click", copy);
        observer.observe(root, { childList: true, subtree: true, characterData: true });
      } else if (tries > 0) {
        setTimeout(() => start(tries - 1), 50);
      }
    };
    start(200);
    return () => {
      observer.disconnect();
      if (root) root.removeEventListener("click", copy);
    };
  },
};
"""
_STYLE = """
.labkit-explorer { max-width: 60em; padding: 0 6px; box-sizing: border-box; container-type: inline-size;
  --jp-widgets-input-border-color: var(--jp-layout-color4, #757575); } /* contrast of 3:1, as WCAG 1.4.11 asks */
.labkit-explorer .widget-label { width: auto !important; max-width: 100%; white-space: normal; height: auto; }
@container (min-width: 28em) { /* controls begin in one line */
  .labkit-explorer .widget-inline-hbox > .widget-label { flex: 0 0 17em; text-align: left; }
}
.labkit-explorer .jupyter-widgets.widget-inline-hbox { flex-wrap: wrap; height: auto; max-width: 100%; }
.labkit-explorer .jupyter-widgets.widget-inline-hbox:not(.widget-html) { width: 100%; max-width: 38em; }
.labkit-explorer :is(.labkit-transcript, .widget-dropdown).jupyter-widgets.widget-inline-hbox { max-width: 48em; }
.labkit-explorer .widget-html-content { height: auto; line-height: 1.4; white-space: normal; }
.labkit-explorer .widget-html, .labkit-explorer .widget-html > .widget-html-content { width: 100%; min-width: 0; }
.labkit-explorer .widget-box { max-width: 100%; }
.labkit-explorer .jupyter-button { width: auto; height: auto; min-height: 28px; white-space: normal; }
.labkit-explorer > .jupyter-widgets { margin-left: 0; margin-right: 0; }
.labkit-explorer .labkit-wide { overflow-x: auto; max-width: 100%; }
.labkit-explorer .labkit-wide img { min-width: 30em; height: auto; } /* scrolls on a phone, so that text stays readable */
.labkit-explorer :focus-visible { outline: 3px solid #0072B2; outline-offset: 2px; }
.labkit-explorer .noUi-handle { border-color: var(--jp-ui-font-color1, #212121) !important; } /* else white on white */
.labkit-explorer .noUi-connects { background: var(--jp-layout-color4, #757575) !important; }
.labkit-explorer .widget-dropdown > select { /* the arrow in the colour of the text; else dark on dark */
  appearance: auto; background-image: none; padding-right: 4px; }
.labkit-explorer caption { text-align: left; font-weight: bold; color: inherit; }
.labkit-explorer pre { white-space: pre-wrap; }
"""


class Names(anywidget.AnyWidget):
    """A hidden widget that gives each slider of its explorer an accessible name, and the explorer its style."""

    _esm = _SCRIPT
    _css = _STYLE
