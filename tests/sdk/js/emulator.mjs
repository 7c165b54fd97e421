// Shared by the checks: the control endpoints of the emulator, and running the checks.

export const EMULATOR_URL = required("EMULATOR_URL").replace(/\/$/, "");

/** Returns an environment variable that must be set. */
export function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

/** Introspects a token at the emulator. */
export async function introspect(token) {
  return control("introspect", { method: "POST", body: JSON.stringify({ token }) });
}

/** Gets the state of an identity from the emulator. */
export async function report(user) {
  return control(`identities/${encodeURIComponent(user.communicationUserId)}`);
}

/** Runs the checks in order and sets the exit code; an error in the background fails its check. */
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
