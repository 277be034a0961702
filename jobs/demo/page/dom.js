// Elements in one line each.

const SVG = "http://www.w3.org/2000/svg";

/** Returns a new element. Children are elements or texts. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

/** Returns a new SVG element. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Returns the element with an ID. */
export const byId = (id) => document.getElementById(id);

/** Lets the arrow keys move between the elements of a group, of which only one is a tab stop. */
export function roving(group, elements, { across, moved }) {
  const focus = (index) => {
    elements.forEach((element, i) => (element.tabIndex = i === index ? 0 : -1));
    elements[index].focus();
    moved?.(index);
  };
  elements.forEach((element, i) => (element.tabIndex = i === 0 ? 0 : -1));
  group.onkeydown = (event) => {
    const at = elements.indexOf(document.activeElement);
    const down = across();
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down, Home: -at, End: elements.length - 1 - at };
    if (at < 0 || !(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const next = at + steps[event.key];
    if (next >= 0 && next < elements.length) focus(next);
  };
}
