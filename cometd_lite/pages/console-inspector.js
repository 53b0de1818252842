/**
 * The inspector: names and patterns arrive, every message of theirs is shown; and one can be pushed.
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

/** As many messages as are shown; the oldest go first. */
const SHOWN_MOST = 500;

/**
 * @param {import("./console.js").Session} session
 * @returns {(shown: boolean) => void} to be called when the inspector is shown or hidden
 */
export function inspector(session) {
  const open = follower(session);
  pusher(session);
  return mailboxes(session, open);
}

/**
 * @param {import("./console.js").Session} session
 * @returns {(recipient: string) => void} reads one mailbox from its beginning
 */
function follower(session) {
  const form = /** @type {HTMLFormElement} */ (byId("follow"));
  const button = byId("follow-button");
  const list = byId("messages");
  const state = byId("inspector-state");
  /** @type {import("./client.js").Following | undefined} */
  let following;
  const seen = { messages: 0, gaps: 0 };

  const refresh = () => {
    byId("cursor").textContent = following?.cursor ?? "–";
    byId("count").textContent = count(seen.messages);
    byId("gaps").textContent = count(seen.gaps);
    byId("inspector-empty").hidden = list.childElementCount > 0;
  };
  /** @param {HTMLElement} item */
  const add = (item) => {
    list.prepend(item);
    if (list.childElementCount > SHOWN_MOST) list.lastElementChild?.remove();
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
    press(false);
    showState(state, "closed");
  };
  const start = () => {
    const fields = new FormData(form);
    const recipients = String(fields.get("recipients"))
      .split(",")
      .map((name) => name.trim())
      .filter(Boolean);
    if (!recipients.length) return;
    const transport = /** @type {"auto" | "stream" | "poll"} */ (fields.get("transport"));
    const begun = session.comet({ transport }).follow(
      recipients,
      (message) => {
        seen.messages += 1;
        add(messageItem(message));
        // The cursor moves once this has returned.
        queueMicrotask(() => queueMicrotask(refresh));
      },
      {
        after: String(fields.get("after")).trim() || "now",
        ack: false,
        storageKey: null,
        background: false,
        onGap: ({ after }) => {
          seen.gaps += 1;
          add(gapItem(after));
        },
        onState: (now, detail) => {
          if (begun !== following) return; // Another one was begun since.
          showState(state, now, detail);
          refresh();
          if (now !== "closed") return;
          following = undefined;
          press(false);
          session.refused(detail.error, start);
        },
      },
    );
    following = begun;
    press(true);
  };

  const clear = () => {
    seen.messages = seen.gaps = 0;
    list.replaceChildren();
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
  return (recipient) => {
    stop();
    clear();
    const fields = form.elements;
    /** @type {HTMLInputElement} */ (fields.namedItem("recipients")).value = recipient;
    /** @type {HTMLInputElement} */ (fields.namedItem("after")).value = "oldest";
    start();
    button.focus();
  };
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

/** @param {import("./client.js").Message} message */
function messageItem(message) {
  const { id, recipient, created_at, type, event, data } = message;
  const size = bytes(sizeOf(message));
  const marks = element("span", { class: "marks" });
  if (event !== undefined) marks.append(element("span", { class: "chip" }, event));
  marks.append(element("span", {}, type.split(";")[0]), element("span", {}, size));
  const summary = element(
    "summary",
    {},
    time(created_at, "seconds"),
    element("span", { class: "to" }, recipient),
    element("span", { class: "glimpse" }, shown(data, "line").slice(0, 300)),
    marks,
  );
  const details = element("details", {}, summary);
  // Most are never opened: what is inside is made when it is asked for.
  details.addEventListener(
    "toggle",
    () => {
      const known = { id: element("code", {}, id), recipient, created_at, type, event, size };
      const all = element("pre", { tabindex: "0", "aria-label": "Data" }, shown(data, "block"));
      details.append(element("div", { class: "detail" }, facts(known), all));
    },
    { once: true },
  );
  const item = element("li", { class: "fresh" }, details);
  // Or it would glow again each time that the part is shown.
  item.addEventListener("animationend", () => item.classList.remove("fresh"), { once: true });
  return item;
}

/** @param {string} after */
function gapItem(after) {
  const text = "A gap: messages after this place are no longer kept. ";
  byId("news").textContent = text;
  return element("li", { class: "lost" }, text, element("code", {}, after));
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
