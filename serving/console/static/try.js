// Try it: an image from a file, a drop, the clipboard or the camera goes to the server's own route for predictions.

const page = document.getElementById("try");
const byId = (id) => document.getElementById(id);
const MOST = Number(page?.dataset.most);
let image = null;
let stream = null;

const chosen = () => [...document.querySelectorAll("#choices input:checked")].map((box) => box.value);
const target = (refs) =>
  `${page.dataset.predict}?top=3&${refs.map((ref) => `ref=${encodeURIComponent(ref)}`).join("&")}`;

function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function showCurl() {
  const key = page.dataset.token ? ' \\\n  -H "Authorization: Bearer $ONETRUNK_API_KEY"' : "";
  const refs = chosen().length ? chosen() : ["TASK"];
  byId("curl").textContent = `curl --data-binary @image.jpg${key} \\\n  ${quote(new URL(target(refs), location.href).href)}`;
}

function refresh() {
  const count = chosen().length;
  byId("ask").disabled = image === null || count === 0 || count > MOST;
  byId("status").textContent =
    image === null ? "Choose an image first." : count === 0 ? "Choose a task." : count > MOST ? `Choose at most ${MOST} tasks.` : "";
  showCurl();
}

function take(blob) {
  if (!blob || !blob.type.startsWith("image/")) {
    byId("status").textContent = "That is not an image: use a JPEG, PNG, WebP or BMP.";
    return;
  }
  stopCamera();
  const preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  image = blob;
  preview.src = URL.createObjectURL(blob);
  preview.alt = "The chosen image";
  preview.hidden = false;
  byId("drop-text").textContent = "Drop or paste another, or";
  refresh();
}

function stopCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  byId("camera").hidden = byId("shoot").hidden = true;
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch {
    byId("status").textContent = "The camera cannot be used: allow it in the browser, or choose a file.";
    return;
  }
  const camera = byId("camera");
  camera.srcObject = stream;
  byId("preview").hidden = true;
  camera.hidden = byId("shoot").hidden = false;
  await camera.play();
}

function shoot() {
  const camera = byId("camera");
  const canvas = document.createElement("canvas");
  canvas.width = camera.videoWidth;
  canvas.height = camera.videoHeight;
  canvas.getContext("2d").drawImage(camera, 0, 0);
  canvas.toBlob(take, "image/jpeg", 0.92);
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function card(answer, milliseconds) {
  const box = element("article", undefined, "answer");
  const percent = (score) => `${(100 * score).toFixed(1)} %`;
  const [best] = answer.top;
  const meter = element("meter");
  meter.value = best.score;
  meter.setAttribute("aria-label", `score of ${best.label}`);
  const others = element("ol");
  for (const each of answer.top) {
    const line = element("li");
    line.append(element("span", each.label), element("span", percent(each.score)));
    others.append(line);
  }
  const meta = element("p", undefined, "meta");
  meta.dataset.ref = `${answer.task}:${answer.version}`;
  meta.textContent = `Depth ${answer.depth} · ${milliseconds.toFixed(0)} ms`;
  box.append(element("h3", `${answer.task}, version ${answer.version}`), element("p", best.label, "label"), meter, others, meta);
  return box;
}

async function showSharing(answers) {
  const refs = answers.map((answer) => `${answer.task}:${answer.version}`);
  const response = await fetch(`${page.dataset.sharing}?refs=${encodeURIComponent(refs.join(","))}`);
  if (!response.ok) return;
  const parsed = new DOMParser().parseFromString(await response.text(), "text/html");
  byId("sharing").replaceChildren(...parsed.body.children);
  for (const line of document.querySelectorAll("#sharing [data-shared]")) {
    for (const meta of document.querySelectorAll("#answers .meta"))
      if (meta.dataset.ref === line.dataset.ref) meta.textContent += ` · ${line.dataset.shared} blocks shared`;
  }
}

async function ask() {
  const refs = chosen();
  byId("ask").disabled = true;
  byId("status").textContent = "Asking …";
  byId("answers-section").hidden = true; // those of another image
  byId("answers").replaceChildren();
  byId("sharing").replaceChildren();
  const headers = page.dataset.token ? { "X-Onetrunk-Token": page.dataset.token } : {};
  try {
    const start = performance.now();
    const response = await fetch(target(refs), { method: "POST", body: image, headers });
    const milliseconds = performance.now() - start;
    const body = await response.json();
    if (!response.ok) throw new Error(body.message);
    byId("answers").replaceChildren(...body.answers.map((answer) => card(answer, milliseconds)));
    byId("answers-section").hidden = false;
    byId("status").textContent = `Answered in ${milliseconds.toFixed(0)} ms, there and back, all tasks together.`;
    await showSharing(body.answers);
  } catch (error) {
    byId("status").textContent = error instanceof TypeError ? "The server does not answer: try again." : error.message;
  } finally {
    byId("ask").disabled = false;
  }
}

function filter() {
  const text = byId("filter").value.toLowerCase();
  for (const choice of document.querySelectorAll("#choices .choice"))
    choice.hidden = !choice.textContent.toLowerCase().includes(text);
}

if (page) {
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => take(event.target.files[0]));
  for (const name of ["dragenter", "dragover"])
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) take(file);
  });
  byId("use-camera").hidden = !navigator.mediaDevices?.getUserMedia;
  byId("use-camera").addEventListener("click", startCamera);
  byId("shoot").addEventListener("click", shoot);
  byId("choices").addEventListener("change", refresh);
  byId("filter").addEventListener("input", filter);
  byId("ask").addEventListener("click", ask);
  byId("copy").hidden = !navigator.clipboard;
  byId("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("curl").textContent);
    byId("copy").textContent = "Copied";
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500);
  });
  refresh();
}
