"""Drives the emulator with the official Python SDK, in its blocking and its async form.

Needs EMULATOR_URL and EMULATOR_ACCESS_KEY.
The client is built from endpoint and key: from a connection string this SDK would always speak https.
Needs Python 3.11 or newer, whose datetime reads fractions of any length.
"""

import asyncio
import inspect
import json
import os
import sys
import time
import traceback
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone

from azure.communication.identity import CommunicationIdentityClient, CommunicationUserIdentifier
from azure.communication.identity.aio import CommunicationIdentityClient as AsyncCommunicationIdentityClient
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

URL = os.environ["EMULATOR_URL"].rstrip("/")
KEY = os.environ["EMULATOR_ACCESS_KEY"]
WRONG_KEY = "bm90IHRoZSBrZXkgb2YgdGhpcyByZXNvdXJjZQ=="
FOREIGN = "8:acs:00000000-0000-0000-0000-000000000000_00000000-0000-0000-0000-000000000000"


def control(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{URL}/_emulator/{path}", data=data), timeout=30) as answer:
        return json.load(answer)


def introspect(token):
    return control("introspect", {"token": token})


def report(user):
    return control("identities/" + urllib.parse.quote(user.properties["id"], safe=""))


async def resolve(result):
    """Makes a check work with both forms of the client."""
    return await result if inspect.isawaitable(result) else result


async def failure(kind, call):
    try:
        await resolve(call())
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, but the call succeeded")


def lifetime(token):
    return datetime.fromisoformat(token.expires_on) - datetime.now(timezone.utc)


def assert_near(actual, expected):
    assert abs(actual - expected) < timedelta(minutes=1), f"expected about {expected}, got {actual}"


async def create_makes_an_identity_without_tokens(client):
    user = await resolve(client.create_user())
    assert user.properties["id"].startswith("8:acs:"), user.properties
    expected = {"id": user.properties["id"], "exists": True, "tokensIssued": 0, "tokensActive": 0}
    assert report(user) == expected, report(user)


async def create_with_token_makes_both(client):
    user, token = await resolve(client.create_user_and_token(["chat", "voip"]))
    judged = introspect(token.token)
    assert judged["active"] is True, judged
    assert judged["identity"] == user.properties["id"], judged
    assert judged["scopes"] == ["chat", "voip"], judged
    assert_near(lifetime(token), timedelta(hours=24))


async def issue_honours_the_lifetime(client):
    user = await resolve(client.create_user())
    for asked in (timedelta(minutes=60), timedelta(minutes=90), timedelta(hours=24)):
        token = await resolve(client.get_token(user, ["voip.join"], token_expires_in=asked))
        assert_near(lifetime(token), asked)
        judged = introspect(token.token)
        assert judged["active"] is True, judged
        assert_near(datetime.fromisoformat(judged["expiresOn"]) - datetime.now(timezone.utc), asked)


async def too_short_lifetime_is_a_validation_error(client):
    user = await resolve(client.create_user())
    asked = timedelta(minutes=59)
    for call in (
        lambda: client.get_token(user, ["chat"], token_expires_in=asked),
        lambda: client.create_user_and_token(["chat"], token_expires_in=asked),
    ):
        error = await failure(HttpResponseError, call)
        assert error.status_code == 400, error.status_code
        assert error.error.code == "ValidationError", error.error.code
        expected = "ExpiresInMinutes value 59 is invalid. Value must be within the [60, 1440] interval."
        assert expected in error.message, error.message


async def revoke_ends_every_token(client):
    user, first = await resolve(client.create_user_and_token(["chat"]))
    second = await resolve(client.get_token(user, ["chat"]))
    assert first.token != second.token, "two tokens are the same string"
    assert report(user)["tokensActive"] == 2, report(user)
    await resolve(client.revoke_tokens(user))
    for token in (first, second):
        judged = introspect(token.token)
        assert judged["active"] is False and judged["reason"] == "revoked", judged
    # The emulator takes tokens of the revocation's own second as revoked, so a good one must be of a later second.
    time.sleep(1.1)
    third = await resolve(client.get_token(user, ["chat"]))
    assert introspect(third.token)["active"] is True, introspect(third.token)


async def delete_ends_identity_and_tokens(client):
    user, token = await resolve(client.create_user_and_token(["chat"]))
    await resolve(client.delete_user(user))
    judged = introspect(token.token)
    assert judged["active"] is False and judged["reason"] == "identity_deleted", judged
    assert report(user)["exists"] is False, report(user)
    error = await failure(ResourceNotFoundError, lambda: client.get_token(user, ["chat"]))
    assert error.error.code == "IdentityNotFound", error.error.code
    await resolve(client.delete_user(user))


async def foreign_identity_is_not_owned(client):
    user = CommunicationUserIdentifier(FOREIGN)
    for call in (
        lambda: client.get_token(user, ["chat"]),
        lambda: client.revoke_tokens(user),
        lambda: client.delete_user(user),
    ):
        error = await failure(ClientAuthenticationError, call)
        assert error.error.code == "IdentityNotOwned", error.error.code


async def wrong_key_is_denied(client):
    stranger = type(client)(URL, AzureKeyCredential(WRONG_KEY))
    try:
        error = await failure(ClientAuthenticationError, stranger.create_user)
        assert error.status_code == 401, error.status_code
        assert error.error.code == "Denied", error.error.code
    finally:
        if isinstance(stranger, AsyncCommunicationIdentityClient):
            await stranger.close()


CHECKS = [
    create_makes_an_identity_without_tokens,
    create_with_token_makes_both,
    issue_honours_the_lifetime,
    too_short_lifetime_is_a_validation_error,
    revoke_ends_every_token,
    delete_ends_identity_and_tokens,
    foreign_identity_is_not_owned,
    wrong_key_is_denied,
]


async def run(form, client):
    failed = 0
    for check in CHECKS:
        try:
            await check(client)
            print(f"ok      {form} {check.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {form} {check.__name__}")
            traceback.print_exc(file=sys.stdout)
    return failed


async def main():
    credential = AzureKeyCredential(KEY)
    failed = await run("sync", CommunicationIdentityClient(URL, credential))
    async with AsyncCommunicationIdentityClient(URL, credential) as client:
        failed += await run("aio ", client)
    print(f"{2 * len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
