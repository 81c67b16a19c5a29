"""Keys of a widget: a line that says which there are, and hears them wherever the focus is inside the widget.

ipywidgets' own parts know Tab, Enter and Space; they pass no other key on, so this one part is an anywidget.
"""

from collections.abc import Callable, Mapping

import anywidget
import traitlets

SCRIPT = """
function render({ model, el }) {
  el.textContent = model.get("help");
  el.tabIndex = 0;
  const hear = (event) => {
    const whole = el.closest("." + model.get("inside"));
    if (!whole || !whole.contains(event.target)) return;
    // JupyterLab takes "d d" for deleting the cell; it looks for this mark on what has the focus, not around it
    event.target.setAttribute("data-lm-suppress-shortcuts", "true");
    const writes = event.target.matches("textarea, input:not([type=checkbox]), [role=slider]");
    if (event.key === "Escape") el.focus();
    else if (writes || event.ctrlKey || event.altKey || event.metaKey) return;
    else if (event.key === "n") whole.querySelector(".magnet-note textarea")?.focus();
    else if (model.get("known").includes(event.key)) model.send({ pressed: event.key });
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  window.addEventListener("keydown", hear, true);
  return () => window.removeEventListener("keydown", hear, true);
}
export default { render };
"""


class Keys(anywidget.AnyWidget):
    """Does what each key stands for; n goes to the part with the class magnet-note, Escape back here.

    Args: actions: what to call, by the names that browsers give to keys ("j", "PageDown"); help: what to show; inside:
        the CSS class of the whole widget.
    """

    _esm = SCRIPT
    help = traitlets.Unicode().tag(sync=True)
    known = traitlets.List(traitlets.Unicode()).tag(sync=True)
    inside = traitlets.Unicode().tag(sync=True)

    def __init__(self, actions: Mapping[str, Callable[[], None]], help: str, inside: str):
        super().__init__(known=list(actions), help=help, inside=inside)
        self.actions = actions
        self.on_msg(lambda _, message, __: self.press(message["pressed"]))

    def press(self, key: str) -> None:
        """What the browser does for a key that is pressed."""
        self.actions[key]()
