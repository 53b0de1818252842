/**
 * The inspector: names and patterns arrive, every message of theirs is shown; and one can be pushed.
 *
 * It follows everything once it is looked at, and acknowledges nothing.
 *
 * @module
 */

import { CometError } from "./client.js";
import {
  BASE,
  byId,
  bytes,
  count,
  element,
  facts,
  pathOf,
  quoted,
  showError,
  showState,
  shown,
  sizeOf,
  time,
} from "./console-dom.js";
import { mailboxes } from "./console-mailboxes.js";
import { Timeline } from "./console-timeline.js";

/** As many messages as are shown; the oldest go first. */
const SHOWN_MOST = 500;

/**
 * @param {import("./console.js").Session} session
 * @returns {(shown: boolean) => void} to be called when the inspector is shown or hidden
 */
export function inspector(session) {
  const { show, open } = follower(session);
  pusher(session);
  const list = mailboxes(session, open);
  return (shown) => {
    show(shown);
    list(shown);
  };
}

/**
 * @param {import("./console.js").Session} session
 * @returns {{show: (shown: boolean) => void, open: (recipient: string) => void}} what is to be called when
 *   the inspector is shown or hidden; and what reads one mailbox from its beginning
 */
function follower(session) {
  const form = /** @type {HTMLFormElement} */ (byId("follow"));
  const button = byId("follow-button");
  const list = /** @type {HTMLTableElement} */ (byId("messages"));
  const state = byId("inspector-state");
  /** @type {import("./client.js").Following | undefined} */
  let following;
  let begun = false;
  const seen = { messages: 0, gaps: 0 };
  const timeline = new Timeline(session);

  const refresh = () => {
    byId("cursor").textContent = following?.cursor ?? "–";
    byId("count").textContent = count(seen.messages);
    byId("gaps").textContent = count(seen.gaps);
    byId("inspector-empty").hidden = list.tBodies.length > 0;
    list.hidden = list.tBodies.length === 0;
  };
  /** @param {HTMLElement} item */
  const add = (item) => {
    list.tHead?.after(item);
    if (list.tBodies.length > SHOWN_MOST) list.tBodies[SHOWN_MOST].remove();
    refresh();
  };
  /** @param {boolean} pressed */
  const press = (pressed) => {
    button.textContent = pressed ? "Stop" : "Follow";
    button.classList.toggle("pressed", pressed);
  };
  const stop = () => {
    following?.stop();
    following = undefined;
    timeline.end();
    press(false);
    showState(state, "closed");
  };
  const start = () => {
    begun = true;
    const fields = new FormData(form);
    const recipients = String(fields.get("recipients"))
      .split(",")
      .map((name) => name.trim())
      .filter(Boolean);
    if (!recipients.length) return;
    const after = String(fields.get("after")).trim() || "now";
    if (after !== "now") clear(); // What is shown already would come a second time.
    const transport = /** @type {"auto" | "poll"} */ (fields.get("transport"));
    const reader = timeline.comet(transport).follow(
      recipients,
      (message) => {
        seen.messages += 1;
        timeline.message();
        add(messageItem(message));
        // The cursor moves once this has returned.
        queueMicrotask(() => queueMicrotask(refresh));
      },
      {
        after,
        ack: false,
        storageKey: null,
        background: false,
        onGap: ({ after }) => {
          seen.gaps += 1;
          add(gapItem(after));
        },
        onState: (now, detail) => {
          if (reader !== following) return; // Another one was begun since.
          showState(state, now, detail);
          if (now !== "streaming" && now !== "polling") timeline.end();
          refresh();
          if (now !== "closed") return;
          following = undefined;
          press(false);
          session.refused(detail.error, start);
        },
      },
    );
    following = reader;
    press(true);
  };

  const clear = () => {
    seen.messages = seen.gaps = 0;
    for (const body of [...list.tBodies]) body.remove();
    timeline.clear();
    refresh();
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (following) stop();
    else start();
  });
  form.addEventListener("change", () => {
    if (!following) return;
    stop();
    start();
  });
  byId("clear").addEventListener("click", clear);
  const open = (/** @type {string} */ recipient) => {
    stop();
    clear();
    const fields = form.elements;
    /** @type {HTMLInputElement} */ (fields.namedItem("recipients")).value = recipient;
    /** @type {HTMLInputElement} */ (fields.namedItem("after")).value = "oldest";
    start();
    button.focus();
  };
  const show = (/** @type {boolean} */ shown) => {
    timeline.show(shown);
    if (shown && !begun) start();
  };
  return { show, open };
}

/** @param {import("./console.js").Session} session */
function pusher(session) {
  const form = /** @type {HTMLFormElement} */ (byId("push"));
  const body = /** @type {HTMLTextAreaElement} */ (byId("push-body"));
  const button = /** @type {HTMLButtonElement} */ (form.querySelector(".primary"));

  const read = () => {
    const fields = new FormData(form);
    const text = (/** @type {string} */ name) => String(fields.get(name) ?? "").trim();
    return {
      recipient: text("recipient"),
      body: body.value,
      type: text("type"),
      event: text("event") || undefined,
      ttl: text("ttl") ? Number(text("ttl")) : undefined,
      overflow: /** @type {"reject" | "drop-oldest" | undefined} */ (text("overflow") || undefined),
      queue: !fields.has("live"),
    };
  };
  const check = () => {
    const push = read();
    byId("push-curl").textContent = curlOf(push);
    return showError(body, byId("body-error"), wrongBody(push.type, push.body));
  };
  const send = async () => {
    if (!check()) return body.focus();
    const { recipient, body: data, ...options } = read();
    button.disabled = true;
    try {
      showReceipt(await session.comet().push(recipient, data, options));
    } catch (error) {
      const refusal = error instanceof CometError ? error : new CometError(String(error));
      showRefusal(refusal);
      session.refused(refusal, send);
    } finally {
      button.disabled = false;
    }
  };

  form.addEventListener("input", check);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void send();
  });
  body.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  check();
}

/**
 * A message as rows of its own: what it is on one line, and all there is to it once it is opened.
 *
 * @param {import("./client.js").Message} message
 */
function messageItem(message) {
  const { id, recipient, created_at, type, event, data } = message;
  const size = bytes(sizeOf(message));
  const glimpse = element(
    "button",
    { type: "button", class: "clip", "aria-expanded": "false" },
    shown(data, "line").slice(0, 300),
  );
  const marks = event === undefined ? [] : [element("span", { class: "chip" }, event)];
  const row = element(
    "tr",
    {},
    element("td", {}, time(created_at, "seconds")),
    element("td", { class: "to clip", title: recipient }, recipient),
    element("td", { class: "event" }, ...marks),
    element("td", { class: "glimpse" }, glimpse),
    element("td", { class: "number size" }, size),
  );
  const item = element("tbody", { class: "fresh" }, row);
  /** @type {HTMLElement | undefined} */
  let detail;
  row.addEventListener("click", () => {
    // Most are never opened: what is inside is made when it is asked for.
    if (!detail) {
      const known = { id: element("code", {}, id), recipient, created_at, type, event, size };
      const all = element("pre", { tabindex: "0", "aria-label": "Data" }, shown(data, "block"));
      const cell = element("td", { colspan: "5" }, facts(known), all);
      detail = element("tr", { class: "detail", hidden: true }, cell);
      item.append(detail);
    }
    detail.hidden = !detail.hidden;
    glimpse.setAttribute("aria-expanded", String(!detail.hidden));
  });
  // Or it would glow again each time that the part is shown.
  item.addEventListener("animationend", () => item.classList.remove("fresh"), { once: true });
  return item;
}

/** @param {string} after */
function gapItem(after) {
  const cell = element("td", { colspan: "5" }, "A gap: messages after ");
  cell.append(element("code", {}, after), " are no longer kept.");
  byId("news").textContent = cell.textContent;
  return element("tbody", { class: "lost" }, element("tr", {}, cell));
}

/** @param {import("./client.js").Receipt} receipt */
function showReceipt({ id, ids, created_at, delivered, recipients }) {
  const woke = `Delivered: it woke ${delivered === 1 ? "one reader" : `${delivered} readers`}.`;
  const title = delivered > 0 ? woke : "Accepted: it waits in the mailbox.";
  const known = {
    status: delivered > 0 ? "201" : "202",
    [ids.length > 1 ? "last id" : "id"]: element("code", {}, id),
    messages: ids.length > 1 ? String(ids.length) : undefined,
    to: recipients.join(", "),
    at: time(created_at, "seconds"),
  };
  show("accepted", element("strong", {}, title), facts(known));
}

/** @param {CometError} refusal */
function showRefusal({ status, kind, message, retryAfter }) {
  const known = {
    status: status ? String(status) : undefined,
    kind: element("code", {}, kind),
    "try again": retryAfter === undefined ? undefined : `in ${retryAfter} s`,
  };
  show("refused", element("strong", {}, message), facts(known));
}

/**
 * @param {"accepted" | "refused"} outcome
 * @param {...Node} children
 */
function show(outcome, ...children) {
  const receipt = byId("receipt");
  receipt.hidden = false;
  receipt.dataset.outcome = outcome;
  receipt.replaceChildren(...children);
}

/**
 * @param {string} type
 * @param {string} body
 * @returns {string} what is wrong with it, if anything
 */
function wrongBody(type, body) {
  if (!body) return "A message has at least one byte.";
  if (type === "text/plain") return "";
  const texts = type === "application/json" ? [body] : body.split("\n").filter((line) => line.trim());
  for (const [index, text] of texts.entries()) {
    try {
      JSON.parse(text);
    } catch {
      return type === "application/json" ? "This is not JSON yet." : `Line ${index + 1} is not JSON yet.`;
    }
  }
  return "";
}

/** @param {{recipient: string, body: string, type: string} & import("./client.js").PushOptions} push */
function curlOf({ recipient, body, type, event, ttl, overflow, queue }) {
  const query = new URLSearchParams();
  if (event) query.set("event", event);
  if (ttl) query.set("ttl", String(ttl));
  if (overflow) query.set("overflow", overflow);
  if (!queue) query.set("queue", "no");
  const address = `${BASE}push/${pathOf(recipient)}${query.size ? `?${query}` : ""}`;
  // curl -d drops line breaks only where it reads a file, and says itself that it is a form, which is text.
  const header = type === "text/plain" ? "" : `-H 'Content-Type: ${type}' `;
  return `curl ${header}${body.startsWith("@") ? "--data-raw" : "-d"} ${quoted(body)} ${quoted(address)}`;
}
