// What the checks of this folder share: the emulator's control surface, and the running of checks.

export const EMULATOR_URL = required("EMULATOR_URL").replace(/\/$/, "");

/** Returns an environment variable that must be set. */
export function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

/** Asks the emulator what it thinks of a token. */
export async function introspect(token) {
  return control("introspect", { method: "POST", body: JSON.stringify({ token }) });
}

/** Asks the emulator what it knows of an identity. */
export async function report(user) {
  return control(`identities/${encodeURIComponent(user.communicationUserId)}`);
}

/** Runs every check, one after the other, and sets the exit code; what fails in the background fails the check. */
export async function run(checks) {
  let failed = 0;
  let stray;
  process.on("unhandledRejection", (error) => (stray = error));
  for (const check of checks) {
    try {
      stray = undefined;
      await check();
      if (stray) throw stray;
      console.log(`ok      ${check.name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${check.name}\n${error.stack}`);
    }
  }
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
}

async function control(path, init) {
  const answer = await fetch(`${EMULATOR_URL}/_emulator/${path}`, init);
  return answer.json();
}
