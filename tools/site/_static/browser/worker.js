// Python in a worker: the page stays responsive, and only a worker can read slices of a dropped file synchronously.
import { loadPyodide } from "./pyodide/pyodide.mjs";

const FOLDER = "/model"; // where the chosen files are mounted: Python reads from them what it needs
let mounted = false;
const ready = start();

async function start() {
  const pyodide = await loadPyodide({ indexURL: new URL("pyodide/", import.meta.url).href });
  const archive = await fetch(new URL("labkit.zip", import.meta.url));
  pyodide.unpackArchive(await archive.arrayBuffer(), "zip", { extractDir: "/lab" });
  pyodide.runPython("import sys; sys.path.insert(0, '/lab')");
  return { pyodide, explorers: pyodide.pyimport("explorers") };
}

function mount(pyodide, files) {
  if (mounted) pyodide.FS.unmount(FOLDER);
  else pyodide.FS.mkdir(FOLDER);
  pyodide.FS.mount(pyodide.FS.filesystems.WORKERFS, { files }, FOLDER);
  mounted = true;
}

onmessage = async ({ data: { id, name, files, values } }) => {
  try {
    const { pyodide, explorers } = await ready;
    if (files) mount(pyodide, files);
    postMessage({ id, answer: JSON.parse(explorers.answer(name, JSON.stringify(values ?? {}))) });
  } catch (error) {
    postMessage({ id, answer: { error: String(error) } });
  }
};
