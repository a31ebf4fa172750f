"""Signatures of deliveries; vectors are made by Stripe's library, which has the same scheme."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe import WebhookSignature

from connector.webhooks.receiver import BODY_MAX, Signature, sign, verify

NOW_S = 1_800_000_000
BODY = b'{"eventType":"prospect.updated","data":{"id":"p1"}}'
SECRETS = (b"whsec_new", b"whsec_old")


def mac(secret: bytes, *, at: str = str(NOW_S), body: bytes = BODY) -> str:
    """The independent implementation's `v1`."""
    payload = f"{at}.{body.decode()}"
    return WebhookSignature._compute_signature(payload, secret.decode())


def verdict(
    *signatures: str, body: bytes = BODY, secrets=SECRETS, now_s: float = NOW_S
) -> Signature:
    return verify(signatures, body, secrets, now_s=now_s).verdict


_secret = st.text().filter(lambda text: text.isprintable() and text.strip())  # as Stripe asks


@given(_secret, st.text(), st.integers(0, 9**9))
def test_what_another_implementation_signs_is_genuine(secret: str, text: str, at_s: int):
    """Any secret, body and time; and what we sign, it accepts."""
    body = text.encode()
    theirs = WebhookSignature._compute_signature(f"{at_s}.{text}", secret)
    found = verify([f"t={at_s},v1={theirs}"], body, [secret.encode()], now_s=at_s)
    assert (found.verdict, found.secret) == (Signature.GENUINE, 0)
    ours = sign(body, secret.encode(), at_s=at_s)
    assert WebhookSignature.verify_header(text, ours, secret, tolerance=None)


@given(st.binary(max_size=40), st.integers(0, 7))
def test_a_changed_body_or_time_is_forged(body: bytes, bit: int):
    """One bit is enough."""
    signature = sign(body, SECRETS[0], at_s=NOW_S)
    other = bytes([body[0] ^ (1 << bit), *body[1:]]) if body else b"x"
    assert verdict(signature, body=body) is Signature.GENUINE
    assert verdict(signature, body=other) is Signature.FORGED
    assert verdict(signature.replace(f"t={NOW_S}", f"t={NOW_S + 1}"), body=body) is Signature.FORGED


def test_every_secret_and_every_mac_is_tried():
    """Either of two secrets, among several `v1`; the place of the matching secret is known."""
    nonsense = "0" * 64
    for place, secret in enumerate(SECRETS):
        signature = f"t={NOW_S},v1={nonsense},v1={mac(secret)}, v0=abc"
        found = verify([signature], BODY, SECRETS, now_s=NOW_S)
        assert (found.verdict, found.secret) == (Signature.GENUINE, place)
    assert verdict(f"t={NOW_S},v1={mac(b'another')}") is Signature.FORGED
    assert verdict(f"t={NOW_S},v1={mac(SECRETS[0])}", secrets=()) is Signature.FORGED


@pytest.mark.parametrize("off_s", [-412, -301, -300, 0, 300, 301, 412])
def test_the_time_may_be_five_minutes_off_in_either_direction(off_s: int):
    """And only what is signed correctly is called stale: its reason says by how much."""
    signature = sign(BODY, SECRETS[0], at_s=NOW_S + off_s)
    found = verify([signature], BODY, SECRETS, now_s=NOW_S)
    if abs(off_s) <= 300:
        assert found.verdict is Signature.GENUINE
        return
    assert found.verdict is Signature.STALE
    assert f"{abs(off_s)} s {'ahead of' if off_s > 0 else 'behind'}" in found.reason
    assert verdict(signature, body=b"{}") is Signature.FORGED


@pytest.mark.parametrize(
    "signature",
    [
        "", "v1=" + "0" * 64, "t=,v1=" + "0" * 64, f"t={NOW_S}", f"t={NOW_S},v1=", "t=-1,v1=00",
        f"t=+{NOW_S},v1={'0' * 64}", f"t= {NOW_S},v1={'0' * 64}", f"t={NOW_S}.0,v1={'0' * 64}",
        f"t=١٨٠٠٠٠٠٠٠٠,v1={'0' * 64}", f"t={NOW_S},t={NOW_S},v1={'0' * 64}",
        f"t={NOW_S},v1={'g' * 64}", f"t={NOW_S},v1={'0' * 63}", f"t={'9' * 400},v1={'0' * 64}",
        f"t={NOW_S}" + f",v1={'0' * 64}" * 9, "x" * 10_000,
    ],
)  # fmt: skip
def test_what_isnt_a_signature_is_malformed(signature: str):
    """A time of digits alone, and one to eight MACs of 64 hex digits."""
    assert verdict(signature) is Signature.MALFORMED


def test_one_good_header_is_enough():
    """Both names of the header may come, and a proxy may add one."""
    good = sign(BODY, SECRETS[1], at_s=NOW_S)
    assert verdict("nonsense", good) is Signature.GENUINE
    assert verdict(good, f"t={NOW_S},v1={'0' * 64}") is Signature.GENUINE
    assert verdict() is Signature.UNSIGNED


def test_five_headers_are_too_many():
    """Each would cost a MAC of the body for each secret."""
    good = f"t={NOW_S},v1={mac(SECRETS[0])}"
    assert verdict(*[good] * 4) is Signature.GENUINE
    assert verdict(*[good] * 5) is Signature.MALFORMED


def test_hex_may_be_in_upper_case():
    assert verdict(f"t={NOW_S},v1={mac(SECRETS[0]).upper()}") is Signature.GENUINE


def test_a_body_above_one_mebibyte_is_refused():
    """Also if it is signed."""
    for size, expected in (
        (BODY_MAX, Signature.GENUINE),
        (BODY_MAX + 1, Signature.MALFORMED),
    ):
        body = b"x" * size
        assert verdict(sign(body, SECRETS[0], at_s=NOW_S), body=body) is expected


def test_an_empty_secret_is_refused():
    """Whoever guesses that it is empty could sign."""
    with pytest.raises(ValueError, match="empty"):
        verdict(sign(BODY, b"", at_s=NOW_S), secrets=(b"",))
