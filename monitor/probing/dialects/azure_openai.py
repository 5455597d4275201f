"""OpenAI's chat completions as Azure serves them, by deployment or in Azure's v1 API.

https://learn.microsoft.com/azure/ai-foundry/openai/reference, and .../concepts/content-streaming for its filters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from monitor.catalog.model import Endpoint
from monitor.probing.dialects.dialect import Credentials, Option, bearer, joined
from monitor.probing.dialects.openai_chat import OpenAIChat
from monitor.secret import SecretMissing

# An Entra ID token is a JWT; Azure's keys are hexadecimal or letters and digits.
_JWT = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*")


class AzureOpenAI(OpenAIChat):
    """`upstream` is the deployment. `base_url` is what the SDK takes as azure_endpoint, or ends in /openai/v1."""

    name = "azure-openai"
    options = (
        Option(
            name="api_version",
            example='api_version: "2024-10-21"',
            help="the API version in the URL; not needed where base_url ends in /openai/v1",
        ),
    )

    key_headers = ("authorization", "api-key")
    id_headers = ("apim-request-id",)

    def lack(self, endpoint: Endpoint) -> tuple[str, str] | None:
        return _lack(endpoint.options, endpoint.base_url)

    def _url(self, endpoint: Endpoint, credentials: Credentials, path: str) -> str:
        if lack := _lack(credentials.options, endpoint.base_url):
            raise SecretMissing(*lack)
        version = credentials.options.get("api_version", "")
        query = f"api-version={quote(version, safe='')}" if version else ""
        deployment = "" if _is_v1(endpoint.base_url) else f"/openai/deployments/{quote(endpoint.upstream, safe='-._~')}"
        return joined(endpoint.base_url, f"{deployment}{path}", query)

    def _auth(self, credentials: Credentials) -> Mapping[str, str]:
        key = credentials.api_key
        if key is None:
            return {}
        return bearer(credentials) if _JWT.fullmatch(key) else {"api-key": key}


def _is_v1(base_url: str) -> bool:
    return base_url.rstrip("/").endswith("/openai/v1")


def _lack(options: Mapping[str, object], base_url: str) -> tuple[str, str] | None:
    if options.get("api_version") or _is_v1(base_url):
        return None
    return (
        "no api_version is given",
        'write api_version: "2024-10-21" under the provider, or end base_url in /openai/v1',
    )


DIALECT = AzureOpenAI()
