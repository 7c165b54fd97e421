// A token server as Microsoft's documentation recommends to build one: a trusted service that checks the user's sign-in token,
// stores one ACS identity for each user, and asks ACS for a token at each request.
import { CommunicationIdentityClient } from "@azure/communication-identity";
import { AzureKeyCredential } from "@azure/core-auth";
import express from "express";
import { createRemoteJWKSet, jwtVerify } from "jose";
import pg from "pg";

const { PORT, DATABASE_URL, ACS_ENDPOINT, ACS_ACCESS_KEY, ISSUER, AUDIENCE, JWKS_URL } = process.env;
const SCOPES = ["chat", "voip"];

const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 });
await pool.query("CREATE TABLE IF NOT EXISTS peer_users (subject TEXT PRIMARY KEY, communication_user_id TEXT NOT NULL)");

const acs = new CommunicationIdentityClient(ACS_ENDPOINT, new AzureKeyCredential(ACS_ACCESS_KEY), {
  allowInsecureConnection: true,
});
const keys = createRemoteJWKSet(new URL(JWKS_URL));

async function authenticate(request, response, next) {
  const [scheme, token] = (request.headers.authorization ?? "").split(" ");
  if (scheme !== "Bearer" || !token) return response.status(401).json({ code: "missing_credentials" });
  try {
    const { payload } = await jwtVerify(token, keys, { issuer: ISSUER, audience: AUDIENCE });
    request.subject = payload.sub;
  } catch {
    return response.status(401).json({ code: "invalid_token" });
  }
  next();
}

async function identityOf(subject) {
  const known = await pool.query("SELECT communication_user_id FROM peer_users WHERE subject = $1", [subject]);
  if (known.rowCount > 0) return { communicationUserId: known.rows[0].communication_user_id };
  const created = await acs.createUser();
  await pool.query("INSERT INTO peer_users (subject, communication_user_id) VALUES ($1, $2)", [
    subject,
    created.communicationUserId,
  ]);
  return created;
}

const app = express();
app.post("/token", authenticate, async (request, response) => {
  const user = await identityOf(request.subject);
  const { token, expiresOn } = await acs.getToken(user, SCOPES);
  response.set("Cache-Control", "no-store").json({ token, expiresOn, user });
});
app.listen(Number(PORT), "127.0.0.1", () => console.log("ready"));
