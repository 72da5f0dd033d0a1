// A sound from the microphone, where the browser has one and the visitor allows it.
"use strict";

// Gives an object whose `sound` is the recording, a File, or null.
function makeRecorder(button, text, player, error, longest_s) {
  const state = {sound: null};
  let recorder = null, began = 0, clockTimer = 0;

  const fail = (sentence) => { error.textContent = sentence; error.hidden = false; };

  function stop() {
    clearInterval(clockTimer);
    if (recorder && recorder.state !== "inactive") recorder.stop();
  }

  async function start() {
    error.hidden = true;
    if (!navigator.mediaDevices || !window.MediaRecorder) {
      return fail("This browser cannot record here; choose a file instead (recording needs localhost or https).");
    }
    let stream;
    state.sound = null;
    button.disabled = true;  // a second click while the browser asks would open a second microphone
    try {
      stream = await navigator.mediaDevices.getUserMedia({audio: true});
    } catch (reason) {
      return fail("The microphone is not available; allow it for this page, or choose a file instead.");
    } finally {
      button.disabled = false;
    }
    const pieces = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      stream.getTracks().forEach((track) => track.stop());
      const ending = recorder.mimeType.includes("mp4") ? "mp4" : recorder.mimeType.includes("ogg") ? "ogg" : "webm";
      state.sound = new File(pieces, `recording.${ending}`, {type: recorder.mimeType});
      if (player.src) URL.revokeObjectURL(player.src);
      player.src = URL.createObjectURL(state.sound);
      player.hidden = false;
      button.setAttribute("aria-pressed", "false");
      text.textContent = "Record again";
    };
    recorder.start();
    began = performance.now();
    button.setAttribute("aria-pressed", "true");
    const tick = () => {
      const seconds = (performance.now() - began) / 1000;
      text.textContent = `Stop (${seconds.toFixed(0)} s)`;
      if (seconds >= longest_s) stop();
    };
    tick();
    clockTimer = setInterval(tick, 250);
  }

  button.addEventListener("click", () => (recorder && recorder.state === "recording" ? stop() : start()));
  return state;
}
