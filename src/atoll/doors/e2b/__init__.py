"""The E2B protocol: control plane (REST), envd (Connect-RPC and files)."""
