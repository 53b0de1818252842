"""Key files, tokens, and what they cover."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from twisted.logger import capturedLogs, formatEvent

from cometd_lite.access.grants import Grant, covers
from cometd_lite.access.keys import check_secret
from cometd_lite.access.tokens import Tokens
from cometd_lite.core.recipient import covering
from cometd_lite.errors import Forbidden, Unauthorized
from cometd_lite.limits import NOT_BEFORE_LEEWAY_SECONDS, TOKEN_BYTES, TOKENS_KNOWN

NOW = 1_795_169_758.0
SECRET = b"a secret of at least thirty-two bytes"
CLAIMS: dict[str, Any] = {"push": ["bob"], "poll": ["chat/*"], "exp": NOW + 60}

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


class Wall:
    """A wall clock that only tests set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def pem(key: Any) -> bytes:
    made: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return made


def jwk(key: Any, **words: str) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind: Any = next((kind for of, kind in kinds.items() if isinstance(key, of)), OKPAlgorithm)
    return {**kind.to_jwk(key.public_key(), as_dict=True), **words}


def jwks(*keys: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"keys": keys})


def part(value: Any) -> str:
    """Return one part of a token, of JSON or of bytes as they are."""
    content = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def by_hand(header: Any, claims: Any, secret: bytes = SECRET) -> str:
    """Return a token with an HMAC, as no library would make it."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def secret_token(claims: Any = CLAIMS, **words: Any) -> str:
    return jwt.encode(claims, SECRET, "HS256", **words)


@pytest.fixture
def wall() -> Wall:
    return Wall()


Make = Callable[..., Tokens]


@pytest.fixture
def make(tmp_path: Path, wall: Wall) -> Make:
    """Return a function that makes ``Tokens`` of files with these contents."""

    def make(*contents: bytes, **words: Any) -> Tokens:
        files = []
        for number, content in enumerate(contents):
            files.append(tmp_path / f"key{number}")
            files[-1].write_bytes(content)
        return Tokens(files, wall=wall, **words)

    return make


@pytest.fixture
def tokens(make: Make) -> Tokens:
    return make(SECRET)


# -- good tokens


def test_a_good_token_grants_what_its_claims_say(tokens: Tokens) -> None:
    granted = tokens.grant(secret_token({**CLAIMS, "manage": ["**"], "sub": "alice"}))
    assert granted == Grant(("bob",), ("chat/*",), ("**",), NOW + 60, "alice")


def test_a_secrets_file_may_end_in_a_line_break(make: Make) -> None:
    assert make(SECRET + b"\n").grant(secret_token()).push == ("bob",)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_pem_key_checks_tokens_of_its_own_algorithm(make: Make, algorithm: str) -> None:
    key = PRIVATE[algorithm]
    assert make(pem(key)).grant(jwt.encode(CLAIMS, key, algorithm)).push == ("bob",)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_a_jwks_checks_them_too_alone_or_in_a_list(make: Make, algorithm: str) -> None:
    key = PRIVATE[algorithm]
    for document in (jwk(key), {"keys": [jwk(key)]}):
        tokens = make(msgspec.json.encode(document))
        assert tokens.grant(jwt.encode(CLAIMS, key, algorithm)).push == ("bob",)


def test_a_secret_in_a_jwks_checks_tokens(make: Make) -> None:
    tokens = make(msgspec.json.encode({"keys": [{"kty": "oct", "k": part(SECRET)}]}))
    assert tokens.grant(secret_token()).push == ("bob",)


def test_several_keys_check_each_their_own_tokens(make: Make) -> None:
    tokens = make(SECRET, pem(RSA), msgspec.json.encode({"keys": [jwk(EC), jwk(ED)]}))
    for token in (secret_token(), *(jwt.encode(CLAIMS, key, name) for name, key in PRIVATE.items())):
        assert tokens.grant(token).push == ("bob",)


def test_the_kid_chooses_among_keys_of_one_kind(make: Make) -> None:
    tokens = make(msgspec.json.encode({"keys": [jwk(OTHER_RSA, kid="old"), jwk(RSA, kid="new")]}))
    for headers in ({"kid": "new"}, None):
        assert tokens.grant(jwt.encode(CLAIMS, RSA, "RS256", headers=headers)).push == ("bob",)
    for kid in ("old", "unknown"):
        with pytest.raises(Unauthorized):
            tokens.grant(jwt.encode(CLAIMS, RSA, "RS256", headers={"kid": kid}))


def test_a_key_without_a_kid_checks_tokens_with_any(make: Make) -> None:
    assert make(pem(RSA)).grant(jwt.encode(CLAIMS, RSA, "RS256", headers={"kid": "x"})).push == ("bob",)


# -- bad ones


def confused() -> str:
    """Return a token signed by HMAC with the public key, which everyone knows."""
    return by_hand({"alg": "HS256", "typ": "JWT"}, CLAIMS, pem(RSA))


BAD = {
    "no token": "",
    "no parts": "abc",
    "two parts": "a.b",
    "dots": "..",
    "no base64": "?.?.?",
    "header of no object": by_hand([], CLAIMS),
    "header of no JSON": by_hand(b"\xff", CLAIMS),
    "claims of no object": by_hand({"alg": "HS256"}, ["push"]),
    "claims of no JSON": by_hand({"alg": "HS256"}, b"{"),
    "deep claims": by_hand({"alg": "HS256"}, b"[" * 3_000),
    "alg none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(CLAIMS)}.",
    "alg None": f"{part({'alg': 'None'})}.{part(CLAIMS)}.",
    "alg nOnE, signed": by_hand({"alg": "nOnE"}, CLAIMS),
    "no alg": by_hand({"typ": "JWT"}, CLAIMS),
    "alg of no text": by_hand({"alg": ["HS256"]}, CLAIMS),
    "another alg": jwt.encode(CLAIMS, SECRET * 2, "HS512"),
    "another secret": by_hand({"alg": "HS256"}, CLAIMS, b"x" * 40),
    "HS256 by the RSA public key": confused(),
    "another RSA key": jwt.encode(CLAIMS, OTHER_RSA, "RS256"),
    "PS256": jwt.encode(CLAIMS, RSA, "PS256"),
    "no signature": secret_token().rpartition(".")[0] + ".",
    "critical extension": by_hand({"alg": "HS256", "crit": ["x"], "x": 1}, CLAIMS),
    "kid of no text": by_hand({"alg": "HS256", "kid": 1}, CLAIMS),
    "kid is a list": by_hand({"alg": "HS256", "kid": ["a"]}, CLAIMS),
    "exp of text": by_hand({"alg": "HS256"}, {**CLAIMS, "exp": str(NOW + 60)}),
    "exp of truth": by_hand({"alg": "HS256"}, {**CLAIMS, "exp": True}),
    "exp of a list": by_hand({"alg": "HS256"}, {**CLAIMS, "exp": [NOW + 60]}),
    "exp without end": by_hand({"alg": "HS256"}, b'{"exp": Infinity}'),
    "exp of no number": by_hand({"alg": "HS256"}, b'{"exp": NaN}'),
    "exp too large for a float": by_hand({"alg": "HS256"}, b'{"exp": 1%b}' % (b"0" * 400)),
    "exp in milliseconds": by_hand({"alg": "HS256"}, {**CLAIMS, "exp": (NOW + 60) * 1000}),
    "nbf of text": by_hand({"alg": "HS256"}, {**CLAIMS, "nbf": "0"}),
    "expired": secret_token({**CLAIMS, "exp": NOW - 1}),
    "expired now": secret_token({**CLAIMS, "exp": NOW}),
    "not yet valid": secret_token({**CLAIMS, "nbf": NOW + NOT_BEFORE_LEEWAY_SECONDS + 1}),
    "push of text": secret_token({**CLAIMS, "push": "bob"}),
    "push of numbers": secret_token({**CLAIMS, "push": [1]}),
    "poll of an object": secret_token({**CLAIMS, "poll": {"bob": True}}),
    "manage of nothing": secret_token({**CLAIMS, "manage": None}),
    "oversized": secret_token({**CLAIMS, "pad": "x" * TOKEN_BYTES}),
    "a header nested deeply": f"{part(b'[' * 6_000)}.e30.e30",
    "not ASCII": secret_token() + "\xe9",
}


@pytest.mark.parametrize("token", BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_unauthorized(make: Make, token: str) -> None:
    tokens = make(SECRET, pem(RSA))
    for _ in range(2):
        with pytest.raises(Unauthorized) as refused:
            tokens.grant(token)
        assert token not in str(refused.value) or not token


@pytest.mark.parametrize(
    "kid", ["../../../etc/passwd", "/dev/null", "key0", "' OR 1=1 --", "http://evil/", "\0"]
)
def test_a_kid_is_compared_and_nothing_else(make: Make, kid: str) -> None:
    tokens = make(msgspec.json.encode({"keys": [{"kty": "oct", "k": part(SECRET), "kid": "mine"}]}))
    for secret in (b"", SECRET):
        with pytest.raises(Unauthorized):
            tokens.grant(by_hand({"alg": "HS256", "kid": kid}, CLAIMS, secret))


def test_a_key_that_a_token_brings_itself_is_not_believed(make: Make) -> None:
    header = {"alg": "RS256", "jwk": jwk(OTHER_RSA), "jku": "http://evil/", "x5u": "http://evil/"}
    with pytest.raises(Unauthorized):
        make(pem(RSA)).grant(jwt.encode(CLAIMS, OTHER_RSA, "RS256", headers=header))


def test_a_public_key_whose_alg_is_that_of_a_secret_is_not_used(make: Make) -> None:
    with pytest.raises(ValueError, match="the alg of such a key is RS256 or PS256"):
        make(jwks(jwk(RSA, alg="HS256")))
    tokens = make(jwks(jwk(RSA, alg="HS256"), jwk(EC)))
    for token in (confused(), jwt.encode(CLAIMS, RSA, "RS256")):
        with pytest.raises(Unauthorized):
            tokens.grant(token)


@pytest.mark.parametrize(("named", "other"), [("RS256", "PS256"), ("PS256", "RS256")])
def test_a_key_verifies_the_alg_that_it_names_and_no_other(make: Make, named: str, other: str) -> None:
    tokens = make(jwks(jwk(RSA, alg=named)))
    assert tokens.grant(jwt.encode(CLAIMS, RSA, named)).push == ("bob",)
    with pytest.raises(Unauthorized):
        tokens.grant(jwt.encode(CLAIMS, RSA, other))


@pytest.mark.parametrize("claim", ["sub", "jti"])
@pytest.mark.parametrize("value", [7, None, True, 1.5, ["alice"], {"id": 7}])
def test_a_subject_and_an_id_may_be_of_any_type(tokens: Tokens, claim: str, value: Any) -> None:
    granted = tokens.grant(by_hand({"alg": "HS256"}, {**CLAIMS, claim: value}))
    assert granted.push == ("bob",)
    assert granted.name is None


def test_subjects_of_any_type_are_told_apart(tokens: Tokens) -> None:
    # Two users with numbers shared their idempotency keys and quotas: neither had a subject.
    values = ["7", 7, 8, 7.5, True, ["alice"], {"id": 7}, "\0" + "8"]
    tokens_of = [by_hand({"alg": "HS256"}, {**CLAIMS, "sub": value}) for value in values]
    assert len({tokens.grant(token).subject for token in tokens_of}) == len(values)
    assert [tokens.grant(token).name for token in tokens_of] == ["7"] + [None] * 7


@pytest.mark.parametrize("depth", range(900, 1_000, 7))
def test_a_subject_is_a_good_one_or_refused_however_deep_it_is(tokens: Tokens, depth: int) -> None:
    claims = msgspec.json.encode({**CLAIMS, "sub": 0}).replace(b"0}", b"[" * depth + b"]" * depth + b"}")
    with suppress(Unauthorized):
        assert tokens.grant(by_hand({"alg": "HS256"}, claims)).push == ("bob",)


@pytest.mark.parametrize("audience", ["theirs", ["theirs"], [], "", 1, {"a": 1}])
def test_a_token_for_another_audience_is_unauthorized(make: Make, audience: Any) -> None:
    token = by_hand({"alg": "HS256"}, {**CLAIMS, "aud": audience})
    for words in ({"audience": "ours"}, {}):
        if words or audience:
            with pytest.raises(Unauthorized):
                make(SECRET, **words).grant(token)


def test_where_an_audience_is_asked_for_a_token_must_name_one(make: Make) -> None:
    with pytest.raises(Unauthorized):
        make(SECRET, audience="ours").grant(secret_token())


@pytest.mark.parametrize("audience", ["ours", ["theirs", "ours"]])
def test_a_token_for_this_audience_is_good(make: Make, audience: Any) -> None:
    assert make(SECRET, audience="ours").grant(secret_token({**CLAIMS, "aud": audience})).push == ("bob",)


@given(st.text(max_size=200) | st.builds(".".join, st.lists(st.text(max_size=20), min_size=3, max_size=3)))
def test_whatever_is_no_token_is_unauthorized(token: str) -> None:
    with pytest.raises(Unauthorized):
        Tokens([]).grant(token)


# -- time


def test_a_token_that_was_good_expires(tokens: Tokens, wall: Wall) -> None:
    token = secret_token()
    assert tokens.grant(token).expires_at == NOW + 60
    wall.now = NOW + 59.9
    assert tokens.grant(token).push == ("bob",)
    wall.now = NOW + 60
    with pytest.raises(Unauthorized, match="expired"):
        tokens.grant(token)


def test_a_token_becomes_valid_ten_seconds_before_its_nbf(tokens: Tokens, wall: Wall) -> None:
    token = secret_token({**CLAIMS, "nbf": NOW + 20})
    wall.now = NOW + 9.9
    with pytest.raises(Unauthorized, match="not valid yet"):
        tokens.grant(token)
    wall.now = NOW + 10
    assert tokens.grant(token).push == ("bob",)


def test_a_token_without_exp_does_not_expire(tokens: Tokens, wall: Wall) -> None:
    token = secret_token({"push": ["bob"]})
    wall.now = NOW + 1e9
    assert tokens.grant(token).expires_at is None


def test_known_tokens_are_bounded(tokens: Tokens) -> None:
    many = [by_hand({"alg": "HS256"}, {**CLAIMS, "sub": str(number)}) for number in range(TOKENS_KNOWN + 10)]
    grants = [tokens.grant(token) for token in many]
    # The newest first: what is not known any more is verified again, and becomes known.
    known = [tokens.grant(many[place]) is grants[place] for place in reversed(range(len(many)))]
    assert known[0]
    assert sum(known) <= TOKENS_KNOWN


# -- key files


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"x" * 31,
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        b"-----BEGIN nonsense",
        pytest.param(pem(ec.generate_private_key(ec.SECP384R1())), id="another curve"),
        b"{",
        b"{}",
        b'{"keys": []}',
        b'{"keys": 1}',
        b'{"keys": ["x"]}',
        b'{"keys": [{"kty": "EC", "crv": "P-384"}]}',
        b'{"keys": [{"kty": "RSA"}]}',
        b'{"keys": [{"kty": ["RSA"]}]}',
        b'{"keys": [{"kty": "oct"}]}',
        b'{"kty": "OKP", "crv": ["Ed25519"]}',
    ],
)
def test_a_file_that_holds_no_key_is_a_sentence(make: Make, content: bytes) -> None:
    with pytest.raises(ValueError, match="key0"):
        make(content)


def der(key: Any) -> bytes:
    made: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return made


def ssh(key: Any) -> bytes:
    made: bytes = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return made


def certificate(encoding: Encoding) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "comet.example")])
    moment = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, RSA.public_key(), 1, moment, moment)
    return builder.sign(RSA, hashes.SHA256()).public_bytes(encoding)


PKCS1 = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
P384 = ec.generate_private_key(ec.SECP384R1())
SMALL_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
LINES = b"-----BEGIN PUBLIC KEY-----"

NO_SECRETS = {
    "bare base64, as Keycloak shows it": (base64.b64encode(der(RSA)), LINES),
    "bare base64 in lines": (base64.encodebytes(der(RSA)), LINES),
    "base64url without padding": (base64.urlsafe_b64encode(der(RSA)).rstrip(b"="), LINES),
    "bare base64 in quotes": (b'"%b"' % base64.b64encode(der(RSA)), LINES),
    "bare base64 with a word before it": (b"key: " + base64.b64encode(der(RSA)), LINES),
    "bare base64 of EC with a name": (b'public_key="%b";' % base64.b64encode(der(EC)), LINES),
    "bare base64 that was cut": (base64.b64encode(der(RSA))[:200], LINES),
    "bare base64, EC": (base64.b64encode(der(EC)), LINES),
    "bare base64, P-384": (base64.b64encode(der(P384)), LINES),
    "bare base64, Ed25519": (base64.b64encode(der(ED)), LINES),
    "bare base64, PKCS #1": (base64.b64encode(PKCS1), LINES),
    "hexadecimal": (der(EC).hex().encode(), LINES),
    "hexadecimal with colons": (der(EC).hex(":", 1).upper().encode(), LINES),
    "what openssl prints for people": (
        b"Public-Key: (2048 bit)\nModulus:\n    00:b5:" + b"a1:" * 200,
        b"pkey",
    ),
    "a modulus as openssl prints it": (b"Modulus=" + b"%X" % RSA.public_key().public_numbers().n, b"pkey"),
    "DER": (der(RSA), LINES),
    "a PEM certificate": (certificate(Encoding.PEM), b"openssl x509 -pubkey"),
    "a DER certificate": (certificate(Encoding.DER), b"openssl x509 -pubkey"),
    "a certificate in base64": (base64.b64encode(certificate(Encoding.DER)), b"openssl x509 -pubkey"),
    "an ssh key": (ssh(RSA) + b" me@host", b"ssh-keygen -e -m PKCS8"),
    "an ssh key, Ed25519": (ssh(ED), b"ssh-keygen -e -m PKCS8"),
    "an ssh key with options": (b'from="10.0.0.1" ' + ssh(EC), b"ssh-keygen -e -m PKCS8"),
    "an ssh key without its kind": (ssh(RSA).split()[1], b"ssh-keygen -e -m PKCS8"),
    "a list of JWKs": (msgspec.json.encode([jwk(RSA)]), b'{"keys": [...]}'),
    "a JWK in base64": (base64.b64encode(msgspec.json.encode(jwk(RSA))), b'{"keys": [...]}'),
    "a JWK after a mark of its encoding": (b"\xef\xbb\xbf" + msgspec.json.encode(jwk(RSA)), b'{"keys"'),
    "PEM in base64": (base64.b64encode(pem(RSA)), b"looks like PEM"),
    "PEM in UTF-16": (pem(RSA).decode().encode("utf-16"), b"looks like PEM"),
    "PEM without its first line": (pem(RSA).partition(b"\n")[2], b"PEM"),
    "PEM of two keys": (pem(RSA) + pem(EC), b"a file of its own"),
    "a URL": (b"https://login.example/realms/us/protocol/openid-connect/certs", b"URL"),
    "a public key as the secret of a JWK": (jwks({"kty": "oct", "k": part(der(RSA))}), LINES),
}


@pytest.mark.parametrize(("content", "right"), NO_SECRETS.values(), ids=NO_SECRETS.keys())
def test_what_looks_like_a_public_key_is_no_secret(make: Make, content: bytes, right: bytes) -> None:
    with pytest.raises(ValueError, match=re.escape(right.decode())):
        make(content)


@pytest.mark.parametrize("length", range(64, 72))
def test_a_public_key_that_was_cut_anywhere_is_no_secret(make: Make, length: int) -> None:
    for content in (base64.b64encode(der(RSA))[:length], base64.urlsafe_b64encode(der(EC))[:length]):
        with pytest.raises(ValueError, match="BEGIN PUBLIC KEY"):
            make(content)


def test_a_pem_key_may_have_lines_of_comment_before_it(make: Make) -> None:
    tokens = make(b"# The key of login.example\nBag Attributes\n\n" + pem(RSA))
    assert tokens.grant(jwt.encode(CLAIMS, RSA, "RS256")).push == ("bob",)


@given(st.binary(min_size=33, max_size=200))
def test_random_secrets_are_taken_raw_in_base64_and_in_hexadecimal(secret: bytes) -> None:
    for content in (b"k" + secret, base64.b64encode(secret), secret.hex().encode()):
        check_secret(content)


def test_an_rsa_key_of_fewer_than_2048_bits_is_refused(make: Make) -> None:
    for content in (pem(SMALL_RSA), jwks(jwk(SMALL_RSA))):
        with pytest.raises(ValueError, match="at least 2,048 bits"):
            make(content)


PASSED_OVER: dict[str, dict[str, Any]] = {
    "P-384": jwk(P384),
    "Ed448": {"kty": "OKP", "crv": "Ed448", "x": "AA"},
    "X25519": {"kty": "OKP", "crv": "X25519", "x": "AA"},
    "an unknown kind": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
    "a curve of no text": {"kty": "OKP", "crv": ["Ed25519"]},
    "no n": {"kty": "RSA", "e": "AQAB"},
    "n of no text": {"kty": "RSA", "e": "AQAB", "n": 7},
    "a point beside the curve": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
    "for encryption": jwk(OTHER_RSA, use="enc"),
    "for wrapping": {**jwk(OTHER_RSA), "key_ops": ["wrapKey"]},
    "key_ops of no list": {**jwk(OTHER_RSA), "key_ops": "verify"},
    "an unknown alg": jwk(OTHER_RSA, alg="RSA-OAEP"),
    "an alg of no text": {**jwk(OTHER_RSA), "alg": ["RS256"]},
    "a kid of no text": {**jwk(OTHER_RSA), "kid": ["a"]},
    "a short RSA key": jwk(SMALL_RSA),
    "a short secret": {"kty": "oct", "k": part(b"short")},
}


@pytest.mark.parametrize("key", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_a_key_that_cannot_be_used_is_passed_over_and_told_of(make: Make, key: dict[str, Any]) -> None:
    with capturedLogs() as told:
        tokens = make(jwks(key, jwk(RSA, kid="good")))
    assert [event["log_level"].name for event in told] == ["warn"]
    assert "key 1" in formatEvent(told[0])
    assert tokens.grant(jwt.encode(CLAIMS, RSA, "RS256", headers={"kid": "good"})).push == ("bob",)
    with pytest.raises(Unauthorized):
        tokens.grant(jwt.encode(CLAIMS, OTHER_RSA, "RS256"))
    with pytest.raises(ValueError, match="key 1"):
        make(jwks(key))


def test_where_no_key_of_a_new_file_can_be_used_the_keys_stay(make: Make, tmp_path: Path) -> None:
    tokens = make(jwks(jwk(RSA)))
    (tmp_path / "key0").write_bytes(jwks(*PASSED_OVER.values()))
    with pytest.raises(ValueError, match="key0 holds no key that can be used"):
        tokens.reload()
    assert tokens.grant(jwt.encode(CLAIMS, RSA, "RS256")).push == ("bob",)


def test_an_unknown_key_beside_it_keeps_no_removed_key_alive(make: Make, tmp_path: Path) -> None:
    tokens = make(jwks(jwk(RSA)))
    (tmp_path / "key0").write_bytes(jwks(PASSED_OVER["P-384"], jwk(EC)))
    tokens.reload()
    with pytest.raises(Unauthorized):
        tokens.grant(jwt.encode(CLAIMS, RSA, "RS256"))
    assert tokens.grant(jwt.encode(CLAIMS, EC, "ES256")).push == ("bob",)


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_of_a_private_key_in_a_jwks_the_public_part_is_used(make: Make, algorithm: str) -> None:
    key = PRIVATE[algorithm]
    kind: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[algorithm]
    tokens = make(msgspec.json.encode(kind.to_jwk(key, as_dict=True)))
    assert tokens.grant(jwt.encode(CLAIMS, key, algorithm)).push == ("bob",)


def test_a_private_key_in_pem_is_refused_with_what_to_do(make: Make) -> None:
    private = ED.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="it is a private key, and a server needs the public one"):
        make(private)


def test_a_short_secret_in_a_jwks_is_refused_as_one_in_a_file_is(make: Make) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        make(msgspec.json.encode({"keys": [{"kty": "oct", "k": part(b"short")}]}))


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        Tokens([tmp_path / "nowhere"])


def test_where_a_file_is_gone_the_keys_stay_and_a_sentence_says_what_is_needed(
    make: Make, tmp_path: Path
) -> None:
    tokens = make(SECRET, pem(RSA))
    (tmp_path / "key1").unlink()
    with pytest.raises(ValueError, match=r"key1 cannot be read \(No such file .*must be able to read it"):
        tokens.reload()
    for token in (secret_token(), jwt.encode(CLAIMS, RSA, "RS256")):
        assert tokens.grant(token).push == ("bob",)


def test_keys_are_read_again(make: Make, tmp_path: Path) -> None:
    tokens = make(SECRET)
    token = secret_token()
    tokens.grant(token)
    (tmp_path / "key0").write_bytes(pem(RSA))
    assert tokens.grant(token).push == ("bob",)
    tokens.reload()
    with pytest.raises(Unauthorized):
        tokens.grant(token)
    assert tokens.grant(jwt.encode(CLAIMS, RSA, "RS256")).push == ("bob",)


def test_where_a_new_file_is_wrong_the_keys_stay(make: Make, tmp_path: Path) -> None:
    tokens = make(SECRET, pem(RSA))
    (tmp_path / "key1").write_bytes(b"-----BEGIN nonsense")
    with pytest.raises(ValueError, match="key1"):
        tokens.reload()
    assert tokens.grant(secret_token()).push == ("bob",)
    assert tokens.grant(jwt.encode(CLAIMS, RSA, "RS256")).push == ("bob",)


# -- what a claim covers

COVERED = [
    ("bob", "bob"),
    ("chat/*", "chat/a"),
    ("chat/*", "chat/*"),
    ("chat/**", "chat/a"),
    ("chat/**", "chat/a/b/c"),
    ("chat/**", "chat/*"),
    ("chat/**", "chat/**"),
    ("chat/**", "chat/a/**"),
    ("*", "bob"),
    ("**", "chat/a/b"),
    ("**", "**"),
    ("a*b", "a*b"),
]
NOT_COVERED = [
    ("bob", "bobby"),
    ("bob", "bob/a"),
    ("bob", "Bob"),
    ("chat/*", "chat"),
    ("chat/*", "chat/a/b"),
    ("chat/*", "chat/**"),
    ("chat/*", "chats/a"),
    ("chat/*", "Chat/a"),
    ("chat/*", "*"),
    ("chat/*", "**"),
    ("chat/a", "chat/*"),
    ("chat/**", "chat"),
    ("chat/**", "chatter/a"),
    ("chat/**", "**"),
    ("*", "a/b"),
    ("*", "**"),
    ("ch*", "chat"),
    ("caf\u00e9", "cafe\u0301"),
    ("\ufb01", "fi"),
    ("a", "\uff41"),
    ("stra\u00dfe", "strasse"),
    ("chat/a", "chat%2Fa"),
    ("chat/*", "chat%2Fa"),
    ("", "bob"),
]


@pytest.mark.parametrize(("claim", "name"), COVERED)
def test_a_claim_covers(claim: str, name: str) -> None:
    assert covers(claim, name)


@pytest.mark.parametrize(("claim", "name"), NOT_COVERED)
def test_a_claim_does_not_cover(claim: str, name: str) -> None:
    assert not covers(claim, name)
    with pytest.raises(Forbidden):
        Grant(poll=(claim,)).check("poll", [name])


names = st.lists(st.sampled_from(["a", "b", "ab", "*a"]), min_size=1, max_size=4).map("/".join)
claims = st.tuples(names, st.sampled_from(["", "/*", "/**"])).map("".join) | st.sampled_from(["*", "**"])


@given(claims, names)
def test_a_claim_covers_a_name_as_a_readers_pattern_does(claim: str, name: str) -> None:
    assert covers(claim, name) == (claim in covering(name))


@given(claims, claims, names)
def test_who_may_read_a_pattern_may_read_all_that_it_stands_for(claim: str, asked: str, name: str) -> None:
    if covers(claim, asked) and asked in covering(name):
        assert covers(claim, name)


def test_each_action_has_its_own_claim() -> None:
    grant = Grant(push=("a",), poll=("b",), manage=("c",))
    for action, name in (("push", "a"), ("poll", "b"), ("manage", "c")):
        for other in "abc":
            assert grant.covers(action, other) == (other == name)  # type: ignore[arg-type]


def test_all_names_must_be_covered() -> None:
    grant = Grant(push=("a", "b"))
    grant.check("push", ["a", "b"])
    with pytest.raises(Forbidden, match="'c'"):
        grant.check("push", ["a", "c"])
