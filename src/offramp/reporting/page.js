"use strict";
// Shows at each place of the slider what was measured there. All words come from the page's maker.
(() => {
  const { stops } = JSON.parse(document.getElementById("measured").textContent);
  const slider = document.getElementById("threshold");
  const all = (name) => document.querySelectorAll(`[data-${name}]`);

  const show = () => {
    const stop = stops[Number(slider.value)];
    slider.setAttribute("aria-valuetext", stop.spoken);
    for (const place of all("figure")) place.textContent = stop.figures[place.dataset.figure];
    for (const place of all("said")) place.textContent = stop.said[Number(place.dataset.said)];
    for (const bar of all("share")) bar.setAttribute("width", stop.shares[Number(bar.dataset.share)]);
    for (const mark of all("stop")) mark.classList.toggle("on", mark.dataset.stop === slider.value);
  };

  slider.addEventListener("input", show);
  slider.parentElement.hidden = false;
  show();
})();
