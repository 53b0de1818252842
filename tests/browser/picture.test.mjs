/** The picture of the console that README.md and docs/ show: that it can be made, and is as it would be. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { PICTURE, SIZE, picture } from "./picture.mjs";

/** The width and the height of a PNG (RFC 2083, section 11.2.1). */
function sizeOf(png) {
  return { width: png.readUInt32BE(16), height: png.readUInt32BE(20) };
}

test("the picture of the console has the size that is made, and is small", async (t) => {
  const kept = readFileSync(PICTURE);
  assert.deepEqual(sizeOf(kept), SIZE);
  assert.ok(kept.length < 120_000, `${kept.length} bytes`);
  assert.deepEqual(sizeOf(await picture(t)), SIZE);
});
