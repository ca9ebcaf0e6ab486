"""Which machine and which commit a benchmark ran on: what its numbers are worth nothing without."""

import platform
import subprocess
from pathlib import Path


def describe_machine() -> dict[str, str]:
    """Processor, system and commit."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    processor = f"{len(models)} x {models[0]}" if models else platform.processor()
    return {"processor": processor, "system": platform.platform(), "commit": commit or "unknown"}
