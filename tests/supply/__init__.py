"""What the environment is made of: known vulnerabilities (audit), and the bill of materials (sbom)."""
