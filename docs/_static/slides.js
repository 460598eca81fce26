// Any page as slides: each section fills the screen, arrow keys move, Escape goes back to the page.
"use strict";

const page = document.querySelector("article section"), root = document.documentElement;
const start = Object.assign(document.createElement("button"), { type: "button", textContent: "Show as slides" });
const count = Object.assign(document.createElement("output"), { className: "slide-number" });

const front = document.createElement("section"); // what stands above the first section
front.append(...[...page.children].slice(0, [...page.children].findIndex(child => child.tagName === "SECTION")));
page.prepend(front);
front.querySelector("h1").after(start);
document.body.append(count);

const slides = [...page.querySelectorAll("section")];
const current = () => slides.findIndex(slide => slide.getBoundingClientRect().bottom > innerHeight / 2);

function show(number) {
  slides[Math.max(0, Math.min(number, slides.length - 1))].scrollIntoView({ behavior: "instant" });
  count.value = `${current() + 1} / ${slides.length}`;
}

function toggle(on) {
  const number = current();
  root.classList.toggle("slides", on);
  show(number);
}

const MOVES = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
document.addEventListener("keydown", event => {
  if (!root.classList.contains("slides") || event.target.closest("audio, button, input, summary, a")) return;
  if (event.key === "Escape") toggle(false);
  if (!(event.key in MOVES)) return;
  event.preventDefault();
  show(current() + MOVES[event.key]);
});
start.addEventListener("click", () => { start.blur(); toggle(true); });
if (new URLSearchParams(location.search).has("slides")) window.addEventListener("load", () => toggle(true));
