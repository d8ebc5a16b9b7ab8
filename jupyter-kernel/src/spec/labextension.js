// klab in JupyterLab and Notebook 7: a kernel address in an output is a link that shows what is there, and where a recorded guest stands is a slider.
//
// A prebuilt extension by hand: the page loads this file, and takes from `_JUPYTERLAB.klab` what a bundler would have made. It needs no other
// package: which kernel an output belongs to, the application's own panels tell.
(() => {
  const ADDRESS = /\b(?:0x)?ffff[0-9a-f]{12}\b/g;
  const TARGET = "klab";
  const STYLE = `
.klab-address { cursor: pointer; text-decoration: underline dotted; text-underline-offset: 2px; }
.klab-address:hover, .klab-address:focus { text-decoration-style: solid; outline: none; }
.klab-what { position: fixed; z-index: 10000; max-width: 80vw; max-height: 60vh; overflow: auto; padding: 6px 10px;
  background: var(--jp-layout-color1, white); color: var(--jp-content-font-color1, black); border: 1px solid var(--jp-border-color1, gray);
  border-radius: 3px; box-shadow: var(--jp-elevation-z4, 0 2px 8px rgb(0 0 0 / 30%)); font-size: var(--jp-code-font-size, 13px); }
.klab-what pre { margin: 0; font-family: var(--jp-code-font-family, monospace); white-space: pre-wrap; }
.klab-what footer { margin-top: 4px; color: var(--jp-content-font-color2, gray); font-size: 90%; }`;

  /** @type {any} the application */
  let app;
  /** The open answer, and what asked for it. */
  let open = null;
  /** Comms, by kernel, with what waits for their answers. */
  const comms = new WeakMap();
  let asked = 0;

  /** The panel that an element is in, with its kernel if that is klab's, and the text that the cell ran. */
  const placeOf = (element) => {
    if (open?.box.contains(element)) return open.place;
    for (const panel of app.shell.widgets("main")) {
      if (!panel.node.contains(element)) continue;
      const kernel = (panel.sessionContext ?? panel.context?.sessionContext)?.session?.kernel;
      if (kernel?.name !== "klab") return null;
      const cells = panel.content?.widgets ?? panel.console?.cells ?? [];
      const cell = [...cells].find((cell) => cell.node.contains(element));
      // One that was changed since is not what made the output.
      return { kernel, cell: cell?.model?.isDirty ? null : (cell?.model?.sharedModel.getSource() ?? null) };
    }
    return null;
  };

  /** Has the sliders of a kernel say where their guests stand whenever a cell has ended, and once now. */
  const watched = new WeakSet();
  const watch = (kernel) => {
    if (watched.has(kernel)) return;
    watched.add(kernel);
    kernel.iopubMessage.connect((_, { header, content, parent_header }) => {
      const ended = header.msg_type === "status" && content.execution_state === "idle";
      if (ended && parent_header.msg_type === "execute_request") for (const element of document.querySelectorAll("[data-klab-record]")) void refresh(element);
    });
    // What waits has no answer any more.
    kernel.statusChanged.connect((_, status) => {
      if (!["restarting", "autorestarting", "dead"].includes(status)) return;
      const known = comms.get(kernel);
      comms.delete(kernel);
      for (const answer of known?.waiting.values() ?? []) answer({ error: "the kernel has ended" });
    });
  };

  const commOf = (kernel) => {
    watch(kernel);
    const known = comms.get(kernel);
    if (known && !known.comm.isDisposed) return known;
    const comm = kernel.createComm(TARGET);
    const made = { comm, waiting: new Map() };
    comm.onMsg = ({ content }) => {
      made.waiting.get(content.data.id)?.(content.data);
      made.waiting.delete(content.data.id);
    };
    comm.onClose = () => {
      for (const answer of made.waiting.values()) answer({ error: "the kernel does not answer" });
      comms.delete(kernel);
    };
    comm.open({});
    comms.set(kernel, made);
    return made;
  };

  const ask = (kernel, message) =>
    new Promise((answer) => {
      try {
        const { comm, waiting } = commOf(kernel);
        const id = ++asked;
        waiting.set(id, answer);
        comm.send({ ...message, id });
      } catch (error) {
        // A second connection to a kernel, a console's, may open no comms.
        answer({ error: `there is no way to the kernel from here: ${error.message}` });
      }
    });

  const close = (back) => {
    open?.box.remove();
    if (back) open?.from?.focus?.({ preventScroll: true });
    open = null;
  };

  const show = async (link) => {
    const place = placeOf(link);
    if (!place) return;
    const inside = open?.box.contains(link);
    const at = (inside ? open.at : link).getBoundingClientRect();
    const box = inside ? open.box : document.createElement("div");
    if (!inside) {
      close();
      box.className = "klab-what";
      box.setAttribute("role", "dialog");
      box.style.left = `${Math.max(0, Math.min(at.left, window.innerWidth * 0.6))}px`;
      if (at.top > window.innerHeight * 0.6) box.style.bottom = `${window.innerHeight - at.top + 4}px`;
      else box.style.top = `${at.bottom + 4}px`;
      document.body.append(box);
      open = { box, place, at: link, from: link };
    }
    const address = link.textContent;
    box.setAttribute("aria-label", `what is at ${address}`);
    box.replaceChildren(`${address} ..`);
    const answer = await ask(place.kernel, { what: address, cell: place.cell });
    if (open?.box !== box) return;
    const said = document.createElement(answer.html ? "div" : "pre");
    // The views' own HTML, as in an output: what comes from the guest is escaped in it.
    if (answer.html) {
      said.className = "jp-RenderedHTMLCommon";
      said.innerHTML = answer.html;
    } else said.textContent = answer.error ?? answer.text ?? "";
    const foot = document.createElement("footer");
    foot.textContent = `%what ${address} ${answer.source ?? ""}`;
    box.replaceChildren(said, foot);
    mark(box);
  };

  /** Makes links of the addresses in the text below an element. */
  const mark = (root) => {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT, (node) =>
      node.parentElement.closest(".klab-address, script, style, input, textarea, svg, footer") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT,
    );
    const texts = [];
    while (walker.nextNode()) if (walker.currentNode.data.search(ADDRESS) >= 0) texts.push(walker.currentNode);
    for (const text of texts) {
      const parts = [];
      let end = 0;
      for (const found of text.data.matchAll(ADDRESS)) {
        const link = document.createElement("span");
        link.className = "klab-address";
        link.tabIndex = 0;
        link.setAttribute("role", "link");
        link.title = "what is there?";
        link.textContent = found[0];
        parts.push(text.data.slice(end, found.index), link);
        end = found.index + found[0].length;
      }
      text.replaceWith(...parts, text.data.slice(end));
    }
  };

  /** The row, or the piece of text, that the pointer or the focus is on: all of a long output would take long. */
  const near = ({ target }) => {
    if (!(target instanceof Element)) return;
    const output = target.closest(".jp-OutputArea-output");
    if (!output || !placeOf(target)) return;
    const part = target.closest("tr, li, p, pre, td") ?? target;
    if (part.textContent.length < 200000) mark(part);
  };

  /** Says in every slider of a guest where it stands. What somebody types or drags now is left to them, unless it `went` there. */
  const stand = (record, went) => {
    for (const element of document.querySelectorAll("[data-klab-record]")) {
      if (element.querySelector("input") && JSON.parse(element.dataset.klabRecord).name === record.name) place(element, record, went);
    }
  };

  const place = (element, record, went) => {
    const range = element.querySelector("input[type=range]");
    const number = element.querySelector("input[type=number]");
    const value = String(record.instruction);
    Object.assign(range, { min: record.first, max: record.last });
    if (went || !range.matches(":active")) range.value = value;
    if (went || document.activeElement !== number) number.value = value;
    element.querySelector("output").textContent = `of ${record.first} to ${record.last}`;
  };

  /** Makes a slider of an element that says where a recorded guest stands. */
  const slide = (element) => {
    if (element.querySelector("input")) return;
    const record = JSON.parse(element.dataset.klabRecord);
    const range = Object.assign(document.createElement("input"), { type: "range", step: 1 });
    range.style.width = "60%";
    range.setAttribute("aria-label", `moment of ${record.name}`);
    const number = Object.assign(document.createElement("input"), { type: "number", step: 1 });
    number.style.width = "14em";
    number.setAttribute("aria-label", "instruction");
    const said = document.createElement("output");
    const go = async (to) => {
      const at = placeOf(element);
      if (!at) return;
      said.textContent = `going to ${to} ..`;
      const answer = await ask(at.kernel, { record: record.name, seek: Number(to) });
      if (answer.record) stand(answer.record, true);
      if (answer.error) said.textContent = answer.error;
    };
    range.addEventListener("input", () => (number.value = range.value));
    range.addEventListener("change", () => void go(range.value));
    number.addEventListener("change", () => void go(number.value));
    // The notebook's own keys are not meant.
    for (const field of [range, number]) field.addEventListener("keydown", (event) => event.stopPropagation());
    element.replaceChildren(`${record.name} at instruction `, number, " ", said, document.createElement("br"), range);
    place(element, record, true);
    void refresh(element);
  };

  /** Has a slider say where its guest stands now: its text is of the time when the cell ran. */
  const refresh = async (element) => {
    const at = element.isConnected && placeOf(element);
    if (!at || !element.querySelector("input")) return;
    const { record, error } = await ask(at.kernel, { record: JSON.parse(element.dataset.klabRecord).name });
    if (record) stand(record);
    else element.querySelector("output").textContent = error ?? "";
  };

  const sliders = (nodes) => {
    for (const node of nodes) {
      if (!(node instanceof Element)) continue;
      if (node.matches("[data-klab-record]")) slide(node);
      else node.querySelectorAll("[data-klab-record]").forEach(slide);
    }
  };

  const plugin = {
    id: "klab:views",
    description: "Shows what is at a kernel address in an output; moves a recorded guest by a slider.",
    autoStart: true,
    activate: (application) => {
      app = application;
      const style = document.createElement("style");
      style.textContent = STYLE;
      document.head.append(style);
      new MutationObserver((changes) => {
        for (const { addedNodes } of changes) sliders(addedNodes);
      }).observe(document.body, { childList: true, subtree: true });
      document.addEventListener("mouseover", near);
      document.addEventListener("focusin", near);
      document.addEventListener("click", ({ target }) => {
        const link = target instanceof Element && target.closest(".klab-address");
        if (link) void show(link);
        else if (open && !open.box.contains(target)) close();
      });
      document.addEventListener(
        "keydown",
        (event) => {
          const link = event.target instanceof Element && event.target.closest(".klab-address");
          if (event.key === "Escape" && open) close(true);
          else if (event.key === "Enter" && link) void show(link);
          else return;
          event.preventDefault();
          event.stopPropagation();
        },
        true,
      );
    },
  };

  const all = (window._JUPYTERLAB ??= {});
  all.klab = { init: () => {}, get: async () => () => ({ __esModule: true, default: plugin }) };
})();
