// Asks the server for a job, watches it, shows what came of it.
"use strict";

const $ = (id) => document.getElementById(id);
const chosen = {file: null, sample: ""};
let limits = {upload_mb: 200, seconds: 60}, recorder = {sound: null}, job = null, views = {}, poll = 0;

// --- colours
const THEMES = ["auto", "light", "dark"], system = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
try { theme = localStorage.getItem("theme") || "auto"; } catch (error) { /* storage may be off */ }
function paint() {
  document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
  const names = {auto: "as the system", light: "light", dark: "dark"};
  $("theme").textContent = {auto: "Auto", light: "Light", dark: "Dark"}[theme];
  $("theme").setAttribute("aria-label", `Colours: ${names[theme]}`);
}
$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("theme", theme); } catch (error) { /* then for this visit only */ }
  paint();
});
system.addEventListener("change", paint);
paint();

// --- words
function say(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
}
const size = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const make = (kind, values, ...children) => {
  const node = Object.assign(document.createElement(kind), values);
  node.append(...children);
  return node;
};

// --- what is asked
function choose(file, sample) {
  chosen.file = file;
  chosen.sample = sample ? sample.name : "";
  say("");
  $("drop-title").textContent = file ? file.name : sample ? "Or drop a video of your own" : "Drop a video here, or choose one";
  document.querySelectorAll("#samples button").forEach((button) =>
    button.setAttribute("aria-pressed", String(button.dataset.name === chosen.sample)));
  const preview = $("preview");
  if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
  preview.hidden = false;
  preview.onerror = () => { preview.hidden = true; };  // the server reads more kinds than a browser shows
  preview.src = file ? URL.createObjectURL(file) : `samples/${sample.name}`;
  if (!file) $("video").value = "";
  if (file && file.size > limits.upload_mb * 1e6) say(`${file.name} has ${size(file.size)}; at most ${limits.upload_mb} MB can be sent: cut the video.`);
}
$("video").addEventListener("change", () => { if ($("video").files.length) choose($("video").files[0], null); });
const drop = $("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files[0], null);
});

function sound() { return document.querySelector("#sounds input:checked").value; }
function showSoundBoxes() {
  $("sound-file-box").hidden = sound() !== "file";
  $("recorder-box").hidden = sound() !== "recorded";
}

function form() {
  const asked = new FormData();
  asked.append("sound", sound());
  asked.append("four", $("four").checked ? "yes" : "no");
  asked.append("every", $("every").checked ? "frame" : "second");
  if (chosen.file) asked.append("video", chosen.file);
  else if (chosen.sample) asked.append("sample", chosen.sample);
  else return say("Choose a video first.");
  const other = sound() === "file" ? $("sound-file").files[0] : sound() === "recorded" ? recorder.sound : null;
  if (sound() === "file" && !other) return say("Choose the file with the other sound.");
  if (sound() === "recorded" && !other) return say("Record a sound first.");
  if (other) asked.append("sound_file", other);
  if ((chosen.file ? chosen.file.size : 0) + (other ? other.size : 0) > limits.upload_mb * 1e6) {
    return say(`The files are too large; at most ${limits.upload_mb} MB can be sent: cut the video.`);
  }
  return asked;
}

// --- the job
function busy(is) {
  $("busy").hidden = !is;
  $("go").disabled = is;
}
function progress(share, words) {
  if (share === null) $("progress").removeAttribute("value");
  else $("progress").value = share;
  if ($("doing").textContent !== words) $("doing").textContent = words;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  say("");
  const asked = form();
  if (!asked) return;
  busy(true);
  progress(null, "Sending …");
  const request = new XMLHttpRequest();  // fetch cannot tell how much has been sent
  watched += 1;
  job = {id: "", abort: () => request.abort()};
  request.open("POST", "api/jobs");
  request.responseType = "json";
  request.upload.onprogress = (sent) => { if (sent.lengthComputable) progress(sent.loaded / sent.total, "Sending …"); };
  request.onload = () => {
    const answer = request.response || {};
    if (request.status === 202) return watch(answer.id);
    busy(false);
    say(answer.error || `The server answered ${request.status}.`);
  };
  request.onerror = () => { busy(false); say("The server does not answer; is it still running?"); };
  request.send(asked);
});

$("cancel").addEventListener("click", () => {
  watched += 1;
  clearTimeout(poll);
  if (job && job.abort) job.abort();
  if (job && job.id) fetch(`api/jobs/${job.id}`, {method: "DELETE"}).catch(() => {});
  history.replaceState(null, "", location.pathname);
  busy(false);
  $("go").focus();
});

let watched = 0;  // counts what is looked at: an answer that comes after a cancel, or another submit, is not shown
function watch(id, failures = 0, mine = watched) {
  if (mine !== watched) return;
  job = {id};
  busy(true);
  history.replaceState(null, "", `#job=${id}`);  // a reload finds it again
  const again = (after, count) => { poll = setTimeout(() => watch(id, count, mine), after); };
  fetch(`api/jobs/${id}`).then((answer) => answer.json().then((state) => {
    if (mine !== watched) return;
    if (!answer.ok) {
      busy(false);
      history.replaceState(null, "", location.pathname);
      return say(state.error);
    }
    if (state.state === "waiting") progress(null, state.before === 1 ? "One video is before yours." : `${state.before} videos are before yours.`);
    if (state.state === "running") progress(state.done || null, state.doing || "Starting …");
    if (state.state === "waiting" || state.state === "running") return again(400, 0);
    busy(false);
    if (state.state === "failed") return say(state.error || "The job was cancelled.");
    show(state);
  })).catch(() => {
    if (mine !== watched) return;
    if (failures < 8) return again(1000, failures + 1);
    busy(false);
    say("The server does not answer; is it still running?");
  });
}

// --- what came of it
function show(state) {
  const summary = state.summary, url = Object.fromEntries(state.files.map((file) => [file.name, file.url]));
  $("empty").hidden = true;
  $("shown").hidden = false;
  $("result-title").textContent = `${summary.name}: ${summary.sound}`;
  views = {masks: url[summary.overlay], four: summary.four ? url[summary.four.video] : null};
  $("views").hidden = !views.four;
  $("verdict").textContent = summary.four ? summary.four.verdict : "";
  const figures = [
    `${percent(summary.mean_area)} of the picture on average`,
    `${summary.sounding_s.toFixed(summary.sounding_s % 1 ? 1 : 0)} of ${summary.seconds.toFixed(summary.seconds % 1 ? 1 : 0)} s with a mask`,
  ];
  if (summary.mean_similarity !== null) figures.push(`similarity of sound and picture ${summary.mean_similarity.toFixed(2)} (line)`);
  $("figures").replaceChildren(...figures.map((text) => make("span", {textContent: text})));
  $("notes").replaceChildren(...summary.notes.map((text) => make("li", {textContent: text})));
  $("files").replaceChildren(...state.files.map((file) => make("li", {},
    make("a", {href: `${file.url}?save`, download: file.name, textContent: `${file.title} · ${size(file.bytes)}`}))));
  showTimeline($("timeline"), summary.timeline, $("film"));
  showTable($("table"), summary.timeline);
  view("masks");
  $("result").focus({preventScroll: true});
  const place = $("result").getBoundingClientRect();
  if (place.top < 0 || place.top > innerHeight / 2) $("result").scrollIntoView();
}

function view(name) {
  const film = $("film"), time = film.currentTime;
  for (const each of ["masks", "four"]) {
    $(`view-${each}`).setAttribute("aria-selected", String(each === name));
    $(`view-${each}`).tabIndex = each === name ? 0 : -1;
  }
  $("stage").setAttribute("aria-labelledby", `view-${name}`);
  $("verdict").hidden = name !== "four" || !$("verdict").textContent;
  film.src = views[name];
  film.setAttribute("aria-label", name === "four" ? "The same frames under four sounds" : "The video with its masks");
  film.addEventListener("loadedmetadata", () => { film.currentTime = Math.min(time || 0, film.duration || 0); }, {once: true});
  film.play().catch(() => {});  // a browser may refuse to begin with sound
}
for (const name of ["masks", "four"]) {
  $(`view-${name}`).addEventListener("click", () => view(name));
  $(`view-${name}`).addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = name === "masks" ? "four" : "masks";
    view(other);
    $(`view-${other}`).focus();
  });
}

// --- begin
fetch("api/about").then((answer) => answer.json()).then((about) => {
  limits = about.limits;
  const model = about.model;
  $("model").textContent = [model.title, model.trained_on && `trained on ${model.trained_on}`].filter(Boolean).join(" · ");
  if (model.is_stand_in) {
    $("stand-in").textContent = "This model was trained on a stand-in for the published data sets: its masks show how the method works, not how good it can be.";
    $("stand-in").hidden = false;
  }
  $("drop-limits").textContent = `up to ${limits.seconds} s and ${limits.upload_mb} MB`;
  $("sounds").replaceChildren(...Object.entries(about.sounds).map(([name, title]) => make("label", {},
    make("input", {type: "radio", name: "sound", value: name, checked: name === "own", onchange: showSoundBoxes}), title)));
  $("samples").replaceChildren(...about.samples.map((sample) => {
    const button = make("button", {type: "button", className: "quiet", textContent: sample.title, onclick: () => choose(null, sample)});
    button.dataset.name = sample.name;
    button.setAttribute("aria-pressed", "false");
    return button;
  }));
  recorder = makeRecorder($("record"), $("record-text"), $("recorded"), $("record-error"), limits.seconds);
  const found = /^#job=([\w-]+)$/.exec(location.hash);
  if (found) watch(found[1]);
}).catch(() => say("The server does not answer; is it still running?"));
