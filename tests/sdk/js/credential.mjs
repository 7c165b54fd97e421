// Checks that the credential class of the official JavaScript SDK works with tokens from the service.
//
// VENDOR_URL is the token service, SUBJECT_TOKEN the sign-in token of an app user, EMULATOR_URL the emulator behind the service.

import assert from "node:assert/strict";

import { AzureCommunicationTokenCredential } from "@azure/communication-common";

import { introspect, required, run } from "./emulator.mjs";

const VENDOR_URL = required("VENDOR_URL").replace(/\/$/, "");
const SUBJECT_TOKEN = required("SUBJECT_TOKEN");

/** Gets a token as an app would, and records it for comparison. */
function vendor() {
  const seen = [];
  const fetchToken = async () => {
    const answer = await fetch(`${VENDOR_URL}/token`, { method: "POST", headers: { authorization: `Bearer ${SUBJECT_TOKEN}` } });
    const text = await answer.text();
    assert.ok(answer.ok, `POST /token answered ${answer.status}: ${text}`);
    const body = JSON.parse(text);
    seen.push(body);
    return body;
  };
  // As in the README.
  const tokenRefresher = async () => {
    const body = await fetchToken();
    return { token: body.token, expiresOnTimestamp: body.expiresOnTimestamp };
  };
  return { seen, fetchToken, tokenRefresher };
}

/** Compares the token of a credential with the response of the service. */
async function assertReturns(credential, answer) {
  const { token, expiresOnTimestamp } = await credential.getToken();
  assert.equal(token, answer.token);
  for (const ours of [answer.expiresOnTimestamp, Date.parse(answer.expiresOn)]) {
    assert.ok(Math.abs(expiresOnTimestamp - ours) <= 1000, `${expiresOnTimestamp} is not within a second of ${ours}`);
  }
  const judged = await introspect(token);
  assert.equal(judged.active, true, JSON.stringify(judged));
}

async function initialTokenIsReturned() {
  const { seen, fetchToken, tokenRefresher } = vendor();
  const { token } = await fetchToken();
  const credential = new AzureCommunicationTokenCredential({ token, tokenRefresher });
  try {
    await assertReturns(credential, seen[0]);
    assert.equal(seen.length, 1, "the refresher was called although the token is fresh");
  } finally {
    credential.dispose();
  }
}

async function refresherIsCalledWithoutAnInitialToken() {
  const { seen, tokenRefresher } = vendor();
  const credential = new AzureCommunicationTokenCredential({ tokenRefresher });
  try {
    await credential.getToken();
    await assertReturns(credential, seen[0]);
    assert.equal(seen.length, 1, "the refresher was called more than once");
  } finally {
    credential.dispose();
  }
}

async function proactiveRefreshGetsAToken() {
  const { seen, tokenRefresher } = vendor();
  const credential = new AzureCommunicationTokenCredential({ tokenRefresher, refreshProactively: true });
  try {
    await credential.getToken();
    await assertReturns(credential, seen.at(-1));
  } finally {
    credential.dispose();
  }
}

async function proactiveRefreshKeepsAnInitialToken() {
  const { seen, fetchToken, tokenRefresher } = vendor();
  const { token } = await fetchToken();
  const credential = new AzureCommunicationTokenCredential({ token, tokenRefresher, refreshProactively: true });
  try {
    await assertReturns(credential, seen.at(-1));
  } finally {
    credential.dispose();
  }
}

await run([
  initialTokenIsReturned,
  refresherIsCalledWithoutAnInitialToken,
  proactiveRefreshGetsAToken,
  proactiveRefreshKeepsAnInitialToken,
]);
