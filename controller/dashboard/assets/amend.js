// Follows changes: hears that something changed, fetches this page again and swaps its content.
// The pages work without it. Nothing here handles text as markup of its own.
"use strict";
(() => {
  const lamp = document.getElementById("live");
  const word = document.getElementById("live-word");
  const pause = document.getElementById("pause");
  let paused = false, stale = false, busy = false;

  const show = (state, text) => { lamp.hidden = false; lamp.dataset.state = state; word.textContent = text; };

  const copyButtons = () => document.querySelectorAll("button.copy").forEach((button) => {
    button.hidden = !navigator.clipboard;
    button.onclick = async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    };
  });

  const swap = async () => {
    if (paused || busy || document.hidden) { stale = true; return; }
    busy = true; stale = false;
    try {
      const reply = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
      if (reply.redirected) { location.assign(reply.url); return; }
      if (!reply.ok) { show("off", "out of date"); return; }
      const next = new DOMParser().parseFromString(await reply.text(), "text/html").getElementById("swap");
      const old = document.getElementById("swap");
      if (!next || next.isEqualNode(old)) return;
      // What the reader opened stays open, and where they were they stay.
      old.querySelectorAll("details[open][id]").forEach((open) => { const same = next.querySelector(`#${CSS.escape(open.id)}`); if (same) same.open = true; });
      const links = [...old.querySelectorAll("a, button, [tabindex]")], place = links.indexOf(document.activeElement);
      const scrolled = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      old.replaceWith(next);
      next.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] || 0; });
      copyButtons();
      if (place >= 0) next.querySelectorAll("a, button, [tabindex]")[place]?.focus({ preventScroll: true });
    } catch { show("off", "offline"); } finally { busy = false; if (stale && !paused) setTimeout(swap, 500); }
  };

  copyButtons();
  const content = document.getElementById("swap");
  if (!content) return;
  const events = new EventSource(content.dataset.events);
  events.addEventListener("hello", () => { show("on", "live"); swap(); });
  events.addEventListener("change", swap);
  events.onerror = () => show("off", "reconnecting");
  setInterval(swap, 30000); // ages move on without events
  document.addEventListener("visibilitychange", () => { if (!document.hidden && stale) swap(); });
  pause.hidden = false;
  pause.onclick = () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume" : "Pause";
    show(paused ? "paused" : "on", paused ? "paused" : "live");
    if (!paused && stale) swap();
  };
})();
