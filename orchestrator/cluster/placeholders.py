"""What a shipped file leaves for its user to fill in."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.cluster.findings import Finding

EXAMPLES = {
    "example-bucket": ("TWOFOLD_STORE", "the bucket"),
    "example-project": ("provider.project_id", "the project, here and in the service account,"),
    "registry.example.com": ("image", "the registry of the image"),
    "arn:aws:iam::000000000000": ("ServiceAccount twofold.metadata.annotations", "the account of the role"),
}


def placeholder_findings(text: str) -> Iterator[Finding]:
    """Names in the file, comments left out, that are still the example's."""
    written = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for name, (key, what) in EXAMPLES.items():
        if name in written:
            yield Finding(key, f"{what} is still the example's, {name}: write your own", warning=True)
