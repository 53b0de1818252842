/**
 * `node build.mjs`: write what is made of the browser client: it minified, as it is served, and its types.
 *
 * The files lie in the package, so that neither an installation nor a server needs Node. A test holds them to
 * their sources.
 */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { minify } from "terser";

export const PAGES = fileURLToPath(new URL("../../cometd_lite/pages/", import.meta.url));
const HERE = fileURLToPath(new URL(".", import.meta.url));
const TYPES = [
  ...["--ignoreConfig", "--allowJs", "--declaration", "--emitDeclarationOnly", "--stripInternal", "--strict"],
  ...["--target", "es2023", "--module", "esnext", "--moduleResolution", "bundler", "--types", ""],
  ...["--lib", "es2023,dom,dom.iterable"],
];

/** Make the files, by their names. */
export async function build() {
  const made = {};
  for (const name of ["client", "tabs"]) {
    const source = readFileSync(join(PAGES, `${name}.js`), "utf8");
    const { code } = await minify(source, { module: true, compress: { passes: 2 }, mangle: true });
    made[`built/${name}.min.js`] = `${code}\n`;
  }
  const directory = mkdtempSync(join(tmpdir(), "types-"));
  try {
    const tsc = join(HERE, "node_modules/.bin/tsc");
    execFileSync(tsc, [...TYPES, "--outDir", directory, join(PAGES, "client.js")], { cwd: HERE });
    made["built/client.d.ts"] = readFileSync(join(directory, "client.d.ts"), "utf8");
  } finally {
    rmSync(directory, { recursive: true });
  }
  return made;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, text] of Object.entries(await build())) writeFileSync(join(PAGES, name), text);
}
