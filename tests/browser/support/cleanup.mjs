/** What a test began is ended in reverse order, as it was piled up: a page before the server it is from. */

/** @type {WeakMap<import("node:test").TestContext, (() => unknown)[]>} */
const piles = new WeakMap();

/**
 * @param {import("node:test").TestContext} t
 * @param {() => unknown} end
 */
export function atEnd(t, end) {
  const pile = piles.get(t);
  if (pile) {
    pile.push(end);
    return;
  }
  const first = [end];
  piles.set(t, first);
  t.after(async () => {
    const errors = [];
    for (const end of first.reverse()) await Promise.resolve(end()).catch((error) => errors.push(error));
    if (errors.length) throw errors[0];
  });
}
