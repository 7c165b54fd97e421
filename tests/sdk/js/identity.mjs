// Drives the emulator with the official JavaScript SDK.
//
// Needs EMULATOR_URL and EMULATOR_ACCESS_KEY.

import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";

import { CommunicationIdentityClient } from "@azure/communication-identity";

import { EMULATOR_URL, introspect, report, required, run } from "./emulator.mjs";

const KEY = required("EMULATOR_ACCESS_KEY");
const WRONG_KEY = "bm90IHRoZSBrZXkgb2YgdGhpcyByZXNvdXJjZQ==";
const FOREIGN = {
  communicationUserId: "8:acs:00000000-0000-0000-0000-000000000000_00000000-0000-0000-0000-000000000000",
};

const clientWith = (key) =>
  new CommunicationIdentityClient(EMULATOR_URL, { key }, { allowInsecureConnection: true });
const client = clientWith(KEY);

const minutesLeft = (expiresOn) => (new Date(expiresOn).getTime() - Date.now()) / 60_000;

function assertNear(actual, expected) {
  assert.ok(Math.abs(actual - expected) < 1, `expected about ${expected} minutes, got ${actual}`);
}

async function connectionStringWorks() {
  const connection = `endpoint=${EMULATOR_URL};accesskey=${KEY}`;
  const user = await new CommunicationIdentityClient(connection, { allowInsecureConnection: true }).createUser();
  assert.equal((await report(user)).exists, true);
}

async function createMakesAnIdentityWithoutTokens() {
  const user = await client.createUser();
  assert.match(user.communicationUserId, /^8:acs:/);
  const expected = { id: user.communicationUserId, exists: true, tokensIssued: 0, tokensActive: 0 };
  assert.deepEqual(await report(user), expected);
}

async function createWithTokenMakesBoth() {
  const { user, token, expiresOn } = await client.createUserAndToken(["chat", "voip"]);
  const judged = await introspect(token);
  assert.equal(judged.active, true);
  assert.equal(judged.identity, user.communicationUserId);
  assert.deepEqual(judged.scopes, ["chat", "voip"]);
  assertNear(minutesLeft(expiresOn), 1440);
}

async function issueHonoursTheLifetime() {
  const user = await client.createUser();
  for (const tokenExpiresInMinutes of [60, 90, 1440]) {
    const { token, expiresOn } = await client.getToken(user, ["voip.join"], { tokenExpiresInMinutes });
    assertNear(minutesLeft(expiresOn), tokenExpiresInMinutes);
    const judged = await introspect(token);
    assert.equal(judged.active, true);
    assertNear(minutesLeft(judged.expiresOn), tokenExpiresInMinutes);
  }
}

async function tooShortLifetimeIsAValidationError() {
  const user = await client.createUser();
  const options = { tokenExpiresInMinutes: 59 };
  const expected = {
    statusCode: 400,
    code: "ValidationError",
    message: /ExpiresInMinutes value 59 is invalid\. Value must be within the \[60, 1440\] interval\./,
  };
  await assert.rejects(client.getToken(user, ["chat"], options), expected);
  await assert.rejects(client.createUserAndToken(["chat"], options), expected);
}

async function revokeEndsEveryToken() {
  const { user, token: first } = await client.createUserAndToken(["chat"]);
  const { token: second } = await client.getToken(user, ["chat"]);
  assert.notEqual(first, second);
  assert.equal((await report(user)).tokensActive, 2);
  await client.revokeTokens(user);
  for (const token of [first, second]) {
    const { active, reason } = await introspect(token);
    assert.deepEqual({ active, reason }, { active: false, reason: "revoked" });
  }
  // The emulator takes tokens of the revocation's own second as revoked, so a good one must be of a later second.
  await wait(1100);
  const { token: third } = await client.getToken(user, ["chat"]);
  assert.equal((await introspect(third)).active, true);
}

async function deleteEndsIdentityAndTokens() {
  const { user, token } = await client.createUserAndToken(["chat"]);
  await client.deleteUser(user);
  const { active, reason } = await introspect(token);
  assert.deepEqual({ active, reason }, { active: false, reason: "identity_deleted" });
  assert.equal((await report(user)).exists, false);
  await assert.rejects(client.getToken(user, ["chat"]), { statusCode: 404, code: "IdentityNotFound" });
  await client.deleteUser(user);
}

async function foreignIdentityIsNotOwned() {
  const expected = { statusCode: 401, code: "IdentityNotOwned" };
  await assert.rejects(client.getToken(FOREIGN, ["chat"]), expected);
  await assert.rejects(client.revokeTokens(FOREIGN), expected);
  await assert.rejects(client.deleteUser(FOREIGN), expected);
}

async function wrongKeyIsDenied() {
  await assert.rejects(clientWith(WRONG_KEY).createUser(), { statusCode: 401, code: "Denied" });
}

await run([
  connectionStringWorks,
  createMakesAnIdentityWithoutTokens,
  createWithTokenMakesBoth,
  issueHonoursTheLifetime,
  tooShortLifetimeIsAValidationError,
  revokeEndsEveryToken,
  deleteEndsIdentityAndTokens,
  foreignIdentityIsNotOwned,
  wrongKeyIsDenied,
]);
