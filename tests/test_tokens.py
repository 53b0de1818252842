"""Key files, tokens, and what they cover."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from cometd_lite.access.tokens import Grant, Tokens, covers
from cometd_lite.core.recipient import matches
from cometd_lite.errors import Forbidden, Unauthorized
from cometd_lite.limits import TOKEN_BYTES, TOKENS_KNOWN

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
    "not yet valid": secret_token({**CLAIMS, "nbf": NOW + 1}),
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


def test_the_alg_that_a_jwks_names_does_not_loosen_its_key(make: Make) -> None:
    tokens = make(msgspec.json.encode({"keys": [jwk(RSA, alg="HS256")]}))
    with pytest.raises(Unauthorized):
        tokens.grant(confused())
    assert tokens.grant(jwt.encode(CLAIMS, RSA, "RS256")).push == ("bob",)


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


def test_a_token_becomes_valid(tokens: Tokens, wall: Wall) -> None:
    token = secret_token({**CLAIMS, "nbf": NOW + 10})
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
    assert covers(claim, name) == matches(claim, name)


@given(claims, claims, names)
def test_who_may_read_a_pattern_may_read_all_that_it_stands_for(claim: str, asked: str, name: str) -> None:
    if covers(claim, asked) and matches(asked, name):
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
