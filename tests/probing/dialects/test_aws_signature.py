"""What the dialect bedrock signs, held against botocore's own client and against AWS's rules, written out once more."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from calendar import timegm
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import strptime
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from probing_stage import endpoint_at

from monitor.probing.dialects.aws_signature import Key, signature
from monitor.probing.dialects.bedrock import Bedrock
from monitor.probing.dialects.dialect import Credentials
from monitor.probing.question import Question

KEY = Key("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session/token+1==")
OPTIONS = {
    "region": "us-west-2",
    "aws.access_key_id": KEY.access_key,
    "aws.secret_access_key": KEY.secret_key,
    "aws.session_token": KEY.token or "",
}
MODELS = [
    "amazon.nova-lite-v1:0",
    "us.anthropic.claude-sonnet-4-20250514-v1:0",
    "arn:aws:bedrock:us-west-2:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0",
    "arn:aws:bedrock:us-west-2:123456789012:application-inference-profile/a1b2c3",
    "odd ~name_(1)+%41",
]

Heard = dict[str, Any]


@pytest.fixture(scope="module")
def heard() -> Iterator[tuple[str, list[Heard]]]:
    """A server that remembers what it is sent, and its URL."""
    requests: list[Heard] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            requests.append({"path": self.path, "headers": headers, "body": body})
            self.send_response(400)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def client(heard: tuple[str, list[Heard]]) -> Any:
    return boto3.client(
        "bedrock-runtime",
        region_name="us-west-2",
        endpoint_url=heard[0],
        aws_access_key_id=KEY.access_key,
        aws_secret_access_key=KEY.secret_key,
        aws_session_token=KEY.token,
        config=Config(retries={"max_attempts": 0}, signature_version="v4"),
    )


def sent_by_boto3(client: Any, heard: tuple[str, list[Heard]], model: str) -> Heard:
    with pytest.raises(ClientError):
        client.converse_stream(
            modelId=model,
            messages=[{"role": "user", "content": [{"text": "hello"}]}],
            inferenceConfig={"maxTokens": 64, "temperature": 0},
        )
    return heard[1].pop()


@pytest.mark.parametrize("model", MODELS)
def test_boto3_asks_the_same_url_with_the_same_body_and_its_signature_is_ours(
    client: Any, heard: tuple[str, list[Heard]], model: str
) -> None:
    theirs = sent_by_boto3(client, heard, model)
    authorization = theirs["headers"]["authorization"]
    now = timegm(strptime(theirs["headers"]["x-amz-date"], "%Y%m%dT%H%M%SZ"))

    endpoint = endpoint_at(heard[0], upstream=model)
    ours = Bedrock().request(endpoint, Credentials(options=OPTIONS), Question("hello", 64), now)
    assert urlsplit(ours.url).path == theirs["path"]
    assert json.loads(ours.body) == json.loads(theirs["body"])

    # The same headers, which ours are not: the SDK sends a counter of its attempts.
    signed = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    made_here = ("host", "x-amz-date", "x-amz-security-token")
    headers = {name: theirs["headers"][name] for name in signed if name not in made_here}
    again = signature(ours.url, headers, theirs["body"], KEY, "bedrock", "us-west-2", now)
    assert again["Authorization"] == authorization
    assert again["X-Amz-Date"] == theirs["headers"]["x-amz-date"]
    assert proof_of(theirs["path"], theirs["headers"], signed, theirs["body"]) == authorization.rpartition("=")[2]


def proof_of(path: str, headers: Mapping[str, str], signed: list[str], body: bytes) -> str:
    """The signature by the rules: docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""
    stamp = headers["x-amz-date"]
    scope = f"{stamp[:8]}/us-west-2/bedrock/aws4_request"
    lines = [f"{name}:{' '.join(headers[name].split())}\n" for name in signed]
    digest = hashlib.sha256(body).hexdigest()
    canonical = f"POST\n{quote(path, safe='/~')}\n\n{''.join(lines)}\n{';'.join(signed)}\n{digest}"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + KEY.secret_key.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("base_url", ["", "http://127.0.0.1:8080", "https://gateway.example/aws"])
def test_what_is_sent_proves_itself_by_awss_rules(model: str, base_url: str) -> None:
    endpoint = endpoint_at(base_url, upstream=model)
    credentials = Credentials(headers={"X-Team": "  the   monitor "}, options=OPTIONS)
    request = Bedrock().request(endpoint, credentials, Question("héllo", 64), 1_760_000_000.0)
    url = urlsplit(request.url)
    headers = {name.lower(): value for name, value in request.headers.items()} | {"host": url.netloc}
    signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert headers["authorization"].rpartition("=")[2] == proof_of(url.path, headers, signed, request.body)
    assert {"host", "content-type", "x-amz-date", "x-amz-security-token", "x-team"} <= set(signed)
    assert set(headers) - set(signed) == {"authorization", "user-agent"}


def test_another_byte_another_second_or_another_key_is_another_signature() -> None:
    def proof(body: bytes = b"{}", now: float = 0.0, secret: str = "s") -> str:
        key = Key("a", secret)
        return signature("https://a.example/", {}, body, key, "bedrock", "us-west-2", now)["Authorization"]

    assert len({proof(), proof(body=b"{} "), proof(now=1.0), proof(secret="t")}) == 4
    assert proof(now=0.9) == proof()


def test_a_key_shows_nothing_of_itself() -> None:
    assert "EXAMPLE" not in f"{KEY} {KEY!r}"
