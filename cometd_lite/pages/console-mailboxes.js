/**
 * The inspector's list of mailboxes: what each holds and who reads it; opened by its name, and deleted.
 *
 * @module
 */

import { CometError } from "./client.js";
import { byId, bytes, count, element } from "./console-dom.js";

/** Mailboxes in one page of the list. */
const PAGE = 50;

/** How often the first page is listed anew, in milliseconds. */
const LISTED_EVERY = 5_000;

/**
 * @param {import("./console.js").Session} session
 * @param {(recipient: string) => void} open reads a mailbox from its beginning
 * @returns {(shown: boolean) => void} to be called when the inspector is shown or hidden
 */
export function mailboxes(session, open) {
  const form = /** @type {HTMLFormElement} */ (byId("list-mailboxes"));
  const rows = byId("mailbox-rows");
  const more = byId("mailboxes-more");
  const failed = byId("mailboxes-error");
  /** @type {string | null} */
  let next = null;
  let isRefused = false;

  /** @param {string | null} after */
  const load = async (after = null) => {
    const prefix = String(new FormData(form).get("prefix")).trim();
    try {
      const page = await session.comet().recipients(prefix, { after, limit: PAGE });
      const shown = page.recipients.map((mailbox) => row(mailbox, open, () => ask(mailbox)));
      if (after === null) replace(rows, shown);
      else rows.append(...shown);
      next = page.more;
      isRefused = false;
      failed.textContent = "";
    } catch (error) {
      const refusal = error instanceof CometError ? error : new CometError(String(error));
      if (after === null) rows.replaceChildren();
      next = null;
      isRefused = !refusal.passing;
      failed.textContent = refusal.message;
      // A token that may manage nothing is still good for all the rest: only its lack is asked about.
      if (refusal.status === 401) session.refused(refusal, load);
    }
    more.hidden = next === null;
    byId("mailbox-table").hidden = rows.childElementCount === 0;
    byId("mailboxes-empty").hidden = rows.childElementCount > 0 || failed.textContent !== "";
  };
  const ask = question(session, load, failed);

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void load();
  });
  more.addEventListener("click", () => void load(next));
  // Further pages that were asked for are not taken away.
  const again = () => {
    if (!document.hidden && rows.childElementCount <= PAGE && !isRefused) void load();
  };
  let timer = 0;
  return (shown) => {
    clearInterval(timer);
    if (!shown) return;
    void load();
    timer = setInterval(again, LISTED_EVERY);
  };
}

/**
 * Show other rows where they differ; the button that has the focus keeps it.
 *
 * @param {HTMLElement} rows
 * @param {HTMLElement[]} shown
 */
function replace(rows, shown) {
  const shapes = (/** @type {Iterable<Element>} */ all) => Array.from(all, (one) => one.outerHTML).join();
  if (shapes(rows.children) === shapes(shown)) return;
  const nameOf = (/** @type {Element | null} */ button) => button?.getAttribute("aria-label") ?? button?.textContent;
  const focused = rows.contains(document.activeElement) ? nameOf(document.activeElement) : undefined;
  rows.replaceChildren(...shown);
  if (focused === undefined) return;
  const same = [...rows.querySelectorAll("button")].find((button) => nameOf(button) === focused);
  (same ?? byId("prefix")).focus({ preventScroll: true });
}

/**
 * @param {import("./client.js").Standing} mailbox
 * @param {(recipient: string) => void} open
 * @param {() => void} remove
 */
function row({ recipient, waiting, queued, bytes: size, leased, online }, open, remove) {
  const title = "Read it from its beginning";
  const name = element("button", { type: "button", class: "name clip", title }, recipient);
  name.addEventListener("click", () => open(recipient));
  const label = `Delete ${recipient}`;
  const remover = element("button", { type: "button", class: "quiet", "aria-label": label }, "Delete");
  remover.addEventListener("click", remove);
  const readers = waiting > 0 ? count(waiting) : online ? "a moment ago" : "0";
  const held = leased > 0 ? `${count(leased)} of them are leased` : undefined;
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, name),
    element("td", { class: "number", title: held }, count(queued)),
    element("td", { class: "number size" }, bytes(size)),
    element("td", { class: "number" }, readers),
    element("td", {}, remover),
  );
}

/**
 * Ask whether a mailbox is to be deleted, and delete it.
 *
 * @param {import("./console.js").Session} session
 * @param {() => Promise<void>} load
 * @param {HTMLElement} failed
 * @returns {(mailbox: import("./client.js").Standing) => void}
 */
function question(session, load, failed) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("delete-mailbox"));
  let recipient = "";
  const remove = async () => {
    dialog.close();
    const path = recipient.split("/").map(encodeURIComponent).join("/");
    try {
      await session.comet().request(`recipients/${path}`, [], { method: "DELETE" });
    } catch (error) {
      failed.textContent = error instanceof CometError ? error.message : String(error);
      return;
    }
    await load();
    byId("prefix").focus();
  };
  byId("delete-keep").addEventListener("click", () => dialog.close());
  byId("delete-sure").addEventListener("click", () => void remove());
  return (mailbox) => {
    recipient = mailbox.recipient;
    byId("delete-name").textContent = recipient;
    dialog.showModal();
  };
}
