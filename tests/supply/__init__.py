"""The supply chain: known vulnerabilities (audit) and the bill of materials (sbom)."""
