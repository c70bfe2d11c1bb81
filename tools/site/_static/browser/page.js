// The page around labkit's explorers in the browser: its controls ask the Python worker, and show what it answers.
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const find = (id) => document.getElementById(`labkit-${id}`);
const forms = ["file", "memory", "inside"].map(find);
const waiting = new Map();
let last = 0;

function ask(name, values, files) {
  const id = ++last;
  worker.postMessage({ id, name, values, files });
  return new Promise((resolve) => waiting.set(id, resolve));
}
worker.onmessage = ({ data: { id, answer } }) => {
  waiting.get(id)(answer);
  waiting.delete(id);
};
worker.onerror = (event) => say(`Python did not start: ${event.message}`);

const say = (text) => { find("state").textContent = text; };
const read = (form) => Object.fromEntries(new FormData(form));
const options = (select, entries) => select.replaceChildren(...entries.map(([text, value]) => new Option(text, value)));

// Only the newest request of a form is computed: a slider sends many.
function newest(work) {
  let busy = false, again = false;
  return async () => {
    if (busy) { again = true; return; }
    busy = true;
    do { again = false; await work(); } while (again);
    busy = false;
  };
}

const showEstimate = newest(async () => {
  find("shown").value = Number(find("n_ctx").value).toLocaleString("en");
  const answer = await ask("memory", read(forms[1]));
  find("estimate").innerHTML = answer.html ?? "";
  if (answer.error) find("estimate").textContent = answer.error;
});
const showContents = newest(async () => {
  find("search").disabled = find("show").value === "first bytes";
  const answer = await ask("contents", { show: find("show").value, search: find("search").value });
  find("contents").innerHTML = answer.html ?? "";
  if (answer.error) find("contents").textContent = answer.error;
});

async function open(files) {
  say(`Reading ${files.map((file) => file.name).join(", ")} …`);
  const answer = await ask("open", { names: files.map((file) => file.name) }, files);
  say(answer.error ?? answer.sentence);
  find("memory").firstElementChild.disabled = Boolean(answer.error);
  find("estimate").replaceChildren();
  if (answer.context) Object.assign(find("n_ctx"), { max: answer.context, step: answer.step });
  if (!answer.error) await showEstimate();
  await showContents();
}

// An example is a header; the weights that follow it in the real file are zeros here, which the browser does not store.
async function openExample() {
  const [name, file, size] = examples[find("example").value];
  const answer = await fetch(new URL(file, import.meta.url));
  const head = new Blob([await answer.arrayBuffer()]);
  const zeros = new Blob([new Uint8Array(1 << 20)]);
  let rest = size - head.size;
  const parts = [head];
  for (; rest >= zeros.size; rest -= zeros.size) parts.push(zeros);
  await open([new File([...parts, zeros.slice(0, rest)], name)]);
}

forms[0].addEventListener("change", (event) => {
  if (event.target.id === "labkit-example") openExample();
  else if (event.target.files.length) open([...event.target.files]);
});
forms[1].addEventListener("input", showEstimate);
forms[2].addEventListener("input", showContents);
for (const form of forms) form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) open([...event.dataTransfer.files]);
});

const examples = await (await fetch(new URL("examples.json", import.meta.url))).json();
const choices = await ask("choices");
if (choices.error) say(`Python did not start: ${choices.error}`);
else {
  options(find("example"), examples.map(([name], index) => [name, index]));
  for (const [id, entries] of Object.entries(choices)) options(find(id), entries);
  find("ram").value = navigator.deviceMemory ?? 8;
  if (/Mac|iPhone|iPad|aarch64|arm/i.test(navigator.userAgent)) find("processor").value = "ARM64";
  for (const form of forms) form.firstElementChild.disabled = false;
  await openExample();
}
